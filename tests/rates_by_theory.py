"""How often gates accept, by theory: for tests that count what they do on numbers with known noise."""

import math

import numpy as np

STUDENT_95 = 1.6766  # 95 % point of Student's t with 49 degrees of freedom
NORMAL_95 = 1.6449


def binomial(num_trials: int, probability: float) -> np.ndarray:
    """[num_trials + 1] the probability of every count."""
    k = np.arange(num_trials + 1)
    log_choose = [math.lgamma(num_trials + 1) - math.lgamma(i + 1) - math.lgamma(num_trials - i + 1) for i in k]
    return np.exp(np.array(log_choose) + k * math.log(probability) + (num_trials - k) * math.log1p(-probability))


def interval(probability: float, num_trials: int) -> tuple[int, int]:
    """The central 99.9 % interval of a count."""
    cumulative = binomial(num_trials, probability).cumsum()
    return int(np.searchsorted(cumulative, 0.0005)), int(np.searchsorted(cumulative, 0.9995))


def assert_count(count: int, probability: float, num_trials: int) -> None:
    low, high = interval(probability, num_trials)
    assert low <= count <= high, f"{count} of {num_trials}; theory says {low} to {high}"


def normal_cdf(value: float) -> float:
    return (1 + math.erf(value / math.sqrt(2))) / 2


def paired_rate(gain: float, noise: float) -> float:
    """How often a posterior of 95 % is reached on 50 prompts, when a loss truly falls by `gain` and every measurement
    of a prompt has normal noise.

    P(T >= t) of the noncentral t distribution: differences have the standard deviation √2 noise, and given their sample
    standard deviation, s times that, the mean has to be t s standard errors above 0. 49 s² is χ² with 49 degrees of
    freedom.
    """
    centre = gain * math.sqrt(50) / (math.sqrt(2) * noise)
    s = np.linspace(0.3, 1.9, 1601)
    log_density = 48 * np.log(s) - 49 * s**2 / 2
    weights = np.exp(log_density - log_density.max())
    passing = np.array([1 - normal_cdf(STUDENT_95 * one - centre) for one in s])
    return float((weights * passing).sum() / weights.sum())


def any_of(num_candidates: int) -> float:
    """How often one of several candidates that change nothing passes at 5 %, all compared with one baseline.

    Given the baseline's mean b, in its own standard errors, candidates are independent, and each fails with
    Φ(√2 q - b). Normal in place of Student's t, which agrees for one by the choice of q and is close for several.
    """
    b = np.linspace(-8, 8, 3201)
    weights = np.exp(-(b**2) / 2)
    failing = np.array([normal_cdf(math.sqrt(2) * NORMAL_95 - one) ** num_candidates for one in b])
    return 1 - float((weights * failing).sum() / weights.sum())
