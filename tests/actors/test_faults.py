"""Actors that die for real: what is replaced and what is said of it, and runs that end as the undisturbed run does.

Real Ray; light actors, and then the toy models under plain transformers.
"""

import json
import os
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ray

sys.path.insert(0, str(Path(__file__).parent))
from mortal import mortals, plant, plant_sigterm

import effopd.actors.session as session_module
from effopd.actors import build
from effopd.actors.calls import wait_for
from effopd.actors.session import RaySession
from effopd.actors.supervision import Member, Request, answers_to, make_ready
from effopd.checkpoints.reading import latest_checkpoint, weights_hash
from effopd.config.jobs import training_jobs
from effopd.config.register import open_configs
from effopd.config.schema import RunConfig
from effopd.errors import ActorLostError, EffOPDError, NotReadyError, RolloutError
from effopd.evaluate import SamplingEvaluator
from effopd.launch import train
from effopd.termination import Terminated
from effopd.types import EvalReport, PolicyVersion

SETTINGS = [
    "experiment=toy_effopd",
    "rollout=hf",
    "rollout.prompts_per_step=8",
    "rollout.samples_per_prompt=1",
    "data.num_rows=200",
    "eval.num_rows=8",
    "eval.every=1",
    "accelerate.num_prompts=4",
    "learner.lr=1e-3",
    "learner.lr_schedule=constant",
    "learner.num_threads=1",
    "rollout.num_threads=1",
    "teacher.num_threads=1",
    "teacher.max_tokens_per_batch=1",  # rows one by one, for others in the same pass have a part in how a sum is rounded
    "num_steps=3",
]


def config_of(*overrides: str, save_every: int = 1) -> RunConfig:
    with open_configs() as configs:
        arguments = [*SETTINGS, f"checkpoint.every={save_every}", *overrides]
        (job,) = training_jobs(configs, arguments, is_multirun=False)
    return job.config


@ray.remote
class Squarer:
    """Squares once it is ready. Dies as often as the folder holds a file for it."""

    def __init__(self, folder: str) -> None:
        self._folder = Path(folder)
        self._is_ready = False

    def ready(self) -> None:
        self._is_ready = True

    def square(self, number: int) -> int:
        with (self._folder / "asked").open("a") as asked:
            asked.write(f"{number}\n")
        if not self._is_ready:
            raise NotReadyError("ready() comes first")
        for fault in sorted(self._folder.glob(f"die-{number}-*"))[:1]:
            fault.unlink()
            sys.stderr.write("RuntimeError: [Errno 28] No space left on device\n")
            sys.stderr.flush()
            os._exit(1)
        if number < 0:
            raise RolloutError(f"{number} is negative")
        return number**2

    def lose_peer(self) -> None:
        raise RuntimeError("[gloo/transport/tcp/pair.cc:547] Connection closed by peer [127.0.0.1]:1234")

    def die_late(self) -> None:
        time.sleep(1)
        os._exit(1)


@pytest.fixture(scope="module")
def session() -> Iterator[RaySession]:
    session = RaySession(config_of().cluster)
    session.start()
    yield session
    session.stop()


def squarer(name: str, folder: Path, max_restarts: int = 2) -> Member:
    actor: Any = Squarer
    return Member(name, actor.options(num_cpus=0, max_restarts=max_restarts).remote(str(folder)))


def squares(members: list[Member], numbers: list[int]) -> list[int]:
    def asking(number: int) -> Any:
        return lambda actor: [actor.square.remote(number)]

    requests = [Request(member, asking(number)) for member, number in zip(members, numbers, strict=True)]
    return answers_to(requests, "squaring", make_ready)[0]


def times_asked(folder: Path, number: int) -> int:
    return (folder / "asked").read_text().split().count(str(number))


