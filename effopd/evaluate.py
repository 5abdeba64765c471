"""Scoring the policy that the samplers hold."""

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

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


@dataclass(frozen=True, slots=True, kw_only=True)
class EvaluationSet:
    """Prompts that are sampled alike and scored by one verifier."""

    name: str
    prompts: tuple[Prompt, ...]
    verifier: Verifier
    samples_per_prompt: int
    temperature: float
    top_p: float
    max_response_len: int


class SamplingEvaluator:
    """Samples every prompt of every evaluation set and asks its verifier. The score is the mean over sets.

    Seeds depend on the step, so that the noise of successive evaluations is independent and their moving average means
    something; and on the run's seed, so that two runs with one seed are compared on common random numbers.
    """

    def __init__(self, sampler: Sampler, sets: Sequence[EvaluationSet], *, seed: int) -> None:
        self._sampler = sampler
        self._sets = tuple(sets)
        self._seed = seed

    def evaluate(self, step: int, version: PolicyVersion) -> EvalReport:
        return combine(step, {one.name: self._evaluate_set(one, step, version) for one in self._sets})

    def _evaluate_set(self, one: EvaluationSet, step: int, version: PolicyVersion) -> EvalReport:
        request = GenerateRequest(
            prompts=one.prompts,
            num_samples=one.samples_per_prompt,
            max_response_len=one.max_response_len,
            temperature=one.temperature,
            top_p=one.top_p,
            seed=derive_seed(self._seed, "evaluate", step),
        )
        rollouts = self._sampler.generate(request, version)
        per_prompt = mean_by_prompt(rollouts.summaries, one.verifier.rewards(rollouts, one.prompts))
        num_responses = len(rollouts.summaries)
        num_tokens = sum(summary.response_len for summary in rollouts.summaries)
        score = sum(per_prompt.values()) / len(per_prompt)
        return EvalReport(
            step=step,
            score=score,
            standard_error=standard_error(per_prompt),
            mean_response_len=num_tokens / num_responses,
            truncation_rate=sum(summary.is_truncated for summary in rollouts.summaries) / num_responses,
            num_generated_tokens=num_tokens,
            per_prompt=per_prompt,
            per_set={one.name: score},
        )


def combine(step: int, reports: Mapping[str, EvalReport]) -> EvalReport:
    """Return one report over several sets, each of which counts the same; a single report is returned as it is.

    Truncation is a mean over sets too, length one over all responses; prompts are told apart as `<set>/<prompt_id>`. The standard error takes
    the sets as independent.
    """
    if len(reports) == 1:
        return next(iter(reports.values()))
    num_sets = len(reports)
    num_tokens = sum(report.num_generated_tokens for report in reports.values())
    return EvalReport(
        step=step,
        score=sum(report.score for report in reports.values()) / num_sets,
        standard_error=math.sqrt(sum(report.standard_error**2 for report in reports.values())) / num_sets,
        mean_response_len=num_tokens
        / sum(one.num_generated_tokens / one.mean_response_len for one in reports.values()),
        truncation_rate=sum(report.truncation_rate for report in reports.values()) / num_sets,
        num_generated_tokens=num_tokens,
        per_prompt={
            f"{name}/{prompt_id}": value
            for name, report in reports.items()
            for prompt_id, value in report.per_prompt.items()
        },
        per_set={name: report.score for name, report in reports.items()},
    )
