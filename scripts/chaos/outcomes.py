"""What became of runs and of each fault in them, as a table and as JSON."""

import json
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from fault_plan import Fault, Kind, RunPlan
from injections import Deed

from effopd.markdown import markdown_table

_SAID = (
    ("replaced", r"^\S.*died while .*another process takes its place"),
    ("restarted from the last checkpoint", r"the run goes on from step \d+ \(restart"),
    ("rolled back", r"the run goes on from step \d+ with the prompts after those"),
    ("step skipped", r"not finite.*; skipped"),
    ("damaged checkpoint passed over", r"skipping the damaged checkpoint"),
)
"""What a driver says of what it does about a fault."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Injection:
    """A fault that was put into a run, and what happened between it and the next."""

    fault: Fault
    deed: Deed
    outcome: str


@dataclass(slots=True)
class RunOutcome:
    plan: RunPlan
    injections: list[Injection] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)
    """Empty when the run finished, as the undisturbed one where that is to be expected, with every sample in its place."""
    seconds: float = 0.0


def outcome_of(deed: Deed, printed: str, *, is_replaced: bool) -> str:
    """Return what followed a fault, from what the driver said since then, and whether another process took the victim's place.

    A driver is silent about what its controller has replaced within a trigger, and a verifier about its workers.
    """
    done = [words for words, pattern in _SAID if re.search(pattern, printed, re.MULTILINE)]
    if is_replaced and not done:
        done = ["replaced"]
    return ", ".join([*([deed.after] if deed.after else []), *done]) or "nothing to be seen"


def table(outcomes: Sequence[RunOutcome], left_out: Sequence[str]) -> str:
    """Return a Markdown table with a row per kind of fault."""
    rows = []
    for kind in Kind:
        met = [(outcome, one) for outcome in outcomes for one in outcome.injections if one.fault.kind is kind]
        if not met:
            continue
        followed = Counter(one.outcome for _, one in met)
        well = sum(not outcome.problems for outcome, _ in met)
        same = sum(not outcome.problems for outcome, _ in met if outcome.plan.is_same_course)
        has_course = [outcome for outcome, _ in met if outcome.plan.is_same_course]
        rows.append(
            [
                kind,
                str(len(met)),
                "; ".join(f"{words} ({count})" for words, count in followed.items()),
                f"{well} of {len(met)}",
                f"{same} of {len(has_course)}" if has_course else "by policy another",
            ]
        )
    headings = [
        "fault",
        "injected",
        "what followed",
        "run finished, no sample lost or twice",
        "weights and records equal",
    ]
    notes = [f"\nNot injected: {reason}." for reason in left_out]
    return "\n".join([markdown_table(headings, rows), *notes])


def write_json(path: Path, seed: int, outcomes: Sequence[RunOutcome], seconds: float) -> None:
    content = {"seed": seed, "seconds": round(seconds), "runs": [asdict(outcome) for outcome in outcomes]}
    path.write_text(json.dumps(content, indent=2) + "\n")
