"""The loop's side of extrapolation: what is remembered of a jump, and that a harmful one is taken back before publishing."""

import os
import signal
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from functools import partial
from typing import Any

import pytest

from effopd.config.schema import RunConfig
from effopd.errors import GradientError
from effopd.extrapolation.safety import TRAINING_KL
from effopd.handles import as_scored
from effopd.roles import Roles
from effopd.termination import Terminated, Termination
from effopd.train import SpoiledUpdateError, after_trigger, make_up_evaluation, train
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
    TriggerKind,
    TriggerRecord,
    UpdateReport,
)


def record(step: int, step_size: float, kind: TriggerKind = TriggerKind.SEARCH, slope: float = -1.0) -> TriggerRecord:
    return TriggerRecord(
        step=step,
        kind=kind,
        displacement=Displacement(
            norm=1.0, relative_norm=0.1, cosine_to_previous=None, slope=slope, direction_norm=2.0, num_updates=4
        ),
        candidates=(),
        accepted_step_size=step_size,
        num_generated_tokens=7,
        seconds=0.0,
    )


class FakeRun:
    """All roles of a run whose reverse KL is given step by step; it jumps at the steps in `jumps`."""

    def __init__(self, reverse_kls: Sequence[float], jumps: Sequence[int]) -> None:
        self.reverse_kls = list(reverse_kls)
        self.jumps = jumps
        self.events: list[str] = []
        self.records: list[TriggerRecord] = []
        self.state = RunState()

    def phase(self, name: str):
        return nullcontext()

    def take(self, position: int, num_prompts: int) -> tuple[Prompt, ...]:
        return (Prompt(prompt_id=str(position), token_ids=(1,), text="", answer=""),)

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        (prompt,) = request.prompts
        summary = RolloutSummary(
            prompt_id=prompt.prompt_id, sample_index=0, prompt_len=1, response_len=1, is_truncated=False
        )
        return RolloutHandle(parts=((),), summaries=(summary,), policy_version=version)

    def stream(self, request: GenerateRequest, version: PolicyVersion) -> Iterator[tuple[int, RolloutHandle]]:
        yield 0, self.generate(request, version)

    def preview(self, rollouts: RolloutHandle, num_rollouts: int) -> list:
        return []

    def score(self, rollouts: RolloutHandle, payload: object) -> ScoredHandle:
        return as_scored(rollouts)

    def begin_score(self, rollouts: RolloutHandle, payload: object) -> Callable[[], ScoredHandle]:
        return partial(self.score, rollouts, payload)

    def update(self, batches: Sequence[ScoredHandle]) -> UpdateReport:
        self.events.append("update")
        return UpdateReport(num_response_tokens=1, metrics={TRAINING_KL: self.reverse_kls.pop(0)})

    def roll_back(self) -> None:
        self.events.append("roll back")

    def publish(self, version: PolicyVersion) -> None:
        self.events.append(f"publish {version}")

    def is_due(self, step: int) -> bool:
        return step in self.jumps

    def try_jump(self, state: RunState, gathered: Gathered) -> TriggerRecord:
        self.events.append("jump")
        return record(state.step, 2.0)

    def training_seconds(self) -> float:
        return 0.0

    def count_train_rewards(self, num_rewards: int) -> None: ...

    def log_step(self, state: RunState, metrics: object) -> None:
        self.state = state

    def log_trigger(self, record: TriggerRecord) -> None:
        self.records.append(record)

    def log_rollouts(self, step: int, rollouts: object) -> None: ...

    def save(self, state: RunState, score: float | None) -> None: ...


def roles_of(fake: Any) -> Roles:
    return Roles(
        prompts=fake, sampler=fake, teacher=fake, reference=None, verifier=None, learner=fake, publisher=fake,
        accelerator=fake, tracker=fake, evaluator=fake if isinstance(fake, EvaluatedRun) else None,
    )  # fmt: skip


def run(fake: FakeRun, max_kl_increase: float | None, start: RunState | None = None) -> RunState:
    config = RunConfig(num_steps=(start or RunState()).step + len(fake.reverse_kls))
    config.rollout.prompts_per_step = 1
    config.accelerate.max_kl_increase = max_kl_increase
    return train(config, roles_of(fake), fake, start or RunState(), AlgorithmNeeds(), Termination())


