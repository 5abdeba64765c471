"""Targets, costs, medians and ratios of curves made by hand."""

import math
from typing import Any

import pytest
from curves_by_hand import run

from effopd.config.study_schema import StudyConfig
from effopd.study.spreads import spread, upper_bound
from effopd.study.statistics import task_result
from effopd.study.targets import best_lr, common_level, costs_to, find_target


def settings(**changes: Any) -> StudyConfig:
    values: dict[str, Any] = {
        "tasks": {"sums": []},
        "methods": {"vanilla": [], "paper": []},
        "learning_rates": [1e-4, 1e-3],
        "seeds": [0, 1, 2],
        "target_share": 0.5,
    }
    return StudyConfig(**(values | changes))


# Targets.


def test_the_best_learning_rate_has_the_highest_median_final_score() -> None:
    # Medians 0.7 and 0.6, although the mean of the second, 0.63, is dragged up by one seed.
    first = [run(lr=1e-3, seed=seed, scores=(0.4, 0.4, end)) for seed, end in enumerate((0.5, 0.7, 0.7))]
    second = [run(lr=1e-4, seed=seed, scores=(0.4, 0.4, end)) for seed, end in enumerate((0.5, 0.6, 0.8))]
    assert best_lr([*second, *first]) == 1e-3


def test_equal_learning_rates_are_told_apart_by_seconds() -> None:
    slow, fast = run(lr=1e-3, seconds_per_step=3.0), run(lr=1e-4, seconds_per_step=2.0)
    assert best_lr([slow, fast]) == best_lr([fast, slow]) == 1e-4


def test_the_target_is_a_share_of_the_baselines_gain_at_its_best_learning_rate() -> None:
    target = find_target([run(lr=1e-3, scores=(0.4, 0.8)), run(lr=1e-4, scores=(0.5, 0.6))], share=0.97)
    # 0.4 + 0.97 * 0.4
    assert target is not None
    assert (target.best_lr, target.base, target.best_final) == (1e-3, 0.4, 0.8)
    assert target.score == pytest.approx(0.788)


def test_a_baseline_that_gains_nothing_sets_no_target() -> None:
    assert find_target([run(scores=(0.4, 0.4))], share=0.97) is None


# Costs.


def test_costs_are_those_of_the_first_evaluation_at_the_level_with_gate_tokens_told_apart() -> None:
    # 20 steps at 100 tokens, 80 of them trained on, and 2 seconds.
    expected = {"steps": 20, "generated_tokens": 2000, "learner_tokens": 1600, "seconds": 40.0}
    assert costs_to(run(scores=(0.4, 0.6, 0.8, 0.7, 0.9)), 0.75) == expected


def test_a_level_missed_by_rounding_is_reached() -> None:
    level = 0.1 + 0.2  # 0.30000000000000004
    costs = costs_to(run(scores=(0.0, 0.3)), level)
    assert costs is not None and costs["steps"] == 10
    assert costs_to(run(scores=(0.0, 0.2999)), level) is None


def test_runs_are_compared_at_the_target_or_at_the_score_that_both_reached() -> None:
    far, near = run(scores=(0.4, 0.9)), run(scores=(0.4, 0.7, 0.6))
    assert common_level(far, far, target=0.8) == 0.8
    assert common_level(far, near, target=0.8) == common_level(near, far, target=0.8) == 0.7


# Medians and intervals.


def test_the_interval_of_equal_seeds_is_a_point() -> None:
    values = spread([3.0, 3.0, 3.0])
    assert values is not None
    assert (values.median, values.low, values.high, values.num_seeds) == (3.0, 3.0, 3.0, 3)


def test_the_bootstrap_interval_of_three_seeds_runs_from_the_smallest_to_the_largest() -> None:
    # The median of a resample is the smallest value when two or three draws hit it: 7 of 27, far more than 2.5 %.
    values = spread([1.0, 2.0, 5.0])
    assert values is not None
    assert (values.median, values.low, values.high) == (2.0, 1.0, 5.0)


def test_the_bootstrap_interval_of_many_seeds_leaves_out_the_extremes() -> None:
    # For n = 101 values 0 to 100 the median's standard error is about 1.25 * 29.2 / sqrt(101) = 3.6... * 1.4 at most.
    values = spread([float(value) for value in range(101)])
    assert values is not None and values.low is not None and values.high is not None
    assert values.median == 50.0
    assert 35 <= values.low <= 45 and 55 <= values.high <= 65
    assert values == spread([float(value) for value in range(101)])  # the seed is fixed


def test_a_single_seed_has_no_interval() -> None:
    values = spread([3.0])
    assert values is not None
    assert (values.median, values.low, values.high) == (3.0, None, None)


def test_a_censored_seed_counts_as_larger_than_any_other() -> None:
    one, two = spread([4.0, math.inf, 6.0]), spread([4.0, math.inf, math.inf])
    assert one is not None and two is not None
    assert (one.median, one.high) == (6.0, math.inf)
    assert (two.median, two.low) == (math.inf, 4.0)


def test_the_upper_bound_without_an_event_is_the_closed_form() -> None:
    # 1 - 0.05 ** (1 / n)
    assert upper_bound(0, 10) == pytest.approx(0.258866, abs=1e-6)
    assert upper_bound(0, 1000) == pytest.approx(0.0029913, abs=1e-6)


def test_the_upper_bound_of_two_in_ten_is_that_of_the_tables() -> None:
    # The upper end of the two-sided 90 % Clopper-Pearson interval of 2 in 10 is 0.5069.
    assert upper_bound(2, 10) == pytest.approx(0.5069, abs=1e-4)
    assert upper_bound(10, 10) == 1.0


