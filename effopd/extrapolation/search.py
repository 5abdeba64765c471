"""How far to jump."""

from collections.abc import Callable, Sequence

from effopd.extrapolation.gate import Accept
from effopd.types import CandidateRecord, GateScore


def ladder(
    baseline: GateScore,
    step_sizes: Sequence[float],
    evaluate: Callable[[float], GateScore],
    accept: Accept,
) -> tuple[CandidateRecord, ...]:
    """Climb `step_sizes` in order and stop at the first that is refused.

    Each candidate is compared with the best so far, which is the last accepted one. The result starts with the baseline
    (step size 0) and ends with the refused candidate, if any; the accepted step size is that of the last accepted
    record. Source: arXiv 2605.11739, section "Method": step sizes 2k for k = 1..5.
    """
    records = [CandidateRecord(step_size=0.0, score=baseline, is_accepted=True, reason="baseline")]
    best = baseline
    for step_size in step_sizes:
        score = evaluate(step_size)
        is_accepted, reason = accept(score, best)
        records.append(CandidateRecord(step_size=step_size, score=score, is_accepted=is_accepted, reason=reason))
        if not is_accepted:
            break
        best = score
    return tuple(records)


def accepted_step_size(records: Sequence[CandidateRecord]) -> float:
    """Return the step size of the last accepted record."""
    return [record.step_size for record in records if record.is_accepted][-1]
