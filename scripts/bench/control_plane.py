"""What driver, actors' messages and object store add to a step, without the work of any engine.

The loop of `effopd train`, with its handles, tracker and publisher, drives samplers, teacher replicas and learner ranks that
answer at once (`fake_actors.py`), each in a Ray actor of its own. Every rollout and score of the right size goes from
sampler to teacher to learner rank through Ray's object store. On one machine that is all the traffic of a cluster with the
cores of a laptop, so the figure is an upper bound for the driver and says nothing of a network. CPU times are printed beside
it, for they depend less on what else the machine does.

Goals: at most 5 % of a step of 60 s with 64 samplers, 8 teachers, 32 learner ranks and 1,024 responses of 16,384 tokens; the
driver below 1 GiB; from 8 to 64 samplers, with as many prompts for each, overhead that grows no faster than the number of
samplers. Needs about 12 GiB of memory and 3 GiB of /dev/shm, and two minutes to start on two cores.

    python scripts/bench/control_plane.py
"""

import inspect
import json
import os
import time
from collections.abc import Sequence
from contextlib import nullcontext, suppress
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import ray
from fake_actors import FakeLearner, FakeSampler, FakeTeacher
from measure import Comparison, argument_parser, parse, peak_bytes, report, resident_bytes
from rich.console import Console

from effopd.accelerate import NoAcceleration
from effopd.actors.build import LearnerActor, SamplerActor, TeacherActor
from effopd.actors.learner import RayLearner
from effopd.actors.sampler import RaySampler
from effopd.actors.session import ActorSpec, RaySession, wait_until_ready
from effopd.actors.supervision import Member
from effopd.actors.teacher import RayTeacher
from effopd.actors.weight_routes import WeightRoutes
from effopd.config.schema import ClusterConfig, RunConfig
from effopd.console import RunConsole
from effopd.data.prompts import ShuffledPrompts
from effopd.publishing import CheckedPublisher, num_canaries
from effopd.roles import Roles
from effopd.termination import Termination
from effopd.tracking import METRICS_NAME, RunTracker
from effopd.train import train
from effopd.types import AlgorithmNeeds, PolicyVersion, Prompt, RunState, TeacherPayload

STEP_SECONDS = 60.0
SHARE_GOAL = 0.05
MEMORY_GOAL = 1.0
START_AT_A_TIME = 8
PROMPT_LEN = 256
NUM_BATCHES = 17
"""Of prompts in the data set: as many as DAPO-Math-17k has."""
SAMPLER, TEACHER, LEARNER = ray.remote(FakeSampler), ray.remote(FakeTeacher), ray.remote(FakeLearner)
NUM_TENSORS = 399
"""Of Qwen3-4B."""


def start(session: RaySession, num_samplers: int, num_teachers: int, num_ranks: int) -> dict[str, list[Member]]:
    """Start all actors, a few at a time, and return them by role."""
    specs = [
        *(ActorSpec(name=f"sampler {index}", actor_class=SAMPLER, max_restarts=1) for index in range(num_samplers)),
        *(ActorSpec(name=f"teacher {index}", actor_class=TEACHER, max_restarts=1) for index in range(num_teachers)),
        *(
            ActorSpec(name=f"learner {rank}", actor_class=LEARNER, arguments=(rank, NUM_TENSORS))
            for rank in range(num_ranks)
        ),
    ]
    members: dict[str, Member] = {}
    for end in range(START_AT_A_TIME, len(specs) + START_AT_A_TIME, START_AT_A_TIME):
        actors = session.have(specs[:end])
        members = {name: Member(name, actor) for name, actor in actors.items()}
        wait_until_ready(members.values())
    return {
        role: [members[spec.name] for spec in specs if spec.name.startswith(role)]
        for role in ("sampler", "teacher", "learner")
    }


def require_same_calls() -> None:
    """Make sure that the actors here take what those of the product take."""
    for fake, real in ((FakeSampler, SamplerActor), (FakeTeacher, TeacherActor), (FakeLearner, LearnerActor)):
        theirs = real.__ray_metadata__.modified_class.__ray_actor_class__
        for name, method in vars(fake).items():
            if inspect.isfunction(method) and not name.startswith("_") and name in vars(theirs):
                expected = inspect.signature(getattr(theirs, name))
                assert inspect.signature(method) == expected, f"{real} has {name}{expected}"


