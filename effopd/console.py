"""What a run shows a person: a live display on a terminal, one line per step in a log file.

The sentences are pure functions, so that they can be tested; `RunConsole` alone writes.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn
from rich.table import Table

from effopd.ledger import PhaseTotal
from effopd.trigger_costs import TriggerTotals, num_steps_jumped
from effopd.types import CandidateRecord, EvalReport, GateScore, TriggerKind, TriggerRecord

_LINE_METRICS = {"loss": "loss", "reverse_kl": "kl"}
"""Metric to its name in a step's line."""
_MIN_SHARE = 0.01


@dataclass(frozen=True, slots=True, kw_only=True)
class StepSummary:
    """One step, as the console shows it."""

    step: int
    num_steps: int
    metrics: Mapping[str, float]
    score: float | None
    """Smoothed evaluation score; None before the first evaluation."""
    tokens_per_second: float
    """Tokens generated for training and gate per second of training time."""
    seconds: Mapping[str, float]
    """Per phase."""


def step_numbers(summary: StepSummary) -> str:
    """Return e.g. `loss 0.123 kl 0.045 score 0.610 1,234 tok/s`."""
    parts = [f"{label} {summary.metrics[key]:.3f}" for key, label in _LINE_METRICS.items() if key in summary.metrics]
    if summary.score is not None:
        parts.append(f"score {summary.score:.3f}")
    parts.append(f"{summary.tokens_per_second:,.0f} tok/s")
    return " ".join(parts)


def step_line(summary: StepSummary) -> str:
    """Return e.g. `step 12/40 loss 0.123 kl 0.045 score 0.610 1,234 tok/s generate 45% train 55%`."""
    whole = sum(summary.seconds.values())
    shares = [
        f"{phase} {seconds / whole:.0%}" for phase, seconds in summary.seconds.items() if seconds > _MIN_SHARE * whole
    ]
    return " ".join([f"step {summary.step}/{summary.num_steps}", step_numbers(summary), *shares])


def trigger_line(record: TriggerRecord) -> str:
    """Return what a trigger decided and what it cost, in one line.

    E.g. `step 8: jump x4 accepted, reverse KL 0.210 -> 0.083; 14 s spent, as far as 16 steps`, or
    `step 8: no jump, x2 refused: reverse KL 0.210 -> 0.250 (not better); 6.1 s spent`.
    """
    spent = f"; {record.seconds:.2g} s spent" if record.seconds < 10 else f"; {record.seconds:,.0f} s spent"
    gained = f", as far as {num_steps_jumped(record):.3g} steps" if record.accepted_step_size > 0 else ""
    return f"{_outcome(record)}{spent}{gained}"


def totals_line(totals: TriggerTotals, training_seconds: float) -> str:
    """Return e.g. `triggers: 5 searches, 3 jumps kept; 14 s spent (8.1% of training), as far as 42 steps`."""
    share = totals.seconds / training_seconds if training_seconds > 0 else 0.0
    return (
        f"triggers: {totals.num_searches} searches, {totals.num_kept} jumps kept; {totals.seconds:,.1f} s spent "
        f"({share:.1%} of training), as far as {totals.num_steps_jumped:.3g} steps"
    )


def _outcome(record: TriggerRecord) -> str:
    if record.roll_back is not None:
        undone = record.roll_back
        change = f"reverse KL {undone.reverse_kl_before:.3f} -> {undone.reverse_kl_after:.3f}"
        return f"step {record.step}: jump of step {undone.jump_step} taken back, {change}"
    if record.kind is TriggerKind.LOOK:
        return f"step {record.step}: no search, the way down is hardly steeper than at the last refusal"
    if record.kind is TriggerKind.UNGATED:
        return f"step {record.step}: jump x{record.accepted_step_size:g}, ungated"
    tried = [candidate for candidate in record.candidates if candidate.step_size > 0]
    accepted = [candidate for candidate in tried if candidate.is_accepted]
    if accepted and record.accepted_step_size > 0:
        change = _change(record.candidates[0].score, accepted[-1])
        return f"step {record.step}: jump x{record.accepted_step_size:g} accepted, {change}"
    if not tried:
        return f"step {record.step}: no jump, nothing was tried"
    # A search that samples all candidates at once has tried some behind the first refusal too.
    refused = next((candidate for candidate in tried if not candidate.is_accepted), tried[-1])
    change = _change(record.candidates[0].score, refused)
    return f"step {record.step}: no jump, x{refused.step_size:g} refused: {change} ({refused.reason})"


