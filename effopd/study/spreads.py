"""Medians over seeds and their intervals. Pure functions of numbers, some of which may be infinite.

A cost that was not paid within the budget is infinite: it is larger than any that was, which is all that a median needs to
know of it. Differences between infinite numbers never arise, for quantiles here are members of the sample.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy import ndarray

LEVEL = 0.95
NUM_RESAMPLES = 2000
_SEED = 0
_BISECTIONS = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """The median over seeds; in JSON an infinite number is null."""

    median: float
    low: float | None
    """Of the 95 % percentile bootstrap interval over seeds; None with a single seed."""
    high: float | None
    num_seeds: int


def spread(values: Sequence[float]) -> Spread | None:
    """Return the median of one value per seed and its bootstrap interval; None of no values.

    Seeds are drawn with replacement, with a fixed seed, and the interval runs between the 2.5 % and the 97.5 % quantile of
    the medians (Efron and Tibshirani 1993, chapter 13). Few seeds give coarse and rather narrow intervals: with five, the
    ends are seeds themselves. The median of an even number of values is the middle between two of them, infinite if one is.
    """
    if not values:
        return None
    array = np.asarray(values, dtype=np.float64)
    if len(array) == 1:
        return Spread(median=float(array[0]), low=None, high=None, num_seeds=1)
    drawn = np.random.default_rng(_SEED).integers(len(array), size=(NUM_RESAMPLES, len(array)))
    medians = np.sort(_medians(array[drawn]))
    return Spread(
        median=float(_medians(array[None])[0]),
        low=float(medians[_rank((1 - LEVEL) / 2)]),
        high=float(medians[_rank((1 + LEVEL) / 2)]),
        num_seeds=len(array),
    )


def _medians(rows: ndarray) -> ndarray:
    """Return the median of every row."""
    ordered = np.sort(rows, axis=1)
    middle = rows.shape[1] // 2
    if rows.shape[1] % 2 == 1:
        return ordered[:, middle]
    return (ordered[:, middle - 1] + ordered[:, middle]) / 2  # all are positive, or finite: no difference of infinities


def _rank(quantile: float) -> int:
    """Return the place of a quantile among the sorted resamples: the smallest that at least this share is not above."""
    return max(0, math.ceil(quantile * NUM_RESAMPLES) - 1)


def upper_bound(num_events: int, num_trials: int, level: float = LEVEL) -> float:
    """Return the one-sided upper confidence bound of a proportion, Clopper and Pearson 1934: exact, never too low.

    It is the largest p under which `num_events` or fewer of the trials would still have probability 1 - level; with no event
    in n trials 1 - (1 - level)^(1/n), about 3/n.
    """
    assert 0 <= num_events <= num_trials, (num_events, num_trials)
    if num_events == num_trials:
        return 1.0
    low, high = 0.0, 1.0
    for _ in range(_BISECTIONS):
        middle = (low + high) / 2
        if _at_most(num_events, num_trials, middle) > 1 - level:
            low = middle
        else:
            high = middle
    return high


def _at_most(num_events: int, num_trials: int, probability: float) -> float:
    """Return the probability of at most so many events. Through logarithms, for the binomial coefficients of many trials
    leave the range of a float."""
    log_p, log_q = math.log(probability), math.log1p(-probability)
    return math.fsum(
        math.exp(_log_choose(num_trials, count) + count * log_p + (num_trials - count) * log_q)
        for count in range(num_events + 1)
    )


def _log_choose(total: int, chosen: int) -> float:
    return math.lgamma(total + 1) - math.lgamma(chosen + 1) - math.lgamma(total - chosen + 1)
