"""When a jump is tried, and what a run remembers of the last ones."""

import math

import pytest

from effopd.config.schema import AccelerateConfig
from effopd.config.search_schema import ScheduleKind
from effopd.extrapolation.resting import is_resting, steepness
from effopd.extrapolation.safety import is_harmful_jump, longest_step_size
from effopd.extrapolation.schedule import is_scheduled
from effopd.types import Displacement, RunState


def due_steps(config: AccelerateConfig, num_steps: int = 20) -> list[int]:
    return [step for step in range(num_steps + 1) if is_scheduled(config, step, num_steps)]


def test_every_schedule_has_its_own_steps() -> None:
    assert due_steps(AccelerateConfig()) == [1, 2, 4, 8, 16]
    assert due_steps(AccelerateConfig(schedule=ScheduleKind.every, every=6)) == [6, 12, 18]
    assert due_steps(AccelerateConfig(schedule=ScheduleKind.adaptive, every=6)) == [6, 12, 18]
    assert due_steps(AccelerateConfig(schedule=ScheduleKind.last)) == [20]


def test_the_limit_counts_the_triggers_of_the_schedule() -> None:
    assert due_steps(AccelerateConfig(max_triggers=2)) == [1, 2]
    assert due_steps(AccelerateConfig(schedule=ScheduleKind.every, every=6, max_triggers=2)) == [6, 12]
    assert due_steps(AccelerateConfig(schedule=ScheduleKind.last, max_triggers=0)) == []


def seen(slope: float, direction_norm: float = 2.0) -> Displacement:
    return Displacement(
        norm=1.0, relative_norm=0.1, cosine_to_previous=None, slope=slope, direction_norm=direction_norm, num_updates=4
    )


def test_steepness_is_the_downhill_slope_per_unit_of_length() -> None:
    assert steepness(seen(slope=-3.0)) == 1.5
    assert steepness(seen(slope=1.0)) == -0.5
    assert steepness(seen(slope=-1.0, direction_norm=0.0)) == 0.0


@pytest.mark.parametrize(
    ("num_rejects", "before", "slope", "is_due_to_rest"),
    [
        (1, 1.0, -2.0, False),  # one refusal of the two that it takes
        (2, 1.0, -2.0, True),  # as steep as it was
        (2, 1.0, -2.8, True),  # 1.4 times
        (2, 1.0, -3.0, False),  # 1.5 times
        (5, 1.0, -3.0, False),
        (2, -1.0, -0.1, False),  # it went uphill then, and goes downhill now
        (2, -1.0, 0.1, True),  # uphill still
    ],
)
def test_an_adaptive_schedule_rests_until_the_way_is_steeper(
    num_rejects: int, before: float, slope: float, is_due_to_rest: bool
) -> None:
    config = AccelerateConfig(schedule=ScheduleKind.adaptive, max_rejects=2, resume_factor=1.5)
    state = RunState(num_rejects=num_rejects, rejected_steepness=before)
    assert is_resting(config, state, seen(slope)) is is_due_to_rest
    assert not is_resting(AccelerateConfig(), state, seen(slope))


def test_a_relative_bound_is_on_the_jump_and_not_on_the_displacement() -> None:
    # ‖current‖ = 1 / 0.1 = 10 and the direction is 2 long: step size 3 moves 6, which is 0.6 of 10.
    assert longest_step_size(seen(0.0), max_relative_jump=0.6) == pytest.approx(3.0)
    assert longest_step_size(seen(0.0), max_relative_jump=None) == math.inf
    assert longest_step_size(seen(0.0, direction_norm=0.0), max_relative_jump=0.6) == math.inf


@pytest.mark.parametrize(
    ("state", "reverse_kl", "is_harmful"),
    [
        (RunState(step=8, last_jump_step=8, reverse_kl_before_jump=0.2), 0.25, True),
        (RunState(step=8, last_jump_step=8, reverse_kl_before_jump=0.2), 0.23, False),  # +15 %
        (RunState(step=9, last_jump_step=8, reverse_kl_before_jump=0.2), 0.25, False),  # a later update
        (RunState(step=8), 0.25, False),
        # The sampled estimate may be negative: a rise is by a fifth of its size.
        (RunState(step=8, last_jump_step=8, reverse_kl_before_jump=-0.010), -0.011, False),
        (RunState(step=8, last_jump_step=8, reverse_kl_before_jump=-0.010), -0.007, True),
        (RunState(step=8, last_jump_step=8, reverse_kl_before_jump=0.2), math.nan, True),
    ],
)
def test_a_jump_is_harmful_when_the_next_update_measures_more_divergence(
    state: RunState, reverse_kl: float, is_harmful: bool
) -> None:
    assert is_harmful_jump(0.2, state, {"reverse_kl": reverse_kl}) is is_harmful
    assert not is_harmful_jump(None, state, {"reverse_kl": reverse_kl})
