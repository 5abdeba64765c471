"""The figure of a study. Two rows of three panels a task.

| score against steps, best learning rates | the same against seconds | steps to target against learning rate |
| score against steps, a tenth of the best | the same against seconds | seconds to target against learning rate |
"""

import math
from collections.abc import Sequence
from itertools import cycle, pairwise
from pathlib import Path
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure, SubFigure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from numpy import ndarray

from effopd.config.study import written_lr
from effopd.config.study_schema import StudyConfig
from effopd.figures import COLOURS, LINE_STYLES
from effopd.study.records import COSTS, Cost, StudyRun
from effopd.study.statistics import Group, TaskResult

_MARKERS = ("o", "s", "D", "^", "v", "P", "X", "*")
_SPREAD = 0.5
"""Part of the distance between two learning rates over which the methods are spread at each."""
_LOW_SHARE = 0.1
"""The conservative learning rate of the lower panels, in parts of the baseline's best: the nearest that there is."""
_STEPS, _SECONDS = (next(cost for cost in COSTS if cost.key == key) for key in ("steps", "seconds"))


class _Style:
    """Colour, line and marker of every method, the same in all panels."""

    def __init__(self, methods: Sequence[str]) -> None:
        looks = zip(cycle(COLOURS), cycle(LINE_STYLES), cycle(_MARKERS), strict=False)
        self._looks = dict(zip(methods, looks, strict=False))

    def colour(self, method: str) -> str:
        return self._looks[method][0]

    def line(self, method: str) -> str:
        return self._looks[method][1]

    def marker(self, method: str) -> str:
        return self._looks[method][2]


def plot_study(tasks: Sequence[TaskResult], runs: Sequence[StudyRun], settings: StudyConfig, path: Path) -> None:
    """Write the PNG."""
    study_figure(tasks, runs, settings).savefig(path, dpi=130)


def study_figure(tasks: Sequence[TaskResult], runs: Sequence[StudyRun], settings: StudyConfig) -> Figure:
    """Return the figure: a block of panels a task."""
    methods = settings.shown or list(settings.methods)
    style = _Style(methods)
    figure = Figure(figsize=(14.5, 7.6 * len(tasks) + 0.6), layout="constrained")
    blocks = figure.subfigures(len(tasks), 1, squeeze=False, hspace=0.04)[:, 0]
    for block, task in zip(blocks, tasks, strict=True):
        block.suptitle(f"{task.task}: target {task.target.score:.3f}", fontweight="bold")
        panels = block.subplots(2, 3, squeeze=False)
        chosen = [run for run in runs if run.cell.task == task.task and run.cell.method in methods and run.is_scored]
        _draw_task(panels, task, chosen, settings, style)
    handles, labels = _legend(blocks[0], style, methods)
    figure.legend(handles, labels, loc="outside upper center", ncols=min(len(labels), 7), frameon=False)
    return figure


def _draw_task(
    panels: ndarray, task: TaskResult, runs: Sequence[StudyRun], settings: StudyConfig, style: _Style
) -> None:
    methods = settings.shown or list(settings.methods)
    rates = sorted({run.cell.lr for run in runs})
    low = min(rates, key=lambda lr: abs(math.log(lr / (_LOW_SHARE * task.target.best_lr))))
    rows = (
        ("each method's best learning rate", task.best_lrs),
        (
            f"learning rate {written_lr(low)}, nearest to a tenth of {settings.vanilla}'s best",
            dict.fromkeys(methods, low),
        ),
    )
    for row, (title, lrs) in enumerate(rows):
        for column, cost in enumerate((_STEPS, _SECONDS)):
            panel = panels[row, column]
            panel.axhline(task.target.score, color="0.45", linewidth=1.0, linestyle=(0, (1, 1)))
            for method in methods:
                seeds = [run for run in runs if run.cell.method == method and run.cell.lr == lrs.get(method)]
                if seeds:
                    _draw_curves(panel, seeds, cost, style, method)
            panel.set_title(title, fontsize=10)
            panel.set_xlabel("optimizer steps" if cost is _STEPS else "training seconds")
            panel.set_ylabel("smoothed score")
            panel.set_xlim(left=0)
        _draw_costs(panels[row, 2], task, (_STEPS, _SECONDS)[row], style, methods)
    for panel in panels.flat:
        panel.grid(color="0.92")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)