class TerminatedRun(FakeRun):
    """Its process gets signals in the middle of a call, e.g. `generate`, after `step` finished steps."""

    def __init__(self, call: str, step: int, *signals: signal.Signals) -> None:
        super().__init__([0.1] * 4, jumps=[])
        self.call, self.step, self.signals = call, step, signals

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        self.events.append("sample")
        self.end_if("generate")
        return super().generate(request, version)

    def update(self, batches: Sequence[ScoredHandle]) -> UpdateReport:
        self.end_if("update")
        return super().update(batches)

    def save(self, state: RunState, score: float | None) -> None:
        self.events.append(f"save {state.step}")

    def end_if(self, call: str) -> None:
        if self.call == call and self.state.step == self.step:
            for number in self.signals:
                os.kill(os.getpid(), number)


class EvaluatedRun(TerminatedRun):
    """Likewise, with an evaluation before the first step and after every one."""

    def evaluate(self, step: int, version: PolicyVersion) -> EvalReport:
        self.events.append(f"evaluate {step}")
        self.end_if("evaluate")
        return EvalReport(
            step=step, score=0.5, standard_error=0.0, mean_response_len=1.0, truncation_rate=0.0,
            num_generated_tokens=1, per_prompt={"0": 0.5}, per_set={"test": 0.5},
        )  # fmt: skip

    def log_eval(self, state: RunState, report: EvalReport) -> None:
        self.events.append(f"score of {report.step}")

    def save(self, state: RunState, score: float | None) -> None:
        self.events.append(f"save {state.step} with {score}")


def events_until_terminated(fake: TerminatedRun) -> list[str]:
    config, termination = RunConfig(num_steps=4), Termination()
    config.eval.every = 1
    config.rollout.prompts_per_step, config.checkpoint.every = 1, 0
    # A test run in the background may have been told to ignore Ctrl-C.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    handlers = [signal.getsignal(number) for number in ASKING]
    with termination.listening(), pytest.raises(KeyboardInterrupt) as ended:
        train(config, roles_of(fake), fake, RunState(), AlgorithmNeeds(), termination)
    assert [signal.getsignal(number) for number in ASKING] == handlers
    assert isinstance(ended.value, Terminated) == (len(fake.signals) == 1)
    return fake.events


ASKING = (signal.SIGTERM, signal.SIGINT)


@pytest.mark.parametrize("number", ASKING)
def test_a_signal_while_sampling_saves_the_last_finished_step_at_once(number: signal.Signals) -> None:
    assert events_until_terminated(TerminatedRun("generate", 1, number)) == [
        "sample", "update", "publish 1.0",
        "sample", "save 1",
    ]  # fmt: skip


@pytest.mark.parametrize("number", ASKING)
def test_a_signal_in_an_update_lets_the_step_end_and_saves_it(number: signal.Signals) -> None:
    assert events_until_terminated(TerminatedRun("update", 1, number)) == [
        "sample", "update", "publish 1.0",
        "sample", "update", "publish 2.0", "save 2",
    ]  # fmt: skip


def test_a_second_ctrl_c_ends_the_update_at_once_and_saves_nothing() -> None:
    assert events_until_terminated(TerminatedRun("update", 1, signal.SIGINT, signal.SIGINT)) == [
        "sample", "update", "publish 1.0",
        "sample",
    ]  # fmt: skip


@pytest.mark.parametrize("number", ASKING)
def test_a_signal_in_an_evaluation_breaks_it_off_and_saves_its_step_without_a_score(number: signal.Signals) -> None:
    assert events_until_terminated(EvaluatedRun("evaluate", 1, number)) == [
        "evaluate 0", "score of 0",
        "sample", "update", "publish 1.0", "evaluate 1", "save 1 with None",
    ]  # fmt: skip


def test_a_signal_in_the_first_evaluation_saves_nothing() -> None:
    assert events_until_terminated(EvaluatedRun("evaluate", 0, signal.SIGTERM)) == ["evaluate 0"]


def test_a_signal_in_an_update_leaves_no_time_for_the_evaluation() -> None:
    assert events_until_terminated(EvaluatedRun("update", 0, signal.SIGTERM)) == [
        "evaluate 0", "score of 0",
        "sample", "update", "publish 1.0", "save 1 with None",
    ]  # fmt: skip


def test_the_evaluation_after_the_last_step_is_finished_first() -> None:
    fake, config, termination = EvaluatedRun("evaluate", 1, signal.SIGTERM), RunConfig(num_steps=1), Termination()
    config.rollout.prompts_per_step = 1
    with termination.listening():
        train(config, roles_of(fake), fake, RunState(), AlgorithmNeeds(), termination)
    assert fake.events[-3:] == ["evaluate 1", "score of 1", "save 1 with 0.5"]


