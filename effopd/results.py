"""The numbers of an evaluation: one `EvalResult` per set, every score with its interval over prompts."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from effopd.metrics import (
    Interval,
    Statistic,
    avg_at_k,
    bootstrap_interval,
    maj_at_k,
    mean,
    pass_at_k,
    ratio_of_sums,
)
from effopd.responses import SetInput
from effopd.types import FinishReason

FULL_REWARD = 1.0
"""The reward of a response that pass@k takes for correct; partial credit is not."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Estimate:
    """A number and how sure of it the prompts make us."""

    value: float
    interval: Interval | None
    """95 % percentile bootstrap over prompts; None with a single prompt."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalResult:
    """What one evaluation set says of a model."""

    num_prompts: int
    samples_per_prompt: int
    """n, the k of avg@k and the largest k of the others."""
    temperature: float
    top_p: float
    max_response_len: int
    """Tokens, end-of-sequence included."""
    seed: int
    is_greedy: bool
    """Sampled at temperature 0, so that there is one sample and nothing random about it."""
    avg_at_k: Estimate
    """Mean reward over prompts and samples."""
    pass_at_k: Mapping[int, Estimate]
    """k to the unbiased estimate, for 1, 2, 4, ... and n. A sample is correct if its reward is 1."""
    maj_at_k: Mapping[int, Estimate] | None
    """Likewise; None where answers cannot be extracted."""
    mean_response_len: Estimate
    """Tokens."""
    truncation_rate: Estimate
    """Fraction of responses cut at max_response_len."""
    reverse_kl_per_token: Estimate | None
    """Sampled estimate of KL(student || teacher), nats per response token; None without a teacher."""
    num_generated_tokens: int
    per_prompt: Mapping[str, float]
    """prompt_id to the mean reward of its samples."""


def evaluate_sets(sets: Mapping[str, SetInput]) -> dict[str, EvalResult]:
    """Return every set's result under the set's name."""
    return {name: evaluate_set(judged) for name, judged in sets.items()}


def evaluate_set(judged: SetInput) -> EvalResult:
    """Return the numbers of one set. The same responses give the same intervals."""
    request = judged.request
    groups = _indices_by_prompt(judged)
    rewards = [[judged.rewards[index] for index in group] for group in groups.values()]
    lengths = [[judged.rollouts[index].response_len for index in group] for group in groups.values()]
    cut = [
        [judged.rollouts[index].finish_reason is FinishReason.LENGTH for index in group] for group in groups.values()
    ]
    num_samples = request.num_samples
    num_correct = [sum(reward >= FULL_REWARD for reward in group) for group in rewards]

    def estimate(values: Sequence[float] | Sequence[tuple[float, float]], statistic: Statistic = mean) -> Estimate:
        return Estimate(
            value=statistic(np.asarray(values, dtype=np.float64)),
            interval=bootstrap_interval(values, statistic, seed=request.seed),
        )

    averages = [avg_at_k(group) for group in rewards]
    ks = choices_of_k(num_samples)
    majority = None
    if judged.answers is not None:
        answers = [[judged.answers[index] for index in group] for group in groups.values()]
        voters = list(zip(answers, rewards, strict=True))
        majority = {k: estimate([maj_at_k(given, right, k) for given, right in voters]) for k in ks}
    reverse_kl = None
    if judged.reverse_kl is not None:
        sums = [sum(judged.reverse_kl[index] for index in group) for group in groups.values()]
        reverse_kl = estimate([(total, sum(group)) for total, group in zip(sums, lengths, strict=True)], ratio_of_sums)
    return EvalResult(
        num_prompts=len(groups),
        samples_per_prompt=num_samples,
        temperature=request.temperature,
        top_p=request.top_p,
        max_response_len=request.max_response_len,
        seed=request.seed,
        is_greedy=request.temperature == 0,
        avg_at_k=estimate(averages),
        pass_at_k={k: estimate([pass_at_k(num_samples, count, k) for count in num_correct]) for k in ks},
        maj_at_k=majority,
        mean_response_len=estimate([avg_at_k(group) for group in lengths]),
        truncation_rate=estimate([avg_at_k(group) for group in cut]),
        reverse_kl_per_token=reverse_kl,
        num_generated_tokens=sum(sum(group) for group in lengths),
        per_prompt=dict(zip(groups, averages, strict=True)),
    )


def choices_of_k(num_samples: int) -> list[int]:
    """Return 1, 2, 4, ... up to and with `num_samples`."""
    powers = [2**exponent for exponent in range(num_samples.bit_length()) if 2**exponent < num_samples]
    return [*powers, num_samples]


def _indices_by_prompt(judged: SetInput) -> dict[str, list[int]]:
    """Return, in the order of the prompts, where each one's responses are."""
    groups: dict[str, list[int]] = {prompt.prompt_id: [] for prompt in judged.request.prompts}
    for index, rollout in enumerate(judged.rollouts):
        groups[rollout.prompt_id].append(index)
    for prompt_id, group in groups.items():
        assert len(group) == judged.request.num_samples, f"prompt {prompt_id} has {len(group)} responses"
    return groups
