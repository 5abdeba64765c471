"""Which faults hit which run, and when: drawn from a seed before anything starts.

A fault's moment is a row of the run's metrics and a share of a step's time after it, so that it falls into any phase of a
step, whatever the speed of the machine.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from math import ceil

from effopd.config.schema import NonfiniteRule


class Kind(StrEnum):
    SAMPLER = "sampler killed"
    TEACHER = "teacher killed"
    VERIFIER = "verifier killed"
    VERIFIER_WORKER = "verifier's worker process killed"
    LEARNER = "learner rank killed"
    CONTROLLER = "controller killed"
    DRIVER = "driver killed (kill -9)"
    SIGTERM = "SIGTERM to the driver"
    SAMPLER_PAUSED = "sampler stopped for seconds"
    LEARNER_PAUSED = "learner rank stopped for seconds"
    TRUNCATED = "newest checkpoint truncated"
    FLIPPED = "a bit of the newest checkpoint flipped"
    MISSING = "a file of the newest checkpoint missing"
    HALF_WRITTEN = "a checkpoint half-written"
    FULL_DISK = "disk full"
    NONFINITE_STOP = "gradient not finite, `stop`"
    NONFINITE_SKIP = "gradient not finite, `skip`"
    NONFINITE_ROLL_BACK = "gradient not finite, `roll_back`"


class Shape(StrEnum):
    """What a run is made of."""

    SMALL = "small"
    """One learner rank, one sampler of transformers."""
    SHARDED = "sharded"
    """Two ranks of ZeRO-3, two samplers of transformers."""
    VLLM = "vllm"
    """One learner rank, one sampler of vLLM."""


DAMAGES = (Kind.TRUNCATED, Kind.FLIPPED, Kind.MISSING, Kind.HALF_WRITTEN)
ENDS_DRIVER = (Kind.DRIVER, Kind.SIGTERM, *DAMAGES, Kind.FULL_DISK, Kind.NONFINITE_STOP)
"""After these the run is resumed, as a person would."""
NONFINITE = {
    Kind.NONFINITE_STOP: NonfiniteRule.stop,
    Kind.NONFINITE_SKIP: NonfiniteRule.skip,
    Kind.NONFINITE_ROLL_BACK: NonfiniteRule.roll_back,
}
OTHER_COURSE = (Kind.NONFINITE_SKIP, Kind.NONFINITE_ROLL_BACK)
"""What these do is to leave something out, so the weights at the end are others than those of the undisturbed run."""
IN_STEPS = (*DAMAGES, Kind.FULL_DISK, *NONFINITE)
"""Faults that need a run in its steps. Any other may also hit one that is starting."""

NUM_STEPS = 30
LAST_ROW = NUM_STEPS - 5
"""A fault must come before the run is over."""
ROWS_BETWEEN = 3
"""At least, from fault to fault: every role is asked for something and a checkpoint is written in between, so what a fault
brings about is seen before the next one."""
FAULTS_PER_RUN = 6
SHAPES = (Shape.VLLM, Shape.SMALL, Shape.SHARDED)
"""Of the first runs; all others are small, which start fastest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    kind: Kind
    after_row: int
    """Of `metrics.jsonl`; 0: from the start of the run on."""
    share: float
    """Of a step's time, or of a start's, that passes after that."""
    choice: int
    """Seed of what is still to choose: which of several processes, which file, where in it, how many seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPlan:
    """One run and its faults, in the order of their rows."""

    name: str
    shape: Shape
    nonfinite: NonfiniteRule
    faults: tuple[Fault, ...]

    @property
    def is_same_course(self) -> bool:
        """Whether the run must end with the weights of the undisturbed one."""
        return not any(fault.kind in OTHER_COURSE for fault in self.faults)

    def has(self, *kinds: Kind) -> bool:
        return any(fault.kind in kinds for fault in self.faults)


def draw_plan(num_faults: int, seed: int, kinds: Sequence[Kind] = tuple(Kind)) -> tuple[RunPlan, ...]:
    """Return runs with `num_faults` faults in all; every kind occurs before any does twice."""
    rng = random.Random(seed)
    drawn: list[Kind] = []
    while len(drawn) < num_faults:
        drawn += rng.sample(kinds, len(kinds))
    drawn = drawn[:num_faults]
    same = [kind for kind in drawn if kind not in OTHER_COURSE]
    num_runs = ceil(len(same) / FAULTS_PER_RUN)
    groups = [same[start::num_runs] for start in range(num_runs)]
    # vLLM takes long to start: its run should have a sampler killed, and else start as rarely as can be.
    groups.sort(key=lambda group: (Kind.SAMPLER not in group, sum(kind in ENDS_DRIVER for kind in group)))
    shapes = [*SHAPES, *([Shape.SMALL] * num_runs)]
    plans = [
        _run_plan(f"{number}_{shape}", shape, NonfiniteRule.stop, group, rng)
        for number, (shape, group) in enumerate(zip(shapes, groups, strict=False), start=1)
    ]
    for kind in OTHER_COURSE:
        others = [other for other in drawn if other is kind]
        for start in range(0, len(others), FAULTS_PER_RUN):
            rule = NONFINITE[kind]
            name = f"{len(plans) + 1}_{rule}"
            plans.append(_run_plan(name, Shape.SMALL, rule, others[start : start + FAULTS_PER_RUN], rng))
    return tuple(plans)


def _run_plan(name: str, shape: Shape, rule: NonfiniteRule, kinds: Sequence[Kind], rng: random.Random) -> RunPlan:
    rows = _rows_apart(len(kinds), rng)
    if rows[:1] == [0]:  # for this one the run must have begun
        starters = [kind for kind in kinds if kind not in IN_STEPS]
        kinds = sorted(kinds, key=lambda kind: kind not in starters[:1])
        rows = rows if starters else [1, *rows[1:]]
    faults = [
        Fault(kind=kind, after_row=row, share=rng.random(), choice=rng.randrange(2**31))
        for kind, row in zip(kinds, rows, strict=True)
    ]
    return RunPlan(name=name, shape=shape, nonfinite=rule, faults=tuple(faults))


def _rows_apart(number: int, rng: random.Random) -> list[int]:
    """Return so many rows in ascending order, at least ROWS_BETWEEN from one to the next; all such are equally likely."""
    gaps = (ROWS_BETWEEN - 1) * (number - 1)
    return [
        row + (ROWS_BETWEEN - 1) * index
        for index, row in enumerate(sorted(rng.sample(range(LAST_ROW + 1 - gaps), number)))
    ]
