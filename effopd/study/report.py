"""A study's results as files: `study.json` with everything, `study.md` with tables, `study.png`."""

import json
import math
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from effopd.config.study import Cell, Study, written_lr
from effopd.config.study_schema import StudyConfig
from effopd.durable import replace_file
from effopd.jsonl import to_plain
from effopd.markdown import markdown_table
from effopd.provenance import Hardware, Source, git_source, installed_versions, this_machine
from effopd.study.folders import Progress, look_at, read_finish
from effopd.study.plot import plot_study
from effopd.study.progress import spoken_time
from effopd.study.records import COSTS, StudyRun, read_run
from effopd.study.spreads import Spread
from effopd.study.statistics import Group, Ratio, TaskResult, task_result

JSON_NAME, MARKDOWN_NAME, FIGURE_NAME = "study.json", "study.md", "study.png"


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A cell without a run."""

    cell: Cell
    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceCount:
    """How many runs some code made."""

    source: Source
    num_runs: int
    """A run that was resumed by other code counts for both."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where the numbers come from. Command, date, hardware, versions and `git` are those of the report."""

    command: tuple[str, ...]
    date: str
    hardware: Hardware
    versions: Mapping[str, str]
    git: Mapping[str, object] | None
    run_sources: tuple[SourceCount, ...]
    """The code that the runs ran, which need not be the report's; each run names its own, too."""
    num_workers: tuple[int, ...]
    """That the runs shared the machine with, themselves included; several where a study was continued with others."""
    num_threads: tuple[int, ...]
    """Of each worker."""
    run_seconds: float
    """Wall-clock time of all runs together, one after the other, start-up and evaluation included."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StudyResult:
    """`study.json`. What is infinite, such as the median of costs that most seeds did not pay, is null there."""

    settings: StudyConfig
    num_cells: int
    num_finished: int
    failures: tuple[Failure, ...]
    tasks: tuple[TaskResult, ...]
    origin: Origin


def write_report(study: Study, output: Path, runs_folder: Path, failures: Sequence[Failure]) -> str:
    """Write the three files on the runs that are finished, and return the tables."""
    finished = [
        cell for cell, config in study.runs if look_at(runs_folder / cell.folder, config).progress is Progress.finished
    ]
    runs = [read_run(runs_folder / cell.folder, cell) for cell in finished]
    finishes = [read_finish(runs_folder / cell.folder) for cell in finished]
    results = [task_result(task, runs, study.settings) for task in study.settings.tasks]
    result = StudyResult(
        settings=study.settings,
        num_cells=len(study.runs),
        num_finished=len(runs),
        failures=tuple(failures),
        tasks=tuple(one for one in results if one is not None),
        origin=Origin(
            command=tuple(["effopd", *sys.argv[1:]]),
            date=datetime.now(UTC).isoformat(timespec="seconds"),
            hardware=this_machine(),
            versions=installed_versions(),
            git=git_source(Path(__file__).parents[1]),
            run_sources=_run_sources(runs),
            num_workers=tuple(sorted({finish.num_workers for finish in finishes})),
            num_threads=tuple(sorted({finish.num_threads for finish in finishes})),
            run_seconds=sum(finish.seconds for finish in finishes),
        ),
    )
    content = json.dumps(to_plain(result), indent=2, allow_nan=False) + "\n"
    replace_file(output / JSON_NAME, content.encode())
    text = study_markdown(result)
    replace_file(output / MARKDOWN_NAME, text.encode())
    if result.tasks:
        plot_study(result.tasks, runs, study.settings, output / FIGURE_NAME)
    return text


def _run_sources(runs: Iterable[StudyRun]) -> tuple[SourceCount, ...]:
    counts = Counter(source for run in runs for source in run.sources)
    return tuple(SourceCount(source=source, num_runs=number) for source, number in counts.most_common())


def study_markdown(result: StudyResult) -> str:
    """Return the study in Markdown."""
    parts = [f"# Study {result.settings.name}", _origin_text(result)]
    for task in result.tasks:
        parts += [f"## {task.task}", _target_text(task, result.settings)]
        parts.append(markdown_table(_COST_HEADINGS, [_cost_cells(group) for group in task.groups]))
        parts += _score_notes(task.groups)
        for baseline in result.settings.compare_with:
            rows = [cells for group in task.groups for cells in _ratio_rows(group, baseline)]
            if rows:
                parts += [f"Divided by {baseline} (below 1: less is spent):", markdown_table(_RATIO_HEADINGS, rows)]
        if jumps := [_jump_cells(group) for group in task.groups if group.jumps.num_triggers]:
            parts += ["Triggers:", markdown_table(_JUMP_HEADINGS, jumps)]
    for task in result.settings.tasks:
        if task not in [one.task for one in result.tasks]:
            parts += [f"## {task}", f"No target: {result.settings.vanilla} has no finished run, or gained nothing."]
    if result.failures:
        rows = [[failure.cell.label, failure.error] for failure in result.failures]
        parts += ["## Failed", markdown_table(("cell", "error"), rows)]
    return "\n\n".join([*parts, _NOTES]) + "\n"


_NOTES = """\
Scores are moving averages over evaluations. Numbers are medians over seeds; in brackets the 95 % percentile bootstrap
interval over seeds. A run is censored if it does not reach the target within its budget: it counts as infinite in a median,
which is "not reached" where it is infinite itself. A ratio is of a seed to the same seed of the baseline, at the
target, or, where one of the two is censored, at the highest score that both reached (column "below"). Seconds leave out
start-up, evaluation and saving; the share of time is that of all triggers, of those that only looked and of taking
jumps back too. Harmful jumps and regret come from audits; `effopd/study/jumps.py` defines them."""

_COST_HEADINGS = ("method", "lr", "seeds", "censored", *(f"{cost.label} to target" for cost in COSTS), "final score")
_RATIO_HEADINGS = ("method", "lr", "baseline lr", "seeds", "below", *(cost.label for cost in COSTS), "Δ final score")
_JUMP_HEADINGS = (
    *("method", "lr", "share of time", "triggers", "accepted", "taken back"),
    *("audited", "harmful", "false accepts", "at most (95 %)"),
    *("harmful by accuracy", "regret, nats/token", "gain lost"),
)


def _origin_text(result: StudyResult) -> str:
    origin = result.origin
    hardware = origin.hardware
    gpus = f", {' and '.join(hardware.gpus)}" if hardware.gpus else ", no GPU"
    machine = f"{hardware.processor}, {hardware.num_cores} cores, {hardware.memory_gib} GiB{gpus}"
    versions = ", ".join(f"{name} {version}" for name, version in origin.versions.items())
    workers, threads = (
        " or ".join(str(number) for number in numbers) for numbers in (origin.num_workers, origin.num_threads)
    )
    sources = ", ".join(f"{_source_text(count.source)} ({count.num_runs})" for count in origin.run_sources)
    return "\n".join(
        [
            f"    {' '.join(origin.command)}",
            "",
            f"{result.num_finished} of {result.num_cells} cells finished, in {spoken_time(origin.run_seconds)} of run "
            f"time; workers {workers}, threads each {threads}; {machine}; {origin.date}; {versions}.",
            *(["", f"The code of the runs, by commit (runs): {sources}."] if sources else []),
        ]
    )


def _source_text(source: Source) -> str:
    return (source.commit[:10] or "unknown") + (" with changes" if source.is_dirty else "")


def _score_notes(groups: Sequence[Group]) -> list[str]:
    """What a reader must know before comparing scores, a paragraph each."""
    notes = []
    without = [f"{group.method} at {written_lr(group.lr)}" for group in groups if group.num_unscored]
    if without:
        notes.append(
            f"Without a score, and so without costs and ratios: {', '.join(without)}. There are fewer evaluations than "
            "a score averages, so the untrained policy would weigh in the last one."
        )
    every = {group.method: group.eval_every for group in groups if group.num_unscored < len(group.seeds)}
    if len(set(every.values())) > 1:
        listed = ", ".join(f"{method} {steps or 'once'}" for method, steps in every.items())
        notes.append(
            f"Steps from one evaluation to the next: {listed}. A score averages over evaluations, so that of a run "
            "which is evaluated more rarely lags behind by more steps, and its costs are known less finely."
        )
    return notes


def _target_text(task: TaskResult, settings: StudyConfig) -> str:
    target = task.target
    return (
        f"Target {target.score:.4f}: {target.base:.4f} before training plus {settings.target_share:g} of the gain of "
        f"{settings.vanilla} at its best learning rate {written_lr(target.best_lr)}, which ends at {target.best_final:.4f}."
    )


def _cost_cells(group: Group) -> list[str]:
    return [
        group.method,
        written_lr(group.lr),
        str(len(group.seeds)),
        str(group.num_censored) if group.final_score is not None else "",
        *(_with_interval(group.to_target[cost.key], _count) for cost in COSTS),
        _with_interval(group.final_score, "{:.4f}".format),
    ]


def _ratio_rows(group: Group, baseline: str) -> list[list[str]]:
    return [_ratio_cells(group, ratio) for ratio in group.ratios if ratio.baseline == baseline]


def _ratio_cells(group: Group, ratio: Ratio) -> list[str]:
    best = " (its best)" if ratio.is_best_lr else ""
    return [
        group.method,
        written_lr(group.lr),
        f"{written_lr(ratio.baseline_lr)}{best}",
        str(len(ratio.seeds)),
        str(ratio.num_below_target),
        *(_with_interval(ratio.costs[cost.key], "{:.2f}".format) for cost in COSTS),
        _with_interval(ratio.final_score_difference, "{:+.4f}".format),
    ]


def _jump_cells(group: Group) -> list[str]:
    jumps = group.jumps
    return [
        group.method,
        written_lr(group.lr),
        _with_interval(group.trigger_share, "{:.1%}".format),
        str(jumps.num_triggers),
        f"{jumps.num_accepted} ({_percent(jumps.accept_rate)})",
        str(jumps.num_taken_back),
        str(jumps.num_audited),
        str(jumps.num_harmful) if jumps.num_audited else "",
        _percent(jumps.false_accept_rate),
        _percent(jumps.false_accept_upper_bound),
        str(jumps.num_harmful_by_accuracy) if jumps.num_audited else "",
        "" if jumps.mean_regret is None else f"{jumps.mean_regret:.4f}",
        _percent(jumps.lost_share),
    ]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.0f} %"


def _count(value: float) -> str:
    return "not reached" if math.isinf(value) else f"{value:,.0f}"


def _with_interval(value: Spread | None, written: Callable[[float], str]) -> str:
    if value is None:
        return "none"
    if value.low is None or value.high is None or value.low == value.high:
        return written(value.median)
    return f"{written(value.median)} [{written(value.low)}, {written(value.high)}]"
