"""What a finished or running run says about itself: its evaluation scores against steps, tokens and seconds."""

import math
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from effopd.config.register import read_config
from effopd.errors import ConfigError, DataError
from effopd.jsonl import read_rows
from effopd.smoothing import exponential_average, final_weights
from effopd.tracking import EVAL_NAME, EXTRAPOLATION_NAME, METRICS_NAME

CONFIG_NAME = "config.yaml"
DEFAULT_EMA = 3
"""Evaluations in the moving average of a run whose folder has no settings."""
_NORMAL_QUANTILE = 1.96
"""Half-width of a 95% confidence interval in standard errors."""
_ROUNDING = 1e-9
"""A score this close below the target has reached it: averages of decimal fractions are not exact."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalPoint:
    """One evaluation and what the run had spent by then."""

    step: int
    num_tokens: int
    """Generated for training and gate."""
    seconds: float
    """Of training: start-up, evaluation and saving left out."""
    score: float
    ema_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCurve:
    """One run, as `compare` sees it."""

    name: str
    points: tuple[EvalPoint, ...]
    """In order of step; at least one."""
    final_ci: tuple[float, float]
    """95% confidence interval of the last smoothed score."""
    ema: int
    """Evaluations in the moving average."""
    jump_steps: tuple[int, ...]
    """Steps at which a jump was accepted."""
    num_steps: int
    """Optimizer steps done."""
    seconds: float
    """Training seconds of all of them."""

    @property
    def final_score(self) -> float:
        return self.points[-1].ema_score

    @property
    def eval_every(self) -> int | None:
        """The most frequent distance between evaluations in steps; None with fewer than two evaluations."""
        distances = [after.step - before.step for before, after in pairwise(self.points)]
        return max(distances, key=distances.count, default=None)

    def first_at(self, target: float) -> EvalPoint | None:
        """Return the first evaluation whose smoothed score is at least `target`; None when there is none."""
        return next((point for point in self.points if point.ema_score >= target - _ROUNDING), None)


def read_curve(run: Path) -> RunCurve:
    """Return the curve of a run folder. Raises ConfigError naming the folder and what is wrong with it."""
    if not run.is_dir():
        raise ConfigError(f"run {run}: no such folder; give the output folder of `effopd train`")
    name, ema = _name_and_ema(run)
    try:
        evals = read_rows(run / EVAL_NAME)
        metrics = read_rows(run / METRICS_NAME)
        triggers = read_rows(run / EXTRAPOLATION_NAME) if (run / EXTRAPOLATION_NAME).exists() else []
    except DataError as error:
        raise ConfigError(f"run {run}: not a readable run folder: {error}") from error
    if not evals:
        raise ConfigError(f"run {run}: {EVAL_NAME} has no evaluation yet; set eval.path and train at least one step")
    try:
        averages = exponential_average([row["score"] for row in evals], ema)
        points = tuple(
            EvalPoint(
                step=row["step"],
                num_tokens=row["tokens"]["total_generated"],
                seconds=row["seconds"]["total_training"],
                score=row["score"],
                ema_score=average,
            )
            for row, average in zip(evals, averages, strict=True)
        )
        return RunCurve(
            name=name,
            points=points,
            final_ci=_final_ci(evals, averages[-1], ema),
            ema=ema,
            jump_steps=tuple(row["step"] for row in triggers if row["accepted_step_size"] > 0),
            num_steps=metrics[-1]["step"] if metrics else 0,
            seconds=metrics[-1]["seconds"]["total_training"] if metrics else 0.0,
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"run {run}: a record lacks a field that every run writes ({error})") from error


def _name_and_ema(run: Path) -> tuple[str, int]:
    """Return the run's own name and smoothing; a folder without settings has its folder's name and the default."""
    path = run / CONFIG_NAME
    if not path.is_file():
        return run.resolve().name, DEFAULT_EMA
    config = read_config(path)
    return config.name, config.eval.ema


def _final_ci(evals: list[dict], final_score: float, ema: int) -> tuple[float, float]:
    """Return the 95% confidence interval of the last smoothed score, within [0, 1].

    Successive evaluations share their prompts, so their errors are not independent. Smoothing every prompt's own outcomes
    first and taking the standard error over prompts accounts for that. Where the outcomes are missing or the prompts
    changed, the errors are taken as fully dependent, which can only widen the interval.
    """
    weights = final_weights(len(evals), ema)
    outcomes = [row.get("per_prompt") or {} for row in evals]
    prompts = outcomes[-1].keys()
    if len(prompts) > 1 and all(entry.keys() == prompts for entry in outcomes):
        smoothed = [
            sum(weight * entry[prompt] for weight, entry in zip(weights, outcomes, strict=True)) for prompt in prompts
        ]
        mean = sum(smoothed) / len(smoothed)
        variance = sum((value - mean) ** 2 for value in smoothed) / (len(smoothed) - 1)
        error = math.sqrt(variance / len(smoothed))
    else:
        error = sum(weight * row["standard_error"] for weight, row in zip(weights, evals, strict=True))
    half = _NORMAL_QUANTILE * error
    return max(0.0, final_score - half), min(1.0, final_score + half)
