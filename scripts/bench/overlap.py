"""What runs side by side in a step: sampling ahead of the learner, and the teacher beside the sampler.

A step with sampling ahead, against its longest phase. Goal: at most 1.10 times.

The loop, the gathering and the pipeline are the real ones; samplers, teacher and learner sleep for fixed times, so the figure
is what the schedule costs and nothing else. Three divisions of a step: the samplers take longest, the learner takes longest,
and three equal phases, which need a second batch ahead. Publishing takes turns with sampling, so it is in every step time. The
same step with `pipeline.max_staleness=0` is run beside it, in the same process. A step time is the median over a run.

A step whose batch goes to the teacher in pieces, against the same step in which it goes as a whole. Goal: at most 0.85 times, with
16 pieces; and against the ideal, in which every response goes to the teacher by itself the moment that it is finished and
messages take no time. Goal: at most 1.10 times. `pipeline.max_staleness` is 0. Here sampler and teacher are Ray actors, the
product's own but for their engines, which sleep (`sleeping_actors.py`): 64 responses with lognormal lengths, the longest of
which takes 2 s, and a teacher that needs 1 s for a batch; an update takes 0.4 s.

    python scripts/bench/overlap.py
"""

import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from statistics import mean, median

from measure import Comparison, alternate, argument_parser, parse, report
from sleeping_actors import (
    MOST_TOKENS,
    response_len,
    sampler_role,
    start_sampler,
    start_teacher,
    teacher_role,
)

from effopd.actors.sampler import RaySampler
from effopd.actors.session import RaySession
from effopd.actors.supervision import Member
from effopd.actors.teacher import RayTeacher
from effopd.config.schema import ClusterConfig, RunConfig
from effopd.handles import as_scored
from effopd.ledger import Ledger
from effopd.roles import Roles
from effopd.termination import Termination
from effopd.train import train
from effopd.types import (
    AlgorithmNeeds,
    Gathered,
    GenerateRequest,
    PolicyVersion,
    Prompt,
    RolloutHandle,
    RolloutSummary,
    RunState,
    ScoredHandle,
    TeacherPayload,
    TriggerRecord,
    UpdateReport,
)

GOAL = 1.10
PIECES_GOAL = 0.85
NUM_PIECES = 16
OTHER_NUM_PIECES = (2, 4, 8)
"""Told of beside it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Where the time of a step goes, seconds."""

    name: str
    generate: float
    score: float
    update: float
    max_staleness: int
    publish: float = 0.005

    @property
    def longest(self) -> float:
        return max(self.generate, self.score, self.update)


DIVISIONS = (
    Division(name="samplers take longest", generate=0.3, score=0.1, update=0.15, max_staleness=1),
    Division(name="learner takes longest", generate=0.15, score=0.1, update=0.3, max_staleness=1),
    Division(name="equal phases", generate=0.2, score=0.2, update=0.2, max_staleness=2),
)


class Sleepers:
    """All roles of a run."""

    def __init__(self, division: Division) -> None:
        self._division = division
        self._thread = threading.get_ident()
        self.ledger = Ledger()
        self.ends: list[float] = []

    def take(self, position: int, num_prompts: int) -> tuple[Prompt, ...]:
        return (Prompt(prompt_id=str(position), token_ids=(1,), text="", answer=""),)

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        with self.phase("generate"):
            time.sleep(self._division.generate)
        summary = RolloutSummary(
            prompt_id=request.prompts[0].prompt_id, sample_index=0, prompt_len=1, response_len=1, is_truncated=False
        )
        return RolloutHandle(parts=((),), summaries=(summary,), policy_version=version)

    def stream(self, request: GenerateRequest, version: PolicyVersion) -> Iterator[tuple[int, RolloutHandle]]:
        yield 0, self.generate(request, version)

    def score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> ScoredHandle:
        with self.phase("score"):
            time.sleep(self._division.score)
        return as_scored(rollouts)

    def begin_score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> Callable[[], ScoredHandle]:
        return partial(self.score, rollouts, payload)

    def update(self, batches: Sequence[ScoredHandle]) -> UpdateReport:
        with self.phase("train"):
            time.sleep(self._division.update)
        return UpdateReport(num_response_tokens=1, metrics={})

    def publish(self, version: PolicyVersion) -> None:
        with self.phase("publish"):
            time.sleep(self._division.publish)

    def is_due(self, step: int) -> bool:
        return False

    def try_jump(self, state: RunState, gathered: Gathered) -> TriggerRecord:
        raise AssertionError("never due")

    def phase(self, name: str) -> AbstractContextManager[None]:
        return self.ledger.phase(name) if threading.get_ident() == self._thread else nullcontext()

    def training_seconds(self) -> float:
        return self.ledger.training_seconds

    def count_train_rewards(self, num_rewards: int) -> None: ...

    def log_step(self, state: RunState, metrics: Mapping[str, float]) -> None:
        self.ends.append(time.perf_counter())

    def save(self, state: RunState, score: float | None) -> None: ...


def run(division: Division, max_staleness: int, num_steps: int) -> Sleepers:
    config = RunConfig(num_steps=num_steps)
    config.pipeline.max_staleness = max_staleness
    config.rollout.prompts_per_step = 1
    sleepers = Sleepers(division)
    play(config, sleepers, sleepers, sleepers)
    return sleepers


def play(config: RunConfig, others: Sleepers, sampler: Sleepers | RaySampler, teacher: Sleepers | RayTeacher) -> None:
    """Train with roles that sleep."""
    config.logger.rollouts_every = 0
    roles = Roles(
        prompts=others, sampler=sampler, teacher=teacher, reference=None, verifier=None, learner=others,
        publisher=others, evaluator=None, accelerator=others, tracker=others,
    )  # fmt: skip
    train(config, roles, others, RunState(), AlgorithmNeeds(teacher=TeacherPayload.SAMPLED), Termination())


