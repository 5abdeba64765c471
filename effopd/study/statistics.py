"""What a study shows: per task a target, per cell of methods and learning rates medians over seeds and ratios to baselines.

Pure functions of runs. Ratios are of one seed to the same seed of the baseline, which share the prompts of training and
evaluation; medians and intervals are over these pairs.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from effopd.config.study_schema import StudyConfig
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
    """Cost to amount; None for a run that is censored."""
    base_score: float
    final_score: float
    best_score: float
    num_steps: int
    seconds: float
    """Of training, all steps."""
    num_triggers: int
    num_accepted: int


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
    num_censored: int
    to_target: dict[str, Spread]
    """Cost to its spread, a censored run counting as infinite."""
    final_score: Spread
    jumps: JumpRecord
    trigger_share: Spread
    """Seconds of all triggers in parts of the seconds of training, which contain them."""
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
    baseline = by_method.get(settings.vanilla)
    target = find_target(baseline, settings.target_share) if baseline else None
    if target is None:
        return None
    best_lrs = {name: best_lr(group) for name, group in by_method.items()}
    groups = []
    for group in by_method.values():
        for lr in sorted({run.cell.lr for run in group}):
            chosen = [run for run in group if run.cell.lr == lr]
            baselines = [name for name in settings.compare_with if name in by_method]
            ratios = [
                ratio for name in baselines for ratio in _ratios(chosen, by_method[name], best_lrs[name], target.score)
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
    reached = [costs_to(run, target) for run in runs]
    final_score = spread([run.final_score for run in runs])
    assert final_score is not None, "a group has a run"
    trigger_share = spread([sum(trigger.seconds for trigger in run.triggers) / run.points[-1].seconds for run in runs])
    assert trigger_share is not None, "a group has a run"
    to_target = {}
    for cost in COSTS:
        of_cost = spread([math.inf if costs is None else costs[cost.key] for costs in reached])
        assert of_cost is not None, "a group has a run"
        to_target[cost.key] = of_cost
    return Group(
        task=cell.task,
        method=cell.method,
        lr=cell.lr,
        seeds=tuple(sorted(run.cell.seed for run in runs)),
        num_censored=reached.count(None),
        to_target=to_target,
        final_score=final_score,
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
        pairs = [(run, partners[run.cell.seed]) for run in runs if run.cell.seed in partners]
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
        to_target=costs_to(run, target),
        base_score=run.base_score,
        final_score=run.final_score,
        best_score=run.best_score,
        num_steps=run.points[-1].steps,
        seconds=run.points[-1].seconds,
        num_triggers=len(run.triggers),
        num_accepted=sum(trigger.accepted_step_size != 0 for trigger in run.triggers),
    )
