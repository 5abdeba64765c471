"""Bounds that do not depend on the gate: how far a jump may lead, and when the one just made is taken back."""

import math
from collections.abc import Mapping

from effopd.types import Displacement, RunState

TRAINING_KL = "reverse_kl"
"""The metric of an update that is watched: the mean reverse KL per token of what the weights before it sampled."""


def longest_step_size(displacement: Displacement, max_relative_jump: float | None) -> float:
    """Return the greatest step size whose jump is at most `max_relative_jump` times as long as the current weights.

    The weights are the moved ones: ‖step_size · direction‖ / ‖current‖. Infinite without a bound, or where there is no
    direction.
    """
    relative_norm = displacement.relative_norm
    if displacement.norm > 0:
        relative_norm *= displacement.direction_norm / displacement.norm
    if max_relative_jump is None or relative_norm == 0:
        return math.inf
    return max_relative_jump / relative_norm


def is_harmful_jump(max_kl_increase: float | None, state: RunState, metrics: Mapping[str, float]) -> bool:
    """Return whether the update after `state`, whose metrics these are, shows that the jump before it did harm.

    It does when the jump was made at `state.step` and the reverse KL has since grown by more than the fraction
    `max_kl_increase`, or is no number. An update measures the mean over its optimizer steps, the first of which starts from
    the policy just after the jump. The estimate from sampled tokens may be negative; the fraction is of its size.
    """
    before = state.reverse_kl_before_jump
    if max_kl_increase is None or before is None or state.last_jump_step != state.step:
        return False
    now = metrics.get(TRAINING_KL, math.nan)  # missing where every optimizer step had to be skipped
    return not now <= before + max_kl_increase * abs(before)
