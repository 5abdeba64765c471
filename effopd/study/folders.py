"""What the folder of a cell says of it: that it is finished, how far it came, or that it has to be run again.

A finished run has `finished.json`, written after everything else. Its checkpoints go: records and settings stay.
"""

import json
import shutil
from dataclasses import asdict, dataclass
from enum import StrEnum
from operator import attrgetter
from pathlib import Path

from effopd.checkpoints.manifest import checkpoint_root
from effopd.checkpoints.reading import latest_checkpoint
from effopd.config.keys import SETTINGS, written
from effopd.config.overrides import RESUME_KEYS, RESUME_SECTIONS
from effopd.config.register import read_config
from effopd.config.schema import RunConfig
from effopd.config.study import Cell
from effopd.curves import CONFIG_NAME, read_curve
from effopd.durable import replace_file
from effopd.errors import ConfigError, DataError, EffOPDError
from effopd.run_folders import FINISHED_NAME

LOG_NAME = "log.txt"
ERROR_NAME = "error.txt"
"""Why the last try at this cell failed; gone once one succeeds."""

_FREE_KEYS = (frozenset(RESUME_KEYS) - {"eval.every"}) | {"output_dir", "name"}
"""Settings in which a run may differ from its cell: where and how it was computed, and how far it has come. Not how
often it was evaluated, for the smoothed score depends on that."""


class Progress(StrEnum):
    """How far a cell has come."""

    absent = "absent"
    unfinished = "unfinished"
    """Can be resumed, be it from the beginning."""
    finished = "finished"
    broken = "broken"
    """Whatever is there is worth nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """`finished.json`: how a run was made."""

    seconds: float
    """Wall-clock time of its last start to its end, start-up included."""
    num_workers: int
    """That shared the machine."""
    num_threads: int
    """Of each."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """What lies in the folder of a cell."""

    progress: Progress
    difference: str = ""
    """Why a sound run is not the cell's: `key=value, not value`. Empty if it is."""


def look_at(folder: Path, config: RunConfig) -> Found:
    """Return what is in a run folder for a cell of the settings `config`."""
    if not (folder / CONFIG_NAME).is_file():
        return Found(progress=Progress.broken if folder.exists() else Progress.absent)
    try:
        held = read_config(folder / CONFIG_NAME)
    except ConfigError:
        return Found(progress=Progress.broken)
    difference = settings_difference(held, config)
    if not (folder / FINISHED_NAME).is_file():
        return Found(progress=Progress.unfinished, difference=difference)
    try:
        read_finish(folder)
        last_step = read_curve(folder).points[-1].step
    except EffOPDError:
        return Found(progress=Progress.broken)
    if last_step > config.num_steps:
        difference = difference or f"num_steps={last_step}, not {config.num_steps}"
    # One that finished a smaller budget would go on, but its checkpoint is gone.
    is_finished = last_step == config.num_steps or bool(difference)
    return Found(progress=Progress.finished if is_finished else Progress.broken, difference=difference)


def settings_difference(held: RunConfig, wanted: RunConfig) -> str:
    """Return the first setting that decides on a run's result and is not as wanted, empty if there is none."""
    for key in SETTINGS:
        if key in _FREE_KEYS or key.partition(".")[0] in RESUME_SECTIONS:
            continue
        is_value, should_be = attrgetter(key)(held), attrgetter(key)(wanted)
        if is_value != should_be:
            return f"{key}={written(is_value)}, not {written(should_be)}"
    return "" if held.eval.sets == wanted.eval.sets else "other evaluation sets"


def require_same_settings(root: Path, cells: list[tuple[Cell, RunConfig]]) -> None:
    """Raise ConfigError for the first run below `root` that was made with other settings than its cell's."""
    for cell, config in cells:
        difference = look_at(root / cell.folder, config).difference
        if difference:
            raise ConfigError(
                f"{root / cell.folder}: was run with {difference}; remove this run, or give another --output"
            )


def is_trained(folder: Path, num_steps: int) -> bool:
    """Return whether the run has come to its last step, and was killed before it was marked as finished."""
    checkpoint = latest_checkpoint(folder)
    return checkpoint is not None and checkpoint.state.step >= num_steps


def mark_finished(folder: Path, finish: Finish) -> None:
    """Say that a run is done, and remove what only a resumed run would need."""
    replace_file(folder / FINISHED_NAME, (json.dumps(asdict(finish)) + "\n").encode())
    (folder / ERROR_NAME).unlink(missing_ok=True)
    shutil.rmtree(checkpoint_root(folder), ignore_errors=True)


def read_finish(folder: Path) -> Finish:
    """Return how a finished run was made. Raises DataError when the file is not what `mark_finished` wrote."""
    path = folder / FINISHED_NAME
    try:
        return Finish(**json.loads(path.read_bytes()))
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{path}: is damaged ({error})") from error


def clear(folder: Path) -> None:
    """Remove a run."""
    if folder.exists():
        shutil.rmtree(folder)
