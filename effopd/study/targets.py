"""The target of a task, and what a run spent on its way there.

The target is set by the baseline at its own best learning rate, once for a task, so that every run of it is measured by the
same score.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from effopd.study.records import COSTS, StudyRun


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """The score that the runs of a task are to reach."""

    score: float
    base: float
    """Before training: the median over the baseline's seeds."""
    best_final: float
    """Of the baseline at its best learning rate: the median over seeds of the final smoothed score."""
    best_lr: float


def best_lr(runs: Sequence[StudyRun]) -> float:
    """Return the learning rate with the highest median final score among one method's runs; of equals the one with the
    smaller median of seconds."""
    by_lr: dict[float, list[StudyRun]] = {}
    for run in runs:
        by_lr.setdefault(run.cell.lr, []).append(run)

    def rank(lr: float) -> tuple[float, float]:
        group = by_lr[lr]
        return median(run.final_score for run in group), -median(run.points[-1].seconds for run in group)

    return max(by_lr, key=rank)


def find_target(baseline: Sequence[StudyRun], share: float) -> Target | None:
    """Return base + share · (best final − base) from the baseline's runs on one task, all learning rates; None if it gained
    nothing, for then every run is at the target before it starts."""
    lr = best_lr(baseline)
    chosen = [run for run in baseline if run.cell.lr == lr]
    base = median(run.base_score for run in chosen)
    best_final = median(run.final_score for run in chosen)
    if best_final <= base:
        return None
    return Target(score=base + share * (best_final - base), base=base, best_final=best_final, best_lr=lr)


def costs_to(run: StudyRun, level: float) -> dict[str, float] | None:
    """Return cost to amount at the first evaluation with at least the score `level`; None where there is none."""
    point = run.first_at(level)
    return None if point is None else {cost.key: cost.of(point) for cost in COSTS}


def common_level(first: StudyRun, second: StudyRun, target: float) -> float:
    """Return the score at which two runs are compared: the target, or the highest that both of them ever reached.

    So a run that is censored, because its budget ended before the target, is compared at the score that it did reach.
    """
    return min(target, first.best_score, second.best_score)