def step_seconds(sleepers: Sleepers) -> float:
    return median(after - before for before, after in zip(sleepers.ends, sleepers.ends[1:], strict=False))


def compared(division: Division, num_rounds: int, num_steps: int) -> Comparison:
    bubbles: dict[int, list[float]] = {0: [], division.max_staleness: []}

    def side(max_staleness: int) -> float:
        sleepers = run(division, max_staleness, num_steps)
        bubbles[max_staleness].append(sleepers.ledger.bubble_share)
        return step_seconds(sleepers)

    ahead, turns = alternate(num_rounds, lambda: side(division.max_staleness), lambda: side(0), num_warm_ups=0)
    return Comparison(
        what=f"step with pipeline.max_staleness={division.max_staleness}, {division.name}",
        baseline_name=f"the longest phase, {division.longest:g} s",
        unit="s",
        candidate=ahead,
        baseline=[division.longest] * num_rounds,
        is_speed=False,
        goal=GOAL,
        is_goal_a_minimum=False,
        notes={
            "phases (s)": f"generate {division.generate:g}, score {division.score:g}, update {division.update:g}, "
            f"publish {division.publish:g}",
            "step with max_staleness=0 (s)": median(turns),
            "of which ratio to the longest phase": median(turns) / division.longest,
            "bubble share": median(bubbles[division.max_staleness]),
            "bubble share with max_staleness=0": median(bubbles[0]),
        },
    )


class Batches(Sleepers):
    """A stream of batches, and roles around sampler and teacher actors."""

    def take(self, position: int, num_prompts: int) -> tuple[Prompt, ...]:
        return tuple(
            Prompt(prompt_id=f"{position}-{index}", token_ids=(1,), text="", answer="") for index in range(num_prompts)
        )

    def publish(self, version: PolicyVersion) -> None:
        """Take no time, for the engines look at no weights."""


RAGGED = Division(name="ragged", generate=2.0, score=1.0, update=0.4, max_staleness=0)
NUM_PROMPTS = 64


def ideal_seconds(num_steps: int) -> float:
    """Return the mean time of the steps that `step_seconds` looks at, were every response scored the moment it is finished."""
    lengths = [
        [response_len(prompt) for prompt in Batches(RAGGED).take(step, NUM_PROMPTS)] for step in range(num_steps)
    ]
    per_token = seconds_per_scored_token(num_steps)
    steps = []
    for own in lengths[1:]:
        free_at = 0.0  # the teacher
        for num_tokens in sorted(own):
            free_at = max(free_at, num_tokens * RAGGED.generate / MOST_TOKENS) + num_tokens * per_token
        steps.append(free_at + RAGGED.update)
    return mean(steps)


def seconds_per_scored_token(num_steps: int) -> float:
    batches = [Batches(RAGGED).take(step, NUM_PROMPTS) for step in range(num_steps)]
    return RAGGED.score / mean(sum(map(response_len, batch)) for batch in batches)


def mean_step_seconds(sampler: Member, teacher: Member, num_pieces: int, num_steps: int) -> float:
    config = RunConfig(num_steps=num_steps)
    config.rollout.prompts_per_step, config.rollout.samples_per_prompt = NUM_PROMPTS, 1
    batches = Batches(RAGGED)
    play(config, batches, sampler_role(sampler, num_pieces, batches.phase), teacher_role(teacher, batches.phase))
    # Batches differ, so no single one stands for them; every run has the same ones.
    return (batches.ends[-1] - batches.ends[0]) / (len(batches.ends) - 1)


def in_pieces(num_rounds: int, num_steps: int) -> list[Comparison]:
    session = RaySession(ClusterConfig())
    session.start()
    try:
        sampler = start_sampler(RAGGED.generate / MOST_TOKENS, max(NUM_PIECES, *OTHER_NUM_PIECES))
        teacher = start_teacher(seconds_per_scored_token(num_steps))

        def side(num_pieces: int) -> float:
            return mean_step_seconds(sampler, teacher, num_pieces, num_steps)

        cut, whole = alternate(num_rounds, lambda: side(NUM_PIECES), lambda: side(1), num_warm_ups=0)
        others = {f"step with {number} pieces (s)": side(number) for number in OTHER_NUM_PIECES}
    finally:
        session.stop()
    ideal = ideal_seconds(num_steps)
    what = f"step with pipeline.num_pieces={NUM_PIECES}, {NUM_PROMPTS} responses of different lengths"
    notes: dict[str, object] = {
        "phases (s)": f"generate at most {RAGGED.generate:g}, score {RAGGED.score:g}, update {RAGGED.update:g}",
        **others,
    }
    return [
        Comparison(
            what=what, baseline_name="the same with pipeline.num_pieces=1", unit="s", candidate=cut, baseline=whole,
            is_speed=False, goal=PIECES_GOAL, is_goal_a_minimum=False, notes=notes,
        ),
        Comparison(
            what=what, baseline_name="every response scored when it is finished", unit="s", candidate=cut,
            baseline=[ideal] * num_rounds, is_speed=False, goal=GOAL, is_goal_a_minimum=False,
        ),
    ]  # fmt: skip


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.set_defaults(rounds=3)
    arguments = parse(parser)
    ahead = [compared(division, arguments.rounds, arguments.steps) for division in DIVISIONS]
    report(arguments, [*ahead, *in_pieces(arguments.rounds, arguments.steps)])


if __name__ == "__main__":
    main()
