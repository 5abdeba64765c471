"""Statistics against their definitions: every choice of k samples written out, every resample counted."""

import random
from collections import Counter
from itertools import combinations, product

import numpy as np
import pytest

from effopd.metrics import (
    avg_at_k,
    bootstrap_interval,
    maj_at_k,
    mean_height,
    paired_bootstrap_interval,
    pass_at_k,
    ratio_of_sums,
    seed_interval,
)


def majority_reward(answers, rewards):
    """The definition for one choice of samples: the mean over the most frequent answers of the reward of each."""
    counts = Counter(answer for answer in answers if answer is not None)
    winners = [answer for answer, count in counts.items() if count == max(counts.values())]
    if not winners:
        return 0.0
    return sum(rewards[winner] for winner in winners) / len(winners)


def samples(rng, num_samples):
    """Answers of one prompt with a reward per answer; some are None."""
    answers = [rng.choice(["a", "b", "c", "d", None]) for _ in range(num_samples)]
    reward_of = {answer: rng.choice([0.0, 0.25, 1.0]) for answer in "abcd"}
    return answers, reward_of


@pytest.mark.parametrize("num_samples", range(1, 8))
def test_pass_at_k_is_the_share_of_choices_with_a_correct_sample(num_samples):
    for num_correct, k in product(range(num_samples + 1), range(1, num_samples + 1)):
        is_correct = [index < num_correct for index in range(num_samples)]
        choices = [any(choice) for choice in combinations(is_correct, k)]
        assert pass_at_k(num_samples, num_correct, k) == pytest.approx(sum(choices) / len(choices), abs=1e-15)


def test_pass_at_k_is_unbiased_for_independent_samples():
    # Expectation over 5 samples that are each correct with probability p, against 1 - (1 - p)^k.
    p = 0.3
    for k in range(1, 6):
        expected = sum(
            p ** sum(outcome) * (1 - p) ** (5 - sum(outcome)) * pass_at_k(5, sum(outcome), k)
            for outcome in product([0, 1], repeat=5)
        )
        assert expected == pytest.approx(1 - (1 - p) ** k)


def test_pass_at_k_of_many_samples_loses_nothing_to_rounding():
    # 1 - C(9999, 1) / C(10000, 1).
    assert pass_at_k(10_000, 1, 1) == 1e-4
    assert pass_at_k(10_000, 1, 10_000) == 1.0


def test_avg_at_k_is_its_own_mean_over_the_choices_of_fewer_samples():
    rewards = [1.0, 0.0, 0.25, 0.0, 1.0]
    for k in range(1, 6):
        means = [avg_at_k(choice) for choice in combinations(rewards, k)]
        assert sum(means) / len(means) == pytest.approx(avg_at_k(rewards))


@pytest.mark.parametrize("seed", range(40))
def test_maj_at_k_is_the_mean_over_all_choices_of_k(seed):
    rng = random.Random(seed)
    answers, reward_of = samples(rng, rng.randint(1, 9))
    rewards = [reward_of.get(answer, 0.0) for answer in answers]
    for k in range(1, len(answers) + 1):
        choices = [majority_reward(choice, reward_of) for choice in combinations(answers, k)]
        assert maj_at_k(answers, rewards, k) == pytest.approx(sum(choices) / len(choices), abs=1e-12)


def test_a_tie_counts_with_the_chance_of_its_right_answer():
    # Two votes for 4, which is right, two for 5, one for 6: one chance in two.
    assert maj_at_k(["4", "5", "4", "5", "6"], [1, 0, 1, 0, 0], 5) == 0.5


def test_samples_without_an_answer_do_not_vote():
    assert maj_at_k([None, None, "4"], [0, 0, 1], 3) == 1.0
    assert maj_at_k([None, None], [0, 0], 2) == 0.0
    # Of the three pairs, two hold the answer.
    assert maj_at_k([None, None, "4"], [0, 0, 1], 2) == pytest.approx(2 / 3)


