"""What a study shows: per task a target, per cell of methods and learning rates medians over seeds and ratios to baselines.

Pure functions of runs. Ratios are of one seed to the same seed of the baseline, which share the prompts of training and
evaluation; medians and intervals are over these pairs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from effopd.config.study_schema import StudyConfig
from effopd.provenance import Source
from effopd.study.jumps import JumpRecord, judge
from effopd.study.records import COSTS, StudyRun
from effopd.study.spreads import Spread, spread
from effopd.study.targets import Target, best_lr, common_level, costs_to, find_target


@dataclass(frozen=True, slots=True, kw_only=True)
class RunRow:
    """One run in `study.json`."""

    task: str
    method: str
    lr: float
    seed: int
    to_target: dict[str, float] | None
    """Cost to amount; None for a run that is censored, or that is not scored."""
    base_score: float
    final_score: float | None
    """None for a run with fewer evaluations than a smoothed score averages; likewise the next."""
    best_score: float | None
    num_steps: int
    seconds: float
    """Of training, all steps."""
    num_triggers: int
    num_accepted: int
    sources: tuple[Source, ...]
    """The code that it ran; several where it was resumed by other code."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Ratio:
    """A method at a learning rate, divided by a baseline, over the seeds that both have."""

    baseline: str
    baseline_lr: float
    is_best_lr: bool
    """Whether that is the baseline's best learning rate, not the method's own."""
    seeds: tuple[int, ...]
    num_below_target: int
    """Pairs compared at a lower score than the target, for one of them was censored."""
    num_without: int
    """Pairs without a ratio: one of the two never rose above its score before training."""
    costs: dict[str, Spread | None]
    """Cost to the ratio of what both spent until the score at which they are compared. Below 1: the method is cheaper."""
    final_score_difference: Spread
    """Method minus baseline."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """The seeds of one method at one learning rate on one task."""

    task: str
    method: str
    lr: float
    seeds: tuple[int, ...]
    eval_every: int | None
    """Steps from one evaluation to the next; None with a single evaluation."""
    num_unscored: int
    """Runs with fewer evaluations than a smoothed score averages: they have no part in scores, costs and ratios."""
    num_censored: int
    """Of the scored ones."""
    to_target: dict[str, Spread | None]
    """Cost to its spread, a censored run counting as infinite; None where no run is scored."""
    final_score: Spread | None
    jumps: JumpRecord
    trigger_share: Spread
    """Seconds of all triggers, of those that only looked and of taking jumps back too, in parts of the seconds of
    training, which contain them."""
    ratios: tuple[Ratio, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskResult:
    """One task of a study."""

    task: str
    target: Target
    best_lrs: dict[str, float]
    """Method to its own best learning rate."""
    groups: tuple[Group, ...]
    """In the order of the study's methods, then by learning rate."""
    runs: tuple[RunRow, ...]


def task_result(task: str, runs: Sequence[StudyRun], settings: StudyConfig) -> TaskResult | None:
    """Return a task's statistics over the runs that are finished; None without a target, for its baseline has no run or
    gained nothing."""
    runs = [run for run in runs if run.cell.task == task]
    by_method = {name: [run for run in runs if run.cell.method == name] for name in settings.methods}
    by_method = {name: group for name, group in by_method.items() if group}
    scored = {name: [run for run in group if run.is_scored] for name, group in by_method.items()}
    scored = {name: group for name, group in scored.items() if group}
    baseline = scored.get(settings.vanilla)
    target = find_target(baseline, settings.target_share) if baseline else None
    if target is None:
        return None
    best_lrs = {name: best_lr(group) for name, group in scored.items()}
    groups = []
    for group in by_method.values():
        for lr in sorted({run.cell.lr for run in group}):
            chosen = [run for run in group if run.cell.lr == lr]
            baselines = [name for name in settings.compare_with if name in scored]
            ratios = [
                ratio for name in baselines for ratio in _ratios(chosen, scored[name], best_lrs[name], target.score)
            ]
            groups.append(_group(chosen, target.score, ratios))
    return TaskResult(
        task=task,
        target=target,
        best_lrs=best_lrs,
        groups=tuple(groups),
        runs=tuple(_row(run, target.score) for run in sorted(runs, key=lambda run: run.cell)),
    )


