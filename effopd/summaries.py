"""The numbers of a comparison: one `RunResult` per run, one `GroupResult` per experiment."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from effopd.curves import AXES, Axis, RunCurve
from effopd.metrics import Interval, mean_height, paired_bootstrap_interval, seed_interval
from effopd.seed_groups import SeedGroup


@dataclass(frozen=True, slots=True, kw_only=True)
class RunResult:
    """One run's row in `comparison.json`; a `…_to_target` is null when the target was not reached or it is not known."""

    name: str
    steps_to_target: int | None
    tokens_to_target: int | None
    seconds_to_target: float | None
    teacher_tokens_to_target: int | None
    verifier_calls_to_target: int | None
    final_score: float
    final_ci: Interval
    steps: int
    seconds: float
    auc: Mapping[str, float | None]
    """Axis to the mean height of the smoothed score over the part of the axis that all runs cover; None where there is
    no such part."""
    difference: float | None
    """Final score minus that of the baseline (its first run), on the prompts of both; None for other prompts, or unknown ones."""
    difference_ci: Interval | None
    """95 % paired bootstrap over prompts."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedMean:
    """A number per seed, averaged."""

    mean: float
    interval: Interval | None
    """95 % Student's t over seeds; None with a single one."""
    min: float
    max: float


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupResult:
    """One experiment's row in `comparison.json`.

    The target is reached where the mean over seeds reaches it, with what the seeds had spent by then on average.
    """

    name: str
    runs: tuple[str, ...]
    seeds: tuple[int | None, ...]
    steps_to_target: int | None
    tokens_to_target: int | None
    seconds_to_target: float | None
    teacher_tokens_to_target: int | None
    verifier_calls_to_target: int | None
    steps_to_target_by_seed: tuple[int | None, ...]
    """In the order of `runs`."""
    final_step: int
    """The last step that every seed evaluated."""
    final_score: SeedMean
    """At that step."""
    auc: Mapping[str, SeedMean | None]


def common_ranges(curves: Sequence[RunCurve]) -> dict[str, Interval | None]:
    """Return, for every axis, the part that all curves cover; None where there is none, or a curve's is not known."""
    return {axis.key: _common_range(curves, axis) for axis in AXES}


def _common_range(curves: Sequence[RunCurve], axis: Axis) -> Interval | None:
    firsts = [axis.position(curve.points[0]) for curve in curves]
    lasts = [axis.position(curve.points[-1]) for curve in curves]
    known = [(first, last) for first, last in zip(firsts, lasts, strict=True) if first is not None and last is not None]
    if len(known) < len(curves):
        return None
    low, high = max(first for first, _ in known), min(last for _, last in known)
    return (low, high) if low < high else None


def summarise_run(
    curve: RunCurve, target: float, ranges: Mapping[str, Interval | None], baseline: RunCurve
) -> RunResult:
    """Return a run's row for a target score."""
    reached = curve.first_at(target)
    difference, difference_ci = _difference(curve, baseline)
    return RunResult(
        name=curve.name,
        steps_to_target=None if reached is None else reached.step,
        tokens_to_target=None if reached is None else reached.num_tokens,
        seconds_to_target=None if reached is None else reached.seconds,
        teacher_tokens_to_target=None if reached is None else reached.num_teacher_tokens,
        verifier_calls_to_target=None if reached is None else reached.num_verifier_calls,
        final_score=curve.final_score,
        final_ci=curve.final_ci,
        steps=curve.num_steps,
        seconds=curve.seconds,
        auc={axis.key: _auc(curve, axis, ranges[axis.key]) for axis in AXES},
        difference=difference,
        difference_ci=difference_ci,
    )


def summarise_group(group: SeedGroup, target: float, ranges: Mapping[str, Interval | None]) -> GroupResult:
    """Return an experiment's row for a target score."""
    reached = group.mean.first_at(target)
    by_seed = [run.first_at(target) for run in group.runs]
    last = group.mean.points[-1].step
    return GroupResult(
        name=group.name,
        runs=tuple(run.name for run in group.runs),
        seeds=tuple(run.seed for run in group.runs),
        steps_to_target=None if reached is None else reached.step,
        tokens_to_target=None if reached is None else reached.num_tokens,
        seconds_to_target=None if reached is None else reached.seconds,
        teacher_tokens_to_target=None if reached is None else reached.num_teacher_tokens,
        verifier_calls_to_target=None if reached is None else reached.num_verifier_calls,
        steps_to_target_by_seed=tuple(None if point is None else point.step for point in by_seed),
        final_step=last,
        final_score=_seed_mean([_score_at(run, last) for run in group.runs]),
        auc={axis.key: _group_auc(group, axis, ranges[axis.key]) for axis in AXES},
    )


def _score_at(run: RunCurve, step: int) -> float:
    return next(point.ema_score for point in run.points if point.step == step)


def _auc(curve: RunCurve, axis: Axis, covered: Interval | None) -> float | None:
    if covered is None:
        return None
    places = [place for point in curve.points if (place := axis.position(point)) is not None]
    return mean_height(places, [point.ema_score for point in curve.points], *covered)


def _group_auc(group: SeedGroup, axis: Axis, covered: Interval | None) -> SeedMean | None:
    areas = [area for run in group.runs if (area := _auc(run, axis, covered)) is not None]
    return _seed_mean(areas) if areas else None


def _seed_mean(values: Sequence[float]) -> SeedMean:
    return SeedMean(mean=sum(values) / len(values), interval=seed_interval(values), min=min(values), max=max(values))


def _difference(curve: RunCurve, baseline: RunCurve) -> tuple[float | None, Interval | None]:
    prompts = baseline.final_per_prompt.keys()
    if not prompts or curve.final_per_prompt.keys() != prompts:
        return None, None
    ours = [curve.final_per_prompt[prompt] for prompt in prompts]
    theirs = [baseline.final_per_prompt[prompt] for prompt in prompts]
    value = sum(ours) / len(ours) - sum(theirs) / len(theirs)
    return value, paired_bootstrap_interval(ours, theirs)
