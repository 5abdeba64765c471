"""A finished run in plain numbers: its smoothed score against what it had spent, and its triggers."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

from effopd.config.study import Cell
from effopd.curves import DEFAULT_EMA, read_curve
from effopd.errors import DataError
from effopd.jsonl import read_rows
from effopd.provenance import Source, read_sources
from effopd.tracking import EVAL_NAME, EXTRAPOLATION_NAME
from effopd.trigger_costs import steps_taken_back, trigger_totals
from effopd.types import TriggerKind

_ROUNDING = 1e-9
"""A score this close below a level has reached it: averages of decimal fractions are not exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ScoredPoint:
    """One evaluation, and what the run had spent by then."""

    steps: int
    generated_tokens: int
    """For training and gate."""
    learner_tokens: int
    """Response tokens that the learner was trained on: the generated ones without those of the gate."""
    seconds: float
    """Of training, gate included: start-up, evaluation and saving left out."""
    score: float
    """Smoothed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cost:
    """One thing that a run spends."""

    key: str
    """In `study.json`."""
    label: str
    of: Callable[[ScoredPoint], float]


COSTS = (
    Cost(key="steps", label="steps", of=attrgetter("steps")),
    Cost(key="generated_tokens", label="generated tokens", of=attrgetter("generated_tokens")),
    Cost(key="learner_tokens", label="learner tokens", of=attrgetter("learner_tokens")),
    Cost(key="seconds", label="seconds", of=attrgetter("seconds")),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """What an evaluation far larger than the gate's says of one trigger, on prompts of its own. Changes are those from the
    weights before it to those that it settled on, paired by prompt; reverse KL is in nats per response token."""

    reverse_kl_change: float
    reverse_kl_change_error: float
    """Standard error over prompts; likewise the next but one."""
    accuracy_change: float | None
    """None where nothing verifies; likewise the next."""
    accuracy_change_error: float | None
    regret: float
    """Reverse KL settled on, minus the lowest along the line."""
    possible_gain: float
    """Reverse KL before the trigger, minus the lowest along the line."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """One trigger of a run."""

    step: int
    accepted_step_size: float
    """0 when the jump was refused."""
    seconds: float
    is_taken_back: bool = False
    """Whether the training KL rose after the jump, and it was undone."""
    audit: Audit | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyRun:
    """One finished run."""

    cell: Cell
    points: tuple[ScoredPoint, ...]
    """In order of step, from step 0 to the end of the budget."""
    triggers: tuple[Trigger, ...] = ()
    """Those that searched or jumped."""
    trigger_seconds: float = 0.0
    """Of all triggers: also of those that only looked, and of taking jumps back. Without audits."""
    ema: int = DEFAULT_EMA
    """Evaluations that a smoothed score averages."""
    sources: tuple[Source, ...] = ()
    """The code that it ran; none for curves made by hand."""

    @property
    def is_scored(self) -> bool:
        """Whether there are as many evaluations as a smoothed score averages. With fewer, the untrained policy weighs
        so much in the last score that it can be compared with nobody else's."""
        return len(self.points) >= self.ema

    @property
    def eval_every(self) -> int | None:
        """The most frequent distance between evaluations in steps; None with a single evaluation."""
        distances = [after.steps - before.steps for before, after in pairwise(self.points)]
        return max(distances, key=distances.count, default=None)

    @property
    def base_score(self) -> float:
        """Before training."""
        return self.points[0].score

    @property
    def final_score(self) -> float:
        return self.points[-1].score

    @property
    def best_score(self) -> float:
        """The highest that the run ever reached."""
        return max(point.score for point in self.points)

    def first_at(self, level: float) -> ScoredPoint | None:
        """Return the first evaluation with at least this score; None where there is none. Nothing is interpolated."""
        return next((point for point in self.points if point.score >= level - _ROUNDING), None)


def read_run(folder: Path, cell: Cell) -> StudyRun:
    """Return the run in a folder. Raises ConfigError or DataError naming it and what is wrong."""
    curve = read_curve(folder)
    rows = read_rows(folder / EVAL_NAME)
    path = folder / EXTRAPOLATION_NAME
    triggers = read_rows(path) if path.exists() else []
    try:
        taken_back = steps_taken_back(triggers)
        return StudyRun(
            cell=cell,
            points=tuple(
                ScoredPoint(
                    steps=point.step,
                    generated_tokens=point.num_tokens,
                    learner_tokens=point.num_tokens - row["tokens"]["total_gate"],
                    seconds=point.seconds,
                    score=point.ema_score,
                )
                for point, row in zip(curve.points, rows, strict=True)
            ),
            triggers=tuple(
                Trigger(
                    step=row["step"],
                    accepted_step_size=row["accepted_step_size"],
                    seconds=row["seconds"],
                    is_taken_back=row["step"] in taken_back,
                    audit=_audit(row["audit"]) if row.get("audit") else None,
                )
                for row in triggers
                if row["kind"] in (TriggerKind.SEARCH, TriggerKind.UNGATED)
            ),
            trigger_seconds=trigger_totals(triggers).seconds,
            ema=curve.ema,
            sources=read_sources(folder),
        )
    except (KeyError, TypeError) as error:
        raise DataError(f"run {folder}: a record lacks a field that every run writes ({error})") from error


def _audit(row: Mapping) -> Audit:
    points = {point["step_size"]: point for point in row["points"]}
    settled = points[row["settled_step_size"]]
    lowest = points[row["oracle_step_size"]]["reverse_kl_per_token"]
    return Audit(
        reverse_kl_change=settled["reverse_kl_change"],
        reverse_kl_change_error=settled["reverse_kl_change_error"],
        accuracy_change=settled["accuracy_change"],
        accuracy_change_error=settled["accuracy_change_error"],
        regret=row["regret"],
        possible_gain=points[0.0]["reverse_kl_per_token"] - lowest,
    )
