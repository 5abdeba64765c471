"""Which rows become questions: skipped, left out and duplicate rows, and what is stripped off."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from effopd.config.source_schema import BadRowPolicy, RowSchema, SourceConfig
from effopd.data.questions import read_questions
from effopd.data.report import ReadReport
from effopd.errors import DataError

SUFFIX = r"\s*Please reason step by step, and put your final answer within \\boxed\{+\}+\.?\s*"


def read(path: Path, rows: Sequence[object], source: SourceConfig) -> tuple[list[str], ReadReport]:
    path = path / "a.jsonl"
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    source.path = str(path)
    report = ReadReport(section="data", path=str(path))
    return [question.messages[-1]["content"] for _, question in read_questions(source, report)], report


def test_prefix_and_suffix_are_taken_off_where_they_stand_and_only_there(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Q: what is 1+1? Please reason step by step, and put your final answer within \\boxed{{}}."},
        {"prompt": "Q: Please reason step by step, and put your final answer within \\boxed{}. But why? "},
        {"prompt": "What is Q: ?"},
    ]
    source = SourceConfig(answer_column=None, strip_prefix=r"Q:\s*", strip_suffix=SUFFIX)
    texts, _ = read(tmp_path, rows, source)
    assert texts == [
        "what is 1+1?",
        "Please reason step by step, and put your final answer within \\boxed{}. But why? ",
        "What is Q: ?",
    ]


def test_a_question_of_nothing_but_a_suffix_is_a_bad_row(tmp_path: Path) -> None:
    row = {"prompt": "Please reason step by step, and put your final answer within \\boxed{}."}
    with pytest.raises(DataError, match=r"a\.jsonl, line 1, field prompt: the prompt is empty"):
        read(tmp_path, [row], SourceConfig(answer_column=None, strip_suffix=SUFFIX))


def test_only_the_rows_that_where_names_are_used(tmp_path: Path) -> None:
    rows = [{"prompt": name, "extra": {"ability": name}} for name in ("code", "math", "code 2")]
    texts, report = read(tmp_path, rows, SourceConfig(answer_column=None, where="extra.ability = code"))
    assert (texts, report.num_left_out) == (["code"], 2)


@pytest.mark.parametrize(("split", "kept"), [("train", [601, 974]), ("test", [11, 600, 601, 974])])
def test_of_mbpps_own_file_only_the_training_tasks_are_trained_on(split: str, kept: list[int], tmp_path: Path) -> None:
    rows = [
        {"task_id": number, "text": f"Task {number}.", "code": "def f(): return 1", "test_list": ["assert f() == 1"]}
        for number in (11, 600, 601, 974)
    ]
    texts, report = read(tmp_path, rows, SourceConfig(schema=RowSchema.mbpp, split=split))
    assert [text.split("\n")[0] for text in texts] == [f"Task {number}." for number in kept]
    assert report.num_left_out == 4 - len(kept)


def test_duplicates_but_for_case_and_space_are_dropped_and_counted(tmp_path: Path) -> None:
    prompts = ["What is $x\\,y$?", "what is  $xy$ ?", "What is $x y$?\n", "What is $x+y$?"]
    rows = [{"prompt": prompt, "answer": answer} for prompt, answer in zip(prompts, "1211", strict=True)]
    texts, report = read(tmp_path, rows, SourceConfig())
    assert texts == [prompts[0], prompts[3]]
    # The second row's answer is 2 where the first one's is 1.
    assert (report.num_duplicates, report.num_conflicting_duplicates) == (2, 1)
    texts, report = read(tmp_path, rows, SourceConfig(drop_duplicates=False))
    assert (texts, report.num_duplicates) == (prompts, 0)


def test_bad_rows_are_skipped_on_request_and_the_first_three_reasons_kept(tmp_path: Path) -> None:
    rows = ["not json", {"prompt": 1}, {"question": "?"}, {"prompt": "good", "answer": "1"}, "[]"]
    texts, report = read(tmp_path, rows, SourceConfig(on_bad_row=BadRowPolicy.skip))
    assert (texts, report.num_rows, report.num_bad_rows) == (["good"], 5, 4)
    assert [reason.split(": ")[0].split(", ")[1] for reason in report.bad_row_reasons] == ["line 1", "line 2", "line 3"]
    with pytest.raises(DataError, match="line 1: not JSON"):
        read(tmp_path, rows, SourceConfig())


def test_the_same_id_twice_is_a_bad_row(tmp_path: Path) -> None:
    rows = [{"prompt": text, "id": "x"} for text in ("a", "b")]
    with pytest.raises(DataError, match="line 2, field id: x appears twice"):
        read(tmp_path, rows, SourceConfig(answer_column=None, id_column="id"))


def test_empty_answers_are_counted(tmp_path: Path) -> None:
    _, report = read(tmp_path, [{"prompt": "a", "answer": " "}, {"prompt": "b", "answer": "1"}], SourceConfig())
    assert report.num_without_answer == 1


def test_a_row_keeps_its_number_whatever_was_taken_out_before_it(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text('{"prompt": "a"}\n{"prompt": "A"}\n{"prompt": "b"}\n')
    source = SourceConfig(path=str(path), answer_column=None)
    ids = [prompt_id for prompt_id, _ in read_questions(source, ReadReport(section="data", path=str(path)))]
    assert ids == [f"{path}:train:0", f"{path}:train:2"]
