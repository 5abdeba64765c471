"""Runs that differ in their seed alone, taken together: one experiment, its mean over seeds and their spread."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from effopd.config.keys import written
from effopd.curves import EvalPoint, RunCurve
from effopd.metrics import seed_interval

_MAX_KEYS_IN_NAME = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedGroup:
    """One or more runs of the same settings but for the seed."""

    name: str
    runs: tuple[RunCurve, ...]
    mean: RunCurve
    """The average run: at every step that all of them evaluated, the mean of their scores and of what they spent."""
    low: tuple[float, ...]
    """Smallest smoothed score over seeds at each point of `mean`."""
    high: tuple[float, ...]

    @property
    def repeated_seeds(self) -> list[int]:
        """Seeds that more than one of the runs have, so that they are no independent repetitions."""
        counts = Counter(run.seed for run in self.runs if run.seed is not None)
        return sorted(seed for seed, count in counts.items() if count > 1)


def group_seeds(curves: Sequence[RunCurve]) -> list[SeedGroup]:
    """Return the groups of curves with distinct names, in the order of their first runs.

    A group of one has the name of its run. A larger group has its experiment's name, with the settings in which it differs
    from other groups of that name; with too many of these it has the name of its first run. A run without settings is a
    group of its own.
    """
    members: dict[str, list[RunCurve]] = {}
    for curve in curves:
        key = curve.name if curve.settings is None else json.dumps(curve.settings, sort_keys=True)
        members.setdefault(key, []).append(curve)
    firsts = [runs[0] for runs in members.values()]
    return [_group(runs[0].name if len(runs) == 1 else _label(runs[0], firsts), runs) for runs in members.values()]


def _group(name: str, runs: Sequence[RunCurve]) -> SeedGroup:
    if len(runs) == 1:
        scores = tuple(point.ema_score for point in runs[0].points)
        return SeedGroup(name=name, runs=tuple(runs), mean=runs[0], low=scores, high=scores)
    by_step = [{point.step: point for point in run.points} for run in runs]
    steps = sorted(set[int].intersection(*(set(points) for points in by_step)))
    rows = [[points[step] for points in by_step] for step in steps]
    final = [point.ema_score for point in rows[-1]]
    interval = seed_interval(final)
    assert interval is not None, "there is more than one run"
    mean = RunCurve(
        name=name,
        points=tuple(_mean_point(row) for row in rows),
        final_ci=(max(0.0, interval[0]), min(1.0, interval[1])),
        settings=runs[0].settings,
        ema=runs[0].ema,
        jump_steps=tuple(sorted({step for run in runs for step in run.jump_steps})),
        num_steps=min(run.num_steps for run in runs),
        seconds=_mean([run.seconds for run in runs]),
    )
    return SeedGroup(
        name=name,
        runs=tuple(runs),
        mean=mean,
        low=tuple(min(point.ema_score for point in row) for row in rows),
        high=tuple(max(point.ema_score for point in row) for row in rows),
    )


def _mean_point(points: Sequence[EvalPoint]) -> EvalPoint:
    return EvalPoint(
        step=points[0].step,
        num_tokens=round(_mean([point.num_tokens for point in points])),
        seconds=_mean([point.seconds for point in points]),
        num_teacher_tokens=_mean_count([point.num_teacher_tokens for point in points]),
        num_verifier_calls=_mean_count([point.num_verifier_calls for point in points]),
        score=_mean([point.score for point in points]),
        ema_score=_mean([point.ema_score for point in points]),
    )


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _mean_count(values: Sequence[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return round(_mean(known)) if len(known) == len(values) else None


def _label(first: RunCurve, firsts: Sequence[RunCurve]) -> str:
    """Return a name for the group of the run `first`, different from those of the other groups, whose first runs are given."""
    if first.settings is None:
        return first.name
    name = str(first.settings["name"])
    namesakes = [other.settings for other in firsts if other.settings is not None and other.settings["name"] == name]
    differing = sorted({key for other in namesakes for key in other if other[key] != first.settings.get(key)})
    if len(namesakes) > 1 and len(differing) > _MAX_KEYS_IN_NAME:
        return first.name
    return " ".join([name, *(f"{key}={written(first.settings[key])}" for key in differing)])
