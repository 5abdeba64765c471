"""The training loop, on one screen. It knows roles, never Ray, vLLM or DeepSpeed.

What is true at the top of every iteration: the samplers hold the learner's weights, stamped (state.step, 0), or will before
they are asked for anything, and everything up to `state.step` is written down. Each role charges its own time to the ledger.
Whether a batch is sampled when it is asked for or ahead is for `pipeline.py` to say.
"""

import logging
import math
import time
from contextlib import AbstractContextManager, closing, nullcontext
from dataclasses import replace
from typing import Protocol

from effopd.config.schema import RunConfig
from effopd.errors import GradientError
from effopd.extrapolation.resting import steepness
from effopd.extrapolation.safety import TRAINING_KL, is_harmful_jump
from effopd.pipeline import open_batches
from effopd.roles import Roles
from effopd.termination import Terminated, Termination
from effopd.types import (
    AlgorithmNeeds,
    Gathered,
    PolicyVersion,
    RollBack,
    RunState,
    TriggerKind,
    TriggerRecord,
    UpdateReport,
)

logger = logging.getLogger(__name__)


class SpoiledUpdateError(GradientError):
    """An update met a gradient that is not finite; the batches of prompts before `data_position` are what led there."""

    def __init__(self, message: str, data_position: int) -> None:
        super().__init__(message)
        self.data_position = data_position

    def __reduce__(self) -> tuple[type["SpoiledUpdateError"], tuple[str, int]]:
        return type(self), (str(self), self.data_position)


class Saver(Protocol):
    """Writes a checkpoint; `score` is the evaluation score at this very step, if there was an evaluation."""

    def save(self, state: RunState, score: float | None) -> None: ...


def train(
    config: RunConfig, roles: Roles, saver: Saver, state: RunState, needs: AlgorithmNeeds, termination: Termination
) -> RunState:
    """Continue from `state` until `config.num_steps` updates are done; return the final state.

    Raises:
        Terminated: when the process was asked to end; the last finished step is saved.
        SpoiledUpdateError: when `learner.on_nonfinite` does not let it go on.

    """
    if state.step == 0:
        evaluate(roles, state, termination.interruptible())
    score, is_saved = None, True
    with closing(open_batches(config, roles, needs, state)) as batches:
        while state.step < config.num_steps:
            try:
                with termination.interruptible():
                    gathered = batches.next(state)
            except Terminated:
                if not is_saved:
                    saver.save(state, score)
                raise
            report = update(roles, state, gathered)
            record = undo_harmful_jump(config, roles, state, report)
            state = after_update(state, gathered)
            batches.publish(PolicyVersion(step=state.step))
            # The direction of a jump just taken back has had its trial.
            if record is None and roles.accelerator.is_due(state.step):
                record = roles.accelerator.try_jump(state, gathered)
            if record is not None:
                state = after_trigger(state, record, report)
                roles.tracker.log_trigger(record)

            state = replace(state, seconds=roles.tracker.training_seconds())
            roles.tracker.log_step(state, {**report.metrics, **gathered.metrics})
            is_last = state.step == config.num_steps
            if is_due(state.step, config.logger.rollouts_every, is_last=False):
                shown = roles.sampler.preview(gathered.rollouts, config.logger.rollouts_per_sample)
                roles.tracker.log_rollouts(state.step, shown)
            score = None
            if roles.evaluator is not None and is_due(state.step, config.eval.every, is_last):
                batches.settle()
                # A run that is saved after its last step cannot be resumed, and would lack its final score.
                giving_way = nullcontext() if is_last else termination.interruptible()
                try:
                    score = evaluate(roles, state, giving_way)
                except Terminated:
                    saver.save(state, None)
                    raise
            is_saved = is_due(state.step, config.checkpoint.every, is_last)
            if is_saved:
                batches.run_ahead(state)  # samplers need not wait for the disk
                saver.save(state, score)
    return state


