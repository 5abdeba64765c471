"""Sampling ahead of the learner: which weights sample what, that nothing is lost or trained twice, and that it overlaps."""

import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import pytest

from effopd.config.schema import RunConfig
from effopd.errors import RolloutError
from effopd.extrapolation.safety import TRAINING_KL
from effopd.handles import as_scored
from effopd.pipeline import Ahead, open_batches
from effopd.roles import Roles
from effopd.termination import Terminated, Termination
from effopd.train import train
from effopd.types import (
    AlgorithmNeeds,
    Displacement,
    EvalReport,
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

SECONDS = 20.0
"""After which a test that waits for another thread has failed."""
NEEDS = AlgorithmNeeds(teacher=TeacherPayload.SAMPLED, rewards=True)


class World:
    """All roles. The stream has one prompt a batch, named by its position, with two responses; the prompts in `boring` have
    two right ones, all others one. It jumps after the steps in `jumps`."""

    def __init__(self, jumps: Sequence[int] = (), boring: Sequence[int] = ()) -> None:
        self.jumps, self.boring = jumps, {str(position) for position in boring}
        self.loaded = PolicyVersion(step=0)
        self.is_sampling = False
        self.sampled: list[str] = []
        self.trained: list[str] = []
        self.staleness: list[float] = []
        self.counted: list[int] = []
        self.saved: list[RunState] = []
        self.reverse_kls: list[float] = []
        self.main = threading.get_ident()

    # What happens beside the loop

    def take(self, position: int, num_prompts: int) -> tuple[Prompt, ...]:
        return (Prompt(prompt_id=str(position), token_ids=(1,), text="", answer=""),)

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        assert version == self.loaded, "weights changed while samples were asked for"
        (prompt,) = request.prompts
        self.is_sampling = True
        summaries = tuple(
            RolloutSummary(
                prompt_id=prompt.prompt_id, sample_index=index, prompt_len=1, response_len=3, is_truncated=False
            )
            for index in range(2)
        )
        self.sampled.append(prompt.prompt_id)
        self.is_sampling = False
        return RolloutHandle(parts=((),), summaries=summaries, policy_version=version)

    def stream(self, request: GenerateRequest, version: PolicyVersion) -> Iterator[tuple[int, RolloutHandle]]:
        yield 0, self.generate(request, version)

    def score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> ScoredHandle:
        return as_scored(rollouts)

    def begin_score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> Callable[[], ScoredHandle]:
        return partial(self.score, rollouts, payload)

    def rewards(self, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> list[float]:
        (prompt,) = prompts
        return [1.0, 1.0 if prompt.prompt_id in self.boring else 0.0]

    def begin_rewards(self, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> Callable[[], list[float]]:
        return partial(self.rewards, rollouts, prompts)

    def phase(self, name: str) -> AbstractContextManager[None]:
        return nullcontext()

    # What the loop does

    def update(self, batches: Sequence[ScoredHandle]) -> UpdateReport:
        kept = [key for batch in batches for key in batch.rewards or {}]
        self.trained += dict.fromkeys(prompt_id for prompt_id, _ in kept)
        return UpdateReport(
            num_response_tokens=1, metrics={TRAINING_KL: self.reverse_kls.pop(0) if self.reverse_kls else 0.1}
        )

    def publish(self, version: PolicyVersion) -> None:
        assert not self.is_sampling
        self.loaded = version

    def is_due(self, step: int) -> bool:
        return step in self.jumps

    def try_jump(self, state: RunState, gathered: Gathered) -> TriggerRecord:
        assert self.sampled == self.trained, "something is in flight or was sampled ahead"
        direction = Displacement(
            norm=1.0, relative_norm=0.1, cosine_to_previous=None, slope=-1.0, direction_norm=1.0, num_updates=1
        )
        return TriggerRecord(
            step=state.step, displacement=direction, candidates=(), accepted_step_size=2.0,
            num_generated_tokens=0, seconds=0.0,
        )  # fmt: skip

    def roll_back(self) -> None:
        assert self.sampled == self.trained, "something was sampled from weights that are taken back"

    def training_seconds(self) -> float:
        return 0.0

    def count_train_rewards(self, num_rewards: int) -> None:
        assert threading.get_ident() == self.main
        self.counted.append(num_rewards)

    def log_step(self, state: RunState, metrics: dict[str, float]) -> None:
        self.staleness.append(metrics.get("staleness", 0.0))

    def log_trigger(self, record: TriggerRecord) -> None: ...

    def save(self, state: RunState, score: float | None) -> None:
        self.saved.append(state)


def roles_of(world: World) -> Roles:
    return Roles(
        prompts=world, sampler=world, teacher=world, reference=None, verifier=world, learner=world, publisher=world,
        evaluator=None, accelerator=world, tracker=world,
    )  # fmt: skip


def settings(num_steps: int, max_staleness: int) -> RunConfig:
    config = RunConfig(num_steps=num_steps)
    config.pipeline.max_staleness = max_staleness
    config.rollout.prompts_per_step, config.rollout.samples_per_prompt = 1, 2
    config.logger.rollouts_every, config.checkpoint.every = 0, 0
    return config


def run(world: World, config: RunConfig, state: RunState | None = None) -> RunState:
    return train(config, roles_of(world), world, state or RunState(), NEEDS, Termination())


@pytest.mark.parametrize(
    ("max_staleness", "staleness"),
    [
        (0, [0, 0, 0, 0, 0, 0]),
        # Batches 0 and 1 from the first weights, and then one a step.
        (1, [0, 1, 1, 1, 1, 1]),
        # The lead grows by one a step: 0 and 1 from weights 0, 2 and 3 from weights 1, 4 from weights 2.
        (2, [0, 1, 1, 2, 2, 2]),
    ],
)
def test_batches_are_as_stale_as_allowed_and_every_prompt_is_trained_on_once(
    max_staleness: int, staleness: list[float]
) -> None:
    world = World()
    state = run(world, settings(6, max_staleness))
    assert world.staleness == staleness
    assert world.sampled == world.trained == list("012345")
    assert (state.step, state.data_position, state.num_generated_tokens) == (6, 6, 6 * 2 * 3)
    assert world.counted == [2] * 6


def test_the_default_samples_on_demand_and_adds_nothing_to_the_records() -> None:
    batches = open_batches(settings(3, 0), roles_of(World()), NEEDS, RunState())
    assert not isinstance(batches, Ahead)
    assert "staleness" not in batches.next(RunState()).metrics


class Overlapping(World):
    """Update s cannot end before sampling of batch s + 1 has begun, nor sampling before the update has."""

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.meeting = threading.Barrier(2)
        self.num_steps = num_steps

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        if self.sampled:
            self.meeting.wait(SECONDS)
        return super().generate(request, version)

    def update(self, batches: Sequence[ScoredHandle]) -> UpdateReport:
        report = super().update(batches)
        if len(self.trained) < self.num_steps:
            self.meeting.wait(SECONDS)
        return report


def test_the_next_batch_is_sampled_while_the_learner_updates() -> None:
    world = Overlapping(4)
    run(world, settings(4, 1))
    assert world.trained == list("0123")


class Scoring(World):
    """The teacher answers for batch s only when sampling of batch s + 1 has begun."""

    def __init__(self, num_steps: int) -> None:
        super().__init__()
        self.begun = [threading.Event() for _ in range(num_steps)]

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        self.begun[len(self.sampled)].set()
        return super().generate(request, version)

    def score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> ScoredHandle:
        number = int(rollouts.summaries[0].prompt_id)
        assert self.begun[min(number + 1, len(self.begun) - 1)].wait(SECONDS)
        return super().score(rollouts, payload)


def test_a_batch_is_scored_while_the_next_is_sampled() -> None:
    world = Scoring(4)
    run(world, settings(4, 1))
    assert world.trained == list("0123")


def test_before_a_trigger_all_is_trained_on_and_after_it_samples_are_fresh() -> None:
    # Triggers after steps 3 and 4: batches 3 and 4 are sampled when those are done. `try_jump` asserts the rest.
    world = World(jumps=[3, 4])
    run(world, settings(7, 1))
    assert world.staleness == [0, 1, 1, 0, 0, 1, 1]
    assert world.trained == list("0123456")


def test_nothing_is_sampled_from_a_jump_that_may_yet_be_taken_back() -> None:
    # Update 3, the first after the jump, raises the reverse KL from 0.1 to 0.5, and so batch 3 waits for it.
    world = World(jumps=[2])
    world.reverse_kls = [0.1, 0.1, 0.5]
    config = settings(5, 1)
    config.accelerate.max_kl_increase = 0.2
    state = run(world, config)
    assert (state.num_roll_backs, world.staleness) == (1, [0, 1, 0, 0, 1])


def test_dynamic_sampling_takes_up_the_stream_where_the_batch_before_left_it() -> None:
    # A batch is drawn until one prompt is not boring: 0 1 | 2 | 3 4 5 | 6.
    world = World(boring=[0, 3, 4])
    config = settings(4, 2)
    config.algo.dynamic_sampling = True
    state = run(world, config)
    assert world.sampled == list("0123456")
    assert world.trained == list("1256")
    assert state.data_position == 7
    assert world.counted == [4, 2, 6, 2]


class Ended(World):
    """Is asked to end when it begins to wait for batch 3, which is being sampled or has been."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        if name == "wait" and self.loaded.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return nullcontext()


def test_what_was_sampled_ahead_of_a_run_that_ended_is_sampled_again_and_trained_on_once() -> None:
    first, second = Ended(), World()
    termination = Termination()
    with termination.listening(), pytest.raises(Terminated):
        train(settings(6, 1), roles_of(first), first, RunState(), NEEDS, termination)
    (state,) = first.saved
    assert (state.step, state.data_position) == (3, 3)
    second.loaded = PolicyVersion(step=state.step)
    run(second, settings(6, 1), state)
    assert first.sampled[3:] and first.sampled[3] == second.sampled[0] == "3"
    assert first.trained + second.trained == list("012345")
    assert second.staleness == [0, 1, 1]


class Evaluated(World):
    """Its samplers take as long for a batch as the learner takes for an update and what is written down of it."""

    def __init__(self) -> None:
        super().__init__()
        self.has_logged = threading.Barrier(2)
        self.evaluated: list[int] = []

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        rollouts = super().generate(request, version)
        if self.sampled[-1] != "0":
            self.has_logged.wait(SECONDS)
        return rollouts

    def log_step(self, state: RunState, metrics: dict[str, float]) -> None:
        super().log_step(state, metrics)
        if state.step < 4:
            self.has_logged.wait(SECONDS)

    def evaluate(self, step: int, version: PolicyVersion) -> EvalReport:
        assert version == self.loaded and not self.is_sampling
        self.evaluated.append(step)
        return EvalReport(
            step=step, score=0.5, standard_error=0.0, mean_response_len=1.0, truncation_rate=0.0,
            num_generated_tokens=1, per_prompt={},
        )  # fmt: skip

    def log_eval(self, state: RunState, report: EvalReport) -> None: ...


def test_the_policy_is_evaluated_with_its_own_weights_although_samplers_were_at_work() -> None:
    world = Evaluated()
    config = settings(4, 1)
    config.eval.every = 1
    train(config, replace(roles_of(world), evaluator=world), world, RunState(), NEEDS, Termination())
    assert world.evaluated == [0, 1, 2, 3, 4]
    assert world.staleness == [0, 1, 1, 1]


class EndedAtWork(World):
    """Is asked to end after three updates, while samplers are at batch 3 and will be until the run has saved."""

    def __init__(self) -> None:
        super().__init__()
        self.has_saved = threading.Event()

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        if request.prompts[0].prompt_id == "3":
            assert self.has_saved.wait(SECONDS)
        return super().generate(request, version)

    def phase(self, name: str) -> AbstractContextManager[None]:
        if name == "wait" and self.trained == list("012"):
            assert self.loaded.step == 2, "samplers are given nothing while they are at work"
            os.kill(os.getpid(), signal.SIGTERM)
        return nullcontext()

    def save(self, state: RunState, score: float | None) -> None:
        super().save(state, score)
        self.has_saved.set()


def test_a_run_that_is_to_end_does_not_wait_for_samples_that_nobody_will_train_on() -> None:
    world, termination = EndedAtWork(), Termination()
    with termination.listening(), pytest.raises(Terminated):
        train(settings(6, 1), roles_of(world), world, RunState(), NEEDS, termination)
    assert [state.step for state in world.saved] == [3] == [len(world.staleness)]


class Failing(World):
    """No response to the prompt at position 3."""

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        if request.prompts[0].prompt_id == "3":
            raise RolloutError("no response")
        return super().generate(request, version)


def test_an_error_ahead_is_raised_when_its_batch_is_due_and_not_before() -> None:
    world = Failing()
    with pytest.raises(RolloutError, match=r"^no response$"):
        run(world, settings(6, 2))
    assert world.trained == list("012")


def test_no_thread_outlives_its_run() -> None:
    run(World(), settings(3, 1))
    threads = [thread for thread in threading.enumerate() if thread.name.endswith("ahead")]
    for thread in threads:
        thread.join(SECONDS)
    assert not [thread for thread in threads if thread.is_alive()]