# A task.


def test_a_task_counts_censored_runs_and_takes_medians_over_seeds() -> None:
    runs = [run(seed=seed) for seed in range(3)]  # target 0.6, reached at step 10
    runs += [
        run("paper", 1e-4, seed, scores)
        for seed, scores in enumerate(((0.4, 0.7, 0.7), (0.4, 0.5, 0.65), (0.4, 0.5, 0.5)))
    ]
    result = task_result("sums", runs, settings())
    assert result is not None
    assert result.target.score == pytest.approx(0.6)
    vanilla, paper = result.groups
    assert (vanilla.method, vanilla.lr, vanilla.seeds, vanilla.num_censored) == ("vanilla", 1e-3, (0, 1, 2), 0)
    assert paper.to_target["steps"] is not None
    assert (paper.num_censored, paper.to_target["steps"].median) == (1, 20.0)
    assert [row.to_target is None for row in result.runs] == [False, False, True, False, False, False]


def test_ratios_pair_seeds_at_the_same_and_at_the_best_learning_rate() -> None:
    # The target is 0.6. Vanilla reaches it at step 20 with 1e-3, and never with 1e-4, where it ends at 0.5 after step 20.
    runs = [run("vanilla", 1e-3, seed, (0.4, 0.5, 0.8)) for seed in range(2)]
    runs += [run("vanilla", 1e-4, seed, (0.4, 0.45, 0.5), seconds_per_step=1.0) for seed in range(2)]
    runs += [run("paper", 1e-4, seed, (0.4, 0.7, 0.7), seconds_per_step=4.0) for seed in range(3)]
    result = task_result("sums", runs, settings())
    assert result is not None
    paper = result.groups[-1]
    same, best = paper.ratios
    # Seed 2 of paper has no partner. At 0.5, the score that both reached: 10 steps against 20, and 40 s against 20 s.
    assert (same.baseline_lr, same.is_best_lr, same.seeds, same.num_below_target) == (1e-4, False, (0, 1), 2)
    assert same.costs["steps"] is not None and same.costs["seconds"] is not None
    assert (same.costs["steps"].median, same.costs["seconds"].median) == (0.5, 2.0)
    assert same.final_score_difference.median == pytest.approx(0.2)
    # At 0.6: 10 steps against 20, and 40 s against 40 s.
    assert (best.baseline_lr, best.is_best_lr, best.num_below_target) == (1e-3, True, 0)
    assert best.costs["steps"] is not None and best.costs["seconds"] is not None
    assert (best.costs["steps"].median, best.costs["seconds"].median) == (0.5, 1.0)
    assert best.final_score_difference.median == pytest.approx(-0.1)


def test_nothing_is_divided_by_itself_and_one_baseline_is_named_once() -> None:
    runs = [run(method, lr) for method in ("vanilla", "paper") for lr in (1e-4, 1e-3)]
    result = task_result("sums", runs, settings(compare_with=["vanilla", "paper"]))
    assert result is not None
    # Equal curves: the first learning rate is the best of both methods.
    named = {
        (group.method, group.lr): [(one.baseline, one.baseline_lr) for one in group.ratios] for group in result.groups
    }
    assert named["vanilla", 1e-4] == [("paper", 1e-4)]
    assert named["vanilla", 1e-3] == [("vanilla", 1e-4), ("paper", 1e-3), ("paper", 1e-4)]


def test_a_run_that_never_rises_has_no_ratio_and_is_counted() -> None:
    runs = [run(), run("paper", scores=(0.4, 0.3, 0.2))]
    result = task_result("sums", runs, settings())
    assert result is not None
    (ratio,) = result.groups[1].ratios
    assert (ratio.num_without, ratio.num_below_target, ratio.costs["steps"]) == (1, 1, None)


def test_a_task_whose_baseline_has_no_run_yet_has_no_result() -> None:
    assert task_result("sums", [run("paper")], settings()) is None


def test_runs_that_were_evaluated_too_rarely_have_no_score_but_their_triggers_count() -> None:
    # Two evaluations, of which the average wants three; even as the only baseline of that name.
    rare = run("paper", scores=(0.4, 0.9), jumps=(2.0,))
    result = task_result("sums", [run(), rare], settings(compare_with=["vanilla", "paper"]))
    assert result is not None
    vanilla, paper = result.groups
    assert (vanilla.num_unscored, vanilla.ratios) == (0, ())
    assert (paper.num_unscored, paper.num_censored, paper.final_score, paper.ratios) == (1, 0, None, ())
    assert set(paper.to_target.values()) == {None}
    assert (paper.jumps.num_accepted, paper.eval_every) == (1, 10)
    assert "paper" not in result.best_lrs
    row = result.runs[0]
    assert (row.method, row.final_score, row.best_score, row.to_target) == ("paper", None, None, None)


# Triggers.


def test_the_share_of_triggers_is_of_the_seconds_of_training() -> None:
    # Twenty steps of 2 s, and triggers of 1 s each: 2 / 40 and 4 / 40, whose median is 0.075; without triggers 0.
    few, many = run("paper", seed=0, jumps=(2.0, 0.0)), run("paper", seed=1, jumps=(2.0, 0.0, 0.0, 0.0))
    result = task_result("sums", [run(seed=0), run(seed=1), few, many], settings())
    assert result is not None
    shares = {group.method: group.trigger_share.median for group in result.groups}
    assert shares == {"vanilla": 0.0, "paper": pytest.approx(0.075)}
