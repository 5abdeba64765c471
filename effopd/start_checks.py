"""Whether a run may start in its folder, asked before torch, Ray and vLLM load. Standard library only."""

import os
from datetime import datetime
from pathlib import Path

from effopd.checkpoints.manifest import last_intact_step, list_checkpoints
from effopd.config.schema import LRSchedule, RunConfig
from effopd.errors import ConfigError
from effopd.run_folders import FINISHED_NAME

RUN_NAMES = frozenset(
    {
        "checkpoints",
        "config.yaml",
        "data.json",
        "error.txt",
        "eval.jsonl",
        "extrapolation.jsonl",
        FINISHED_NAME,
        "hangs.txt",
        "log.txt",
        "metrics.jsonl",
        "recorded",
        "rollouts",
        "tensorboard",
        "versions.json",
        "wandb",
        "wandb_id.txt",
    }
)
"""What a run writes into its folder, and `effopd study` beside it. One that was interrupted early has left only some of it."""

_LOG_SUFFIXES = (".log", ".out")
"""Of files in which a shell or a scheduler collects what a run prints; they may be there before the run is."""


def run_folder(config: RunConfig) -> Path:
    """Return the folder of the run, deciding it once: `resume`, `output_dir`, or `runs/<name>/<time>`."""
    if config.output_dir is None:
        config.output_dir = config.resume or str(
            Path("runs", config.name, datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f"))
        )
    return Path(config.output_dir).expanduser().resolve()  # actors may have another working folder


def require_start(config: RunConfig) -> None:
    """Raise ConfigError where a training run must not write, or has nothing left to do."""
    require_folder(config)
    if config.resume is not None:
        _require_unfinished(Path(config.resume), config)
    elif config.output_dir is not None:
        _require_own(Path(config.output_dir))


def require_folder(config: RunConfig) -> None:
    """Raise ConfigError when `output_dir` is, or lies below, something that is no folder or may not be written."""
    if config.output_dir is None:
        return
    folder = Path(config.output_dir).absolute()
    there = next(path for path in (folder, *folder.parents) if path.exists())
    if not there.is_dir():
        raise ConfigError(f"output_dir={config.output_dir}: {there} is a file; give a folder, which is made if missing")
    if not os.access(there, os.W_OK | os.X_OK):
        raise ConfigError(f"output_dir={config.output_dir}: {there} may not be written; give another folder")


def finished_problem(config: RunConfig, step: int) -> str:
    """Return what to say of a run that is resumed at its last step, or after it."""
    schedule = config.learner.lr_schedule
    finished = f"resume={config.resume}: the run is finished at step {step}"
    if schedule is LRSchedule.constant:
        return f"{finished}; give num_steps above it to go on"
    return f"{finished}, where its learning rate ends (learner.lr_schedule={schedule}); start a new run"


def _require_unfinished(run: Path, config: RunConfig) -> None:
    if (run / FINISHED_NAME).is_file():
        raise ConfigError(
            f"resume={run}: the run is a finished one of a study, which has removed its checkpoints; start a new run"
        )
    if max(list_checkpoints(run), default=-1) < config.num_steps:
        return
    # Only now are files read: a checkpoint that is damaged does not count, and the run goes on from an earlier one.
    step = last_intact_step(run)
    if step is not None and step >= config.num_steps:
        raise ConfigError(finished_problem(config, step))


def _require_own(folder: Path) -> None:
    """Raise ConfigError for a folder with something in it that is not of a run."""
    if not folder.is_dir():
        return
    others = sorted(path.name for path in folder.iterdir() if not _may_stay(path))
    if others:
        raise ConfigError(
            f"output_dir={folder}: holds {others[0]}{' and more' if len(others) > 1 else ''}, which is not of a run; "
            "give a new or empty folder"
        )


def _may_stay(path: Path) -> bool:
    is_hidden = path.name.startswith(".")  # also what a run that died while writing has left
    return is_hidden or path.name in RUN_NAMES or (path.suffix in _LOG_SUFFIXES and path.is_file())
