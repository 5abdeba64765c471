"""Reading this rank's fragments out of checkpoint files that hold whole tensors."""

import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from effopd.checkpoints.snapshot import snapshot_path
from effopd.errors import CheckpointError
from effopd.types import Fragment, ShardKind


def read_fragments(directory: Path, kind: ShardKind, fragments: Sequence[Fragment]) -> Iterator[tuple[str, Tensor]]:
    """Yield name and elements of every fragment, 1-D float32, one at a time and reading little more than it from disk.

    Raises:
        CheckpointError: when the file cannot be read, lacks a tensor or has one of another shape or dtype.

    """
    path = snapshot_path(directory, kind)
    try:
        # safe_open is a context manager without type information.
        with safe_open(path, framework="pt") as file:  # pyright: ignore
            stored = set(file.keys())
            for fragment in fragments:
                if fragment.name not in stored:
                    raise CheckpointError(f"{path}: no tensor {fragment.name}")
            for fragment in fragments:
                yield fragment.name, _read_fragment(path, file.get_slice(fragment.name), fragment)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: cannot be read ({type(error).__name__}: {error})") from error


def _read_fragment(path: Path, stored: Any, fragment: Fragment) -> Tensor:
    shape = tuple(stored.get_shape())
    if shape != fragment.shape or stored.get_dtype() != "F32":
        raise CheckpointError(
            f"{path}: tensor {fragment.name} is {stored.get_dtype()} of shape {list(shape)}; "
            f"the model needs F32 of shape {list(fragment.shape)}"
        )
    end = fragment.start + fragment.num_elements
    if not shape:
        return stored[:].reshape(-1)
    # A fragment begins and ends anywhere; a file is sliced by rows of the first axis.
    row_size = max(1, math.prod(shape[1:]))
    first_row = fragment.start // row_size
    rows = stored[first_row : -(-end // row_size)].reshape(-1)
    return rows[fragment.start - first_row * row_size : end - first_row * row_size]
