"""How far to jump: which step sizes are tried, in which order, and when to stop.

A search asks a judge to try one step size and to compare it with the best so far, and returns what was tried: the baseline
(step size 0) first, then the candidates in order. The last accepted record is the one to settle on.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace

from effopd.config.search_schema import SearchConfig, SearchKind
from effopd.extrapolation.parabola import probe_parabola
from effopd.extrapolation.step_sizes import step_sizes_within
from effopd.types import CandidateRecord, GateScore

Judge = Callable[[float, GateScore], CandidateRecord]
"""(step size, best so far) to the candidate, scored and judged."""


def search(config: SearchConfig, baseline: GateScore, judge: Judge, longest: float) -> tuple[CandidateRecord, ...]:
    """Run the search that the settings name. No step size greater than `longest` is tried."""
    sizes = step_sizes_within(config, longest)
    start = CandidateRecord(step_size=0.0, score=baseline, is_accepted=True, reason="baseline")
    match config.search:
        case SearchKind.ladder | SearchKind.parallel | SearchKind.fixed | SearchKind.repeat:
            return (start, *ladder(baseline, sizes, judge))
        case SearchKind.backtracking:
            return (start, *backtrack(baseline, sizes, judge))
        case SearchKind.parabola:
            return (start, *probe_parabola(baseline, sizes, judge, min(config.max_step_size, longest)))


def ladder(baseline: GateScore, step_sizes: Iterable[float], judge: Judge) -> list[CandidateRecord]:
    """Climb `step_sizes` in order and stop at the first that is refused.

    Each candidate is compared with the best so far, which is the last accepted one. Source: arXiv 2605.11739, section
    "Method": step sizes 2k for k = 1..5.
    """
    records: list[CandidateRecord] = []
    best = baseline
    for step_size in step_sizes:
        records.append(judge(step_size, best))
        if not records[-1].is_accepted:
            break
        best = records[-1].score
    return records


def backtrack(baseline: GateScore, step_sizes: Iterable[float], judge: Judge) -> list[CandidateRecord]:
    """Go through `step_sizes`, the largest first, and stop at the first that is accepted.

    Each candidate is compared with the baseline. Source: the backtracking line search of Armijo (Pacific J. Math. 16, 1966),
    with the gate in the place of his condition of sufficient decrease.
    """
    records: list[CandidateRecord] = []
    for step_size in step_sizes:
        records.append(judge(step_size, baseline))
        if records[-1].is_accepted:
            break
    return records


def accepted_step_size(records: Sequence[CandidateRecord]) -> float:
    """Return the step size of the last accepted record; 0 when nothing was tried."""
    return ([0.0] + [record.step_size for record in records if record.is_accepted])[-1]


def withdrawn(records: Sequence[CandidateRecord], reason: str) -> tuple[CandidateRecord, ...]:
    """Return `records` with every candidate refused, for `reason`, beside what it was accepted for."""
    return tuple(
        replace(record, is_accepted=False, reason=f"{record.reason}; {reason}")
        if record.is_accepted and record.step_size != 0
        else record
        for record in records
    )
