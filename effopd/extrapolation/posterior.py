"""How probable it is that a candidate is better, from the same prompts answered by both.

A comparison on common prompts cancels what makes some of them harder than others, and with common random numbers most of
the sampling noise too. Plain arithmetic, exact; no resampling.
"""

import math
from collections.abc import Sequence


def sign_posterior(num_wins: int, num_losses: int) -> float:
    """Return P(a prompt that changes is more likely to change for the better), in (0, 1); 0.5 without any change.

    Wins and losses are the prompts that the candidate answers better and worse. With a uniform prior on the probability θ
    of a win among them, θ is Beta(wins + 1, losses + 1), and P(θ > 1/2) = P(Binomial(wins + losses + 1, 1/2) <= wins). This
    is McNemar's test on discordant pairs (Psychometrika 12, 1947) read as a posterior. When nothing has truly changed it
    exceeds p at most about as often as 1 - p.
    """
    num_trials = num_wins + num_losses + 1
    return sum(math.comb(num_trials, k) for k in range(num_wins + 1)) / 2**num_trials


def mean_posterior(differences: Sequence[float]) -> float:
    """Return P(the mean difference, candidate minus other, is positive), in [0, 1]; 0.5 for fewer than two prompts.

    Normal differences with unknown mean and variance and Jeffreys' prior: the mean has Student's t distribution with n - 1
    degrees of freedom around the sample mean, with scale s / √n (Gelman et al., Bayesian Data Analysis, section 3.2). When
    nothing has truly changed the result is uniform on (0, 1), so it exceeds p with probability 1 - p.
    """
    num_prompts = len(differences)
    if num_prompts < 2:
        return 0.5
    mean = math.fsum(differences) / num_prompts
    variance = math.fsum((difference - mean) ** 2 for difference in differences) / (num_prompts - 1)
    if variance == 0:
        return 0.5 if mean == 0 else float(mean > 0)
    return student_cdf(mean / math.sqrt(variance / num_prompts), num_prompts - 1)


def student_cdf(t: float, num_freedom: int) -> float:
    """Return P(T <= t) of Student's t with a whole number of degrees of freedom, by the finite series of Abramowitz and
    Stegun, 26.7.3 and 26.7.4."""
    angle = math.atan(t / math.sqrt(num_freedom))
    is_even = num_freedom % 2 == 0
    term = total = 1.0 if is_even else (math.cos(angle) if num_freedom > 1 else 0.0)
    for k in range(2 if is_even else 3, num_freedom, 2):
        term *= (k - 1) / k * math.cos(angle) ** 2
        total += term
    inside = math.sin(angle) * total if is_even else 2 / math.pi * (angle + math.sin(angle) * total)
    return min(max((1 + inside) / 2, 0.0), 1.0)  # far out the series may leave [0, 1] by a rounding error