def test_maj_at_1_is_the_mean_reward():
    rng = random.Random(1)
    answers, reward_of = samples(rng, 64)
    rewards = [reward_of.get(answer, 0.0) for answer in answers]
    assert maj_at_k(answers, rewards, 1) == pytest.approx(avg_at_k(rewards))


def test_the_majority_of_very_many_samples_is_still_a_probability():
    # 600 right votes against 400: the majority of 501 of them is right but in a rare choice.
    value = maj_at_k(["1"] * 600 + ["2"] * 400, [1.0] * 600 + [0.0] * 400, 501)
    assert 0.9999 < value <= 1.0


def test_the_bootstrap_has_the_quantiles_of_all_resamples():
    # 4 values have 256 equally likely resamples. The 10 % and 90 % points are means that many resamples share, so that
    # the quantiles of enough random ones are the same.
    values = [0.0, 1.0, 3.0, 7.0]
    means = sorted(sum(choice) / 4 for choice in product(values, repeat=4))
    low, high = bootstrap_interval(values, level=0.8, num_resamples=20_000, seed=1)
    assert (low, high) == tuple(np.quantile(means, [0.1, 0.9]))


def test_the_bootstrap_covers_the_true_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(0)
    covered = 0
    for trial in range(300):
        low, high = bootstrap_interval(rng.random(60), num_resamples=400, seed=trial)
        covered += low <= 0.5 <= high
    # 285 expected at 95 %; the binomial's standard deviation is 3.8, the percentile method is a little short of 95 %.
    assert 268 <= covered <= 297


def test_the_same_seed_gives_the_same_interval_and_another_one_another():
    values = np.random.default_rng(0).random(50)
    assert bootstrap_interval(values, seed=1) == bootstrap_interval(values, seed=1)
    assert bootstrap_interval(values, seed=1) != bootstrap_interval(values, seed=2)


def test_one_prompt_has_no_interval():
    assert bootstrap_interval([0.5]) is None
    assert paired_bootstrap_interval([0.5], [0.25]) is None


def test_a_ratio_is_resampled_with_its_denominator():
    # Numerator and denominator of every prompt stand in the ratio 2: so does every resample.
    lengths = np.arange(1.0, 30.0)
    low, high = bootstrap_interval(np.stack([2 * lengths, lengths], axis=1), ratio_of_sums)
    assert (low, high) == (pytest.approx(2), pytest.approx(2))


def test_pairing_cancels_what_is_hard_about_a_prompt():
    baseline = np.random.default_rng(0).random(40)
    assert paired_bootstrap_interval(baseline + 0.25, baseline) == (pytest.approx(0.25), pytest.approx(0.25))
    low, high = bootstrap_interval(baseline)
    assert high - low > 0.1


def test_the_interval_over_seeds_is_students():
    # Mean 2, standard deviation 1, t(2) = 4.303: 4.303 / sqrt(3) = 2.4844.
    assert seed_interval([1.0, 2.0, 3.0]) == (pytest.approx(2 - 2.4844, abs=1e-4), pytest.approx(2 + 2.4844, abs=1e-4))
    assert seed_interval([0.5]) is None
    # 40 seeds, beyond the table: the last entry, 2.042.
    values = [0.0, 1.0] * 20
    half = 2.042 * (10 / 39) ** 0.5 / 40**0.5
    assert seed_interval(values) == (pytest.approx(0.5 - half), pytest.approx(0.5 + half))


def test_mean_height_is_the_area_under_straight_lines_over_the_width():
    # Triangles: from (0, 0) to (2, 1) and on to (4, 1). Over [0, 4]: (1 + 2) / 4.
    assert mean_height([0, 2, 4], [0, 1, 1], 0, 4) == 0.75
    # Over [1, 3], cut on both sides: heights .5 to 1 over 1, then 1 over 1: (.75 + 1) / 2.
    assert mean_height([0, 2, 4], [0, 1, 1], 1, 3) == 0.875
    # Between two points.
    assert mean_height([0, 4], [0, 1], 1, 2) == pytest.approx(0.375)
    # A vertical step.
    assert mean_height([0, 1, 1, 2], [0, 0, 1, 1], 0, 2) == 0.5
