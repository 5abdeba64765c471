"""Rows of a data set, wherever it lies: a JSONL or parquet file, a hub data set, or a toy task."""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow
import pyarrow.parquet

from effopd.errors import DataError
from effopd.toy.tasks import problems

DEFAULT_TOY_ROWS = 20_000
TOY_SEED = 0
"""Toy problems are a data set like any other: the run's seed orders them but does not change them."""


@dataclass(frozen=True, slots=True)
class Row:
    """One row and where it stands, for error messages."""

    values: dict[str, object]
    location: str


def read_rows(path: str, split: str, num_rows: int | None, subset: str | None = None) -> Iterator[Row]:
    """Yield the first `num_rows` rows (None: all) of the data set that `path` names.

    Raises DataError naming file, line and reason. `split` matters to hub data sets and toy tasks only.
    """
    if path.startswith("toy:"):
        rows = _toy_rows(path.removeprefix("toy:"), split, num_rows or DEFAULT_TOY_ROWS)
    elif path.endswith(".jsonl"):
        rows = _jsonl_rows(Path(path).expanduser())
    elif path.endswith(".parquet"):
        rows = _parquet_rows(Path(path).expanduser())
    elif Path(path).expanduser().exists():
        raise DataError(f"{path}: neither .jsonl nor .parquet; convert it, or give the name of a hub data set")
    else:
        rows = _hub_rows(path, subset, split)
    for index, row in enumerate(rows):
        if num_rows is not None and index >= num_rows:
            return
        yield row


def _toy_rows(task: str, split: str, num_rows: int) -> Iterator[Row]:
    toy_split = "train" if split == "train" else "eval"
    try:
        made = problems(task, toy_split, num_rows, TOY_SEED)
    except ValueError as error:
        raise DataError(f"toy:{task}: {error}") from error
    for index, problem in enumerate(made):
        yield Row({"prompt": problem.prompt, "answer": problem.answer}, f"toy:{task} {toy_split} row {index}")


def _jsonl_rows(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    with path.open(encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                values = json.loads(line)
            except json.JSONDecodeError as error:
                raise DataError(f"{path}, line {number}: not JSON ({error}); mend or remove the line") from error
            if not isinstance(values, dict):
                raise DataError(f"{path}, line {number}: a JSON object is needed, not {type(values).__name__}")
            yield Row(values, f"{path}, line {number}")


def _parquet_rows(path: Path) -> Iterator[Row]:
    if not path.is_file():
        raise DataError(f"{path}: no such file")
    try:
        file = pyarrow.parquet.ParquetFile(path)
    except pyarrow.ArrowInvalid as error:
        raise DataError(f"{path}: not a parquet file ({error})") from error
    number = 0
    for batch in file.iter_batches(batch_size=1024):
        for values in batch.to_pylist():
            yield Row(values, f"{path}, row {number}")
            number += 1


def _hub_rows(name: str, subset: str | None, split: str) -> Iterator[Row]:
    try:
        table = datasets.load_dataset(name, subset, split=split)
    except Exception as error:  # the hub client raises many types, network errors among them; all mean "cannot be had"
        raise DataError(
            f"data set {name}: neither a file here nor a data set that the hub could deliver "
            f"({type(error).__name__}: {error}); give a .jsonl or .parquet file"
        ) from error
    for number, values in enumerate(table):
        yield Row(dict(values), f"{name} {split} row {number}")
