"""What is read of a run's folder."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest

from effopd.config.study import Cell
from effopd.errors import DataError
from effopd.provenance import Source
from effopd.study.records import read_run

CELL = Cell(task="sums", method="effopd", lr=1e-3, seed=0)


def write_rows(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows))


def write_run(folder: Path, triggers: Sequence[Mapping[str, object]], commits: Sequence[str | None]) -> Path:
    """Evaluations at steps 0 and 4."""
    evals = [
        {
            "step": step,
            "score": 0.5,
            "standard_error": 0.1,
            "tokens": {"total_generated": 100 * step, "total_gate": 20 * step},
            "seconds": {"total_training": 2.0 * step},
        }
        for step in (0, 4)
    ]
    write_rows(folder / "eval.jsonl", evals)
    write_rows(folder / "metrics.jsonl", [{"step": 4, "seconds": {"total_training": 8.0}}])
    write_rows(folder / "extrapolation.jsonl", triggers)
    starts = [{"git": None if commit is None else {"commit": commit, "is_dirty": False}} for commit in commits]
    (folder / "versions.json").write_text(json.dumps({"starts": starts}))
    return folder


def row(kind: str, step: int, seconds: float, accepted: float = 0.0) -> dict[str, object]:
    roll_back = {"jump_step": step - 1} if kind == "roll_back" else None
    displacement = None if kind == "roll_back" else {"num_updates": 1}
    return {
        "kind": kind, "step": step, "seconds": seconds, "accepted_step_size": accepted,
        "displacement": displacement, "roll_back": roll_back,
    }  # fmt: skip


def test_the_seconds_of_triggers_are_those_of_all_rows_and_the_triggers_those_that_searched(tmp_path: Path) -> None:
    rows = [row("search", 1, 1.0, 2.0), row("roll_back", 2, 0.5), row("look", 3, 0.25), row("ungated", 4, 2.0, 1.0)]
    run = read_run(write_run(tmp_path, rows, ["abc"]), CELL)
    assert run.trigger_seconds == 3.75
    assert [(trigger.step, trigger.is_taken_back) for trigger in run.triggers] == [(1, True), (4, False)]


def test_a_run_names_every_commit_that_it_was_started_from_once(tmp_path: Path) -> None:
    run = read_run(write_run(tmp_path, [], ["b", "a", "b", None]), CELL)
    assert run.sources == tuple(Source(commit=commit, is_dirty=False) for commit in ("", "a", "b"))


def test_a_run_without_a_record_of_its_starts_is_refused(tmp_path: Path) -> None:
    (write_run(tmp_path, [], ["a"]) / "versions.json").unlink()
    with pytest.raises(DataError, match=r"versions\.json: is damaged"):
        read_run(tmp_path, CELL)


def test_a_run_with_fewer_evaluations_than_its_average_has_no_comparable_score(tmp_path: Path) -> None:
    # Two evaluations, of which the default average wants three.
    run = read_run(write_run(tmp_path, [], ["a"]), CELL)
    assert (run.is_scored, run.eval_every) == (False, 4)
