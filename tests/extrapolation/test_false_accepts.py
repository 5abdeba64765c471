"""Gates and searches on quadratics with a known optimum and known noise: how often they accept what is no improvement.

Rates are counted over simulated triggers and must lie in the exact 99.9 % interval of the binomial distribution around what
theory predicts, or for a bound below its upper end.
"""

import math
from collections.abc import Callable

import numpy as np
import pytest
from rates_by_theory import any_of, assert_count, binomial, interval, paired_rate
from scores_by_hand import gate_score

from effopd.config.schema import AccelerateConfig, AcceptRule
from effopd.config.search_schema import SearchKind
from effopd.extrapolation.gate import (
    Accept,
    SequentialTest,
    accept_by_posterior,
    accept_by_value,
    accept_in_chunks,
    divergence_posterior,
    right_or_wrong_posterior,
)
from effopd.extrapolation.posterior import sign_posterior
from effopd.extrapolation.search import accepted_step_size, search
from effopd.study.spreads import upper_bound
from effopd.types import CandidateRecord, GateScore

NUM_PROMPTS = 50
NUM_TRIGGERS = 1000

Values = Callable[[float], np.ndarray]
"""Step size to [P] the value on every gate prompt, noise included."""


def settle(config: AccelerateConfig, values: Values, accept: Accept) -> float:
    """Run one search and return the step size that it settles on."""

    def judge(step_size: float, best: GateScore) -> CandidateRecord:
        candidate = gate_score(values(step_size))
        is_accepted, reason = accept(candidate, best)
        return CandidateRecord(step_size=step_size, score=candidate, is_accepted=is_accepted, reason=reason)

    return accepted_step_size(search(config, gate_score(values(0.0)), judge, math.inf))


FIXED = AccelerateConfig(search=SearchKind.fixed, step_sizes=[2.0])


def coins(generator: np.random.Generator, probability: float = 0.5) -> np.ndarray:
    return generator.random(NUM_PROMPTS) < probability


@pytest.mark.parametrize(("rule", "printed"), [(AcceptRule.strict, 0.46), (AcceptRule.non_worse, 0.54)])
def test_the_printed_gate_accepts_a_jump_that_changes_nothing_about_half_the_time(
    rule: AcceptRule, printed: float
) -> None:
    # Two independent counts of 50 fair coins: equal with probability Σ Bin(k)² = 0.0796, so one beats the other in 46 %.
    counts = binomial(NUM_PROMPTS, 0.5)
    tie = float((counts**2).sum())
    theory = (1 - tie) / 2 if rule is AcceptRule.strict else (1 + tie) / 2
    assert theory == pytest.approx(printed, abs=0.005)
    generator = np.random.default_rng(1)
    accepted = [settle(FIXED, lambda _: coins(generator), accept_by_value(rule)) for _ in range(NUM_TRIGGERS)]
    assert_count(np.count_nonzero(accepted), theory, NUM_TRIGGERS)


@pytest.mark.parametrize(("change", "printed"), [(-0.10, 0.13), (-0.05, 0.27), (0.05, 0.66), (0.10, 0.82)])
def test_the_printed_gate_sees_ten_points_with_a_standard_error_of_seven(change: float, printed: float) -> None:
    before, after = binomial(NUM_PROMPTS, 0.5), binomial(NUM_PROMPTS, 0.5 + change)
    theory = float((after * (before.cumsum() - before)).sum())
    assert theory == pytest.approx(printed, abs=0.01)
    generator = np.random.default_rng(2)
    accept = accept_by_value(AcceptRule.strict)
    accepted = [
        settle(FIXED, lambda size: coins(generator, 0.5 + change * (size > 0)), accept) for _ in range(NUM_TRIGGERS)
    ]
    assert_count(np.count_nonzero(accepted), theory, NUM_TRIGGERS)