def test_a_dead_member_is_made_ready_and_asked_again_and_no_other_is(session: RaySession, tmp_path: Path) -> None:
    members = [squarer("squarer 0", tmp_path), squarer("squarer 1", tmp_path)]
    for member in members:
        make_ready(member)
    (tmp_path / "die-3-first").touch()
    assert squares(members, [2, 3]) == [4, 9]
    assert (times_asked(tmp_path, 2), times_asked(tmp_path, 3)) == (1, 2)


def test_an_error_that_a_request_raises_comes_out_at_once(session: RaySession, tmp_path: Path) -> None:
    member = squarer("squarer 0", tmp_path)
    make_ready(member)
    with pytest.raises(RolloutError, match=r"^-1 is negative$"):
        squares([member], [-1])
    assert times_asked(tmp_path, -1) == 1


def test_a_request_that_kills_every_process_ends_with_name_deed_cause_place_and_log(
    session: RaySession, tmp_path: Path
) -> None:
    member = squarer("squarer 7", tmp_path, max_restarts=1)
    make_ready(member)
    for number in range(5):
        (tmp_path / f"die-3-{number}").touch()
    with pytest.raises(EffOPDError) as raised:
        squares([member], [3])
    assert times_asked(tmp_path, 3) == 2  # the first process, and the one that max_restarts allows
    text = str(raised.value)
    assert "squarer 7 died while squaring, and so did the 1 before it that were asked the same" in text
    assert "likely cause: the disk is full" in text
    assert "process " in text and "on node " in text
    assert "its log ends with\n  RuntimeError: [Errno 28] No space left on device" in text
    assert not isinstance(raised.value, ActorLostError)


def test_a_survivors_broken_connection_is_not_taken_for_the_cause(session: RaySession, tmp_path: Path) -> None:
    survivor, victim = (squarer(name, tmp_path, max_restarts=0).actor for name in ("survivor", "victim"))
    with pytest.raises(ActorLostError, match=r"^a rank died while training: likely cause: "):
        wait_for([survivor.lose_peer.remote(), victim.die_late.remote()], "a rank", "training")


def test_a_broken_connection_alone_is_a_loss_too(session: RaySession, tmp_path: Path) -> None:
    survivor = squarer("survivor", tmp_path).actor
    with pytest.raises(ActorLostError, match=r"^a rank lost its connection to the others while training: \[gloo"):
        wait_for([survivor.lose_peer.remote()], "a rank", "training")


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one process, which has nothing that could die alone."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(config_of("cluster=local", f"output_dir={run}"))
    return run