def _change(baseline: GateScore, candidate: CandidateRecord) -> str:
    """Return the change of what the gate looks at. Its value is an accuracy, or minus a reverse KL."""
    if baseline.value == baseline.accuracy:
        return f"accuracy {baseline.value:.3f} -> {candidate.score.value:.3f}"
    return f"reverse KL {-baseline.value:.3f} -> {-candidate.score.value:.3f}"


def eval_line(report: EvalReport, ema_score: float) -> str:
    """Return e.g. `step 10: score 0.512 ± 0.016 (smoothed 0.498), mean length 87, truncated 2%`."""
    return (
        f"step {report.step}: score {report.score:.3f} ± {report.standard_error:.3f} (smoothed {ema_score:.3f}), "
        f"mean length {report.mean_response_len:.0f}, truncated {report.truncation_rate:.0%}"
    )


def format_duration(seconds: float) -> str:
    """Return hours, minutes and seconds, e.g. `1:02:03`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}"


def time_table(totals: Sequence[PhaseTotal]) -> Table:
    """Return the table of where the time went."""
    table = Table(title="Where the time went")
    table.add_column("phase")
    for heading in ("seconds", "share", "tokens/s"):
        table.add_column(heading, justify="right")
    for total in totals:
        speed = "" if total.tokens_per_second is None else f"{total.tokens_per_second:,.0f}"
        table.add_row(total.phase, f"{total.seconds:,.1f}", f"{total.share:.1%}", speed)
    table.add_section()
    table.add_row("all", f"{sum(total.seconds for total in totals):,.1f}", "", "")
    return table


class RunConsole:
    """Shows a run on a rich console: live where that is a terminal, line by line where it is not."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def start(self, step: int, num_steps: int) -> None:
        """Begin at `step` of `num_steps`."""
        if not self._console.is_terminal:
            return
        self._progress = Progress(
            TextColumn("{task.description:<9}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[numbers]}"),
            TextColumn("ETA {task.fields[eta]}"),
            console=self._console,
        )
        self._task = self._progress.add_task("starting", total=num_steps, completed=step, numbers="", eta="-")
        self._progress.start()

    def show_phase(self, name: str) -> None:
        """Name what the run is doing. Shown on the live display only."""
        if self._progress is not None and self._task is not None:
            self._progress.update(self._task, description=name)

    def show_step(self, summary: StepSummary, eta_seconds: float) -> None:
        """Show a finished step."""
        if self._progress is not None and self._task is not None:
            self._progress.update(
                self._task,
                completed=summary.step,
                numbers=step_numbers(summary),
                eta=format_duration(eta_seconds),
            )
        else:
            self.say(step_line(summary))

    def say(self, text: str) -> None:
        """Show one line, above the live display where there is one."""
        # A log keeps a line whole whatever the width, and brackets in it are not markup.
        self._console.print(text, soft_wrap=True, highlight=False, markup=False)

    def finish(
        self, totals: Sequence[PhaseTotal], triggers: TriggerTotals, training_seconds: float, bubble_share: float
    ) -> None:
        """End the live display and show the time table and the learner's idle share, if any time was counted, and the
        triggers, if there were any."""
        if self._progress is not None:
            self._progress.stop()
            self._progress = None
        if totals:
            self._console.print(time_table(totals))
            self.say(f"the learner was idle for {bubble_share:.1%} of training")
        if triggers.num_searches:
            self.say(totals_line(triggers, training_seconds))
