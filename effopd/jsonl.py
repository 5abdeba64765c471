"""Files of one JSON object a line, whose rows are complete or absent.

A row is written in one piece and flushed to the disk before `append` returns. What a crash cut off has no newline at its
end; readers ignore it and the next writer removes it.
"""

import dataclasses
import json
import math
import os
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path

from effopd.durable import replace_file
from effopd.errors import DataError


def to_plain(value: object) -> object:
    """Return `value` as JSON types: records become objects, enums their values. NaN and infinities, which JSON does not
    have, become null."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {entry.name: to_plain(getattr(value, entry.name)) for entry in dataclasses.fields(value)}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(key): to_plain(entry) for key, entry in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [to_plain(entry) for entry in value]
    return value


class JsonLines:
    """An append-only file of rows."""

    def __init__(self, path: Path) -> None:
        """Open `path`, creating it when missing and removing an unfinished last row."""
        if path.exists():
            size = _complete_bytes(path)
            if size < path.stat().st_size:
                os.truncate(path, size)
        self._file = path.open("ab")

    def append(self, row: object) -> None:
        """Add one row, a record or a mapping, and flush it to the disk."""
        self._file.write((json.dumps(to_plain(row), allow_nan=False) + "\n").encode())
        self._file.flush()
        os.fsync(self._file.fileno())

    def close(self) -> None:
        self._file.close()


def read_rows(path: Path) -> list[dict]:
    """Return the rows of a file, an unfinished last one left out. Raises DataError naming the file and line of a bad row."""
    if not path.exists():
        raise DataError(f"{path}: no such file")
    rows = []
    for number, line in enumerate(path.read_bytes()[: _complete_bytes(path)].splitlines(), start=1):
        try:
            row = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}, line {number}: not valid JSON ({error})") from error
        if not isinstance(row, dict):
            raise DataError(f"{path}, line {number}: must be a JSON object")
        rows.append(row)
    return rows


def keep_rows_through(path: Path, step: int) -> None:
    """Rewrite a file, if it exists, to its complete rows whose `step` is at most `step`, in one atomic replacement."""
    if not path.exists():
        return
    lines, rows = path.read_bytes()[: _complete_bytes(path)].splitlines(keepends=True), read_rows(path)
    for number, row in enumerate(rows, start=1):
        if not isinstance(row.get("step"), int):
            raise DataError(f"{path}, line {number}: has no step; restore the file, or remove the line")
    kept = [line for line, row in zip(lines, rows, strict=True) if row["step"] <= step]
    replace_file(path, b"".join(kept))


def _complete_bytes(path: Path) -> int:
    """Return the length of a file up to the end of its last complete row."""
    return path.read_bytes().rfind(b"\n") + 1
