"""A line search by a parabola: near the current weights the loss along any direction is one.

Source: the local quadratic model of arXiv 2605.11739, appendix F.5, from which the best step along a direction follows in
closed form; the fit itself is the classical successive parabolic interpolation, one round of it.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace

from effopd.types import CandidateRecord, GateScore

_MIN_FRACTION = 0.1  # of the first probe: a shorter jump is not worth the responses that would verify it
_SAME = 0.05  # relative distance at which the optimum is a probe that has been tried already


def optimum(first: tuple[float, float], second: tuple[float, float], value_at_zero: float) -> float | None:
    """Return where the parabola through (0, `value_at_zero`) and two (step size, value) is greatest; may be negative.

    None where the three values lie on a line or on a valley, which have no greatest value.
    """
    (a, value_a), (b, value_b) = first, second
    slope_a, slope_b = (value_a - value_at_zero) / a, (value_b - value_at_zero) / b
    curvature = (slope_b - slope_a) / (b - a)  # value = value_at_zero + (slope_a - curvature·a)·x + curvature·x²
    if curvature >= 0:
        return None
    return -(slope_a - curvature * a) / (2 * curvature)


def probe_parabola(
    baseline: GateScore,
    probes: Sequence[float],
    judge: Callable[[float, GateScore], CandidateRecord],
    max_step_size: float,
) -> list[CandidateRecord]:
    """Try the `probes`, then the optimum of the parabola through them, clipped to [0, `max_step_size`].

    All are compared with the baseline, on which they must improve to be accepted; of those accepted the best value stays
    so. Without an optimum to try (the fit is degenerate, or its optimum is next to a probe or to 0) that is the better
    probe, if any.

    A fit that rises all the way, a line or the right side of a valley, is greatest at `max_step_size`. It is not tried
    there: the probes say little of what lies so far beyond them, the schedule comes back in a few steps, and the
    figures of `scripts/studies/full` are of this rule, under which 10 of 416 searches had such a fit.
    """
    records = [judge(step_size, baseline) for step_size in probes]
    peak = None
    if len(records) == 2:
        first, second = ((record.step_size, record.score.value) for record in records)
        peak = optimum(first, second, baseline.value)
    if peak is not None:
        peak = min(round(peak, 2), max_step_size)
        is_new = all(abs(peak - probe) > _SAME * probe for probe in probes)
        if peak >= _MIN_FRACTION * probes[0] and is_new:
            records.append(judge(peak, baseline))
    return only_best_accepted(records)


def only_best_accepted(records: Sequence[CandidateRecord]) -> list[CandidateRecord]:
    """Return the records with none accepted but the one of the greatest value among those that are."""
    accepted = [record for record in records if record.is_accepted]
    if not accepted:
        return list(records)
    best = max(accepted, key=lambda record: record.score.value)
    reason = f"x{best.step_size:g} is better still"
    return [
        replace(record, is_accepted=False, reason=f"{record.reason}; {reason}")
        if record.is_accepted and record is not best
        else record
        for record in records
    ]
