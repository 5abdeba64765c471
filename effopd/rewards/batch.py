"""The answers of one call of the verifier pool: what is sent of them, who waits, who has which score."""

import datetime
import json
import signal
from collections import Counter, deque
from collections.abc import Mapping, Sequence

import numpy

from effopd.errors import DataError, EffOPDError

Item = tuple[str, str, Mapping[str, object]]
"""Response, answer and metadata: the arguments of a verifier."""

MAX_DEATHS = 3
"""Workers that may die of an answer by themselves, of a crash or an exit, before it scores 0."""

MAX_KILLS = 10
"""Workers that may be killed during an answer before that is an error. Whoever sent SIGKILL, the kernel short of memory, a
person or the answer itself, cannot be told, so it never costs an answer its score. Verifiers bound their own memory
(`start_worker`), so that an answer that eats it all ends in a MemoryError instead."""

_FROM_OUTSIDE = {-signal.SIGKILL, -signal.SIGTERM, -signal.SIGINT, -signal.SIGHUP}


class Batch:
    """Items of one call, and how far each of them has come."""

    def __init__(self, items: Sequence[Item]) -> None:
        self._items = items
        self.lines = [_line(item, self.label(index)) for index, item in enumerate(items)]
        self.waiting = deque(range(len(items)))
        """Items to hand out, in order."""
        self._scores: dict[int, float] = {}
        self._faults: dict[int, str] = {}
        self._deaths: Counter[int] = Counter()
        self._kills: Counter[int] = Counter()
        self._num_unsettled = len(items)

    @property
    def is_open(self) -> bool:
        return self._num_unsettled > 0

    def settle(self, index: int, score: float) -> None:
        if not 0.0 <= score <= 1.0:
            return self.fail(index, f"returned {score}; scores must lie in [0, 1]")
        self._scores[index] = score
        self._num_unsettled -= 1

    def fail(self, index: int, message: str) -> None:
        """Note a fault of the verifier. What comes after it need not be judged; what comes before may hold the first fault."""
        self._faults[index] = message
        dropped = [other for other in self.waiting if other > index]
        self.waiting = deque(other for other in self.waiting if other < index)
        self._num_unsettled -= 1 + len(dropped)

    def give_back(self, held: Sequence[int], exit_code: int) -> bool:
        """Take back what a dead worker held. Return whether its first item has cost too many workers and so scores 0.

        Args:
            held: items, the one under judgement first.
            exit_code: of the worker; negative for a signal.

        Raises:
            EffOPDError: when the first item is the one under judgement in `MAX_KILLS` workers that were killed.

        """
        first, *others = held
        if exit_code in _FROM_OUTSIDE:
            self._kills[first] += 1
            if self._kills[first] >= MAX_KILLS:
                raise EffOPDError(
                    f"{self.label(first)}: {MAX_KILLS} verifier workers in a row were killed by signal {-exit_code} while they "
                    "judged a response to it; give the machine more memory, or let the verifier bound its own in start_worker()"
                )
        else:
            self._deaths[first] += 1
        is_given_up = self._deaths[first] >= MAX_DEATHS
        if is_given_up:
            self.settle(first, 0.0)
        self.waiting.extendleft(reversed(others if is_given_up else held))
        return is_given_up

    def result(self) -> list[float]:
        if self._faults:
            first = min(self._faults)
            raise DataError(f"{self.label(first)}: the verifier failed: {self._faults[first]}")
        return [self._scores[index] for index in range(len(self._items))]

    def label(self, index: int) -> str:
        """Return the words that name an item in messages."""
        metadata = self._items[index][2]
        return f"prompt {metadata.get('prompt_id', f'number {index} of the batch')}"


def _line(item: Item, label: str) -> bytes:
    response, answer, metadata = item
    try:
        return json.dumps([response, answer, dict(metadata)], default=_plain).encode() + b"\n"
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{label}: its metadata cannot go to the verifier as JSON ({error}); convert or drop the column"
        ) from error


def _plain(value: object) -> object:
    """Return a JSON value for what JSON does not know."""
    if isinstance(value, numpy.ndarray | numpy.generic):
        return value.tolist()
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    return str(value)
