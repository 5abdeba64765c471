"""A trigger's wall time with one, two and four samplers, for the searches that have something to sample side by side.

Learner, teacher and engines are fakes: an engine sleeps as long as sampling takes, a fixed time for the longest
response and a time for every prompt that it has been given, and the learner as long as a candidate takes to publish. What is
measured is `effopd.accelerate` itself. The default's parabola tries three candidates, of which the two probes go
side by side; the ladder goes step by step, and has from more samplers that each has fewer prompts. Goal: with four
samplers a trigger of the default takes at most half as long as with one.

    python scripts/bench/trigger_samplers.py
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from statistics import median

from measure import Comparison, argument_parser, parse, report

from effopd.accelerate import EffOPD
from effopd.candidates import TriggerRoles, TriggerSetting
from effopd.config.schema import AccelerateConfig, AcceptRule, GateKind
from effopd.config.search_schema import SearchKind
from effopd.handles import as_scored, split_evenly
from effopd.types import (
    Displacement,
    Gathered,
    GenerateRequest,
    KLSum,
    PolicyVersion,
    Prompt,
    Publication,
    Rollout,
    RolloutHandle,
    RolloutSummary,
    RunState,
    ScoredHandle,
    Settlement,
    TeacherPayload,
    UpdateReport,
)

GOAL = 0.5
NUM_SAMPLERS = (1, 2, 4)
SECONDS_PER_RESPONSE = 0.1
"""What a batch takes however small it is: the longest response, token by token."""
SECONDS_PER_PROMPT = 0.004
"""What every further prompt adds to it; 50 of them 0.2 s."""
SECONDS_PER_LOAD = 0.01
PROMPTS = tuple(Prompt(prompt_id=str(number), token_ids=(1,), text="", answer="") for number in range(50))
SEARCHES = {
    "the default's parabola": AccelerateConfig(
        gate=GateKind.reverse_kl, accept=AcceptRule.strict, search=SearchKind.parabola, step_sizes=[2.0, 6.0]
    ),
    "all candidates at once": AccelerateConfig(
        gate=GateKind.reverse_kl, accept=AcceptRule.strict, search=SearchKind.parallel
    ),
    "the printed ladder": AccelerateConfig(gate=GateKind.reverse_kl, accept=AcceptRule.strict),
}


class SleepyLearner:
    """Learner, publisher and teacher. The reverse KL falls until step size 4.5, so that every search goes far."""

    def __init__(self) -> None:
        self._held = 0.0

    def open_trigger(self) -> Displacement:
        self._held = 0.0
        return Displacement(
            norm=1.0, relative_norm=0.1, cosine_to_previous=None, slope=-0.1, direction_norm=1.0, num_updates=2
        )

    def write_candidate(self, step_size: float) -> None:
        self._held = step_size

    def close_trigger(self, settlement: Settlement) -> None:
        self._held = settlement.step_size

    def stage(self, version: PolicyVersion) -> Publication:
        time.sleep(SECONDS_PER_LOAD)
        return Publication(version=version, segment="", buckets=(), checksum="")

    def publish(self, version: PolicyVersion) -> None:
        time.sleep(SECONDS_PER_LOAD)

    def score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> ScoredHandle:
        return as_scored(rollouts)

    def reverse_kl(self, batch: ScoredHandle) -> list[KLSum]:
        per_token = 1 + 0.01 * (self._held - 4.5) ** 2
        return [
            KLSum(
                prompt_id=summary.prompt_id,
                sample_index=summary.sample_index,
                reverse_kl_sum=per_token * summary.response_len,
                num_tokens=summary.response_len,
            )
            for summary in batch.summaries
        ]

    def update(self, batches: Sequence[ScoredHandle]) -> UpdateReport:
        raise AssertionError("a trigger does not train")

    def response_logprobs(self, rollouts: RolloutHandle) -> list[list[float]]:
        raise AssertionError("there are no canaries here")

    def roll_back(self) -> None:
        raise AssertionError("nothing to undo")


class SleepySampler:
    """So many engines, which share the prompts of a request out."""

    def __init__(self, num_engines: int) -> None:
        self._num_engines = num_engines

    def load(self, publication: Publication) -> None:
        time.sleep(SECONDS_PER_LOAD)

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        largest_share = max(map(len, split_evenly(request.prompts, self._num_engines)))
        time.sleep(SECONDS_PER_RESPONSE + SECONDS_PER_PROMPT * largest_share)
        summaries = tuple(
            RolloutSummary(
                prompt_id=prompt.prompt_id, sample_index=0, prompt_len=1, response_len=10, is_truncated=False
            )
            for prompt in request.prompts
        )
        return RolloutHandle(parts=((),), summaries=summaries, policy_version=version)

    def preview(self, rollouts: RolloutHandle, num_rollouts: int) -> list[Rollout]:
        return []

    def groups(self, most: int) -> list["SleepySampler"]:
        shares = split_evenly(range(self._num_engines), min(most, self._num_engines))
        return [SleepySampler(len(share)) for share in shares]


def trigger_with(num_samplers: int, config: AccelerateConfig) -> Callable[[], float]:
    """Return the function that makes one trigger and returns its seconds."""
    learner = SleepyLearner()
    roles = TriggerRoles(
        learner=learner, sampler=SleepySampler(num_samplers), teacher=learner, publisher=learner, verifier=None
    )
    setting = TriggerSetting(
        gate_prompts=PROMPTS,
        audit_prompts=(),
        max_response_len=16,
        num_steps=100,
        seed=0,
        trained_payload=None,
    )
    nothing = RolloutHandle(parts=((),), summaries=(), policy_version=PolicyVersion(step=1))
    gathered = Gathered(rollouts=nothing, batches=(), num_prompt_batches=1, num_generated_tokens=0, metrics={})
    accelerator = EffOPD(config, setting, roles, lambda name: nullcontext())

    def seconds() -> float:
        return accelerator.try_jump(RunState(step=2), gathered).seconds

    return seconds


def main() -> None:
    arguments = parse(argument_parser(__doc__))
    comparisons = []
    for name, config in SEARCHES.items():
        triggers = [trigger_with(number, config) for number in NUM_SAMPLERS]
        # In turns, for a machine that others use changes its speed from minute to minute.
        rounds = [[trigger() for trigger in triggers] for _ in range(arguments.rounds)]
        one, *more = (list(seconds) for seconds in zip(*rounds, strict=True))
        for number, seconds in zip(NUM_SAMPLERS[1:], more, strict=True):
            comparisons.append(
                Comparison(
                    what=f"a trigger of {name} with {number} samplers",
                    baseline_name="the same with one sampler",
                    unit="seconds",
                    candidate=seconds,
                    baseline=one,
                    is_speed=False,
                    goal=GOAL if number == max(NUM_SAMPLERS) and config.search is SearchKind.parabola else 1.0,
                    is_goal_a_minimum=False,
                    notes={"seconds with one": median(one)},
                )
            )
    report(arguments, comparisons)


if __name__ == "__main__":
    main()
