"""Fingerprints, the record in the run's folder, and the refusal to go on with other data."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from effopd.data.report import DATA_NAME, DataRecord, ReadReport, check_unchanged, data_fingerprint, write_records
from effopd.errors import DataError
from effopd.types import Prompt

PROMPTS = [Prompt(prompt_id=name, token_ids=(1, 2), text=name, answer="1") for name in ("a", "b")]


def record(prompts: list[Prompt]) -> DataRecord:
    report = ReadReport(section="data", path="mine.jsonl", num_rows=3, num_prompts=len(prompts))
    return DataRecord(report=report, fingerprint=data_fingerprint(prompts))


CHANGES = [
    PROMPTS[::-1],
    PROMPTS[:1],
    [PROMPTS[0], replace(PROMPTS[1], token_ids=(1, 3))],
    [PROMPTS[0], replace(PROMPTS[1], token_ids=(1,))],
    [PROMPTS[0], replace(PROMPTS[1], prompt_id="c")],
    [PROMPTS[0], replace(PROMPTS[1], answer="2")],
]


def test_the_fingerprint_is_the_same_for_the_same_prompts() -> None:
    assert data_fingerprint(PROMPTS) == data_fingerprint([replace(prompt) for prompt in PROMPTS])


@pytest.mark.parametrize("changed", CHANGES)
def test_other_prompts_are_refused_by_the_name_of_their_file(tmp_path: Path, changed: list[Prompt]) -> None:
    write_records(tmp_path, {"data": record(PROMPTS)})
    check_unchanged(tmp_path, {"data": record(PROMPTS)})
    with pytest.raises(DataError, match=r"data\.path=mine\.jsonl: .* not the 2 that the run began with"):
        check_unchanged(tmp_path, {"data": record(changed)})


def test_a_run_that_recorded_nothing_may_go_on(tmp_path: Path) -> None:
    check_unchanged(tmp_path, {"data": record(PROMPTS)})


def test_the_record_has_the_counts(tmp_path: Path) -> None:
    write_records(tmp_path, {"data": record(PROMPTS)})
    row = json.loads((tmp_path / DATA_NAME).read_text())["data"]
    assert (row["path"], row["num_rows"], row["num_prompts"]) == ("mine.jsonl", 3, 2)
    assert row["fingerprint"] == data_fingerprint(PROMPTS)
