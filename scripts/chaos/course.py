"""What a run did, from what it wrote down: every row, the final weights, and which samples it trained on."""

import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow.parquet as pq

from effopd.checkpoints.reading import latest_checkpoint, weights_hash
from effopd.jsonl import read_rows
from effopd.tracking import EVAL_NAME, EXTRAPOLATION_NAME, METRICS_NAME, ROLLOUTS_NAME

Step = tuple[str, ...]
"""The prompts of one step, a name per response, in the order of their responses."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Course:
    """A finished run. Two are equal when nobody could tell the runs apart but by a clock."""

    weights: str
    """Hash of the float32 weights after the last step."""
    last_step: int
    rows: str
    """All of metrics, evaluations and triggers but for seconds, as JSON."""
    steps: tuple[Step, ...]
    """From the first on. The file of a step is written after its update, with all its responses, and removed when the run goes
    back behind it; so these are what led to the final weights."""


def read_course(run: Path) -> Course:
    """Read a run that has finished. Raises CheckpointError when it has no sound checkpoint."""
    checkpoint = latest_checkpoint(run)
    rows = [[_timeless(row) for row in read_rows(run / name)] for name in (METRICS_NAME, EVAL_NAME, EXTRAPOLATION_NAME)]
    return Course(
        weights="" if checkpoint is None else weights_hash(checkpoint.directory),
        last_step=0 if checkpoint is None else checkpoint.state.step,
        rows=json.dumps(rows, sort_keys=True),
        steps=tuple(_prompts(path) for path in sorted((run / ROLLOUTS_NAME).glob("step_*.parquet"))),
    )


def num_rows(run: Path) -> int:
    """Return how many steps are written down, of a run that may be writing."""
    path = run / METRICS_NAME
    return path.read_bytes().count(b"\n") if path.is_file() else 0


def miscounted(steps: Sequence[Step], expected: Sequence[Step], most_left_out: int) -> list[str]:
    """Return what is wrong with the samples of a run: a line for each kind of mistake.

    `expected` are the steps of the undisturbed run, in which no prompt comes twice. So many prompts as `most_left_out`, and
    no more, may be left out in the middle, for as many that come later in the data instead.
    """
    problems = []
    wanted, found = (
        Counter(name for step in expected for name in step),
        Counter(name for step in steps for name in step),
    )
    if len(steps) != len(expected):
        problems.append(f"{len(steps)} steps are recorded, not {len(expected)}")
    if twice := [name for name, count in found.items() if count > max(1, wanted[name])]:
        problems.append(f"trained on more often than once: {_listed(twice)}")
    if short := [number for number, step in enumerate(steps, start=1) if len(step) != len(expected[0])]:
        problems.append(f"steps with another number of responses than {len(expected[0])}: {_listed(map(str, short))}")
    lost, added = (wanted - found), (found - wanted)
    if lost.total() > most_left_out:
        problems.append(f"{lost.total()} lost, where {most_left_out} may be: {_listed(lost)}")
    if added.total() > lost.total():
        problems.append(f"not of this part of the data: {_listed(added)}")
    if found == wanted and tuple(steps) != tuple(expected):
        problems.append("the same samples in another order")
    return problems


def _listed(names: Iterable[str]) -> str:
    found = list(names)
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")


def _prompts(path: Path) -> Step:
    table = pq.read_table(path, columns=["prompt_id"])
    return tuple(table.column("prompt_id").to_pylist())


def _timeless(value: object) -> object:
    if isinstance(value, dict):
        return {key: _timeless(item) for key, item in value.items() if key != "seconds"}
    return [_timeless(item) for item in value] if isinstance(value, list) else value
