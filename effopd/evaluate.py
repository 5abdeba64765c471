"""Scoring the policy that the samplers hold."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence

from effopd.roles import Sampler, Verifier
from effopd.seeds import derive_seed
from effopd.types import EvalReport, GenerateRequest, PolicyVersion, Prompt, RolloutSummary


def mean_by_prompt(summaries: Sequence[RolloutSummary], values: Sequence[float]) -> dict[str, float]:
    """Return each prompt's mean over its samples."""
    by_prompt: defaultdict[str, list[float]] = defaultdict(list)
    for summary, value in zip(summaries, values, strict=True):
        by_prompt[summary.prompt_id].append(value)
    return {prompt_id: sum(group) / len(group) for prompt_id, group in by_prompt.items()}


def standard_error(values: Mapping[str, float]) -> float:
    """Return the standard error of the mean over prompts; 0 for a single prompt."""
    num_prompts = len(values)
    if num_prompts < 2:
        return 0.0
    mean = sum(values.values()) / num_prompts
    variance = sum((value - mean) ** 2 for value in values.values()) / (num_prompts - 1)
    return math.sqrt(variance / num_prompts)


class SamplingEvaluator:
    """Samples every evaluation prompt and asks the verifier.

    Seeds depend on the step, so that the noise of successive evaluations is independent and their moving average means
    something; and on the run's seed, so that two runs with one seed are compared on common random numbers.
    """

    def __init__(
        self,
        sampler: Sampler,
        verifier: Verifier,
        prompts: tuple[Prompt, ...],
        *,
        samples_per_prompt: int,
        temperature: float,
        top_p: float,
        max_response_len: int,
        seed: int,
    ) -> None:
        self._sampler = sampler
        self._verifier = verifier
        self._prompts = prompts
        self._samples_per_prompt = samples_per_prompt
        self._temperature = temperature
        self._top_p = top_p
        self._max_response_len = max_response_len
        self._seed = seed

    def evaluate(self, step: int, version: PolicyVersion) -> EvalReport:
        request = GenerateRequest(
            prompts=self._prompts,
            num_samples=self._samples_per_prompt,
            max_response_len=self._max_response_len,
            temperature=self._temperature,
            top_p=self._top_p,
            seed=derive_seed(self._seed, "evaluate", step),
        )
        rollouts = self._sampler.generate(request, version)
        per_prompt = mean_by_prompt(rollouts.summaries, self._verifier.rewards(rollouts, self._prompts))
        num_responses = len(rollouts.summaries)
        num_tokens = sum(summary.response_len for summary in rollouts.summaries)
        return EvalReport(
            step=step,
            score=sum(per_prompt.values()) / len(per_prompt),
            standard_error=standard_error(per_prompt),
            mean_response_len=num_tokens / num_responses,
            truncation_rate=sum(summary.is_truncated for summary in rollouts.summaries) / num_responses,
            num_generated_tokens=num_tokens,
            per_prompt=per_prompt,
        )
