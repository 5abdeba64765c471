"""Which checkpoints a run has, and whether their files are what was written. Standard library only: the command line asks
before torch loads.

A checkpoint is a folder `checkpoints/step_<NNNNNN>` with the learner's files, `run_state.json` and a
`manifest.json` that names every other file with its size and hash.
"""

import hashlib
import json
import re
from dataclasses import dataclass
from pathlib import Path

from effopd.errors import CheckpointError, ConfigError

MANIFEST_NAME = "manifest.json"
STATE_NAME = "run_state.json"
BEST_NAME = "best.json"
FORMAT = 2
"""Raised when a reader of the old files would misread the new ones."""

_STEP_NAME = re.compile(r"(?P<replaced>\.old-)?step_(?P<step>\d{6,})")
_READ_BYTES = 16 * 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class FileRecord:
    """What a file must be: one row of a checkpoint's manifest."""

    name: str
    """Relative to the checkpoint's folder, with forward slashes."""
    num_bytes: int
    blake2b: str
    """Hexadecimal digest of the whole file."""


def checkpoint_root(run_dir: Path) -> Path:
    """Return the folder that holds a run's checkpoints."""
    return run_dir / "checkpoints"


def step_directory_name(step: int) -> str:
    """Return the name of the folder of the checkpoint at `step`."""
    return f"step_{step:06d}"


def list_checkpoints(run_dir: Path) -> dict[int, Path]:
    """Return the folder of every checkpoint by step, in ascending order, unverified.

    A folder that a crash left set aside while its successor was being put in place counts as that step's checkpoint.
    """
    root = checkpoint_root(run_dir)
    found: dict[int, Path] = {}
    for path in sorted(root.iterdir()) if root.is_dir() else []:  # ".old-step_…" sorts before "step_…", which wins
        match = _STEP_NAME.fullmatch(path.name)
        if match and path.is_dir():
            found[int(match["step"])] = path
    return dict(sorted(found.items()))


def hash_file(path: Path) -> str:
    """Return the hexadecimal blake2b digest of a file."""
    digest = hashlib.blake2b()
    with path.open("rb") as file:
        while data := file.read(_READ_BYTES):
            digest.update(data)
    return digest.hexdigest()


def read_json(path: Path) -> dict[str, object]:
    """Return the JSON object in a file. Raises CheckpointError naming the file when it is missing or not one."""
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise CheckpointError(f"{path}: no such file") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not valid JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: must hold a JSON object")
    return content


def read_manifest(directory: Path) -> tuple[FileRecord, ...]:
    """Return what `manifest.json` says of the files. Raises CheckpointError when it cannot be trusted."""
    path = directory / MANIFEST_NAME
    content = read_json(path)
    if content.get("format") != FORMAT:
        raise CheckpointError(f"{path}: format {content.get('format')}, this version of effopd reads {FORMAT}")
    try:
        records = tuple(FileRecord(**entry) for entry in content["files"])  # pyright: ignore[reportGeneralTypeIssues]
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: damaged ({error})") from error
    if STATE_NAME not in {record.name for record in records}:
        raise CheckpointError(f"{path}: does not name {STATE_NAME}")
    return records


def verify_checkpoint(directory: Path) -> None:
    """Read every file of a checkpoint. Raises CheckpointError naming the first that is missing or not as written."""
    for record in read_manifest(directory):
        path = directory / record.name
        if not path.is_file():
            raise CheckpointError(f"{path}: no such file, though {MANIFEST_NAME} names it")
        if path.stat().st_size != record.num_bytes:
            raise CheckpointError(f"{path}: {path.stat().st_size} bytes, {MANIFEST_NAME} says {record.num_bytes}")
        if hash_file(path) != record.blake2b:
            raise CheckpointError(f"{path}: checksum differs from {MANIFEST_NAME}")


def require_checkpoint(run_dir: Path, checkpoint: str) -> None:
    """Raise ConfigError unless the run has the checkpoint that `last`, `best` or a step names. No file of it is read."""
    available = list_checkpoints(run_dir)
    steps = ", ".join(str(known) for known in available)
    if not available:
        raise ConfigError(f"{run_dir}: the run has no checkpoint; train it as far as its first, or choose another run")
    if checkpoint == "best" and not (checkpoint_root(run_dir) / BEST_NAME).exists():
        raise ConfigError(
            f"checkpoint=best: no checkpoint of {run_dir} has an evaluation score; choose last, or one of the steps {steps}"
        )
    if checkpoint.isdecimal() and int(checkpoint) not in available:
        raise ConfigError(f"checkpoint={checkpoint}: {run_dir} has none at that step; choose last, or one of {steps}")


def last_intact_step(run_dir: Path) -> int | None:
    """Return the step of the newest checkpoint whose files are as they were written, None when there is none. Reads them."""
    for step, directory in reversed(list_checkpoints(run_dir).items()):
        try:
            verify_checkpoint(directory)
        except CheckpointError:
            continue
        return step
    return None
