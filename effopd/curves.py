"""What a finished or running run says about itself: its evaluation scores against everything that it spent on them."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from itertools import pairwise
from operator import attrgetter
from pathlib import Path

from effopd.config.keys import EVAL_SETS, SETTINGS
from effopd.config.register import read_config
from effopd.config.schema import RunConfig
from effopd.costs import costs_of_evaluations
from effopd.errors import ConfigError, DataError
from effopd.jsonl import read_rows, to_plain
from effopd.smoothing import exponential_average, final_weights
from effopd.tracking import EVAL_NAME, EXTRAPOLATION_NAME, METRICS_NAME

CONFIG_NAME = "config.yaml"
SEED_KEYS = frozenset({"seed", "output_dir", "resume"})
"""Settings in which the seeds of one experiment differ."""
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
    num_teacher_tokens: int | None
    """Scored by the teacher for training and gate; None where it is not known."""
    num_verifier_calls: int | None
    """Responses judged for training, gate and evaluation, this one included; None where it is not known."""
    score: float
    ema_score: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Axis:
    """One thing that a run spends."""

    key: str
    """In `comparison.json`: `<key>_to_target`."""
    label: str
    """On figures."""
    position: Callable[[EvalPoint], float | None]


AXES = (
    Axis(key="steps", label="optimizer steps", position=attrgetter("step")),
    Axis(key="tokens", label="generated tokens (training and gate)", position=attrgetter("num_tokens")),
    Axis(key="seconds", label="training seconds", position=attrgetter("seconds")),
    Axis(
        key="teacher_tokens",
        label="tokens scored by the teacher (training and gate)",
        position=attrgetter("num_teacher_tokens"),
    ),
    Axis(
        key="verifier_calls",
        label="verifier calls (training, gate and evaluation)",
        position=attrgetter("num_verifier_calls"),
    ),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunCurve:
    """One run, as `compare` sees it."""

    name: str
    points: tuple[EvalPoint, ...]
    """In order of step; at least one."""
    final_ci: tuple[float, float]
    """95% confidence interval of the last smoothed score."""
    final_per_prompt: Mapping[str, float] = field(default_factory=dict)
    """prompt_id to its own last smoothed outcome; empty where outcomes are missing or the prompts changed."""
    settings: Mapping[str, object] | None = None
    """Dotted key to plain value, without `SEED_KEYS`; None for a folder without settings."""
    seed: int | None = None
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
    config = read_config(run / CONFIG_NAME) if (run / CONFIG_NAME).is_file() else None
    ema = DEFAULT_EMA if config is None else config.eval.ema
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
        per_prompt = _final_per_prompt(evals, ema)
        spent = costs_of_evaluations(evals, triggers, config)
        points = tuple(
            EvalPoint(
                step=row["step"],
                num_tokens=row["tokens"]["total_generated"],
                seconds=row["seconds"]["total_training"],
                num_teacher_tokens=None if costs is None else costs.teacher_tokens,
                num_verifier_calls=None if costs is None else costs.verifier_calls,
                score=row["score"],
                ema_score=average,
            )
            for row, average, costs in zip(evals, averages, spent, strict=True)
        )
        return RunCurve(
            name=run.resolve().name if config is None else config.name,
            points=points,
            final_ci=_final_ci(evals, averages[-1], ema, per_prompt),
            final_per_prompt=per_prompt,
            settings=None if config is None else _settings(config),
            seed=None if config is None else config.seed,
            ema=ema,
            jump_steps=tuple(row["step"] for row in triggers if row["accepted_step_size"] != 0),
            num_steps=metrics[-1]["step"] if metrics else 0,
            seconds=metrics[-1]["seconds"]["total_training"] if metrics else 0.0,
        )
    except (KeyError, TypeError) as error:
        raise ConfigError(f"run {run}: a record lacks a field that every run writes ({error})") from error


def _settings(config: RunConfig) -> dict[str, object]:
    settings = {key: to_plain(attrgetter(key)(config)) for key in SETTINGS if key not in SEED_KEYS}
    return settings | {f"{EVAL_SETS}.{name}": to_plain(one) for name, one in config.eval.sets.items()}


def _final_per_prompt(evals: list[dict], ema: int) -> dict[str, float]:
    """Return every prompt's last smoothed outcome; empty unless all evaluations have outcomes of the same prompts."""
    weights = final_weights(len(evals), ema)
    outcomes = [row.get("per_prompt") or {} for row in evals]
    prompts = outcomes[-1].keys()
    if not all(entry.keys() == prompts for entry in outcomes):
        return {}
    return {
        prompt: sum(weight * entry[prompt] for weight, entry in zip(weights, outcomes, strict=True))
        for prompt in prompts
    }


def _final_ci(evals: list[dict], final_score: float, ema: int, per_prompt: Mapping[str, float]) -> tuple[float, float]:
    """Return the 95% confidence interval of the last smoothed score, within [0, 1].

    Successive evaluations share their prompts, so their errors are not independent. Smoothing every prompt's own outcomes
    first and taking the standard error over prompts accounts for that. Where the outcomes are missing or the prompts
    changed, the errors are taken as fully dependent, which can only widen the interval.
    """
    if len(per_prompt) > 1:
        mean = sum(per_prompt.values()) / len(per_prompt)
        variance = sum((value - mean) ** 2 for value in per_prompt.values()) / (len(per_prompt) - 1)
        error = math.sqrt(variance / len(per_prompt))
    else:
        weights = final_weights(len(evals), ema)
        error = sum(weight * row["standard_error"] for weight, row in zip(weights, evals, strict=True))
    half = _NORMAL_QUANTILE * error
    return max(0.0, final_score - half), min(1.0, final_score + half)
