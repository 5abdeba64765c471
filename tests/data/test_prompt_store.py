"""A data set on disk is the same data set."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from effopd.config.schema import DataConfig
from effopd.data.contamination import EvaluationIndex
from effopd.data.prompt_store import ROWS_PER_BATCH, LazyPrompts
from effopd.data.prompts import Decontamination, PromptRendering, ShuffledPrompts, hold_out, load_prompts
from effopd.model_folders import TOY_MODELS
from effopd.types import Prompt

NUM_ROWS = 2 * ROWS_PER_BATCH + 7


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(TOY_MODELS / "sums_base")


@pytest.fixture
def data(tmp_path: Path) -> DataConfig:
    rows = [{"prompt": f"{n}+1=", "answer": str(n + 1), "level": n, "tags": ["x", None]} for n in range(NUM_ROWS)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return DataConfig(path=str(tmp_path / "a.jsonl"))


def load(data: DataConfig, tokenizer: PreTrainedTokenizerBase, stream_above: int) -> Sequence[Prompt]:
    return load_prompts(
        data,
        PromptRendering(tokenizer=tokenizer, apply_chat_template=False, enable_thinking=False),
        section="data",
        stream_above=stream_above,
        decontamination=Decontamination(index=EvaluationIndex({"a": ["5+1=", "600+1="]}), policy=data.contamination),
    ).prompts


def test_prompts_on_disk_are_those_in_memory(data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    in_memory, on_disk = load(data, tokenizer, NUM_ROWS), load(data, tokenizer, 100)
    assert isinstance(in_memory, tuple) and isinstance(on_disk, LazyPrompts)
    assert tuple(on_disk) == in_memory
    assert len(on_disk) == NUM_ROWS - 2  # two were evaluation questions
    assert on_disk[3:5] == in_memory[3:5]
    assert on_disk[-1] == in_memory[-1]


def test_the_gate_and_the_order_do_not_depend_on_where_prompts_lie(
    data: DataConfig, tokenizer: PreTrainedTokenizerBase
) -> None:
    (gate, rest), (gate_on_disk, rest_on_disk) = (
        hold_out(load(data, tokenizer, stream_above), 20, seed=7) for stream_above in (NUM_ROWS, 100)
    )
    assert isinstance(rest_on_disk, LazyPrompts)
    assert gate == gate_on_disk
    streams = [ShuffledPrompts(prompts, seed=3) for prompts in (rest, rest_on_disk)]
    for position in (0, 40, 12):
        assert streams[0].take(position, 30) == streams[1].take(position, 30)


def test_a_set_of_exactly_the_limit_stays_in_memory(data: DataConfig, tokenizer: PreTrainedTokenizerBase) -> None:
    data.num_rows = 5
    assert isinstance(load(data, tokenizer, 5), tuple)
