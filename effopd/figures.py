"""Figures. Drawn without a display; colours stay apart for colour-blind readers and in grey."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from effopd.curves import AXES, Axis, RunCurve
from effopd.seed_groups import SeedGroup

# Okabe and Ito's palette without its yellow, which is too faint for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINE_STYLES = ("-", "--", "-.", ":")
_PANELS_PER_ROW = 3


def plot_comparison(groups: Sequence[SeedGroup], target: float, path: Path) -> None:
    """Write a PNG with the smoothed score against everything that runs spend, one panel each.

    A line is a run or the mean over seeds, its band the smallest and largest seed. Dots are single evaluations, triangles
    accepted jumps, the thin horizontal line is the target. What no run has spent, or none has recorded, has no panel; a
    run that has not recorded it is missing in the panel.
    """
    axes = [axis for axis in AXES if any(_last(group, axis) for group in groups)] or [AXES[0]]
    num_rows = -(-len(axes) // _PANELS_PER_ROW)
    num_columns = min(len(axes), _PANELS_PER_ROW)
    figure = Figure(figsize=(4.4 * num_columns, 3.8 * num_rows + 0.4), layout="constrained")
    cells = figure.subplots(num_rows, num_columns, sharey=True, squeeze=False).flat
    panels = [next(cells) for _ in axes]
    for panel, axis in zip(panels, axes, strict=True):
        panel.axhline(target, color="0.5", linewidth=0.8, label="target" if panel is panels[0] else None)
        for group, colour, style in zip(groups, cycle(COLOURS), cycle(LINE_STYLES), strict=False):
            if _last(group, axis) is not None:
                _draw_group(panel, group, axis, colour, style)
        panel.set_xlabel(axis.label)
        panel.set_xlim(left=0)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))  # 150000 as 150k
        panel.grid(color="0.9")
        panel.spines[["top", "right"]].set_visible(False)
        if panel.get_subplotspec().is_first_col():
            panel.set_ylabel("smoothed evaluation score")
    for empty in cells:
        empty.set_axis_off()
    handles, labels = panels[0].get_legend_handles_labels()
    if any(group.mean.jump_steps for group in groups):
        # Drawn nowhere: one entry for the marker, whatever the run's colour.
        handles += panels[0].plot([], [], linestyle="none", marker="^", markersize=8, color="0.3")
        labels += ["accepted jump"]
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 5), frameon=False)
    figure.savefig(path, dpi=150)


def _last(group: SeedGroup, axis: Axis) -> float | None:
    """Return how far a group comes on an axis; None where that is not known."""
    return axis.position(group.mean.points[-1])


def _draw_group(panel: Axes, group: SeedGroup, axis: Axis, colour: str, style: str) -> None:
    places = _places(group.mean, axis)
    scores = [point.ema_score for point in group.mean.points]
    panel.plot(places, scores, style, color=colour, linewidth=1.8, label=group.name)
    if len(group.runs) > 1:
        panel.fill_between(places, group.low, group.high, color=colour, alpha=0.18, linewidth=0)
    for run in group.runs:
        panel.plot(
            _places(run, axis), [point.score for point in run.points], ".", color=colour, alpha=0.3, markersize=4
        )
    for step in group.mean.jump_steps:
        place, height = _at_step(group.mean, step, axis)
        panel.plot([place], [height], "^", color=colour, markersize=8, markeredgecolor="white")


def _places(curve: RunCurve, axis: Axis) -> list[float]:
    places = [axis.position(point) for point in curve.points]
    known = [place for place in places if place is not None]
    assert len(known) == len(places), f"{curve.name}: {axis.key} is known at every evaluation or at none"
    return known


def _at_step(curve: RunCurve, step: int, axis: Axis) -> tuple[float, float]:
    """Return where the smoothed curve is at `step`, on the straight line between the evaluations around it."""
    before = max((point for point in curve.points if point.step <= step), key=lambda point: point.step, default=None)
    after = min((point for point in curve.points if point.step >= step), key=lambda point: point.step, default=None)
    before, after = before or after, after or before
    assert before is not None and after is not None, "a curve has at least one evaluation"
    share = (step - before.step) / (after.step - before.step) if after.step > before.step else 0.0
    start, end = axis.position(before), axis.position(after)
    assert start is not None and end is not None, f"{axis.key} is known at every evaluation or at none"
    return start + share * (end - start), before.ema_score + share * (after.ema_score - before.ema_score)
