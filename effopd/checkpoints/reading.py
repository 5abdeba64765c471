"""Checkpoints on the disk, as they are loaded. Nothing here writes, so a run in progress may be read."""

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open

from effopd.checkpoints.manifest import (
    BEST_NAME,
    STATE_NAME,
    checkpoint_root,
    list_checkpoints,
    read_json,
    verify_checkpoint,
)
from effopd.checkpoints.snapshot import snapshot_path
from effopd.errors import CheckpointError
from effopd.types import RunState, ShardKind

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
