"""Data files that cannot be trained on: one line each, before anything starts."""

import gzip
import json
from collections.abc import Callable
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

ROW = b'{"prompt": "1+2=", "answer": "3"}\n'

# name of the file, its content, further arguments, words that the line must contain
FILES = [
    # Files that are not what their name says.
    ("empty.jsonl", b"", [], ["empty.jsonl", "no prompts left of 0 rows"]),
    ("empty.json", b"", [], ["empty.json", "not JSON"]),
    ("empty.parquet", b"", [], ["empty.parquet", "not a sound parquet file"]),
    ("empty.jsonl.gz", b"", [], ["empty.jsonl.gz", "no prompts left of 0 rows"]),
    ("text.parquet", ROW, [], ["text.parquet", "not a sound parquet file"]),
    ("plain.jsonl.gz", ROW, [], ["plain.jsonl.gz", "cannot be read", "copy it again"]),
    ("cut.jsonl.gz", gzip.compress(ROW * 99, mtime=0)[:-9], [], ["cut.jsonl.gz", "cannot be read", "copy it again"]),
    ("flipped.jsonl.gz", gzip.compress(ROW * 9, mtime=0)[:-6] + b"abcdef", [], ["flipped.jsonl.gz", "cannot be read"]),
    ("garbage.jsonl.gz", gzip.compress(ROW, mtime=0)[:10] + b"\xff" * 40, [], ["garbage.jsonl.gz", "cannot be read"]),
    ("packed.jsonl", gzip.compress(ROW, mtime=0), [], ["packed.jsonl, line 1", "not UTF-8"]),
    ("table.csv", b"prompt,answer\n1+2=,3\n", [], ["table.csv", ".jsonl, .jsonl.gz, .json, .parquet", "convert it"]),
    # Text that is not JSON, or not the JSON that is wanted.
    ("cut.jsonl", ROW + ROW[:-8], [], ["cut.jsonl, line 2", "not JSON", "mend or remove the line"]),
    ("cut.json", b"[" + ROW[:-1], [], ["cut.json", "not JSON"]),
    ("lines.json", ROW + ROW, [], ["lines.json", "name it .jsonl"]),
    ("object.json", ROW, [], ["object.json", "a JSON list of objects is needed, not dict"]),
    ("numbers.json", b"[1, 2]", [], ["numbers.json, row 0", "a JSON object is needed, not int"]),
    ("lists.jsonl", b'["1+2=", "3"]\n', [], ["lists.jsonl, line 1", "a JSON object is needed, not list"]),
    ("deep.jsonl", b"[" * 100_000 + b"\n", [], ["deep.jsonl, line 1", "nested too deeply"]),
    ("deep.json", b"[" * 100_000, [], ["deep.json", "nested too deeply"]),
    ("latin1.jsonl", ROW.replace(b"1+2", b"\xe9"), [], ["latin1.jsonl, line 1", "not UTF-8"]),
    ("utf16.jsonl", ROW.decode().encode("utf-16"), [], ["utf16.jsonl, line 1", "not UTF-8"]),
    ("latin1.json", b"[" + ROW.replace(b"1+2", b"\xe9") + b"]", [], ["latin1.json", "not JSON"]),
    ("bom.jsonl", b"\xef\xbb\xbf" + ROW, [], ["bom.jsonl, line 1", "not JSON", "BOM"]),
    # Rows that lack something.
    ("column.jsonl", b'{"question": "1+2=", "answer": "3"}\n', [], ["line 1", "no field prompt", "question", "data.*_column"]),
    ("answer.jsonl", b'{"prompt": "1+2="}\n', [], ["line 1", "no field answer", "the row has prompt"]),
    ("later.jsonl", ROW + b'{"prompt": "1+3="}\n', [], ["later.jsonl, line 2", "no field answer"]),
    ("null.jsonl", b'{"prompt": null, "answer": "3"}\n', [], ["line 1, field prompt", "a text or a list", "NoneType"]),
    ("number.jsonl", b'{"prompt": 7, "answer": "3"}\n', [], ["line 1, field prompt", "a text or a list", "int"]),
    ("list.jsonl", b'{"prompt": "1+2=", "answer": ["3"]}\n', [], ["line 1, field answer", "a text or number", "list"]),
    ("blank.jsonl", b'{"prompt": "  ", "answer": "3"}\n', [], ["line 1, field prompt", "empty"]),
    ("no_turns.jsonl", b'{"prompt": [], "answer": "3"}\n', [], ["line 1, field prompt", "an empty list"]),
    ("turn.jsonl", b'{"prompt": [{"role": "user"}], "answer": "3"}\n', [], ["message 0 needs a role and a content"]),
    ("ids.jsonl", b'{"prompt": "1+2=", "answer": "3", "id": 1}\n{"prompt": "2+2=", "answer": "4", "id": 1}\n', ["data.id_column=id"], ["line 2, field id", "1 appears twice"]),
    ("no_id.jsonl", ROW, ["data.id_column=id"], ["line 1", "no field id"]),
    ("pattern.jsonl", ROW, ["data.answer_pattern='x(.)'"], ["line 1, field answer", "answer_pattern", "does not match"]),
    ("where.jsonl", ROW, ["data.where='kind=sums'"], ["line 1", "no field kind"]),
    ("none_left.jsonl", ROW, ["data.where='answer=4'"], ["no prompts left of 1 rows", "data.where"]),
    ("long.jsonl", ROW, ["data.max_prompt_len=2"], ["no prompts left of 1 rows", "1 were longer", "data.max_prompt_len=2"]),
    ("verl.jsonl", ROW, ["data.schema=verl"], ["line 1", "no field reward_model.ground_truth"]),
    ("code.jsonl", ROW, ["data.schema=humaneval"], ["line 1", "no row of schema humaneval"]),
    ("few.jsonl", ROW, [], ["rollout.prompts_per_step=512", "1 training prompts", "lower it"]),
    ("gate.jsonl", ROW, ["accelerate=kl_gated"], ["accelerate.num_prompts=50", "none of the 1 training prompts"]),
]  # fmt: skip


