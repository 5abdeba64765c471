"""Everything a run writes down, in one folder.

| file | one row or file per | holds |
|---|---|---|
| `metrics.jsonl` | optimizer step | metrics, tokens, verifier calls, seconds per phase |
| `eval.jsonl` | evaluation | score, standard error, smoothed score, score per set, per-prompt outcomes |
| `extrapolation.jsonl` | trigger, or jump taken back | every candidate with its gate score per prompt |
| `rollouts/step_NNNNNN.parquet` | sampled step | a few responses, for people to read |
| `versions.json` | start of a process | versions, platform, source, command line |
| `timeline.json` | last process, with `logger.timeline` | what every role did when; see `effopd/timeline.py` |

A row is on the disk before the call that logs it returns. A resumed run first removes what lies after its checkpoint, so
that its files are those of a run that was never interrupted, but for seconds.
"""

import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from effopd.config.schema import RunConfig
from effopd.console import RunConsole, StepSummary, eval_line, trigger_line
from effopd.costs import Costs, costs_of_row, scores_with_teacher
from effopd.durable import sync_directory, sync_file
from effopd.errors import ConfigError
from effopd.jsonl import JsonLines, keep_rows_through, read_rows, to_plain
from effopd.ledger import Ledger, training_seconds
from effopd.provenance import record_start
from effopd.sinks import open_sinks
from effopd.smoothing import ema_weight
from effopd.timeline import Lane
from effopd.trigger_costs import trigger_totals
from effopd.types import EvalReport, Rollout, RunState, TriggerRecord

METRICS_NAME = "metrics.jsonl"
EVAL_NAME = "eval.jsonl"
EXTRAPOLATION_NAME = "extrapolation.jsonl"
ROLLOUTS_NAME = "rollouts"
_ROW_FILES = (METRICS_NAME, EVAL_NAME, EXTRAPOLATION_NAME)


def discard_records_after(run_dir: Path, step: int) -> None:
    """Remove from a run folder every row and rollout file of a later step than `step`; −1 removes all."""
    for name in _ROW_FILES:
        keep_rows_through(run_dir / name, step)
    for path in (run_dir / ROLLOUTS_NAME).glob("*.parquet"):
        # An unfinished file has a hidden name of another form and goes too.
        name = path.stem.removeprefix("step_")
        if not name.isdigit() or int(name) > step:
            path.unlink()