def _draw_curves(panel: Axes, runs: Sequence[StudyRun], cost: Cost, style: _Style, method: str) -> None:
    """Draw the median over seeds and, as a band, the lowest and the highest."""
    points = list(zip(*(run.points for run in runs), strict=False))
    places = [median(cost.of(point) for point in at_step) for at_step in points]
    scores = [[point.score for point in at_step] for at_step in points]
    colour = style.colour(method)
    panel.plot(places, [median(values) for values in scores], style.line(method), color=colour, linewidth=1.8)
    if len(runs) > 1:
        low, high = [min(values) for values in scores], [max(values) for values in scores]
        panel.fill_between(places, low, high, color=colour, alpha=0.13, linewidth=0)


def _draw_costs(panel: Axes, task: TaskResult, cost: Cost, style: _Style, methods: Sequence[str]) -> None:
    """Draw a cost to the target against the learning rate. Where most seeds are censored, a hollow marker at the budget."""
    rates = sorted({group.lr for group in task.groups})
    gap = min((after / before for before, after in pairwise(rates)), default=2.0)
    for position, method in enumerate(methods):
        of_method = [group for group in task.groups if group.method == method]
        groups = [(group, to_target) for group in of_method if (to_target := group.to_target[cost.key]) is not None]
        # A little apart, so that markers at one learning rate do not hide each other.
        shift = gap ** (_SPREAD * (position / max(1, len(methods) - 1) - 0.5))
        colour = style.colour(method)
        reached = [(group, to_target) for group, to_target in groups if math.isfinite(to_target.median)]
        panel.plot(
            [group.lr * shift for group, _ in reached],
            [to_target.median for _, to_target in reached],
            style.line(method),
            color=colour,
            linewidth=1.5,
            marker=style.marker(method),
            markersize=6,
        )
        for group, to_target in reached:
            if to_target.low is not None and to_target.high is not None:
                high = _budget(task, group, cost) if math.isinf(to_target.high) else to_target.high
                panel.plot([group.lr * shift] * 2, [to_target.low, high], color=colour, linewidth=1.0, alpha=0.6)
        for group, to_target in groups:
            if math.isinf(to_target.median):
                at = (group.lr * shift, _budget(task, group, cost))
                panel.plot(*at, style.marker(method), color=colour, markersize=7, markerfacecolor="white")
    panel.set_xscale("log")
    panel.xaxis.set_major_locator(FixedLocator(rates))
    panel.xaxis.set_minor_locator(NullLocator())
    panel.xaxis.set_major_formatter(FuncFormatter(lambda lr, _: written_lr(lr)))
    panel.set_xlim(rates[0] / gap**0.6, rates[-1] * gap**0.6)
    panel.margins(y=0.08)
    panel.set_ylim(bottom=0)
    panel.set_xlabel("learning rate")
    panel.set_ylabel(f"{cost.label} to target")
    panel.set_title("hollow: at least half of the seeds end below the target", fontsize=10)


def _budget(task: TaskResult, group: Group, cost: Cost) -> float:
    """Return what the runs of a group spent in all."""
    rows = [row for row in task.runs if (row.method, row.lr) == (group.method, group.lr)]
    return median(row.num_steps if cost is _STEPS else row.seconds for row in rows)


def _legend(block: SubFigure, style: _Style, methods: Sequence[str]) -> tuple[list, list[str]]:
    """Return an entry for every method, and for the target; drawn nowhere."""
    axes = block.axes[0]
    handles = [
        axes.plot([], [], style.line(method), color=style.colour(method), marker=style.marker(method), linewidth=1.8)[0]
        for method in methods
    ]
    handles += axes.plot([], [], color="0.45", linewidth=1.0, linestyle=(0, (1, 1)))
    return handles, [*methods, "target"]
