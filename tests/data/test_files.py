"""Where rows may lie, and what is said of files that are not what they seem."""

import gzip
import json
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from effopd.config.source_schema import SourceConfig
from effopd.data.files import BadRow, Row, find_files
from effopd.data.sources import read_rows
from effopd.errors import DataError


def values(path: object, num_rows: int | None = None) -> list[object]:
    rows = list(read_rows(SourceConfig(path=str(path), num_rows=num_rows)))
    assert all(isinstance(row, Row) for row in rows), rows
    return [row.values["n"] for row in rows if isinstance(row, Row)]


def write(path: Path, numbers: list[int]) -> Path:
    rows = [{"n": number} for number in numbers]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    if path.name.endswith(".jsonl"):
        path.write_text(lines)
    elif path.name.endswith(".gz"):
        path.write_bytes(gzip.compress(lines.encode()))
    elif path.name.endswith(".json"):
        path.write_text(json.dumps(rows, indent=1))
    else:
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    return path


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz", "a.json", "a.parquet"])
def test_every_kind_of_file_is_read_in_order(tmp_path: Path, name: str) -> None:
    path = write(tmp_path / name, [3, 1, 2])
    assert values(path) == [3, 1, 2]
    assert values(path, num_rows=2) == [3, 1]


def test_a_folder_and_a_glob_are_read_by_name(tmp_path: Path) -> None:
    write(tmp_path / "part-1.parquet", [3, 4])
    write(tmp_path / "part-0.parquet", [1, 2])
    (tmp_path / "README.md").write_text("about the parts")
    assert values(tmp_path) == [1, 2, 3, 4]
    assert values(tmp_path / "*-1.parquet") == [3, 4]


def test_rows_are_located_by_file_and_line(tmp_path: Path) -> None:
    write(tmp_path / "a.jsonl", [1])
    (tmp_path / "b.jsonl").write_text('\n{"n": 2}\n')
    rows = list(read_rows(SourceConfig(path=str(tmp_path))))
    assert [row.location for row in rows] == [f"{tmp_path}/a.jsonl, line 1", f"{tmp_path}/b.jsonl, line 2"]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"not json", "not JSON"),
        (b'{"n": "\xff"}', "not UTF-8"),
        (b"[1]", "a JSON object is needed, not list"),
        (b"[" * 100_000, "nested too deeply"),
    ],
)
def test_a_line_that_is_no_row_does_not_end_the_file(tmp_path: Path, line: bytes, reason: str) -> None:
    (tmp_path / "a.jsonl").write_bytes(line + b'\n{"n": 1}\n')
    first, second = read_rows(SourceConfig(path=str(tmp_path / "a.jsonl")))
    assert isinstance(first, BadRow) and reason in first.reason
    assert first.location.endswith("line 1")
    assert isinstance(second, Row)


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("a.jsonl.gz", b"not gzip", ["a.jsonl.gz", "cannot be read"]),
        ("a.jsonl.gz", gzip.compress(b'{"n": 1}\n' * 1000, mtime=0)[:-12], ["a.jsonl.gz", "cannot be read"]),
        ("a.parquet", b"not parquet", ["a.parquet", "parquet"]),
        ("a.json", b'{"n": 1}\n{"n": 2}\n', ["a.json", "name it .jsonl"]),
        ("a.json", b'{"n": 1}', ["a.json", "a JSON list of objects is needed, not dict"]),
    ],
)
def test_a_damaged_file_is_one_error_that_names_it(tmp_path: Path, name: str, content: bytes, words: list[str]) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError) as error:
        list(read_rows(SourceConfig(path=str(tmp_path / name))))
    assert all(word in str(error.value) for word in words), str(error.value)


def test_a_place_without_usable_files_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="no such file"):
        find_files(str(tmp_path / "missing.jsonl"))
    with pytest.raises(DataError, match=r"no \.jsonl"):
        find_files(str(tmp_path))
    (tmp_path / "a.csv").write_text("n\n1\n")
    with pytest.raises(DataError, match=r"a\.csv: none of \.jsonl"):
        find_files(str(tmp_path / "a.csv"))
    write(tmp_path / "a.jsonl", [1])
    write(tmp_path / "a.parquet", [1])
    with pytest.raises(DataError, match="several kinds"):
        find_files(str(tmp_path))