class RunTracker:
    """The `Tracker` of a run: files, console, and the sinks that the settings ask for."""

    def __init__(
        self,
        run_dir: Path,
        config: RunConfig,
        resumed: RunState | None = None,
        ledger: Ledger | None = None,
        console: RunConsole | None = None,
        command: Sequence[str] | None = None,
    ) -> None:
        """Open the records of `run_dir`, creating the folder when missing.

        With `resumed`, the state of the checkpoint that the run continues from, later records are discarded; pass the
        ledger restored from that checkpoint too. Without it the folder must hold no records yet, or ConfigError is
        raised.
        """
        run_dir.mkdir(parents=True, exist_ok=True)
        if resumed is not None:
            discard_records_after(run_dir, resumed.step)
        elif any((run_dir / name).exists() and (run_dir / name).stat().st_size for name in _ROW_FILES):
            raise ConfigError(
                f"output_dir={run_dir}: holds the records of another run; choose another folder, "
                f"or continue that run with resume={run_dir}"
            )
        record_start(run_dir, sys.argv if command is None else command)
        self.ledger = ledger or Ledger()
        self._thread = threading.get_ident()
        self.lane = Lane()
        self._run_dir = run_dir
        self._config = config
        self._state = resumed or RunState()
        self._start_step = self._state.step
        self._start_seconds = self.ledger.total_seconds
        self._metrics = JsonLines(run_dir / METRICS_NAME)
        self._evals = JsonLines(run_dir / EVAL_NAME)
        self._triggers = JsonLines(run_dir / EXTRAPOLATION_NAME)
        self._trigger_rows = read_rows(run_dir / EXTRAPOLATION_NAME)
        past_evals = read_rows(run_dir / EVAL_NAME)
        self._ema_score: float | None = past_evals[-1]["ema_score"] if past_evals else None
        past_rows = [*past_evals[-1:], *read_rows(run_dir / METRICS_NAME)[-1:]]
        # Of the two last rows the later one has the larger totals; rows of an earlier version have none.
        self._costs = max((costs_of_row(row) or Costs() for row in past_rows), default=Costs())
        settings = to_plain(config)
        assert isinstance(settings, dict)
        self._sinks = open_sinks(run_dir, config.logger, config.name, settings, first_step=self._start_step + 1)
        self._console = console or RunConsole()
        self._console.start(self._start_step, config.num_steps)

    @property
    def ema_score(self) -> float | None:
        """Smoothed evaluation score; None before the first evaluation."""
        return self._ema_score

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the time inside to `name`; a phase inside another belongs to the outer one.

        On another thread than the tracker's nothing is charged: what runs beside the loop takes none of its time.
        """
        if threading.get_ident() != self._thread:
            yield
            return
        with self.ledger.phase(name), self.lane.span(name):
            self._console.show_phase(self.ledger.current_phase)
            yield

    def training_seconds(self) -> float:
        """Return the seconds trained so far, over all resumes: everything but start-up, evaluation, audits and saving."""
        return self.ledger.training_seconds

    def count_train_rewards(self, num_rewards: int) -> None:
        """Count verifier calls on training responses, before the row of their step is written."""
        self._costs = self._costs.after_train_rewards(num_rewards)

    def log_step(self, state: RunState, metrics: Mapping[str, float]) -> None:
        """Write one row of `metrics.jsonl`.

        Its seconds are those since the previous row, so what happens after the row of a step, its evaluation and its
        checkpoint, is in the next row.
        """
        generated = state.num_generated_tokens - self._state.num_generated_tokens
        gate = state.num_gate_tokens - self._state.num_gate_tokens
        for phase in ("generate", "score", "train"):
            self.ledger.add_tokens(phase, generated - gate)
        self.ledger.add_tokens("gate", gate)
        if scores_with_teacher(self._config):
            self._costs = self._costs.after_teacher(generated - gate)
        seconds = self.ledger.end_step()
        self._state = state
        self._metrics.append(
            {
                "step": state.step,
                "metrics": metrics,
                "tokens": {
                    "generated": generated,
                    "gate": gate,
                    "total_generated": state.num_generated_tokens,
                    "total_gate": state.num_gate_tokens,
                    "total_teacher": self._costs.teacher_tokens,
                },
                "calls": self._costs.calls(),
                "seconds": {**seconds, "total_training": state.seconds},
            }
        )
        self._log_scalars(state.step, "train", {**metrics, "total_generated_tokens": state.num_generated_tokens})
        self._log_scalars(state.step, "seconds", {**seconds, "total_training": state.seconds})
        summary = StepSummary(
            step=state.step,
            num_steps=self._config.num_steps,
            metrics=metrics,
            score=self._ema_score,
            tokens_per_second=generated / max(training_seconds(seconds), 1e-9),
            seconds=seconds,
        )
        self._console.show_step(summary, self._eta_seconds(state.step))

    def log_trigger(self, record: TriggerRecord) -> None:
        """Write one row of `extrapolation.jsonl`."""
        self._costs = self._costs.after_trigger(record)
        if record.audit is not None:
            self.ledger.transfer("gate", "audit", record.audit.seconds)
        row = to_plain(record)
        assert isinstance(row, dict)
        self._triggers.append(row)
        self._trigger_rows.append(row)
        scalars = {
            "accepted_step_size": record.accepted_step_size,
            "num_candidates": len(record.candidates),
            "seconds": record.seconds,
        }
        if record.displacement is not None:
            scalars["relative_norm"] = record.displacement.relative_norm
            scalars["slope"] = record.displacement.slope
        self._log_scalars(record.step, "extrapolation", scalars)
        self._console.say(trigger_line(record))

    def log_eval(self, state: RunState, report: EvalReport) -> None:
        """Write one row of `eval.jsonl`, with the tokens and seconds that training had taken by then, and every verifier
        call so far, its own included."""
        previous = report.score if self._ema_score is None else self._ema_score
        self._ema_score = previous + ema_weight(self._config.eval.ema) * (report.score - previous)
        self.ledger.add_tokens("eval", report.num_generated_tokens)
        self._costs = self._costs.after_evaluation(report)
        self._evals.append(
            {
                "step": report.step,
                "score": report.score,
                "standard_error": report.standard_error,
                "ema_score": self._ema_score,
                "mean_response_len": report.mean_response_len,
                "truncation_rate": report.truncation_rate,
                "tokens": {
                    "total_generated": state.num_generated_tokens,
                    "total_gate": state.num_gate_tokens,
                    "total_teacher": self._costs.teacher_tokens,
                    "evaluation": report.num_generated_tokens,
                },
                "calls": self._costs.calls(),
                "seconds": {"total_training": state.seconds},
                "per_set": report.per_set,
                "per_prompt": report.per_prompt,
            }
        )
        self._log_scalars(
            report.step,
            "eval",
            {
                "score": report.score,
                "standard_error": report.standard_error,
                "ema_score": self._ema_score,
                "mean_response_len": report.mean_response_len,
                "truncation_rate": report.truncation_rate,
                **{f"score/{name}": score for name, score in report.per_set.items() if len(report.per_set) > 1},
            },
        )
        self._console.say(eval_line(report, self._ema_score))

    def log_rollouts(self, step: int, rollouts: Sequence[Rollout]) -> None:
        """Write `rollouts/step_NNNNNN.parquet`, one row per response."""
        directory = self._run_dir / ROLLOUTS_NAME
        directory.mkdir(exist_ok=True)
        path = directory / f"step_{step:06d}.parquet"
        temporary = path.with_name(f".{path.stem}.tmp.parquet")
        pq.write_table(
            pa.Table.from_pylist([_rollout_row(rollout) for rollout in rollouts], _ROLLOUT_SCHEMA), temporary
        )
        sync_file(temporary)
        temporary.replace(path)
        sync_directory(directory)

    def close(self) -> None:
        """Show the time table and close every file and sink. Call it also when the run fails."""
        for records in (self._metrics, self._evals, self._triggers, *self._sinks):
            records.close()
        self._console.finish(
            self.ledger.totals(),
            trigger_totals(self._trigger_rows),
            self.training_seconds(),
            self.ledger.bubble_share,
        )

    def _eta_seconds(self, step: int) -> float:
        """Return the seconds left, from the mean over the steps of this process."""
        per_step = (self.ledger.total_seconds - self._start_seconds) / (step - self._start_step)
        return per_step * (self._config.num_steps - step)

    def _log_scalars(self, step: int, group: str, scalars: Mapping[str, float]) -> None:
        for sink in self._sinks:
            sink.log(step, {f"{group}/{name}": value for name, value in scalars.items()})


_ROLLOUT_SCHEMA = pa.schema(
    {
        "prompt_id": pa.string(),
        "sample_index": pa.int64(),
        "text": pa.string(),
        "response_len": pa.int64(),
        "finish_reason": pa.string(),
        "policy_version": pa.string(),
        "seed": pa.int64(),
        "prompt_token_ids": pa.list_(pa.int64()),
        "response_token_ids": pa.list_(pa.int64()),
        "rollout_logprobs": pa.list_(pa.float32()),
    }
)


def _rollout_row(rollout: Rollout) -> dict[str, object]:
    return {
        "prompt_id": rollout.prompt_id,
        "sample_index": rollout.sample_index,
        "text": rollout.text,
        "response_len": rollout.response_len,
        "finish_reason": rollout.finish_reason.value,
        "policy_version": str(rollout.policy_version),
        "seed": rollout.seed,
        "prompt_token_ids": list(rollout.prompt_token_ids),
        "response_token_ids": rollout.response_token_ids.tolist(),
        "rollout_logprobs": rollout.rollout_logprobs.tolist(),
    }
