"""Safetensors files written one tensor at a time.

The library's own `save_file` wants every tensor in memory at once. The format does not: its header depends on names,
types and shapes alone, so it is written first and the tensors follow it, hashed as they pass.
"""

import hashlib
import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from effopd.checkpoints.manifest import FileRecord

Layout = Mapping[str, tuple[torch.dtype, tuple[int, ...]]]
"""Tensor name to dtype and shape, in file order."""

DTYPE_NAMES: Mapping[torch.dtype, str] = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}

_HEADER_ALIGNMENT = 8
_WRITE_BYTES = 64 * 2**20


def num_tensor_bytes(dtype: torch.dtype, shape: tuple[int, ...]) -> int:
    """Return the bytes that a tensor takes in a file."""
    return math.prod(shape) * dtype.itemsize


def encode_header(layout: Layout, metadata: Mapping[str, str]) -> bytes:
    """Return the length prefix and the JSON header, padded with spaces so that the tensors begin at a multiple of 8."""
    entries: dict[str, object] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name, (dtype, shape) in layout.items():
        # The format allows no holes, so a tensor after one of a narrower type could begin off its own alignment.
        assert offset % dtype.itemsize == 0, f"{name} would be misaligned: order the layout from wide types to narrow"
        end = offset + num_tensor_bytes(dtype, shape)
        entries[name] = {"dtype": DTYPE_NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _HEADER_ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


class StreamWriter:
    """Writes one safetensors file in the order of its layout.

    Use it as a context manager and call `close` inside: a block left by an exception leaves an unfinished file, which no
    manifest names.
    """

    def __init__(self, path: Path, layout: Layout, metadata: Mapping[str, str]) -> None:
        """Create `path`, which must not exist, and write the header."""
        self._path = path
        self._layout = layout
        self._names = iter(layout)
        self._hash = hashlib.blake2b()
        self._num_bytes = 0
        self._file = path.open("xb")
        self._append(memoryview(encode_header(layout, metadata)))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()

    def _append(self, data: memoryview) -> None:
        self._hash.update(data)
        self._file.write(data)
        self._num_bytes += data.nbytes

    def write(self, name: str, tensor: Tensor) -> None:
        """Append the next tensor of the layout."""
        expected = next(self._names, None)
        assert name == expected, f"{self._path.name}: the layout has {expected} next, got {name}"
        dtype, shape = self._layout[name]
        assert tensor.dtype == dtype and tuple(tensor.shape) == shape, (
            f"{self._path.name}: {name} is {tensor.dtype} {tuple(tensor.shape)}, the layout says {dtype} {shape}"
        )
        if tensor.numel() == 0:
            return
        # Flattened first because a scalar cannot be viewed as bytes.
        data = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
        for start in range(0, data.nbytes, _WRITE_BYTES):
            self._append(data[start : start + _WRITE_BYTES])

    def close(self) -> FileRecord:
        """Flush the file to the disk and return its record. Every tensor of the layout must have been written."""
        missing = next(self._names, None)
        assert missing is None, f"{self._path.name}: closed before {missing} was written"
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()
        return FileRecord(name=self._path.name, num_bytes=self._num_bytes, blake2b=self._hash.hexdigest())