def _group(runs: Sequence[StudyRun], target: float, ratios: Sequence[Ratio]) -> Group:
    cell = runs[0].cell
    scored = [run for run in runs if run.is_scored]
    reached = [costs_to(run, target) for run in scored]
    trigger_share = spread([run.trigger_seconds / run.points[-1].seconds for run in runs])
    assert trigger_share is not None, "a group has a run"
    to_target = {
        cost.key: spread([math.inf if costs is None else costs[cost.key] for costs in reached]) for cost in COSTS
    }
    return Group(
        task=cell.task,
        method=cell.method,
        lr=cell.lr,
        seeds=tuple(sorted(run.cell.seed for run in runs)),
        eval_every=runs[0].eval_every,
        num_unscored=len(runs) - len(scored),
        num_censored=reached.count(None),
        to_target=to_target,
        final_score=spread([run.final_score for run in scored]),
        jumps=judge([trigger for run in runs for trigger in run.triggers]),
        trigger_share=trigger_share,
        ratios=tuple(ratios),
    )


def _ratios(runs: Sequence[StudyRun], baseline: Sequence[StudyRun], best: float, target: float) -> list[Ratio]:
    """Return the ratios to a baseline at the runs' own learning rate and at its best one; once, where they are the same.

    Nothing is divided by itself.
    """
    cell = runs[0].cell
    ratios = []
    for lr, is_best in ((cell.lr, False), (best, True)):
        partners = {run.cell.seed: run for run in baseline if run.cell.lr == lr}
        pairs = [(run, partners[run.cell.seed]) for run in runs if run.is_scored and run.cell.seed in partners]
        is_itself = baseline[0].cell.method == cell.method and lr == cell.lr
        if pairs and not is_itself and not (lr == best and not is_best):
            ratios.append(_ratio(pairs, is_best, target))
    return ratios


def _ratio(pairs: Sequence[tuple[StudyRun, StudyRun]], is_best: bool, target: float) -> Ratio:
    costs: dict[str, list[float]] = {cost.key: [] for cost in COSTS}
    num_below = num_without = 0
    for run, partner in pairs:
        level = common_level(run, partner, target)
        num_below += level < target
        ours, theirs = costs_to(run, level), costs_to(partner, level)
        assert ours is not None and theirs is not None, "both have reached their common level"
        if ours["steps"] == 0 or theirs["steps"] == 0:
            num_without += 1
            continue
        for key, values in costs.items():
            values.append(ours[key] / theirs[key])
    difference = spread([run.final_score - partner.final_score for run, partner in pairs])
    assert difference is not None, "there is a pair"
    baseline = pairs[0][1].cell
    return Ratio(
        baseline=baseline.method,
        baseline_lr=baseline.lr,
        is_best_lr=is_best,
        seeds=tuple(sorted(run.cell.seed for run, _ in pairs)),
        num_below_target=num_below,
        num_without=num_without,
        costs={key: spread(values) for key, values in costs.items()},
        final_score_difference=difference,
    )


def _row(run: StudyRun, target: float) -> RunRow:
    return RunRow(
        task=run.cell.task,
        method=run.cell.method,
        lr=run.cell.lr,
        seed=run.cell.seed,
        to_target=costs_to(run, target) if run.is_scored else None,
        base_score=run.base_score,
        final_score=run.final_score if run.is_scored else None,
        best_score=run.best_score if run.is_scored else None,
        num_steps=run.points[-1].steps,
        seconds=run.points[-1].seconds,
        num_triggers=len(run.triggers),
        num_accepted=sum(trigger.accepted_step_size != 0 for trigger in run.triggers),
        sources=run.sources,
    )
