"""A trigger from beginning to end: measure, search, decide once, settle.

This is what the controller runs. It holds roles, never tensors: the arithmetic happens shard by shard in the learner,
and until the trigger is closed the learner holds a candidate whose originals it keeps aside. A process that dies in here
leaves the last checkpoint untouched, so a resumed run stands before the trigger or after it, never inside.
"""

import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from effopd.audit import audit
from effopd.candidates import Candidates, Sampling, TriggerRoles, TriggerSetting
from effopd.config.schema import AccelerateConfig, GateKind
from effopd.decision import (
    Decision,
    FreshSamples,
    confirmed_by_accuracy,
    measure_of,
    search_on_fresh_samples,
    search_on_training_samples,
)
from effopd.extrapolation.resting import is_resting
from effopd.extrapolation.safety import longest_step_size
from effopd.extrapolation.schedule import is_scheduled
from effopd.gate_scores import Measure
from effopd.seeds import derive_seed
from effopd.types import (
    Audit,
    Displacement,
    Gathered,
    PolicyVersion,
    RunState,
    ScoredHandle,
    Settlement,
    TeacherPayload,
    TriggerKind,
    TriggerRecord,
)


def is_trigger(config: AccelerateConfig, step: int, num_steps: int) -> bool:
    """Return whether a jump is tried after optimizer step `step` of a run of `num_steps`."""
    return config.gate is not GateKind.none and is_scheduled(config, step, num_steps)


class NoAcceleration:
    """For runs that cannot try a jump, because their rollouts are a recording."""

    def is_due(self, step: int) -> bool:
        return False

    def try_jump(self, state: RunState, gathered: Gathered) -> TriggerRecord:
        raise AssertionError("never due")


class EffOPD:
    """Gated extrapolation, at steps 1, 2, 4, 8, ... as printed. Source: arXiv 2605.11739; see `effopd.extrapolation` for the
    parts, and for what goes beyond it."""

    def __init__(
        self,
        config: AccelerateConfig,
        setting: TriggerSetting,
        roles: TriggerRoles,
        phase: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._config = config
        self._setting = setting
        self._roles = roles
        self._phase = phase

    def is_due(self, step: int) -> bool:
        return is_trigger(self._config, step, self._setting.num_steps)

    def try_jump(self, state: RunState, gathered: Gathered) -> TriggerRecord:
        """Search from the weights after step `state.step`, which the samplers hold as (step, 0).

        `gathered` is what that step trained on, for the gate that uses it again.
        """
        with self._phase("gate"):
            return self._try_jump(state, gathered)

    def _try_jump(self, state: RunState, gathered: Gathered) -> TriggerRecord:
        started = time.monotonic()
        config, step = self._config, state.step
        displacement = self._roles.learner.open_trigger()
        candidates = Candidates(step, self._roles)
        kind = TriggerKind.UNGATED if config.gate is GateKind.ungated else TriggerKind.SEARCH
        if is_resting(config, state, displacement):
            kind = TriggerKind.LOOK
        decision, num_rescored_tokens = Decision(step_size=0.0), 0
        if kind is not TriggerKind.LOOK:
            decision, num_rescored_tokens = self._decide(candidates, displacement, step, gathered)
        report = self._audit(candidates, decision.step_size, step) if kind is not TriggerKind.LOOK else None
        self._roles.learner.close_trigger(self._settlement(kind, decision.step_size))
        if decision.step_size != 0 or candidates.were_published:
            self._roles.publisher.publish(PolicyVersion(step=step))
        scores = [record.score for record in (*decision.candidates, *decision.confirmation)]
        return TriggerRecord(
            step=step,
            kind=kind,
            displacement=displacement,
            candidates=decision.candidates,
            confirmation=decision.confirmation,
            accepted_step_size=decision.step_size,
            num_generated_tokens=sum(score.num_generated_tokens for score in scores),
            num_rescored_tokens=num_rescored_tokens,
            seconds=time.monotonic() - started - (report.seconds if report is not None else 0.0),
            audit=report,
        )

    def _decide(
        self, candidates: Candidates, displacement: Displacement, step: int, gathered: Gathered
    ) -> tuple[Decision, int]:
        """Return the decision, and how many training tokens the teacher scored again for it."""
        config = self._config
        longest = longest_step_size(displacement, config.max_relative_jump)
        fresh = FreshSamples(config, candidates, self._setting, step)
        match config.gate:
            case GateKind.ungated:
                (step_size,) = config.step_sizes
                return Decision(step_size=step_size if abs(step_size) <= longest else 0.0), 0
            case GateKind.accuracy | GateKind.reverse_kl:
                return search_on_fresh_samples(config, fresh, measure_of(config.gate), longest), 0
            case GateKind.kl_then_accuracy:
                decision = search_on_fresh_samples(config, fresh, Measure.REVERSE_KL, longest)
                return confirmed_by_accuracy(config, fresh, decision), 0
            case GateKind.reuse_kl:
                batches, num_tokens = self._with_hidden_states(gathered)
                learner = self._roles.learner
                return (
                    search_on_training_samples(config, candidates, fresh, learner, batches, longest),
                    num_tokens,
                )
            case GateKind.none:
                raise AssertionError("plain OPD has no gate")

    def _with_hidden_states(self, gathered: Gathered) -> tuple[Sequence[ScoredHandle], int]:
        """Return the step's responses with the teacher's hidden states, and how many tokens that took to score."""
        if self._setting.trained_payload is TeacherPayload.HIDDEN_STATES:
            return gathered.batches, 0
        assert self._roles.teacher is not None, "a KL gate needs a teacher; config.check sees to it"
        scored = self._roles.teacher.score(gathered.rollouts, TeacherPayload.HIDDEN_STATES)
        return [scored], sum(summary.response_len for summary in scored.summaries)

    def _settlement(self, kind: TriggerKind, step_size: float) -> Settlement:
        if kind is TriggerKind.LOOK:
            return Settlement(step_size=0.0)
        if step_size == 0:
            return Settlement(step_size=0.0, lr_factor=self._config.lr_on_reject)
        return Settlement(
            step_size=step_size,
            exp_avg_scale=self._config.exp_avg_scale,
            lr_factor=self._config.lr_on_accept,
        )

    def _audit(self, candidates: Candidates, step_size: float, step: int) -> Audit | None:
        if not self._setting.audit_prompts:
            return None
        sampling = Sampling(
            num_samples=1,
            max_response_len=self._setting.max_response_len,
            seed=derive_seed(self._setting.seed, "audit", step),
        )
        return audit(candidates, self._setting.audit_prompts, sampling, self._config.audit_grid, step_size)
