"""Rows of a data set, wherever it lies: files, a hub data set, or a toy task."""

from collections.abc import Iterator
from pathlib import Path

import datasets
from huggingface_hub import snapshot_download

from effopd.config.check_data import is_local
from effopd.config.source_schema import SourceConfig
from effopd.data.files import BadRow, Row, file_rows, find_files
from effopd.errors import DataError
from effopd.toy.tasks import problems

DEFAULT_TOY_ROWS = 20_000
TOY_SEED = 0
"""Toy problems are a data set like any other: the run's seed orders them but does not change them."""


def read_rows(source: SourceConfig) -> Iterator[Row | BadRow]:
    """Yield the first `num_rows` rows (null: all) of a data set.

    A row that cannot be read is yielded as such. Raises DataError naming file and reason when nothing can be read.
    """
    if source.path.startswith("toy:"):
        rows = _toy_rows(source.path.removeprefix("toy:"), source.split, source.num_rows or DEFAULT_TOY_ROWS)
    elif is_local(source.path):
        rows = (row for file in find_files(source.path) for row in file_rows(file))
    elif source.hub_files is not None:
        rows = (row for file in _hub_files(source.path, source.hub_files) for row in file_rows(file))
    else:
        rows = _hub_rows(source.path, source.subset, source.split)
    for index, row in enumerate(rows):
        if source.num_rows is not None and index >= source.num_rows:
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


def _hub_files(name: str, pattern: str) -> list[Path]:
    try:
        folder = snapshot_download(name, repo_type="dataset", allow_patterns=[pattern])
    except Exception as error:  # the hub client raises many types, network errors among them; all mean "cannot be had"
        raise DataError(_not_delivered(f"{name} {pattern}", error)) from error
    return find_files(str(Path(folder, pattern)))


def _hub_rows(name: str, subset: str | None, split: str) -> Iterator[Row]:
    try:
        table = datasets.load_dataset(name, subset, split=split)
    except Exception as error:  # likewise
        raise DataError(_not_delivered(name, error)) from error
    for number, values in enumerate(table):
        yield Row(dict(values), f"{name} {split} row {number}")


def _not_delivered(name: str, error: Exception) -> str:
    return (
        f"data set {name}: neither a file here nor a data set that the hub could deliver "
        f"({type(error).__name__}: {error}); give a .jsonl or .parquet file"
    )