def cpu_seconds_of_family() -> float:
    """Return the CPU time that this process and its living descendants, Ray's own among them, have used so far."""
    parents, seconds = {}, {}
    for status in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            fields = status.read_text().rpartition(")")[2].split()
            parents[int(status.parent.name)] = int(fields[1])
            seconds[int(status.parent.name)] = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    family = {os.getpid()}
    while added := {child for child, parent in parents.items() if parent in family} - family:
        family |= added
    return sum(seconds[member] for member in family)


def make_prompts(num_prompts: int) -> list[Prompt]:
    return [
        Prompt(
            prompt_id=f"prompt-{index}",
            token_ids=tuple((index * 7919 + position * 104729) % 150_000 for position in range(PROMPT_LEN)),
            text=f"{index}" + "x" * 4 * PROMPT_LEN,
            answer="42",
        )
        for index in range(num_prompts)
    ]


class NothingToSave:
    def save(self, state: RunState, score: float | None) -> None:
        """Do nothing."""


class ControlPlane:
    """A run with some of the samplers and all of the rest."""

    def __init__(self, members: dict[str, list[Member]], prompts: Sequence[Prompt], response_len: int) -> None:
        self._members = members
        self._prompts = prompts
        self._response_len = response_len
        self.canary_seconds: dict[int, float] = {}
        """Of the last publish with a canary, by number of samplers."""
        self.cpu_seconds: dict[int, tuple[float, float]] = {}
        """That the driver, and all processes together, computed per step in the last run with all prompts."""

    def steps(self, num_samplers: int, num_prompts: int, num_steps: int) -> list[dict[str, float]]:
        """Return the seconds per phase of `num_steps` steps, after the first publish with its canary and one step more."""
        config = RunConfig(num_steps=num_steps + 1, name="control_plane")
        config.rollout.prompts_per_step = num_prompts
        config.rollout.max_response_len = self._response_len
        with TemporaryDirectory() as name, open(os.devnull, "w") as nowhere:
            tracker = RunTracker(Path(name), config, console=RunConsole(Console(file=nowhere)))
            roles = self._roles(config, num_samplers, tracker)
            began = time.perf_counter()
            roles.publisher.publish(PolicyVersion(step=0))
            self.canary_seconds[num_samplers] = time.perf_counter() - began
            needs = AlgorithmNeeds(teacher=TeacherPayload.SAMPLED)
            own, everybody = time.process_time(), cpu_seconds_of_family()
            train(config, roles, NothingToSave(), RunState(), needs, Termination())
            if num_prompts * NUM_BATCHES == len(self._prompts):
                self.cpu_seconds[num_samplers] = (
                    (time.process_time() - own) / config.num_steps,
                    (cpu_seconds_of_family() - everybody) / config.num_steps,
                )
            tracker.close()
            rows = [json.loads(line) for line in (Path(name) / METRICS_NAME).read_text().splitlines()]
        return [
            {phase: value for phase, value in row["seconds"].items() if phase != "total_training"} for row in rows[1:]
        ]

    def _roles(self, config: RunConfig, num_samplers: int, tracker: RunTracker) -> Roles:
        learner = RayLearner([member.actor for member in self._members["learner"]], tracker.phase)
        sampler = RaySampler(
            self._members["sampler"][:num_samplers],
            WeightRoutes(receivers=(None,) * num_samplers),
            len(self._members["learner"]),
            tracker.phase,
            lambda: nullcontext(learner.staged()),
        )
        return Roles(
            prompts=ShuffledPrompts(self._prompts, config.seed),
            sampler=sampler,
            teacher=RayTeacher(self._members["teacher"], tracker.phase),
            reference=None,
            verifier=None,
            learner=learner,
            publisher=CheckedPublisher(
                learner,
                sampler,
                self._prompts[: num_canaries(num_samplers)],
                every=config.rollout.canary_every,
                tolerance=1e-3,
                phase=tracker.phase,
            ),
            evaluator=None,
            accelerator=NoAcceleration(),
            tracker=tracker,
        )


