"""Checkpoints on the disk: which there are, and whether they are what was written.

A checkpoint is a folder `checkpoints/step_<NNNNNN>` with the learner's files, `run_state.json` and a
`manifest.json` that names every other file with its size and hash. Nothing here writes, so a run in progress may be read.
"""

import hashlib
import json
import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from effopd.checkpoints.snapshot import snapshot_path
from effopd.checkpoints.streaming import FileRecord
from effopd.errors import CheckpointError
from effopd.types import RunState, ShardKind

MANIFEST_NAME = "manifest.json"
STATE_NAME = "run_state.json"
BEST_NAME = "best.json"
FORMAT = 2
"""Raised when a reader of the old files would misread the new ones."""

_STEP_NAME = re.compile(r"(?P<replaced>\.old-)?step_(?P<step>\d{6,})")
_READ_BYTES = 16 * 2**20
_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """A complete checkpoint whose checksums held when it was read."""

    directory: Path
    state: RunState
    extra: Mapping[str, object]
    """What the run saved beside its state, as JSON."""
    score: float | None = None
    """The evaluation score the checkpoint was saved with; None when that step had none."""
    skipped: Mapping[str, str] = field(default_factory=dict)
    """Newer checkpoints that were passed over because they are damaged: folder name to reason."""


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


def read_checkpoint(directory: Path) -> Checkpoint:
    """Return the checkpoint in `directory` after verifying it. Raises CheckpointError."""
    verify_checkpoint(directory)
    return read_state(directory)


def read_state(directory: Path) -> Checkpoint:
    """Return the checkpoint in `directory` from its `run_state.json` alone: its other files are not verified."""
    path = directory / STATE_NAME
    content = read_json(path)
    try:
        state, extra, score = content["state"], content["extra"], content["score"]
    except KeyError as error:
        raise CheckpointError(f"{path}: has no {error}") from error
    expected = {entry.name for entry in fields(RunState)}
    if not isinstance(state, dict) or set(state) != expected or not isinstance(extra, dict):
        raise CheckpointError(f"{path}: the state must have exactly the fields {', '.join(sorted(expected))}")
    if not all(number is None or isinstance(number, (int, float)) for number in state.values()):
        raise CheckpointError(f"{path}: the state must be made of numbers, not {state}")
    if score is not None and not isinstance(score, (int, float)):
        raise CheckpointError(f"{path}: score={score} is not a number")
    return Checkpoint(directory=directory, state=RunState(**state), extra=extra, score=score)


def latest_checkpoint(run_dir: Path) -> Checkpoint | None:
    """Return the newest checkpoint that is intact, or None when the run has none at all.

    Damaged newer ones are logged and listed in `skipped`. Raises CheckpointError when there are only damaged ones: to
    begin again from nothing is for a person to decide.
    """
    skipped: dict[str, str] = {}
    for directory in reversed(list_checkpoints(run_dir).values()):
        try:
            found = read_checkpoint(directory)
        except CheckpointError as error:
            _logger.warning("skipping the damaged checkpoint %s: %s", directory.name, error)
            skipped[directory.name] = str(error)
            continue
        return Checkpoint(
            directory=found.directory, state=found.state, extra=found.extra, score=found.score, skipped=skipped
        )
    if skipped:
        reasons = "; ".join(skipped.values())
        raise CheckpointError(f"{checkpoint_root(run_dir)}: every checkpoint is damaged: {reasons}")
    return None


def best_checkpoint(run_dir: Path) -> Checkpoint | None:
    """Return the checkpoint with the best evaluation score, or None when none was saved with a score.

    Raises CheckpointError when it is damaged.
    """
    path = checkpoint_root(run_dir) / BEST_NAME
    if not path.exists():
        return None
    step = read_json(path).get("step")
    if not isinstance(step, int):
        raise CheckpointError(f"{path}: step={step} is not a whole number")
    return checkpoint_at(run_dir, step)


def checkpoint_at(run_dir: Path, step: int) -> Checkpoint:
    """Return the checkpoint at `step`. Raises CheckpointError when there is none or it is damaged."""
    available = list_checkpoints(run_dir)
    if step not in available:
        steps = ", ".join(str(known) for known in available) or "none"
        raise CheckpointError(f"{checkpoint_root(run_dir)}: no checkpoint at step {step}; there are: {steps}")
    return read_checkpoint(available[step])


def weights_hash(checkpoint_dir: Path) -> str:
    """Return the blake2b digest of the gathered float32 weights: names, shapes and bytes, in order of name.

    It depends on the weights alone, not on how the file lays them out, so it is what two runs must agree on. Raises
    CheckpointError when the file is missing or cannot be read.
    """
    path = snapshot_path(checkpoint_dir, ShardKind.MASTER)
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file")
    digest = hashlib.blake2b()
    try:
        with safe_open(path, framework="pt") as file:  # pyright: ignore[reportGeneralTypeIssues]
            for name in sorted(file.keys()):
                tensor = file.get_tensor(name)
                digest.update(f"{name}{list(tensor.shape)}\n".encode())
                digest.update(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)
    except SafetensorError as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    return digest.hexdigest()