@pytest.fixture(scope="module")
def mortal_actors(session: RaySession, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The folder of planted faults; the actors of runs are mortal, and stay from run to run."""
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(session_module, "_session", session)
        for name, mortal in mortals(folder).items():
            patch.setattr(build, name, mortal)
        yield folder


@pytest.fixture
def faults(mortal_actors: Path) -> Iterator[Path]:
    """Where faults are planted, all of which a test must meet."""
    yield mortal_actors
    assert not list(mortal_actors.iterdir()), "a planted fault was not met"


def course(run: Path) -> list[object]:
    """The final weights and position in the data, and every row of the run but for time."""
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    names = ("metrics.jsonl", "eval.jsonl", "extrapolation.jsonl")
    rows = [[json.loads(line) for line in (run / name).read_text().splitlines()] for name in names]
    position = replace(checkpoint.state, seconds=0.0)
    return [weights_hash(checkpoint.directory), position, *(without_seconds(row) for row in rows)]


def without_seconds(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if key != "seconds"}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def test_samplers_teacher_and_verifier_that_die_are_replaced_and_change_nothing(
    undisturbed: Path, faults: Path, tmp_path: Path
) -> None:
    plant(faults, "sampler.generate", 3)
    plant(faults, "sampler.load", 4)
    plant(faults, "teacher.score", 1)
    plant(faults, "verifier.rewards", 1)
    train(config_of(f"output_dir={tmp_path / 'run'}"))
    assert course(tmp_path / "run") == course(undisturbed)


def test_a_dead_learner_and_a_dead_controller_send_the_run_back_to_the_last_checkpoint(
    undisturbed: Path, faults: Path, tmp_path: Path
) -> None:
    plant(faults, "learner.write_candidate")  # in the first trigger, when there is no checkpoint yet
    plant(faults, "controller.save", 1)  # in the save of step 2, when its files are there but not in their place
    train(config_of(f"output_dir={tmp_path / 'run'}"))
    assert course(tmp_path / "run") == course(undisturbed)


def test_sigterm_in_mid_batch_saves_what_is_finished_and_the_rest_is_made_up_for(
    undisturbed: Path, faults: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    plant_sigterm(faults, "sampler.piece", 9)  # the second of the four pieces of the third step
    with pytest.raises(Terminated, match=r"ended by SIGTERM; continue with effopd train resume="):
        train(config_of("pipeline.num_pieces=4", f"output_dir={run}", save_every=0))  # which saves at the end only
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None and checkpoint.state.step == 2
    with open_configs() as configs:
        (job,) = training_jobs(configs, [f"resume={run}"], is_multirun=False)
    train(job.config)
    assert course(run) == course(undisturbed)


def test_an_evaluation_that_sigterm_breaks_off_is_made_up_for(
    undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = tmp_path / "run"
    evaluate = SamplingEvaluator.evaluate

    def evaluate_with_a_signal(self: SamplingEvaluator, step: int, version: PolicyVersion) -> EvalReport:
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return evaluate(self, step, version)

    monkeypatch.setattr(SamplingEvaluator, "evaluate", evaluate_with_a_signal)
    with pytest.raises(Terminated):
        train(config_of("cluster=local", f"output_dir={run}", save_every=0))
    monkeypatch.undo()
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None and (checkpoint.state.step, checkpoint.score) == (2, None)
    with open_configs() as configs:
        (job,) = training_jobs(configs, [f"resume={run}"], is_multirun=False)
    train(job.config)
    assert course(run) == course(undisturbed)


def test_sampling_ahead_overlaps_alike_every_time_and_survives_deaths(faults: Path, tmp_path: Path) -> None:
    def pipelined(name: str, *overrides: str) -> Path:
        settings = ("pipeline.max_staleness=1", "pipeline.num_pieces=4", *overrides)
        train(config_of(*settings, f"output_dir={tmp_path / name}"))
        return tmp_path / name

    undisturbed = pipelined("undisturbed", "logger.timeline=true")
    rows = [json.loads(line)["metrics"] for line in (undisturbed / "metrics.jsonl").read_text().splitlines()]
    # A trigger follows step 2, and nothing is sampled across it.
    assert [row["staleness"] for row in rows] == [0, 1, 0]
    # Where sampler and learner hold the same weights their log-probabilities differ by rounding alone.
    assert [row["sampler_gap"] > 1e-4 for row in rows] == [row["staleness"] > 0 for row in rows]
    shown = lanes_of(undisturbed)
    # It samples for evaluations alone, inside their span.
    assert shown["driver"] == {"wait", "train", "publish", "gate", "eval", "generate", "save"}
    assert shown["learner 0"] >= {"update", "publish", "trigger", "save"}
    assert shown["controller"] == {"trigger", "save"}
    assert shown["sampler 0"] == {"generate", "load"}
    assert (shown["teacher 0"], shown["verifier effopd.toy.verify:sums"]) == ({"score"}, {"verify"})
    plant(faults, "sampler.piece", 6)  # when some pieces of the second batch are finished and some are not
    plant(faults, "teacher.score", 2)
    assert course(pipelined("disturbed")) == course(undisturbed)


def lanes_of(run: Path) -> dict[str, set[str]]:
    """What the timeline shows in each lane."""
    events = json.loads((run / "timeline.json").read_text())["traceEvents"]
    names = {event["tid"]: event["args"]["name"] for event in events if event["name"] == "thread_name"}
    return {
        name: {event["name"] for event in events if event["ph"] == "X" and event["tid"] == tid}
        for tid, name in names.items()
    }