def test_the_paired_gate_for_right_and_wrong_has_the_rate_that_its_posterior_implies() -> None:
    # 50 pairs of fair coins: each is a win with probability 1/4 and a loss with 1/4. Every outcome counted out.
    theory = sum(
        float(changed) * float(won)
        for num_changed, changed in enumerate(binomial(NUM_PROMPTS, 0.5))
        for num_wins, won in enumerate(binomial(num_changed, 0.5) if num_changed else np.ones(1))
        if sign_posterior(num_wins, num_changed - num_wins) >= 0.95
    )
    assert 0.03 < theory < 0.05
    generator = np.random.default_rng(3)
    accept = accept_by_posterior(right_or_wrong_posterior, 0.95)
    accepted = [settle(FIXED, lambda _: coins(generator), accept) for _ in range(NUM_TRIGGERS)]
    assert_count(np.count_nonzero(accepted), theory, NUM_TRIGGERS)


def noisy(generator: np.random.Generator, loss: Callable[[float], float], noise: float = 0.1) -> Values:
    """Minus a loss per prompt: how hard the prompt is, which all step sizes share, the loss, and noise of its own."""
    hardness = generator.normal(0.0, 1.0, NUM_PROMPTS)

    def values(step_size: float) -> np.ndarray:
        return -(hardness + loss(step_size) + generator.normal(0.0, noise, NUM_PROMPTS))

    return values


DIVERGENCE = accept_by_posterior(divergence_posterior, 0.95)


LADDER = AccelerateConfig()
REPEAT = AccelerateConfig(search=SearchKind.repeat, step_sizes=[2.0])
BACKTRACKING = AccelerateConfig(search=SearchKind.backtracking, step_sizes=[8.0], max_candidates=3)
PARABOLA = AccelerateConfig(search=SearchKind.parabola, step_sizes=[2.0, 6.0])
by_search = {"ids": lambda value: value.search.value if isinstance(value, AccelerateConfig) else str(value)}


@pytest.mark.parametrize(
    ("config", "least", "most"),
    [
        # One comparison, at 5 %; a ladder ends with its first refusal, so its first comparison decides too.
        (FIXED, 0.05, 0.05),
        (LADDER, 0.05, 0.05),
        (REPEAT, 0.05, 0.05),
        # Three comparisons with one baseline.
        (BACKTRACKING, any_of(3), any_of(3)),
        # Two, and a third where the two have an optimum worth trying.
        (PARABOLA, any_of(2), any_of(3)),
    ],
    **by_search,
)
def test_the_paired_gate_for_divergences_keeps_its_rate_in_every_search(
    config: AccelerateConfig, least: float, most: float
) -> None:
    assert any_of(1) == pytest.approx(0.05, abs=1e-4)
    generator = np.random.default_rng(4)
    accepted = [settle(config, noisy(generator, lambda _: 0.0), DIVERGENCE) for _ in range(NUM_TRIGGERS)]
    low, high = interval(least, NUM_TRIGGERS)[0], interval(most, NUM_TRIGGERS)[1]
    assert low <= np.count_nonzero(accepted) <= high


@pytest.mark.parametrize("config", [FIXED, LADDER, REPEAT, BACKTRACKING], **by_search)
@pytest.mark.parametrize(
    ("best", "depth"),
    [
        (0.9, 0.02),  # 2 lies beyond the valley: 0.02 ((2/0.9 - 1)² - 1) = 0.0099 higher than 0
        (1.2, 0.054),  # 2 lies in it, 0.03 lower
    ],
)
def test_every_search_accepts_on_a_quadratic_as_often_as_theory_says(
    config: AccelerateConfig, best: float, depth: float
) -> None:
    # From 4 on the quadratic is more than ten standard errors above its value at 2 and at 0, so 2 decides.
    loss = quadratic(best, depth)
    assert min(loss(4.0) - loss(2.0), loss(4.0)) > 10 * math.sqrt(2) * 0.1 / math.sqrt(NUM_PROMPTS)
    generator = np.random.default_rng(8)
    settled = [settle(config, noisy(generator, loss), DIVERGENCE) for _ in range(NUM_TRIGGERS)]
    assert set(settled) <= {0.0, 2.0}
    assert_count(np.count_nonzero(settled), paired_rate(-loss(2.0), noise=0.1), NUM_TRIGGERS)


