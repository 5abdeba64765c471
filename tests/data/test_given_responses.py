"""Responses that exist already, judged as if they had been sampled."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from transformers import AutoTokenizer

from effopd.cli import main
from effopd.data.given_responses import GivenResponses, read_responses
from effopd.errors import DataError
from effopd.toy.make import MODELS_DIR
from effopd.types import FinishReason, GenerateRequest, PolicyVersion, Prompt


def write(path: Path, *rows: dict) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def ask(path: str, num_samples: int, *prompts: Prompt) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(MODELS_DIR / "sums_base")
    given = GivenResponses(path, "a", tokenizer, read_responses(path, ["a"])["a"])
    request = GenerateRequest(
        prompts=prompts, num_samples=num_samples, max_response_len=9, temperature=1.0, top_p=1.0, seed=0
    )
    handle = given.generate(request, PolicyVersion(step=0))
    return [rollout.text for rollout in given.preview(handle, len(handle.summaries))]


def prompt(prompt_id: str, **metadata: object) -> Prompt:
    return Prompt(prompt_id=prompt_id, token_ids=(1,), text="", answer="", metadata=metadata)


def test_rows_without_an_index_count_in_their_order(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", {"prompt_id": "p", "response": "1"}, {"prompt_id": "p", "response": "2"})
    assert ask(path, 2, prompt("p")) == ["1", "2"]


def test_indices_order_the_rows(tmp_path: Path) -> None:
    rows = [{"prompt_id": "p", "sample_index": index, "response": str(index)} for index in (1, 0)]
    assert ask(write(tmp_path / "r.jsonl", *rows), 2, prompt("p")) == ["0", "1"]


def test_a_task_id_and_a_solution_do_as_well(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", {"task_id": "HumanEval/0", "solution": "7"})
    assert ask(path, 1, prompt("row 0", task_id="HumanEval/0")) == ["7"]


def test_rows_of_other_sets_are_left_alone(tmp_path: Path) -> None:
    rows = [{"set": name, "prompt_id": "p", "response": name} for name in ("b", "a")]
    assert ask(write(tmp_path / "r.jsonl", *rows), 1, prompt("p")) == ["a"]


@pytest.mark.parametrize(
    ("rows", "sets", "words"),
    [
        ([{"response": "1"}], ["a"], ["line 1", "no field prompt_id or task_id"]),
        ([{"prompt_id": "p"}], ["a"], ["line 1", "no field response or solution"]),
        ([{"prompt_id": "p", "response": "1", "finish_reason": "x"}], ["a"], ["field finish_reason: 'x' is none of"]),
        ([{"prompt_id": "p", "response": 1}], ["a"], ["line 1", "must be a text, not int"]),
        ([{"prompt_id": "p", "response": "1"}], ["a", "b"], ["line 1", "field set: missing"]),
        ([{"prompt_id": "p", "response": "1", "sample_index": 0}] * 2, ["a"], ["line 2", "field sample_index: 0"]),
    ],
)
def test_a_bad_row_is_named(tmp_path: Path, rows: list[dict], sets: list[str], words: list[str]) -> None:
    with pytest.raises(DataError) as error:
        read_responses(write(tmp_path / "r.jsonl", *rows), sets)
    assert all(word in str(error.value) for word in words), error.value


def test_a_prompt_with_too_few_responses_is_named(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", {"prompt_id": "p", "response": "1"})
    with pytest.raises(DataError, match=r"no response 1 to p of the set a; add it"):
        ask(path, 2, prompt("p"))


def test_an_evaluation_judges_them_without_an_engine(tmp_path: Path) -> None:
    # The first two problems of the set, first not answered at all; then the first of them right.
    toy = ["eval", "data=toy_sums", "model=toy_sums", "eval.num_rows=2"]
    rows = [{"prompt_id": f"toy:sums:test:{row}", "response": ""} for row in (0, 1)]
    wrong = write(tmp_path / "wrong.jsonl", *rows)
    assert main([*toy, f"eval.responses={wrong}", f"output_dir={tmp_path / 'first'}"]) == 0
    expected, _ = pq.read_table(tmp_path / "first" / "responses.parquet").column("expected_answer").to_pylist()
    right = write(tmp_path / "right.jsonl", {**rows[0], "response": expected}, rows[1])
    assert main([*toy, f"eval.responses={right}", f"output_dir={tmp_path / 'second'}"]) == 0
    judged = json.loads((tmp_path / "second" / "eval.json").read_text())["sets"]["toy:sums"]
    assert judged["per_prompt"] == {"toy:sums:test:0": 1.0, "toy:sums:test:1": 0.0}
    # What an evaluation leaves is such a file itself.
    again = tmp_path / "second" / "responses.parquet"
    assert main([*toy, f"eval.responses={again}", f"output_dir={tmp_path / 'third'}"]) == 0
    assert json.loads((tmp_path / "third" / "eval.json").read_text())["sets"]["toy:sums"] == judged


def test_a_response_that_was_cut_stays_so(tmp_path: Path) -> None:
    path = write(tmp_path / "r.jsonl", {"prompt_id": "p", "response": "1", "finish_reason": "length"})
    assert read_responses(path, ["a"])["a"]["p"][0].finish_reason is FinishReason.LENGTH
