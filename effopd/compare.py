"""Runs side by side: what each needed to reach a target score, and where it ended.

The score is the exponential moving average over a run's evaluations. Steps, tokens and seconds to the target are those of
the first evaluation at which it is reached: nothing is interpolated, so a run that evaluates rarely is charged up to its
next evaluation. Tokens are generated ones, training and gate together; seconds leave out start-up, evaluation and saving.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from rich.console import Console

from effopd.curves import RunCurve, read_curve
from effopd.durable import replace_file
from effopd.errors import ConfigError
from effopd.figures import plot_comparison

_HEADINGS = (
    "run",
    "steps to target",
    "tokens to target",
    "seconds to target",
    "final score",
    "95% CI",
    "steps",
    "seconds",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One run's row in `comparison.json`; the three `…_to_target` are null when the target was not reached."""

    name: str
    steps_to_target: int | None
    tokens_to_target: int | None
    seconds_to_target: float | None
    final_score: float
    final_ci: tuple[float, float]
    steps: int
    seconds: float


def compare_runs(runs: Sequence[Path], target: float | None, output: Path, console: Console | None = None) -> None:
    """Compare run folders: print a table, and write `comparison.json`, `.md` and `.png` into the folder `output`.

    Without a target it is the final smoothed score of the first run. Raises ConfigError naming a folder that is no run,
    and why.
    """
    if not runs:
        raise ConfigError("runs=[]: nothing to compare; give at least one run folder")
    curves = _with_distinct_names([read_curve(run) for run in runs], runs)
    goal = curves[0].final_score if target is None else target
    results = [summarise_curve(curve, goal) for curve in curves]
    notes = comparison_notes(curves, goal, is_default_target=target is None)
    output.mkdir(parents=True, exist_ok=True)
    content = {"target": goal, "runs": [asdict(result) for result in results]}
    replace_file(output / "comparison.json", (json.dumps(content, indent=2) + "\n").encode())
    report = comparison_markdown(results, notes)
    replace_file(output / "comparison.md", report.encode())
    plot_comparison(curves, goal, output / "comparison.png")
    # Soft-wrapped: a narrow terminal, or a log file, gets whole rows and not columns cut to its width.
    (console or Console()).print(report, soft_wrap=True, markup=False, highlight=False)


def summarise_curve(curve: RunCurve, target: float) -> RunResult:
    """Return a run's row for a target score."""
    reached = curve.first_at(target)
    return RunResult(
        name=curve.name,
        steps_to_target=None if reached is None else reached.step,
        tokens_to_target=None if reached is None else reached.num_tokens,
        seconds_to_target=None if reached is None else reached.seconds,
        final_score=curve.final_score,
        final_ci=curve.final_ci,
        steps=curve.num_steps,
        seconds=curve.seconds,
    )


def comparison_notes(curves: Sequence[RunCurve], target: float, is_default_target: bool) -> list[str]:
    """Return what a reader must know before trusting the numbers, one sentence each."""
    origin = f"the final smoothed score of {curves[0].name}" if is_default_target else "as given"
    notes = [
        f"Target {target:.4f}: {origin}. The score is the moving average over evaluations; "
        "seconds leave out start-up, evaluation and saving; tokens are training and gate together."
    ]
    for what, values in (
        ("evaluate every so many steps", {curve.name: curve.eval_every for curve in curves}),
        ("average over so many evaluations", {curve.name: curve.ema for curve in curves}),
    ):
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{name} {value or 'once'}" for name, value in values.items())
            notes.append(
                f"The runs {what}: {listed}. The average of one lags behind the other's, "
                "so small differences to the target mean nothing."
            )
    return notes


def comparison_markdown(results: Sequence[RunResult], notes: Sequence[str]) -> str:
    """Return the comparison as a Markdown table with its notes, padded so that it reads well as plain text too."""
    rows = [_HEADINGS, *(_cells(result) for result in results)]
    widths = [max(len(row[column]) for row in rows) for column in range(len(_HEADINGS))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    table = [_HEADINGS, rule, *(_cells(result) for result in results)]
    return "\n".join([*(_padded_row(row, widths) for row in table), "", *notes]) + "\n"


def _padded_row(cells: Sequence[str], widths: Sequence[int]) -> str:
    rest = (cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True))
    return "| " + " | ".join([cells[0].ljust(widths[0]), *rest]) + " |"


def _cells(result: RunResult) -> list[str]:
    return [
        result.name.replace("|", "\\|"),
        _count(result.steps_to_target),
        _count(result.tokens_to_target),
        _count(result.seconds_to_target),
        f"{result.final_score:.4f}",
        f"{result.final_ci[0]:.4f} to {result.final_ci[1]:.4f}",
        f"{result.steps:,}",
        f"{result.seconds:,.0f}",
    ]


def _count(value: float | None) -> str:
    return "not reached" if value is None else f"{value:,.0f}"


def _with_distinct_names(curves: Sequence[RunCurve], runs: Sequence[Path]) -> list[RunCurve]:
    """Return the curves under names of their own: runs of one experiment are told apart by their folders."""
    names = [curve.name for curve in curves]
    if len(set(names)) < len(names):
        names = [f"{curve.name}/{run.resolve().name}" for curve, run in zip(curves, runs, strict=True)]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    return [replace(curve, name=name) for curve, name in zip(curves, names, strict=True)]
