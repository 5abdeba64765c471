"""What the triggers of a run have cost, and how far their jumps led. Pure functions of the rows of `extrapolation.jsonl`.

A jump of step size x along a displacement that took n steps of training leads as far as x·n steps: that is what it saves,
as long as training would have gone straight on. Whether it would, and so what a jump was worth in score, only a run without
jumps can say: `effopd compare` and `effopd study` measure that.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from effopd.types import TriggerKind, TriggerRecord


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerTotals:
    """All triggers of a run."""

    num_searches: int
    num_kept: int
    """Jumps made, less those taken back."""
    seconds: float
    num_steps_jumped: float
    """As far as so many steps of training, all kept jumps together."""


def num_steps_jumped(record: TriggerRecord) -> float:
    """Return as how many steps of training the jump led as far; 0 without one."""
    return record.accepted_step_size * record.displacement.num_updates if record.displacement is not None else 0.0


def steps_taken_back(rows: Sequence[Mapping]) -> set[int]:
    """Return the steps whose jumps were undone."""
    return {row["roll_back"]["jump_step"] for row in rows if row["kind"] == TriggerKind.ROLL_BACK}


def trigger_totals(rows: Sequence[Mapping]) -> TriggerTotals:
    """Return the totals over the rows of `extrapolation.jsonl`. Rows of a version that did not count the steps of a
    displacement have led nowhere."""
    undone = steps_taken_back(rows)
    kept = [row for row in rows if row["accepted_step_size"] != 0 and row["step"] not in undone]
    return TriggerTotals(
        num_searches=sum(row["kind"] in (TriggerKind.SEARCH, TriggerKind.UNGATED) for row in rows),
        num_kept=len(kept),
        seconds=sum(row["seconds"] for row in rows),
        num_steps_jumped=sum(row["accepted_step_size"] * row["displacement"].get("num_updates", 0) for row in kept),
    )