def update(roles: Roles, state: RunState, gathered: Gathered) -> UpdateReport:
    """Take one update, and say which of its optimizer steps were skipped."""
    try:
        report = roles.learner.update(gathered.batches)
    except GradientError as error:
        raise SpoiledUpdateError(str(error), state.data_position + gathered.num_prompt_batches) from error
    for reason in report.skipped:
        logger.warning("step %d: %s", state.step + 1, reason)
    return report


def is_due(step: int, every: int, is_last: bool) -> bool:
    """Return whether something that happens every `every` steps (0: only at the last) happens at `step`."""
    return is_last or (every > 0 and step % every == 0)


def undo_harmful_jump(config: RunConfig, roles: Roles, state: RunState, report: UpdateReport) -> TriggerRecord | None:
    """Return to the weights before the jump at `state.step` if the update after it, whose report this is, shows that it did
    harm; None when there is nothing to undo."""
    if not is_harmful_jump(config.accelerate.max_kl_increase, state, report.metrics):
        return None
    assert state.last_jump_step is not None and state.reverse_kl_before_jump is not None
    started = time.monotonic()
    with roles.tracker.phase("gate"):
        roles.learner.roll_back()
    return TriggerRecord(
        step=state.step + 1,
        kind=TriggerKind.ROLL_BACK,
        displacement=None,
        candidates=(),
        accepted_step_size=0.0,
        num_generated_tokens=0,
        seconds=time.monotonic() - started,
        roll_back=RollBack(
            jump_step=state.last_jump_step,
            reverse_kl_before=state.reverse_kl_before_jump,
            reverse_kl_after=report.metrics.get(TRAINING_KL, math.nan),
        ),
    )


def after_update(state: RunState, gathered: Gathered) -> RunState:
    return replace(
        state,
        step=state.step + 1,
        data_position=state.data_position + gathered.num_prompt_batches,
        num_generated_tokens=state.num_generated_tokens + gathered.num_generated_tokens,
    )


def after_trigger(state: RunState, record: TriggerRecord, report: UpdateReport) -> RunState:
    """Return the state with a trigger's tokens and with what later triggers remember of it; `report` is of the update that
    the trigger followed."""
    state = replace(
        state,
        num_generated_tokens=state.num_generated_tokens + record.num_generated_tokens,
        num_gate_tokens=state.num_gate_tokens + record.num_generated_tokens,
    )
    if record.kind is TriggerKind.LOOK:
        return state
    if record.kind is TriggerKind.ROLL_BACK:
        return replace(state, num_rejects=state.num_rejects + 1, num_roll_backs=state.num_roll_backs + 1)
    if record.accepted_step_size == 0:
        assert record.displacement is not None, "a search measures the displacement first"
        return replace(state, num_rejects=state.num_rejects + 1, rejected_steepness=steepness(record.displacement))
    return replace(
        state,
        num_rejects=0,
        rejected_steepness=None,
        last_jump_step=state.step,
        reverse_kl_before_jump=report.metrics.get(TRAINING_KL),
    )


def evaluate(roles: Roles, state: RunState, giving_way: AbstractContextManager[None]) -> float | None:
    """Score the policy, log it, and return the score; None where nothing is evaluated.

    `giving_way` may raise Terminated while the policy is scored. Then nothing is logged; see `make_up_evaluation`.
    """
    if roles.evaluator is None:
        return None
    with roles.tracker.phase("eval"), giving_way:
        report = roles.evaluator.evaluate(state.step, PolicyVersion(step=state.step))
    roles.tracker.log_eval(state, report)
    return report.score


def make_up_evaluation(
    config: RunConfig, roles: Roles, saver: Saver, state: RunState, saved_score: float | None, termination: Termination
) -> None:
    """Evaluate a policy that was saved at `state` with `saved_score` if it should have been evaluated and was not, because the
    run was asked to end; save it again with its score."""
    if saved_score is None and is_due(state.step, config.eval.every, is_last=False):
        score = evaluate(roles, state, termination.interruptible())
        if score is not None:
            saver.save(state, score)
