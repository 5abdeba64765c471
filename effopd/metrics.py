"""Statistics of repeated samples, of prompts and of seeds. Pure functions of numbers.

n samples of one prompt are given, and k of them count: everything `*_at_k` is the expectation over the choice of these k,
computed exactly, never by drawing subsets.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np
from numpy import ndarray
from numpy.typing import ArrayLike

MAX_SAMPLES = 1000
"""Of one prompt, for `maj_at_k`: beyond it the numbers of subsets leave the range of a float."""

# 97.5 % points of Student's t for 1, 2, ... degrees of freedom. Any table has them, e.g. NIST's Engineering Statistics Handbook,
# section 1.3.6.7.2. More seeds than these get the last one, which makes their interval slightly too wide.
_STUDENT_T = (
    *(12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228),
    *(2.201, 2.179, 2.160, 2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086),
    *(2.080, 2.074, 2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042),
)

Interval = tuple[float, float]
Statistic = Callable[[ndarray], float]
"""From values whose first axis is prompts to one number."""


def avg_at_k(rewards: Sequence[float]) -> float:
    """Return avg@k, k = len(rewards): the mean reward of one prompt's samples.

    The mean over all samples is also the expectation for any smaller k, so there is no k to give.
    """
    assert rewards, "avg@k needs a sample"
    return math.fsum(rewards) / len(rewards)


def pass_at_k(num_samples: int, num_correct: int, k: int) -> float:
    """Return the probability that k of the samples, chosen without replacement, hold at least one correct one.

    1 - C(n - c, k) / C(n, k): the unbiased estimator of Chen et al. 2021 (arXiv 2107.03374, equation 1), in exact integers.
    """
    assert 1 <= k <= num_samples and 0 <= num_correct <= num_samples, (num_samples, num_correct, k)
    every = math.comb(num_samples, k)
    return (every - math.comb(num_samples - num_correct, k)) / every


def maj_at_k(answers: Sequence[str | None], rewards: Sequence[float], k: int) -> float:
    """Return the expected reward of the majority answer among k of the samples, chosen without replacement.

    Self-consistency voting (Wang et al. 2022, arXiv 2203.11171). Equal strings are one answer, so normalise them first; its
    reward is the mean over the samples that gave it. A tie is broken by chance and counts with its expectation. None is
    a sample without an answer: it does not vote, and where nobody votes the reward is 0. For k = n there is one choice;
    below it all C(n, k) are counted, by a recursion over answers instead of one by one.
    """
    assert len(answers) == len(rewards) and 1 <= k <= len(answers) <= MAX_SAMPLES, (len(answers), len(rewards), k)
    by_answer: defaultdict[str, list[float]] = defaultdict(list)
    for answer, reward in zip(answers, rewards, strict=True):
        if answer is not None:
            by_answer[answer].append(reward)
    votes = [(len(group), avg_at_k(group)) for group in by_answer.values()]
    if not votes:
        return 0.0
    most = max(count for count, _ in votes)
    if k == len(answers):
        return avg_at_k([reward for count, reward in votes if count == most])
    num_silent = len(answers) - sum(count for count, _ in votes)
    total = sum(_reward_of_winners(votes, num_silent, k, top) for top in range(1, min(k, most) + 1))
    return total / math.comb(len(answers), k)


def _reward_of_winners(votes: Sequence[tuple[int, float]], num_silent: int, k: int, top: int) -> float:
    """Return the sum, over the subsets of size k whose winners have exactly `top` votes, of the winners' mean reward.

    Entry [size, winners] of `ways` counts the choices of `size` samples among the answers seen so far that give
    `winners` of them `top` votes and the others fewer; `rewards` adds up the winners' rewards over these choices.
    """
    ways = np.zeros((k + 1, k // top + 1))
    ways[0, 0] = 1.0
    rewards = np.zeros_like(ways)
    for count, reward in votes:
        next_ways, next_rewards = np.zeros_like(ways), np.zeros_like(ways)
        for chosen in range(min(count, top - 1) + 1):
            weight, old = float(math.comb(count, chosen)), slice(0, k + 1 - chosen)
            next_ways[chosen:] += weight * ways[old]
            next_rewards[chosen:] += weight * rewards[old]
        if count >= top:
            weight, old = float(math.comb(count, top)), (slice(0, k + 1 - top), slice(0, -1))
            next_ways[top:, 1:] += weight * ways[old]
            next_rewards[top:, 1:] += weight * (rewards[old] + reward * ways[old])
        ways, rewards = next_ways, next_rewards
    silent = np.array([float(math.comb(num_silent, k - size)) for size in range(k + 1)])
    return float((silent[:, None] * rewards[:, 1:] / np.arange(1, ways.shape[1])).sum())


def mean(values: ndarray) -> float:
    """Return the mean of [P] values."""
    return float(values.mean())


def ratio_of_sums(values: ndarray) -> float:
    """Return the sum of the first of [P, 2] columns over that of the second, e.g. nats and tokens to nats per token."""
    numerator, denominator = values.sum(axis=0)
    return float(numerator / denominator)


def bootstrap_interval(
    values: ArrayLike, statistic: Statistic = mean, *, level: float = 0.95, num_resamples: int = 2000, seed: int = 0
) -> Interval | None:
    """Return the percentile bootstrap interval of a statistic of [P] or [P, columns] values, resampling prompts.

    Efron and Tibshirani 1993, chapter 13. The samples of a prompt are not independent, so give one row per prompt. None
    for a single prompt, which says nothing of the others. The same seed draws the same prompts.
    """
    array = np.asarray(values, dtype=np.float64)
    assert 0 < level < 1 and num_resamples >= 1 and len(array) >= 1, (level, num_resamples, len(array))
    if len(array) == 1:
        return None
    rng = np.random.default_rng(seed)
    estimates = [statistic(array[rng.integers(len(array), size=len(array))]) for _ in range(num_resamples)]
    low, high = np.quantile(estimates, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def paired_bootstrap_interval(
    values: ArrayLike,
    baseline: ArrayLike,
    statistic: Statistic = mean,
    *,
    level: float = 0.95,
    num_resamples: int = 2000,
    seed: int = 0,
) -> Interval | None:
    """Return the interval of statistic(values) - statistic(baseline), where row i of both belongs to prompt i.

    Both sides are resampled together, so what makes a prompt hard for both of them cancels.
    """
    first, second = np.asarray(values, dtype=np.float64), np.asarray(baseline, dtype=np.float64)
    assert first.shape == second.shape, (first.shape, second.shape)
    pairs = np.stack([first, second], axis=1)
    return bootstrap_interval(
        pairs,
        lambda sample: statistic(sample[:, 0]) - statistic(sample[:, 1]),
        level=level,
        num_resamples=num_resamples,
        seed=seed,
    )


def seed_interval(values: Sequence[float]) -> Interval | None:
    """Return the 95 % interval of the mean over seeds: Student's t, for so few values that a bootstrap cannot serve.

    None for a single seed.
    """
    if len(values) < 2:
        return None
    centre = avg_at_k(values)
    deviation = math.sqrt(math.fsum((value - centre) ** 2 for value in values) / (len(values) - 1))
    half = _STUDENT_T[min(len(values) - 1, len(_STUDENT_T)) - 1] * deviation / math.sqrt(len(values))
    return centre - half, centre + half


def mean_height(xs: Sequence[float], ys: Sequence[float], low: float, high: float) -> float:
    """Return the area under the straight lines between the points from x = low to high, divided by high - low.

    `xs` must not decrease, and must reach from `low` to `high`.
    """
    assert xs[0] <= low < high <= xs[-1], (xs[0], low, high, xs[-1])
    inside = [(x, y) for x, y in zip(xs, ys, strict=True) if low < x < high]
    ends = [(end, float(np.interp(end, xs, ys))) for end in (low, high)]
    area = sum((x1 - x0) * (y0 + y1) / 2 for (x0, y0), (x1, y1) in pairwise([ends[0], *inside, ends[1]]))
    return area / (high - low)
