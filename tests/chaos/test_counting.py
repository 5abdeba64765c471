"""Counting samples by the names of their prompts: what is lost, twice, or elsewhere."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from course import miscounted, read_course

EXPECTED = [("a", "b"), ("c", "d"), ("e", "f"), ("g", "h")]


def test_the_steps_of_the_undisturbed_run_are_counted_as_right() -> None:
    assert miscounted(EXPECTED, EXPECTED, most_left_out=0) == []


@pytest.mark.parametrize(
    ("steps", "said"),
    [
        (EXPECTED[:3], ["3 steps are recorded, not 4", "2 lost, where 0 may be: g, h"]),
        (
            [("a", "b"), ("a", "b"), ("e", "f"), ("g", "h")],
            ["trained on more often than once: a, b", "2 lost, where 0 may be: c, d"],
        ),
        ([*EXPECTED[:3], ("g",)], ["steps with another number of responses than 2: 4", "1 lost, where 0 may be: h"]),
        ([*EXPECTED[:3], ("i", "j")], ["2 lost, where 0 may be: g, h"]),
        ([*EXPECTED, ("i", "j")], ["5 steps are recorded, not 4", "not of this part of the data: i, j"]),
        ([EXPECTED[1], EXPECTED[0], *EXPECTED[2:]], ["the same samples in another order"]),
    ],
    ids=["a step lost", "a step twice", "a response lost", "other prompts", "a step too many", "steps exchanged"],
)
def test_what_is_wrong_is_said(steps: list[tuple[str, ...]], said: list[str]) -> None:
    assert miscounted(steps, EXPECTED, most_left_out=0) == said


def test_a_roll_back_may_leave_out_as_many_prompts_as_it_goes_back_for_later_ones() -> None:
    rolled_back = [("a", "b"), ("e", "f"), ("g", "h"), ("i", "j")]
    assert miscounted(rolled_back, EXPECTED, most_left_out=2) == []
    assert miscounted(rolled_back, EXPECTED, most_left_out=1) == ["2 lost, where 1 may be: c, d"]


def test_a_course_has_the_prompts_of_every_step_and_the_rows_without_seconds(tmp_path: Path) -> None:
    (tmp_path / "rollouts").mkdir()
    for step, prompts in ((10, ["c", "d"]), (9, ["a", "b"])):
        pq.write_table(pa.table({"prompt_id": prompts, "seed": [1, 2]}), tmp_path / f"rollouts/step_{step:06d}.parquet")
    (tmp_path / "metrics.jsonl").write_text('{"step": 1, "seconds": {"train": 0.5}, "metrics": {"loss": 1.0}}\n')
    for name in ("eval.jsonl", "extrapolation.jsonl"):
        (tmp_path / name).write_text("")
    course = read_course(tmp_path)
    assert course.steps == (("a", "b"), ("c", "d"))
    assert course.rows == '[[{"metrics": {"loss": 1.0}, "step": 1}], [], []]'
    assert (course.weights, course.last_step) == ("", 0)
