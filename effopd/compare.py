"""Runs side by side: what each needed to reach a target score, and where it ended.

The score is the exponential moving average over a run's evaluations. Steps, tokens, calls and seconds to the target are
those of the first evaluation at which it is reached: nothing is interpolated, so a run that evaluates rarely is charged up
to its next evaluation. Tokens are generated ones, training and gate together; seconds leave out start-up, evaluation and
saving. Runs that differ in their seed alone are one experiment and are also shown as such.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from effopd.config.schema import GateKind
from effopd.curves import RunCurve, read_curve
from effopd.durable import replace_file
from effopd.errors import ConfigError
from effopd.figures import plot_comparison
from effopd.jsonl import to_plain
from effopd.markdown import markdown_table
from effopd.run_folders import find_runs, has_evaluations
from effopd.seed_groups import SeedGroup, group_seeds
from effopd.summaries import GroupResult, RunResult, SeedMean, common_ranges, summarise_group, summarise_run

_TO_TARGET = ("steps to target", "tokens to target", "seconds to target")
_MORE_TO_TARGET = ("teacher tokens to target", "verifier calls to target")
_RUN_HEADINGS = ("run", *_TO_TARGET, "final score", "95% CI", "steps", "seconds", *_MORE_TO_TARGET, "AUC over steps")
_GROUP_HEADINGS = (
    *("experiment", "seeds", *_TO_TARGET, "seeds that reach it"),
    *("final score", "95% CI over seeds", *_MORE_TO_TARGET, "AUC over steps"),
)


def compare_runs(
    folders: Sequence[Path],
    target: float | None,
    output: Path,
    baseline: str | None = None,
    console: Console | None = None,
) -> None:
    """Compare runs, or all runs in a sweep's folder: print tables, and write `comparison.json`, `.md` and `.png` into the
    folder `output`.

    Without a target it is the final smoothed score of the baseline, or of the mean over its seeds; see `_choose_baseline`.
    Raises ConfigError naming a folder that is no run, and why, or a baseline that is none of the runs.
    """
    if not folders:
        raise ConfigError("runs=[]: nothing to compare; give at least one run folder")
    found = find_runs(folders)
    # In a sweep that is still going on, some runs have nothing to show yet.
    named = {folder.resolve() for folder in folders}
    left_out = [run for run in found if run.resolve() not in named and not has_evaluations(run)]
    runs = [run for run in found if run not in left_out]
    if not runs:
        raise ConfigError(f"run {found[0]}: has no evaluation yet, nor has any other; set eval.path and train a step")
    curves = _with_distinct_names([read_curve(run) for run in runs], runs)
    groups = group_seeds(curves)
    first = _choose_baseline(groups, dict(zip([curve.name for curve in curves], runs, strict=True)), folders, baseline)
    if first is not groups[0]:  # then it moves to the front, and the others keep their order
        groups.sort(key=lambda group: group is not first)
        curves.sort(key=lambda curve: curve not in first.runs)
    goal = first.mean.final_score if target is None else target
    ranges = common_ranges(curves)
    results = [summarise_run(curve, goal, ranges, baseline=curves[0]) for curve in curves]
    experiments = [summarise_group(group, goal, ranges) for group in groups]
    notes = [f"Baseline: {first.name}.", *comparison_notes(groups, goal, is_default_target=target is None)]
    if left_out:
        notes.append(f"Left out, for they have no evaluation yet: {', '.join(str(run) for run in left_out)}.")
    output.mkdir(parents=True, exist_ok=True)
    content = to_plain({"target": goal, "baseline": first.name, "runs": results, "groups": experiments})
    replace_file(output / "comparison.json", (json.dumps(content, indent=2, allow_nan=False) + "\n").encode())
    report = comparison_markdown(results, experiments, notes)
    replace_file(output / "comparison.md", report.encode())
    plot_comparison(groups, goal, output / "comparison.png")
    # Soft-wrapped: a narrow terminal, or a log file, gets whole rows and not columns cut to its width.
    (console or Console()).print(report, soft_wrap=True, markup=False, highlight=False)


def _choose_baseline(
    groups: Sequence[SeedGroup], folder_of: Mapping[str, Path], folders: Sequence[Path], baseline: str | None
) -> SeedGroup:
    """Return the group that the others are held against.

    It is the one that `baseline` names: by its own name, or by experiment, name or folder of a run. Without one it is that of
    the first folder if that is a run, for the person has chosen the order; in a folder of runs, which are in the order of
    their names, it is the only group without extrapolation, if there is exactly one such, else the first.
    """
    if baseline is not None:
        place = Path(baseline).resolve()
        chosen = [group for group in groups if group.name == baseline] or [
            group
            for group in groups
            if any(baseline in _names(run) or folder_of[run.name].resolve() == place for run in group.runs)
        ]
        if len(chosen) != 1:
            what = "names none of the experiments" if not chosen else "names several experiments"
            names = ", ".join(group.name for group in chosen or groups)
            raise ConfigError(f"baseline={baseline}: {what}; choose one of {names}, or give the folder of a run")
        return chosen[0]
    if folder_of[groups[0].runs[0].name].resolve() == folders[0].resolve():
        return groups[0]
    plain = [group for group in groups if (group.mean.settings or {}).get("accelerate.gate") == GateKind.none]
    return plain[0] if len(plain) == 1 else groups[0]


def _names(run: RunCurve) -> set[str]:
    return {run.name} if run.settings is None else {run.name, str(run.settings["name"])}


def comparison_notes(groups: Sequence[SeedGroup], target: float, is_default_target: bool) -> list[str]:
    """Return what a reader must know before trusting the numbers, one sentence or two each."""
    origin = f"the final smoothed score of {groups[0].name}" if is_default_target else "as given"
    notes = [
        f"Target {target:.4f}: {origin}. The score is the moving average over evaluations; "
        "seconds leave out start-up, evaluation and saving; tokens are training and gate together; verifier calls are "
        "those of training, gate and evaluation. AUC is the mean height of the curve over the steps that all runs have."
    ]
    if any(len(group.runs) > 1 for group in groups):
        notes.append(
            "An experiment reaches the target where the mean over its seeds does. Intervals over seeds are Student's t; "
            "those of single runs are over prompts."
        )
    runs = [run for group in groups for run in group.runs]
    for what, values in (
        ("evaluate every so many steps", {run.name: run.eval_every for run in runs}),
        ("average over so many evaluations", {run.name: run.ema for run in runs}),
    ):
        if len(set(values.values())) > 1:
            listed = ", ".join(f"{name} {value or 'once'}" for name, value in values.items())
            notes.append(
                f"The runs {what}: {listed}. The average of one lags behind the other's, "
                "so small differences to the target mean nothing."
            )
    for group in groups:
        lasts = {run.name: run.points[-1].step for run in group.runs}
        if len(set(lasts.values())) > 1:
            listed = ", ".join(f"{name} {step}" for name, step in lasts.items())
            notes.append(
                f"The seeds of {group.name} were last evaluated at different steps: {listed}. "
                f"They are averaged up to step {group.mean.points[-1].step}."
            )
        if group.repeated_seeds:
            listed = ", ".join(str(seed) for seed in group.repeated_seeds)
            notes.append(
                f"{group.name} has several runs of seed {listed}; they count as if they were independent, "
                "so its interval is too narrow."
            )
    return notes


def comparison_markdown(results: Sequence[RunResult], experiments: Sequence[GroupResult], notes: Sequence[str]) -> str:
    """Return the comparison in Markdown: experiments, where one has several seeds, then runs, then the notes."""
    tables = [markdown_table(_RUN_HEADINGS, [_run_cells(result) for result in results])]
    if any(len(experiment.runs) > 1 for experiment in experiments):
        tables.insert(0, markdown_table(_GROUP_HEADINGS, [_group_cells(experiment) for experiment in experiments]))
    return "\n\n".join([*tables, "\n".join(notes)]) + "\n"


def _run_cells(result: RunResult) -> list[str]:
    is_reached = result.steps_to_target is not None
    auc = result.auc["steps"]
    return [
        result.name,
        _count(result.steps_to_target, is_reached),
        _count(result.tokens_to_target, is_reached),
        _count(result.seconds_to_target, is_reached),
        f"{result.final_score:.4f}",
        f"{result.final_ci[0]:.4f} to {result.final_ci[1]:.4f}",
        f"{result.steps:,}",
        f"{result.seconds:,.0f}",
        _count(result.teacher_tokens_to_target, is_reached),
        _count(result.verifier_calls_to_target, is_reached),
        "none" if auc is None else f"{auc:.4f}",
    ]


def _group_cells(result: GroupResult) -> list[str]:
    is_reached = result.steps_to_target is not None
    num_reached = sum(step is not None for step in result.steps_to_target_by_seed)
    interval = result.final_score.interval
    return [
        result.name,
        str(len(result.runs)),
        _count(result.steps_to_target, is_reached),
        _count(result.tokens_to_target, is_reached),
        _count(result.seconds_to_target, is_reached),
        f"{num_reached} of {len(result.runs)}",
        f"{result.final_score.mean:.4f}",
        "one seed" if interval is None else f"{interval[0]:.4f} to {interval[1]:.4f}",
        _count(result.teacher_tokens_to_target, is_reached),
        _count(result.verifier_calls_to_target, is_reached),
        _with_half_width(result.auc["steps"]),
    ]


def _count(value: float | None, is_reached: bool) -> str:
    if not is_reached:
        return "not reached"
    return "not known" if value is None else f"{value:,.0f}"


def _with_half_width(average: SeedMean | None) -> str:
    if average is None:
        return "none"
    if average.interval is None:
        return f"{average.mean:.4f}"
    return f"{average.mean:.4f} ± {average.interval[1] - average.mean:.4f}"


def _with_distinct_names(curves: Sequence[RunCurve], runs: Sequence[Path]) -> list[RunCurve]:
    """Return the curves under names of their own: runs of one experiment are told apart by their folders."""
    names = [curve.name for curve in curves]
    if len(set(names)) < len(names):
        names = [f"{curve.name}/{run.resolve().name}" for curve, run in zip(curves, runs, strict=True)]
    if len(set(names)) < len(names):
        names = [str(run) for run in runs]
    return [replace(curve, name=name) for curve, name in zip(curves, names, strict=True)]
