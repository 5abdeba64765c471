import json
from collections.abc import Sequence
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from effopd.config.schema import DataConfig
from effopd.data.prompts import PromptRendering, ShuffledPrompts, hold_out, load_prompts
from effopd.errors import DataError
from effopd.model_folders import TOY_MODELS
from effopd.types import Prompt


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(TOY_MODELS / "sums_base")


def load(config: DataConfig, tokenizer: PreTrainedTokenizerBase) -> Sequence[Prompt]:
    rendering = PromptRendering(tokenizer=tokenizer, apply_chat_template=False, enable_thinking=False)
    return load_prompts(config, rendering, section="data", stream_above=1000).prompts


def write_jsonl(path: Path, rows: list[object]) -> str:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def test_jsonl_rows_become_prompts_with_suffix_answer_and_metadata(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase
) -> None:
    path = write_jsonl(tmp_path / "a.jsonl", [{"question": "12+34", "answer": "work #### 46 ", "level": 3}])
    config = DataConfig(
        path=path,
        prompt_column="question",
        answer_column="answer",
        answer_pattern=r"####\s*(.+)",
        prompt_suffix="=",
    )
    (prompt,) = load(config, tokenizer)
    assert prompt.text == "12+34="
    assert tokenizer.decode(list(prompt.token_ids)) == "12+34="
    assert prompt.answer == "46"
    assert prompt.metadata["prompt"] == "12+34=" and prompt.metadata["level"] == 3


def test_parquet_chat_lists_and_nested_answers_are_read(tmp_path: Path, tokenizer: PreTrainedTokenizerBase) -> None:
    rows = [{"prompt": [{"role": "user", "content": "1+1="}], "reward_model": {"ground_truth": "2"}}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "a.parquet")
    config = DataConfig(path=str(tmp_path / "a.parquet"), answer_column="reward_model.ground_truth")
    (prompt,) = load(config, tokenizer)
    assert (prompt.text, prompt.answer) == ("1+1=", "2")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"prompt": "1+1=", "answer": "2"}\nnot json\n', ["a.jsonl, line 2", "not JSON"]),
        ("[1, 2]\n", ["line 1", "a JSON object is needed, not list"]),
        ('{"question": "1+1="}\n', ["line 1", "no field prompt", "question", "data.*_column"]),
        ('{"prompt": 3, "answer": "2"}\n', ["line 1, field prompt", "not int"]),
        ('{"prompt": "1+1=", "answer": ["2"]}\n', ["line 1, field answer", "not list"]),
        ('{"prompt": "", "answer": "2"}\n', ["line 1, field prompt", "no tokens"]),
        ("", ["no prompts left"]),
    ],
)
def test_a_bad_file_names_line_field_and_reason(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, content: str, words: list[str]
) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(content)
    with pytest.raises(DataError) as error:
        load(DataConfig(path=str(path)), tokenizer)
    assert all(word in str(error.value) for word in words), str(error.value)


def test_overlong_prompts_are_dropped_and_counted(
    tmp_path: Path, tokenizer: PreTrainedTokenizerBase, caplog: pytest.LogCaptureFixture
) -> None:
    rows = [{"prompt": "1" * length, "answer": "1"} for length in (3, 9, 4)]
    path = write_jsonl(tmp_path / "a.jsonl", list(rows))
    assert len(load(DataConfig(path=path, max_prompt_len=4), tokenizer)) == 2
    assert "dropped 1 of 3 prompts longer than data.max_prompt_len=4" in caplog.text


def test_every_epoch_visits_each_prompt_once_in_another_order(tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = load(DataConfig(path="toy:sums", num_rows=12), tokenizer)
    stream = ShuffledPrompts(prompts, seed=1)
    epochs = [
        [prompt.prompt_id for position in (3 * e, 3 * e + 1, 3 * e + 2) for prompt in stream.take(position, 4)]
        for e in (0, 1)
    ]
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(prompt.prompt_id for prompt in prompts)
    assert epochs[0] != epochs[1]


def test_the_stream_depends_on_seed_and_position_alone(tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = load(DataConfig(path="toy:sums", num_rows=50), tokenizer)
    first, second = ShuffledPrompts(prompts, seed=1), ShuffledPrompts(prompts, seed=1)
    for position in range(4):
        first.take(position, 5)
    assert first.take(4, 5) == second.take(4, 5)
    assert ShuffledPrompts(prompts, seed=2).take(4, 5) != second.take(4, 5)


def test_a_batch_larger_than_the_set_is_refused_by_name(tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = load(DataConfig(path="toy:sums", num_rows=3), tokenizer)
    with pytest.raises(DataError, match=r"rollout\.prompts_per_step=4 exceeds the 3 training prompts"):
        ShuffledPrompts(prompts, seed=1).take(0, 4)


def test_gate_prompts_are_held_out_and_do_not_depend_on_the_order(tokenizer: PreTrainedTokenizerBase) -> None:
    prompts = load(DataConfig(path="toy:sums", num_rows=100), tokenizer)
    gate, rest = hold_out(prompts, 20, seed=7)
    assert len(gate) == 20 and len(rest) == 80
    assert not {prompt.prompt_id for prompt in gate} & {prompt.prompt_id for prompt in rest}
    assert hold_out(prompts[::-1], 20, seed=7)[0] == gate
    assert hold_out(prompts, 20, seed=8)[0] != gate
