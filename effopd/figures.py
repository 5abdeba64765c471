"""Figures. Drawn without a display; colours stay apart for colour-blind readers and in grey."""

from collections.abc import Callable, Sequence
from itertools import cycle
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter

from effopd.curves import EvalPoint, RunCurve

# Okabe and Ito's palette without its yellow, which is too faint for a line on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
LINE_STYLES = ("-", "--", "-.", ":")

_PANELS: tuple[tuple[str, Callable[[EvalPoint], float]], ...] = (
    ("optimizer steps", lambda point: point.step),
    ("generated tokens (training and gate)", lambda point: point.num_tokens),
    ("training seconds", lambda point: point.seconds),
)


def plot_comparison(curves: Sequence[RunCurve], target: float, path: Path) -> None:
    """Write a PNG with the smoothed score against steps, tokens and seconds, one panel each.

    Dots are single evaluations, triangles accepted jumps, the thin horizontal line is the target.
    """
    figure = Figure(figsize=(13, 4.2), layout="constrained")
    panels = figure.subplots(1, len(_PANELS), sharey=True)
    for panel, (label, position) in zip(panels, _PANELS, strict=True):
        panel.axhline(target, color="0.5", linewidth=0.8, label="target" if panel is panels[0] else None)
        for curve, colour, style in zip(curves, cycle(COLOURS), cycle(LINE_STYLES), strict=False):
            _draw_curve(panel, curve, position, colour, style)
        panel.set_xlabel(label)
        panel.set_xlim(left=0)
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))  # 150000 as 150k
        panel.grid(color="0.9")
        panel.spines[["top", "right"]].set_visible(False)
    panels[0].set_ylabel("smoothed evaluation score")
    handles, labels = panels[0].get_legend_handles_labels()
    if any(curve.jump_steps for curve in curves):
        # Drawn nowhere: one entry for the marker, whatever the run's colour.
        handles += panels[0].plot([], [], linestyle="none", marker="^", markersize=8, color="0.3")
        labels += ["accepted jump"]
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 5), frameon=False)
    figure.savefig(path, dpi=150)


def _draw_curve(panel: Axes, curve: RunCurve, position: Callable[[EvalPoint], float], colour: str, style: str) -> None:
    places = [position(point) for point in curve.points]
    panel.plot(
        places, [point.ema_score for point in curve.points], style, color=colour, linewidth=1.8, label=curve.name
    )
    panel.plot(places, [point.score for point in curve.points], ".", color=colour, alpha=0.35, markersize=5)
    for step in curve.jump_steps:
        place, height = _at_step(curve, step, position)
        panel.plot([place], [height], "^", color=colour, markersize=8, markeredgecolor="white")


def _at_step(curve: RunCurve, step: int, position: Callable[[EvalPoint], float]) -> tuple[float, float]:
    """Return where the smoothed curve is at `step`, on the straight line between the evaluations around it."""
    before = max((point for point in curve.points if point.step <= step), key=lambda point: point.step, default=None)
    after = min((point for point in curve.points if point.step >= step), key=lambda point: point.step, default=None)
    before, after = before or after, after or before
    assert before is not None and after is not None, "a curve has at least one evaluation"
    share = (step - before.step) / (after.step - before.step) if after.step > before.step else 0.0
    place = position(before) + share * (position(after) - position(before))
    return place, before.ema_score + share * (after.ema_score - before.ema_score)