@pytest.mark.parametrize(
    ("every", "saved_score", "events"),
    [
        (2, None, ["evaluate 4", "score of 4", "save 4 with 0.5"]),
        (2, 0.25, []),  # it was evaluated
        (3, None, []),  # it was not to be
    ],
)
def test_a_resumed_run_makes_up_for_an_evaluation_that_was_broken_off(
    every: int, saved_score: float | None, events: list[str]
) -> None:
    fake, config = EvaluatedRun("nothing", 0), RunConfig()
    config.eval.every = every
    make_up_evaluation(config, roles_of(fake), fake, RunState(step=4), saved_score, Termination())
    assert fake.events == events


def test_a_signal_before_the_first_step_saves_nothing() -> None:
    assert events_until_terminated(TerminatedRun("generate", 0, signal.SIGTERM)) == ["sample"]


def test_a_process_that_ignores_ctrl_c_goes_on_ignoring_it() -> None:
    previous = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with Termination().listening():
            assert signal.getsignal(signal.SIGINT) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, previous)


def test_a_spoiled_update_says_which_prompts_led_there() -> None:
    fake = FakeRun([0.1, 0.1], jumps=[])

    def update(batches: Sequence[ScoredHandle]) -> UpdateReport:
        raise GradientError("not finite")

    fake.update = update
    with pytest.raises(SpoiledUpdateError, match=r"^not finite$") as raised:
        run(fake, max_kl_increase=None, start=RunState(step=3, data_position=5))
    assert raised.value.data_position == 6  # the update takes one batch of prompts, the sixth


def test_a_jump_that_raises_the_training_kl_is_taken_back_before_the_next_publish_and_not_tried_again_at_once() -> None:
    # The update before the jump measures 0.30, the one after it 0.45: half as much again, where a fifth is allowed.
    fake = FakeRun([0.30, 0.45, 0.29], jumps=[1, 2])
    state = run(fake, max_kl_increase=0.2)
    assert fake.events == [
        "update", "publish 1.0", "jump",
        "update", "roll back", "publish 2.0",
        "update", "publish 3.0",
    ]  # fmt: skip
    undone = fake.records[1]
    assert (undone.step, undone.kind, undone.accepted_step_size) == (2, TriggerKind.ROLL_BACK, 0.0)
    assert undone.roll_back is not None
    assert (undone.roll_back.jump_step, undone.roll_back.reverse_kl_before) == (1, 0.30)
    assert undone.roll_back.reverse_kl_after == 0.45
    assert (state.num_roll_backs, state.num_rejects) == (1, 1)


@pytest.mark.parametrize(
    ("reverse_kls", "max_kl_increase"),
    [
        ([0.30, 0.35, 0.29], 0.2),  # up by a sixth
        ([0.30, 0.25, 0.60], 0.2),  # up later, when the jump is out of reach
        ([0.30, 0.60, 0.60], None),
    ],
)
def test_a_jump_stays_when_the_kl_does_not_rise_at_once(
    reverse_kls: list[float], max_kl_increase: float | None
) -> None:
    fake = FakeRun(reverse_kls, jumps=[1])
    assert run(fake, max_kl_increase).num_roll_backs == 0
    assert "roll back" not in fake.events


def test_a_run_resumed_between_jump_and_update_still_takes_it_back() -> None:
    whole = FakeRun([0.30, 0.45], jumps=[1])
    run(whole, max_kl_increase=0.2)
    first, second = FakeRun([0.30], jumps=[1]), FakeRun([0.45], jumps=[1])
    state = run(second, max_kl_increase=0.2, start=run(first, max_kl_increase=0.2))
    assert first.events + second.events == whole.events
    assert state == whole.state


def test_refusals_are_counted_until_a_jump_and_a_look_changes_nothing() -> None:
    report = UpdateReport(num_response_tokens=1, metrics={TRAINING_KL: 0.3})
    state = RunState(step=4)
    for slope in (-1.0, -3.0):
        state = after_trigger(state, record(4, 0.0, slope=slope), report)
    # The direction is 2 long: the loss falls by 3 / 2 per unit of it.
    assert (state.num_rejects, state.rejected_steepness) == (2, 1.5)
    looked = after_trigger(state, record(4, 0.0, TriggerKind.LOOK), report)
    assert (looked.num_rejects, looked.rejected_steepness) == (2, 1.5)
    jumped = after_trigger(state, record(4, 2.0), report)
    assert (jumped.num_rejects, jumped.rejected_steepness) == (0, None)
    assert (jumped.last_jump_step, jumped.reverse_kl_before_jump) == (4, 0.3)


def test_gate_tokens_are_generated_tokens() -> None:
    state = after_trigger(
        RunState(step=4, num_generated_tokens=10), record(4, 0.0), UpdateReport(num_response_tokens=1, metrics={})
    )
    assert (state.num_generated_tokens, state.num_gate_tokens) == (17, 7)
