"""Where the time of a run goes.

Time is a partition: every second between the first phase and now belongs to exactly one phase, or to "other" when none is
open, so the parts add up to the wall clock by construction. A phase opened inside another is not counted again: its time
belongs to the outermost one, so "gate" holds the sampling, scoring and publishing that a trigger does. What is sampled and
scored ahead of the learner takes time beside this one and is not in it: "wait" is what the learner still had to wait for it.
Likewise "score" and "verify" are what is left of scoring when all is sampled: with `pipeline.num_pieces` much is done by then.
"""

import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

PHASES = ("generate", "verify", "score", "wait", "train", "publish", "gate", "audit", "eval", "save")
OTHER = "other"
NOT_TRAINING = frozenset({"audit", "eval", "save"})
"""Phases that the training time of a run leaves out."""
LEARNER_AT_WORK = frozenset({"train", "publish", "gate"})
"""Phases of training in which the learner has something to do, though not always in a trigger."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseTotal:
    """One row of the time table."""

    phase: str
    seconds: float
    share: float
    """Fraction of the whole."""
    tokens_per_second: float | None
    """Tokens that the phase handled per second of it; None where tokens mean nothing."""


def training_seconds(seconds: Mapping[str, float]) -> float:
    """Return the part of a division into phases that counts as training: all but audits, evaluation and saving."""
    return sum(value for phase, value in seconds.items() if phase not in NOT_TRAINING)


class Ledger:
    """Charges time and tokens to phases. The clock starts with the first phase, so start-up is not in it.

    For one thread: phases nest, they do not overlap.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._seconds: dict[str, float] = dict.fromkeys((*PHASES, OTHER), 0.0)
        self._tokens: dict[str, int] = dict.fromkeys(PHASES, 0)
        self._step_start = dict(self._seconds)
        self._open: list[str] = []
        self._mark: float | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Charge the time inside to `name`, or to the phase that is already open."""
        assert name in PHASES, f"unknown phase {name}; there are {', '.join(PHASES)}"
        if self._mark is None:
            self._mark = self._clock()
        else:
            self._settle()
        self._open.append(name)
        try:
            yield
        finally:
            self._settle()
            self._open.pop()

    def transfer(self, source: str, target: str, seconds: float) -> None:
        """Charge to `target` what was charged to `source`: for work that happened inside a phase, in another process or
        under its name, and is known by its duration alone."""
        self._settle()
        seconds = min(seconds, self._seconds[source])
        self._seconds[source] -= seconds
        self._seconds[target] += seconds

    @property
    def current_phase(self) -> str:
        """The outermost open phase, or "other"."""
        return self._open[0] if self._open else OTHER

    def add_tokens(self, phase: str, num_tokens: int) -> None:
        """Count tokens that `phase` generated or processed."""
        self._tokens[phase] += num_tokens

    def end_step(self) -> dict[str, float]:
        """Return the seconds per phase since the previous call, or since the start, zeros included."""
        self._settle()
        seconds = {phase: self._seconds[phase] - self._step_start[phase] for phase in self._seconds}
        self._step_start = dict(self._seconds)
        return seconds

    @property
    def training_seconds(self) -> float:
        """Seconds of the run so far without start-up, evaluation, audits and saving."""
        self._settle()
        return training_seconds(self._seconds)

    @property
    def total_seconds(self) -> float:
        """Seconds of the run so far without start-up."""
        self._settle()
        return sum(self._seconds.values())

    @property
    def bubble_share(self) -> float:
        """The fraction of training time in which the learner has nothing to do: it waits for samples and scores, or for the
        driver. 0 before any."""
        seconds = self.training_seconds
        at_work = sum(self._seconds[phase] for phase in LEARNER_AT_WORK)
        return 1 - at_work / seconds if seconds > 0 else 0.0

    def totals(self) -> tuple[PhaseTotal, ...]:
        """Return the time table: one row per phase that took time, "other" last. The shares add up to 1."""
        whole = self.total_seconds
        return tuple(
            PhaseTotal(
                phase=phase,
                seconds=seconds,
                share=seconds / whole,
                tokens_per_second=self._tokens[phase] / seconds if self._tokens.get(phase) else None,
            )
            for phase, seconds in self._seconds.items()
            if seconds > 0
        )

    def state(self) -> dict[str, dict[str, float] | dict[str, int]]:
        """Return the totals as plain JSON types, the time of an open phase up to now included."""
        self._settle()
        return {"seconds": dict(self._seconds), "tokens": dict(self._tokens)}

    def restore(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Continue from what `state` returned in an earlier process. Time between the two is not counted."""
        self._seconds = {phase: float(state["seconds"][phase]) for phase in self._seconds}
        self._tokens = {phase: int(state["tokens"][phase]) for phase in self._tokens}
        self._step_start = dict(self._seconds)
        self._mark = None

    def _settle(self) -> None:
        """Charge the time since the last settlement to the phase that was open during it."""
        if self._mark is None:
            return
        now = self._clock()
        self._seconds[self.current_phase] += now - self._mark
        self._mark = now
