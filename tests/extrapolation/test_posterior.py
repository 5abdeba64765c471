"""Posteriors against slow references."""

import pytest
from scores_by_hand import gate_score

from effopd.extrapolation.gate import SequentialTest, accept_in_chunks
from effopd.extrapolation.posterior import mean_posterior, sign_posterior, student_cdf
from effopd.types import GateScore


def test_the_sign_posterior_is_the_tail_of_a_beta_distribution() -> None:
    # No change: even odds. One win: the density 2θ above 1/2, 1 - 1/4.
    assert sign_posterior(0, 0) == 0.5
    assert sign_posterior(1, 0) == 0.75
    assert sign_posterior(0, 1) == 0.25
    # 8 wins, 2 losses: P(Bin(11, 1/2) <= 8) = 1 - (55 + 11 + 1) / 2048.
    assert sign_posterior(8, 2) == pytest.approx(1 - 67 / 2048)
    # By the midpoint rule on θ^7 (1 - θ)^4.
    grid = [(i + 0.5) / 20000 for i in range(20000)]
    density = [theta**7 * (1 - theta) ** 4 for theta in grid]
    assert sign_posterior(7, 4) == pytest.approx(sum(density[10000:]) / sum(density), abs=1e-6)


@pytest.mark.parametrize(
    # Quantiles of Student's t as printed in tables.
    ("t", "num_freedom", "probability"),
    [
        (0.0, 7, 0.5),
        (1.0, 1, 0.75),
        (6.314, 1, 0.95),
        (2.920, 2, 0.95),
        (2.353, 3, 0.95),
        (2.776, 4, 0.975),
        (2.571, 5, 0.975),
        (-1.677, 49, 0.05),
        (2.405, 49, 0.99),
        (1.646, 1000, 0.95),
    ],
)
def test_students_distribution_has_the_tabulated_quantiles(t: float, num_freedom: int, probability: float) -> None:
    assert student_cdf(t, num_freedom) == pytest.approx(probability, abs=2e-4)


def test_the_mean_posterior_stays_a_probability_far_out() -> None:
    # Without the bound the series gives down to -1.1e-16 for these, which would be shown as -0.000.
    for num_prompts in range(3, 60):
        for scale in (1e-3, 1e-6, 1e-9):
            worse = [-1.0 - scale * (index % 2) for index in range(num_prompts)]
            assert 0.0 <= mean_posterior(worse) < 1e-3


def test_the_mean_posterior_looks_at_size_and_spread() -> None:
    # Mean 1, standard deviation 1, three prompts: t = √3 with 2 degrees of freedom, P = (1 + √(3/5)) / 2.
    assert mean_posterior([0.0, 1.0, 2.0]) == pytest.approx((1 + (3 / 5) ** 0.5) / 2)
    assert mean_posterior([0.0, -1.0, -2.0]) == pytest.approx((1 - (3 / 5) ** 0.5) / 2)
    assert mean_posterior([0.5, 0.5]) == 1.0
    assert mean_posterior([0.0, 0.0]) == 0.5
    assert mean_posterior([3.0]) == 0.5


TEST = SequentialTest(win_rate=0.75, max_false_accepts=0.05, max_misses=0.05)


def test_the_likelihood_ratio_decides_at_its_two_bounds() -> None:
    # A win multiplies it by 1.5: 1.5^7 = 17.1 < 20 <= 25.6 = 1.5^8. A loss halves it: 2^-4 = 0.0625 > 0.05 > 2^-5.
    assert not TEST.is_better(7, 0)
    assert TEST.is_better(8, 0)
    assert not TEST.is_not_better(0, 4)
    assert TEST.is_not_better(0, 5)


def score(outcomes: str) -> GateScore:
    """One prompt per letter: right (r) or wrong (w)."""
    return gate_score([outcome == "r" for outcome in outcomes])


@pytest.mark.parametrize(
    ("before", "chunks", "num_pulled", "is_accepted"),
    [
        # Five losses in the first six prompts refuse at once; the next chunk is never sampled.
        ("rrrrrrrrrrrr", ["wwwwwr", "wwwwwrrrrrrr"], 1, False),
        # Eight wins accept, and the rest is sampled for the next comparison.
        ("wwwwwwwwwwww", ["rrrrrrrr", "rrrrrrrrrrrr"], 2, True),
        # Undecided to the end.
        ("wwwwrrrr", ["rrww", "rrwwrrrr"], 2, False),
        # Accepted early, but worse over all prompts: eight wins and then nine losses.
        ("wwwwwwwwrrrrrrrrr", ["rrrrrrrr", "rrrrrrrrwwwwwwwww"], 2, False),
    ],
)
def test_sampling_stops_when_the_evidence_suffices_to_refuse(
    before: str, chunks: list[str], num_pulled: int, is_accepted: bool
) -> None:
    pulled = []
    scores = (pulled.append(chunk) or score(chunk) for chunk in chunks)
    _, verdict, _ = accept_in_chunks(scores, score(before), TEST)
    assert (len(pulled), verdict) == (num_pulled, is_accepted)
