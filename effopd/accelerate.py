"""A trigger from beginning to end: measure, search, decide once, settle.

This is what the controller runs. It holds roles, never tensors: the arithmetic happens shard by shard in the learner,
and until the trigger is closed the learner holds a candidate whose originals it keeps aside. A process that dies in here
leaves the last checkpoint untouched, so a resumed run stands before the trigger or after it, never inside.
"""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager

from effopd.config.schema import AccelerateConfig, GateKind, SeedRule
from effopd.evaluate import mean_by_prompt
from effopd.extrapolation.gate import accept_by_value, with_length_guard
from effopd.extrapolation.schedule import is_power_of_two, num_triggers
from effopd.extrapolation.search import accepted_step_size, ladder
from effopd.roles import Learner, Publisher, Sampler, Teacher, Verifier
from effopd.seeds import derive_seed
from effopd.types import (
    GateScore,
    GenerateRequest,
    PolicyVersion,
    Prompt,
    RunState,
    Settlement,
    TeacherPayload,
    TriggerRecord,
)


def is_trigger(config: AccelerateConfig, step: int) -> bool:
    """Return whether a jump is tried after optimizer step `step`."""
    within_limit = config.max_triggers is None or num_triggers(step) <= config.max_triggers
    return config.gate != GateKind.none and within_limit and is_power_of_two(step)


class NoAcceleration:
    """For runs that cannot try a jump, because their rollouts are a recording."""

    def is_due(self, step: int) -> bool:
        return False

    def try_jump(self, state: RunState) -> TriggerRecord:
        raise AssertionError("never due")


class EffOPD:
    """Gated extrapolation at steps 1, 2, 4, 8, ... Source: arXiv 2605.11739; see `effopd.extrapolation` for the parts."""

    def __init__(
        self,
        config: AccelerateConfig,
        *,
        learner: Learner,
        sampler: Sampler,
        teacher: Teacher | None,
        publisher: Publisher,
        verifier: Verifier | None,
        gate_prompts: tuple[Prompt, ...],
        max_response_len: int,
        seed: int,
        phase: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._config = config
        self._learner = learner
        self._sampler = sampler
        self._teacher = teacher
        self._publisher = publisher
        self._verifier = verifier
        self._gate_prompts = gate_prompts
        self._max_response_len = max_response_len
        self._seed = seed
        self._phase = phase

    def is_due(self, step: int) -> bool:
        return is_trigger(self._config, step)

    def try_jump(self, state: RunState) -> TriggerRecord:
        """Search from the weights after step `state.step`, which the samplers hold as (step, 0)."""
        with self._phase("gate"):
            return self._try_jump(state.step)

    def _try_jump(self, step: int) -> TriggerRecord:
        started = time.monotonic()
        displacement = self._learner.open_trigger()
        baseline = self._score(PolicyVersion(step=step))
        accept = accept_by_value(self._config.accept)
        if self._config.gate == GateKind.reverse_kl:
            accept = with_length_guard(accept, baseline, self._config.max_length_change)
        candidate_of = {size: number for number, size in enumerate(self._config.step_sizes, start=1)}

        def evaluate(step_size: float) -> GateScore:
            version = PolicyVersion(step=step, candidate=candidate_of[step_size])
            self._learner.write_candidate(step_size)
            self._publisher.publish(version)
            return self._score(version)

        records = ladder(baseline, self._config.step_sizes, evaluate, accept)
        step_size = accepted_step_size(records)
        exp_avg_scale = 1.0 if step_size == 0 else self._config.exp_avg_scale
        self._learner.close_trigger(Settlement(step_size=step_size, exp_avg_scale=exp_avg_scale))
        self._publisher.publish(PolicyVersion(step=step))
        return TriggerRecord(
            step=step,
            displacement=displacement,
            candidates=records,
            accepted_step_size=step_size,
            num_generated_tokens=sum(record.score.num_generated_tokens for record in records),
            seconds=time.monotonic() - started,
        )

    def _score(self, version: PolicyVersion) -> GateScore:
        """Sample the gate prompts with the weights `version` and measure what the gate needs, and the rest for the record."""
        shared = self._config.seeds == SeedRule.common
        request = GenerateRequest(
            prompts=self._gate_prompts,
            num_samples=self._config.samples_per_prompt,
            max_response_len=self._max_response_len,
            temperature=1.0,
            top_p=1.0,
            seed=derive_seed(self._seed, "gate", version.step, 0 if shared else version.candidate),
        )
        rollouts = self._sampler.generate(request, version)
        num_tokens = sum(summary.response_len for summary in rollouts.summaries)
        num_responses = len(rollouts.summaries)

        accuracies = None
        if self._verifier is not None:
            accuracies = mean_by_prompt(rollouts.summaries, self._verifier.rewards(rollouts, self._gate_prompts))
        match self._config.gate:
            case GateKind.reverse_kl:
                assert self._teacher is not None, "the KL gate needs a teacher; config.check sees to it"
                scored = self._teacher.score(rollouts, TeacherPayload.HIDDEN_STATES)
                sums = self._learner.reverse_kl(scored)
                reverse_kl = sum(item.reverse_kl_sum for item in sums)
                per_prompt = mean_by_prompt(scored.summaries, [-item.reverse_kl_sum / item.num_tokens for item in sums])
                value = -reverse_kl / num_tokens
            case GateKind.accuracy:
                assert accuracies is not None, "the accuracy gate needs a verifier; config.check sees to it"
                reverse_kl = None
                if self._teacher is not None:
                    scored = self._teacher.score(rollouts, TeacherPayload.SAMPLED)
                    reverse_kl = sum(summary.sampled_reverse_kl or 0.0 for summary in scored.summaries)
                per_prompt = accuracies
                value = sum(accuracies.values()) / len(accuracies)
            case GateKind.none:
                raise AssertionError("plain OPD has no gate")
        return GateScore(
            value=value,
            per_prompt=per_prompt,
            accuracy=None if accuracies is None else sum(accuracies.values()) / len(accuracies),
            reverse_kl_per_token=None if reverse_kl is None else reverse_kl / num_tokens,
            reverse_kl_per_sequence=None if reverse_kl is None else reverse_kl / num_responses,
            mean_response_len=num_tokens / num_responses,
            num_generated_tokens=num_tokens,
        )