def test_the_sequential_gate_accepts_no_improvement_as_rarely_as_it_states() -> None:
    test = SequentialTest(win_rate=0.75, max_false_accepts=0.05, max_misses=0.05)
    # Every course of the evidence over 50 pairs of fair coins, looked at after each.
    alive, theory = {(0, 0): 1.0}, 0.0
    for _ in range(NUM_PROMPTS):
        following: dict[tuple[int, int], float] = {}
        for (wins, losses), mass in alive.items():
            for state, share in (((wins + 1, losses), 0.25), ((wins, losses + 1), 0.25), ((wins, losses), 0.5)):
                if test.is_better(*state):
                    theory += mass * share
                elif not test.is_not_better(*state):
                    following[state] = following.get(state, 0.0) + mass * share
        alive = following
    assert 0 < theory <= 0.05

    generator = np.random.default_rng(5)
    num_accepted = num_sampled = 0
    for _ in range(NUM_TRIGGERS):
        before, after = coins(generator), coins(generator)
        scores = (gate_score(after[: i + 1]) for i in range(NUM_PROMPTS))
        last, is_accepted, reason = accept_in_chunks(scores, gate_score(before), test)
        # Accepted, or accepted on the way and then not better over all, which theory above does not know of.
        num_accepted += is_accepted or "over all" in reason
        num_sampled += len(last.per_prompt)
    assert_count(num_accepted, theory, NUM_TRIGGERS)
    assert num_sampled < 0.75 * NUM_TRIGGERS * NUM_PROMPTS


def test_the_sequential_gate_finds_the_improvement_that_it_is_made_for() -> None:
    # Of the changed prompts, three in four change for the better. Refusing that is a miss, at most 5 % early.
    test = SequentialTest(win_rate=0.75, max_false_accepts=0.05, max_misses=0.05)
    generator = np.random.default_rng(6)
    num_early_refusals = 0
    for _ in range(NUM_TRIGGERS):
        wins = generator.random(200) < 0.75
        before, after = ~wins, wins
        scores = (gate_score(after[: i + 10]) for i in range(0, 200, 10))
        _, is_accepted, reason = accept_in_chunks(scores, gate_score(before), test)
        num_early_refusals += not is_accepted and "undecided" not in reason
    assert num_early_refusals <= interval(0.05, NUM_TRIGGERS)[1]


def quadratic(best: float, depth: float) -> Callable[[float], float]:
    """A loss of 0 at step size 0 and -depth at `best`."""
    return lambda step_size: depth * ((step_size / best - 1) ** 2 - 1)


def test_of_the_jumps_that_the_best_gate_accepts_at_most_two_in_a_hundred_are_harmful() -> None:
    # Optima from far behind to beyond the trust region, depths from hidden in the noise (0.1 / √50 = 0.014 for a mean)
    # to obvious. A jump is harmful when the true loss where it lands is higher than where it began.
    generator = np.random.default_rng(7)
    num_harmful = num_jumps = 0
    gained = possible = 0.0
    for _ in range(1000):
        loss = quadratic(best=float(generator.uniform(-4, 12)), depth=float(np.exp(generator.uniform(-6, -1))))
        step_size = settle(PARABOLA, noisy(generator, loss), DIVERGENCE)
        num_jumps += step_size > 0
        num_harmful += loss(step_size) > 0
        gained -= loss(step_size)
        possible -= min(loss(size) for size in np.linspace(0, 10, 101))
    # Of accepted jumps, not of triggers; and so that the true rate is below it with a confidence of 95 %.
    assert upper_bound(num_harmful, num_jumps) <= 0.02
    # It is no use to be safe by standing still.
    assert num_jumps > 300
    assert gained > 0.8 * possible
