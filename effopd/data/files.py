"""Rows of files on this machine: .jsonl, .jsonl.gz, .json and .parquet, single, by the folder or by a glob."""

import gzip
import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from glob import glob
from pathlib import Path

import pyarrow
import pyarrow.parquet

from effopd.config.check_data import FILE_SUFFIXES, is_glob
from effopd.errors import DataError


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands, for error messages."""

    values: dict[str, object]
    location: str


@dataclass(frozen=True, slots=True)
class BadRow:
    """A row that could not be read at all, and why."""

    location: str
    reason: str


def find_files(path: str) -> list[Path]:
    """Return the files that a path, folder or glob stands for, sorted by name.

    Raises DataError when there are none, or when a folder or glob holds files of several kinds, for then some of them are
    hardly data.
    """
    place = Path(path).expanduser()
    if place.is_file():
        found = [place]
    elif place.is_dir():
        found = sorted(file for file in place.iterdir() if file.is_file() and not file.name.startswith("."))
        found = [file for file in found if suffix(file)]
    elif is_glob(path):
        found = sorted(Path(file) for file in glob(str(place)) if Path(file).is_file())
    else:
        raise DataError(f"{path}: no such file")
    if not found:
        raise DataError(f"{path}: no {', '.join(FILE_SUFFIXES)} file is there")
    unknown = [file for file in found if not suffix(file)]
    if unknown:
        raise DataError(
            f"{unknown[0]}: none of {', '.join(FILE_SUFFIXES)}; convert it, or give the name of a hub data set"
        )
    kinds = sorted({suffix(file) for file in found})
    if len(kinds) > 1:
        raise DataError(
            f"{path}: holds files of several kinds ({', '.join(kinds)}); give a glob such as '{path}/*{kinds[0]}'"
        )
    return found


def suffix(file: Path) -> str:
    """Return which of the known suffixes a file has, or an empty string."""
    return next((known for known in FILE_SUFFIXES if file.name.endswith(known)), "")


def file_rows(file: Path) -> Iterator[Row | BadRow]:
    """Yield the rows of one file. Raises DataError when the file as a whole cannot be read."""
    match suffix(file):
        case ".jsonl" | ".jsonl.gz":
            return _jsonl_rows(file)
        case ".json":
            return _json_rows(file)
        case _:
            return _parquet_rows(file)


def _jsonl_rows(file: Path) -> Iterator[Row | BadRow]:
    try:
        with gzip.open(file, "rb") if file.suffix == ".gz" else file.open("rb") as lines:
            for number, line in enumerate(lines, start=1):
                if line.strip():
                    yield _json_row(line, f"{file}, line {number}")
    except (OSError, EOFError, zlib.error) as error:  # a damaged gzip stream is any of them
        raise DataError(f"{file}: cannot be read ({error}); copy it again") from error


def _json_row(line: bytes, location: str) -> Row | BadRow:
    try:
        return _row(json.loads(line.decode("utf-8")), location)
    except json.JSONDecodeError as error:
        return BadRow(location, f"not JSON ({error}); mend or remove the line")
    except UnicodeDecodeError as error:
        return BadRow(location, f"not UTF-8 ({error.reason} at byte {error.start}); mend or remove the line")
    except RecursionError:
        return BadRow(location, "nested too deeply; mend or remove the line")


def _row(values: object, location: str) -> Row | BadRow:
    if isinstance(values, dict):
        return Row(values, location)
    return BadRow(location, f"a JSON object is needed, not {type(values).__name__}")


def _json_rows(file: Path) -> Iterator[Row | BadRow]:
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        hint = "; with one object a line, name it .jsonl" if "Extra data" in str(error) else ""
        raise DataError(f"{file}: not JSON ({error}){hint}") from error
    except RecursionError as error:
        raise DataError(f"{file}: nested too deeply; a JSON list of objects is needed") from error
    if not isinstance(rows, list):
        raise DataError(f"{file}: a JSON list of objects is needed, not {type(rows).__name__}")
    for number, values in enumerate(rows):
        yield _row(values, f"{file}, row {number}")


def _parquet_rows(file: Path) -> Iterator[Row | BadRow]:
    number = 0
    try:
        for batch in pyarrow.parquet.ParquetFile(file).iter_batches(batch_size=1024):
            for values in batch.to_pylist():
                yield Row(values, f"{file}, row {number}")
                number += 1
    except (pyarrow.ArrowException, OSError) as error:
        # Arrow's own texts take several lines and may quote the bytes that it stumbled over.
        reason = " ".join(str(error).split())
        raise DataError(f"{file}: not a sound parquet file ({reason}); copy it again") from error
