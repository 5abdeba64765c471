"""What a run reads: several evaluation sets, and training prompts without their questions."""

import json
from pathlib import Path

import pytest

from effopd.config.schema import (
    AccelerateConfig,
    DataConfig,
    EvalConfig,
    EvalSetConfig,
    GateKind,
    ModelConfig,
    RolloutConfig,
    RunConfig,
    TeacherConfig,
)
from effopd.config.source_schema import ContaminationPolicy, LongPromptPolicy
from effopd.errors import DataError
from effopd.inputs import read_inputs


def rows(path: Path, *prompts: str) -> str:
    path.write_text("".join(json.dumps({"prompt": prompt, "answer": "1"}) + "\n" for prompt in prompts))
    return str(path)


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    """Of five training rows one is in the first evaluation set and one, but for its suffix, in the second."""
    return RunConfig(
        model=ModelConfig(path="toy:sums_base"),
        teacher=TeacherConfig(path="toy:sums_teacher"),
        data=DataConfig(
            path=rows(tmp_path / "train.jsonl", "1+2#", "1+3#", "1+4#", "1+5#", "1+6#"),
            strip_suffix="#",
            prompt_suffix="=",
            max_prompt_len=8,
            verifier="effopd.toy.verify:sums",
        ),
        eval=EvalConfig(
            sets={
                "a": EvalSetConfig(
                    path=rows(tmp_path / "a.jsonl", "1+3", "7+7", "7+7"), prompt_suffix="=", max_prompt_len=8
                ),
                "b": EvalSetConfig(path=rows(tmp_path / "b.jsonl", " 1+5 "), max_prompt_len=8),
            }
        ),
        rollout=RolloutConfig(max_response_len=8, num_samplers=1, prompts_per_step=2),
    )


def test_training_prompts_that_an_evaluation_set_has_are_dropped_with_a_count_per_set(
    config: RunConfig, caplog: pytest.LogCaptureFixture
) -> None:
    inputs = read_inputs(config)
    assert [prompt.text for prompt in inputs.train_prompts] == ["1+2=", "1+4=", "1+6="]
    assert "dropped 2 prompts that overlap with evaluation sets (a: 1 equal" in caplog.text
    report = inputs.data_records["data"].report
    assert {name: found.prompt_ids for name, found in report.overlaps.items()} == {
        "a": [f"{config.data.path}:train:1"],
        "b": [f"{config.data.path}:train:3"],
    }


def test_overlap_is_an_error_or_kept_on_request(config: RunConfig) -> None:
    config.data.contamination = ContaminationPolicy.error
    with pytest.raises(DataError, match=r"2 prompts overlap .*data\.contamination=drop"):
        read_inputs(config)
    config.data.contamination = ContaminationPolicy.ignore
    inputs = read_inputs(config)
    assert len(inputs.train_prompts) == 5
    assert inputs.data_records["data"].report.num_contaminated == 2


def test_every_set_keeps_its_own_prompts_and_its_duplicates(config: RunConfig) -> None:
    sets = read_inputs(config).eval_sets
    assert [prompt.text for prompt in sets["a"].prompts] == ["1+3=", "7+7=", "7+7="]
    assert [prompt.text for prompt in sets["b"].prompts] == [" 1+5 "]


def test_a_prompt_of_a_benchmark_that_is_too_long_is_an_error_unless_asked_otherwise(config: RunConfig) -> None:
    config.eval.sets["a"].max_prompt_len = 3
    with pytest.raises(
        DataError, match=r"a\.jsonl, line 1, field prompt: 4 tokens, more than eval\.sets\.a\.max_prompt_len=3"
    ):
        read_inputs(config)
    config.eval.sets["a"].on_long_prompt = LongPromptPolicy.drop
    with pytest.raises(DataError, match="no prompts left of 3 rows; 3 were longer"):
        read_inputs(config)


@pytest.mark.parametrize(
    ("gate", "num_gate", "num_audit", "num_left"),
    # Five rows, of which one is in an evaluation set and one in the other: three are left.
    [
        (GateKind.none, 0, 0, 3),
        (GateKind.accuracy, 1, 0, 2),
        (GateKind.accuracy, 1, 1, 1),
        (GateKind.ungated, 0, 1, 2),
    ],
)
def test_gate_and_audit_have_prompts_of_their_own(
    config: RunConfig, gate: GateKind, num_gate: int, num_audit: int, num_left: int
) -> None:
    config.accelerate = AccelerateConfig(gate=gate, num_prompts=1, audit_prompts=num_audit)
    config.rollout.prompts_per_step = 1
    inputs = read_inputs(config)
    parts = [inputs.gate_prompts, inputs.audit_prompts, inputs.train_prompts]
    assert [len(part) for part in parts] == [num_gate, num_audit, num_left]
    assert len({prompt.prompt_id for part in parts for prompt in part}) == 3


def test_gate_prompts_of_a_file_are_its_first_and_none_of_it_is_trained_on(config: RunConfig, tmp_path: Path) -> None:
    path = rows(tmp_path / "gate.jsonl", "1+4#", "9+9#", "1+6#")
    config.accelerate = AccelerateConfig(gate=GateKind.accuracy, num_prompts=2, path=path)
    config.rollout.prompts_per_step = 1
    inputs = read_inputs(config)
    assert [prompt.text for prompt in inputs.gate_prompts] == ["1+4=", "9+9="]
    # Without those of the evaluation sets 1+2, 1+4 and 1+6 are left.
    assert [prompt.text for prompt in inputs.train_prompts] == ["1+2="]
    assert list(inputs.data_records) == ["data", "accelerate", "eval.sets.a", "eval.sets.b"]


def test_a_file_of_too_few_gate_prompts_is_refused(config: RunConfig, tmp_path: Path) -> None:
    path = rows(tmp_path / "gate.jsonl", "1+4#")
    config.accelerate = AccelerateConfig(gate=GateKind.accuracy, num_prompts=2, path=path)
    with pytest.raises(DataError, match=r"gate\.jsonl: gives 1 prompts, fewer than accelerate\.num_prompts=2; lower"):
        read_inputs(config)


def test_every_data_set_of_a_run_is_recorded(config: RunConfig) -> None:
    records = read_inputs(config).data_records
    assert list(records) == ["data", "eval.sets.a", "eval.sets.b"]
    assert len({record.fingerprint for record in records.values()}) == 3
