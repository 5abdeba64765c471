"""The plan of `scripts/chaos.sh`: what its seed decides, and what holds for every seed."""

from collections import Counter
from itertools import pairwise

import pytest
from fault_plan import (
    ENDS_DRIVER,
    FAULTS_PER_RUN,
    IN_STEPS,
    LAST_ROW,
    NONFINITE,
    OTHER_COURSE,
    ROWS_BETWEEN,
    Kind,
    Shape,
    draw_plan,
)

SEEDS = range(20)


def test_the_same_seed_draws_the_same_plan_and_another_seed_another() -> None:
    assert draw_plan(30, 7) == draw_plan(30, 7)
    assert draw_plan(30, 7) != draw_plan(30, 8)


@pytest.mark.parametrize("seed", SEEDS)
def test_thirty_faults_are_of_every_kind_and_of_none_more_than_twice(seed: int) -> None:
    counts = Counter(fault.kind for plan in draw_plan(30, seed) for fault in plan.faults)
    assert counts.total() == 30
    assert set(counts) == set(Kind)
    assert max(counts.values()) == 2  # 18 kinds, all of them drawn before any again


def test_kinds_that_cannot_be_injected_here_are_not_drawn() -> None:
    kinds = [kind for kind in Kind if kind is not Kind.FULL_DISK]
    assert not any(plan.has(Kind.FULL_DISK) for plan in draw_plan(30, 0, kinds))


@pytest.mark.parametrize("seed", SEEDS)
def test_faults_of_a_run_are_far_enough_apart_and_come_before_its_end(seed: int) -> None:
    for plan in draw_plan(30, seed):
        rows = [fault.after_row for fault in plan.faults]
        assert 1 <= len(rows) <= FAULTS_PER_RUN
        assert all(later - row >= ROWS_BETWEEN for row, later in pairwise(rows))
        assert rows[0] >= 0 and rows[-1] <= LAST_ROW
        assert all(0 <= fault.share < 1 for fault in plan.faults)


@pytest.mark.parametrize("seed", SEEDS)
def test_only_what_can_hit_a_start_is_planned_for_one(seed: int) -> None:
    at_start = [fault.kind for plan in draw_plan(30, seed) for fault in plan.faults if fault.after_row == 0]
    assert not set(at_start) & set(IN_STEPS)


def test_some_faults_hit_a_start() -> None:
    assert any(fault.after_row == 0 for seed in SEEDS for plan in draw_plan(30, seed) for fault in plan.faults)


@pytest.mark.parametrize("seed", SEEDS)
def test_what_changes_the_course_has_runs_of_its_own_under_its_policy(seed: int) -> None:
    for plan in draw_plan(30, seed):
        kinds = {fault.kind for fault in plan.faults}
        assert plan.is_same_course == (not kinds & set(OTHER_COURSE))
        assert plan.is_same_course or len(kinds) == 1
        assert all(plan.nonfinite is rule for kind, rule in NONFINITE.items() if kind in kinds)


@pytest.mark.parametrize("seed", SEEDS)
def test_one_run_is_on_vllm_and_loses_a_sampler(seed: int) -> None:
    on_vllm = [plan for plan in draw_plan(30, seed) if plan.shape is Shape.VLLM]
    assert len(on_vllm) == 1 and on_vllm[0].has(Kind.SAMPLER)
    assert any(plan.shape is Shape.SHARDED for plan in draw_plan(30, seed))


def test_every_damage_ends_the_driver_first() -> None:
    assert {Kind.TRUNCATED, Kind.FLIPPED, Kind.MISSING, Kind.HALF_WRITTEN, Kind.DRIVER} <= set(ENDS_DRIVER)