@pytest.mark.parametrize(("name", "content", "arguments", "words"), FILES, ids=[name for name, *_ in FILES])
def test_a_bad_file_is_one_line_that_says_where(
    train: Callable, tmp_path: Path, name: str, content: bytes, arguments: list[str], words: list[str]
) -> None:
    (tmp_path / name).write_bytes(content)
    outcome = train(f"data.path={tmp_path / name}", *arguments)
    assert outcome.code == 2
    assert not [word for word in words if word not in outcome.only_line], outcome.only_line
    assert not (tmp_path / "run").exists()


def cut_in_half(path: Path) -> None:
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def overwrite_the_data(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[4:60] = b"\xff" * 56
    path.write_bytes(data)


@pytest.mark.parametrize("damage", [cut_in_half, overwrite_the_data])
def test_a_damaged_parquet_file_is_one_line(train: Callable, tmp_path: Path, damage: Callable[[Path], None]) -> None:
    path = tmp_path / "rows.parquet"
    pyarrow.parquet.write_table(pyarrow.table({"prompt": ["1+2="] * 999, "answer": ["3"] * 999}), path)
    damage(path)
    line = train(f"data.path={path}").only_line
    assert "rows.parquet" in line and "not a sound parquet file" in line


def mixed(folder: Path) -> None:
    (folder / "a.jsonl").write_bytes(ROW)
    (folder / "b.json").write_bytes(b"[]")


def nothing(folder: Path) -> None:
    pass


def only_others(folder: Path) -> None:
    (folder / "README.md").write_text("about the data")


@pytest.mark.parametrize(
    ("fill", "words"),
    [
        (mixed, ["several kinds (.json, .jsonl)", "*.json"]),
        (nothing, ["no .jsonl, .jsonl.gz, .json, .parquet file is there"]),
        (only_others, ["no .jsonl, .jsonl.gz, .json, .parquet file is there"]),
    ],
)
def test_a_folder_without_one_kind_of_data_is_one_line(
    train: Callable, tmp_path: Path, fill: Callable[[Path], None], words: list[str]
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    fill(folder)
    line = train(f"data.path={folder}").only_line
    assert not [word for word in [str(folder), *words] if word not in line], line


def test_a_file_that_nobody_may_read_is_one_line(train: Callable, tmp_path: Path) -> None:
    # A broken link, for root may read everything.
    (tmp_path / "rows.jsonl").symlink_to(tmp_path / "gone.jsonl")
    assert "rows.jsonl" in train(f"data.path={tmp_path / 'rows.jsonl'}").only_line


def test_a_bad_evaluation_set_is_named_by_its_own_file(train: Callable, tmp_path: Path) -> None:
    rows = [json.dumps({"prompt": f"{number}+2=", "answer": "3"}) for number in range(99)]
    (tmp_path / "train.jsonl").write_text("\n".join(rows))
    (tmp_path / "eval.jsonl").write_bytes(b"[1]\n")
    line = train(f"data.path={tmp_path / 'train.jsonl'}", f"eval.path={tmp_path / 'eval.jsonl'}").only_line
    assert "eval.jsonl, line 1" in line