def main() -> None:
    parser = argument_parser(__doc__)
    for name, default in (
        ("samplers", 64), ("teachers", 8), ("ranks", 32), ("prompts", 1024), ("response-len", 16384), ("steps", 4),
    ):  # fmt: skip
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.set_defaults(rounds=3)
    arguments = parse(parser)
    require_same_calls()
    prompts = make_prompts(NUM_BATCHES * arguments.prompts)
    at_start = resident_bytes()
    session = RaySession(ClusterConfig())
    session.start()
    try:
        began = time.perf_counter()
        members = start(session, arguments.samplers, arguments.teachers, arguments.ranks)
        plane = ControlPlane(members, prompts, arguments.response_len)
        notes = {"start of all actors, before the first step (s)": time.perf_counter() - began}
        counts = [arguments.samplers // divisor for divisor in (8, 4, 2, 1)]
        same_load: dict[int, list[float]] = {count: [] for count in counts}
        own_load: dict[int, list[float]] = {count: [] for count in counts}
        phases: list[dict[str, float]] = []
        for _ in range(arguments.rounds):
            for count in counts:
                steps = plane.steps(count, arguments.prompts, arguments.steps)
                same_load[count].append(median(sum(step.values()) for step in steps))
                if count == arguments.samplers:
                    phases += steps
                    own_load[count].append(same_load[count][-1])
                    continue
                steps = plane.steps(count, arguments.prompts * count // arguments.samplers, arguments.steps)
                own_load[count].append(median(sum(step.values()) for step in steps))
        for name, seconds in zip(("the driver", "all processes"), plane.cpu_seconds[arguments.samplers], strict=True):
            notes[f"CPU time a step of {name} (s)"] = seconds
        notes["publish with a canary, one in ten (s)"] = plane.canary_seconds[arguments.samplers]
    finally:
        session.stop()
    report(arguments, comparisons(arguments, same_load, own_load, phases, at_start, notes))


def comparisons(
    arguments,
    same_load: dict[int, list[float]],
    own_load: dict[int, list[float]],
    phases: list[dict[str, float]],
    bytes_at_start: int,
    notes: dict[str, float],
) -> list[Comparison]:
    most, fewest = max(same_load), min(same_load)
    shape = f"{most} samplers, {arguments.teachers} teachers, {arguments.ranks} ranks, {arguments.prompts} x {arguments.response_len} tokens"
    by_phase = {name: median(step[name] for step in phases) for name in phases[0] if any(step[name] for step in phases)}
    return [
        Comparison(
            what=f"overhead of a step with {shape}",
            baseline_name=f"a step of {STEP_SECONDS:g} s",
            unit="s",
            candidate=same_load[most],
            baseline=[STEP_SECONDS] * len(same_load[most]),
            is_speed=False,
            goal=SHARE_GOAL,
            is_goal_a_minimum=False,
            notes={
                **notes,
                **{f"{name} (s)": value for name, value in by_phase.items()},
                **{f"with {count} samplers (s)": median(values) for count, values in same_load.items()},
                **{f"with {count} samplers, prompts in proportion (s)": median(own_load[count]) for count in own_load},
            },
        ),
        Comparison(
            what=f"overhead with {most} samplers, as many prompts for each",
            baseline_name=f"overhead with {fewest}",
            unit="s",
            candidate=own_load[most],
            baseline=own_load[fewest],
            is_speed=False,
            goal=most / fewest,
            is_goal_a_minimum=False,
        ),
        Comparison(
            what=f"overhead with {most} samplers, the same prompts for all together",
            baseline_name=f"overhead with {fewest}",
            unit="s",
            candidate=same_load[most],
            baseline=same_load[fewest],
            is_speed=False,
            goal=most / fewest,
            is_goal_a_minimum=False,
        ),
        Comparison(
            what="peak memory of the driver",
            baseline_name="1 GiB",
            unit="GiB",
            candidate=[peak_bytes() / 2**30],
            baseline=[1.0],
            is_speed=False,
            goal=MEMORY_GOAL,
            is_goal_a_minimum=False,
            notes={"of which before Ray (GiB)": bytes_at_start / 2**30},
        ),
    ]


if __name__ == "__main__":
    main()
