"""Runs made of a few numbers."""

from collections.abc import Sequence

from effopd.config.study import Cell
from effopd.study.records import Audit, ScoredPoint, StudyRun, Trigger


def run(
    method: str = "vanilla",
    lr: float = 1e-3,
    seed: int = 0,
    scores: Sequence[float] = (0.4, 0.6, 0.8),
    seconds_per_step: float = 2.0,
    task: str = "sums",
    jumps: Sequence[float] = (),
) -> StudyRun:
    """Evaluations at steps 0, 10, 20, ...; 100 generated tokens a step, of which 20 are the gate's."""
    return StudyRun(
        cell=Cell(task=task, method=method, lr=lr, seed=seed),
        points=tuple(
            ScoredPoint(
                steps=10 * index,
                generated_tokens=1000 * index,
                learner_tokens=800 * index,
                seconds=10 * index * seconds_per_step,
                score=score,
            )
            for index, score in enumerate(scores)
        ),
        triggers=tuple(trigger(size) for size in jumps),
        trigger_seconds=1.0 * len(jumps),
    )


def trigger(accepted: float = 2.0, audit: Audit | None = None) -> Trigger:
    return Trigger(step=8, accepted_step_size=accepted, seconds=1.0, audit=audit)


def audit(
    change: float,
    error: float = 0.01,
    accuracy_change: float | None = 0.0,
    accuracy_error: float | None = 0.01,
    regret: float = 0.0,
    possible_gain: float = 0.0,
) -> Audit:
    return Audit(
        reverse_kl_change=change,
        reverse_kl_change_error=error,
        accuracy_change=accuracy_change,
        accuracy_change_error=accuracy_error,
        regret=regret,
        possible_gain=possible_gain,
    )
