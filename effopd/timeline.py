"""When each role did what, as a file that Perfetto (ui.perfetto.dev) and chrome://tracing open.

An actor measures itself, inside its calls: its lane shows work, and gaps where it waits for others. The driver's lane shows the
phases of the ledger, "wait" among them. Every process keeps its lane in memory, some hundred bytes a call, until the run ends; a
process that dies takes its lane with it. Times are those of each machine's own clock, so lanes of different machines are as
well aligned as these.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from effopd.durable import replace_file

TIMELINE_NAME = "timeline.json"
DRIVER = "driver"
_MICROSECONDS = 1e6
"""In one second: the unit of the format."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Span:
    """One thing that was done."""

    name: str
    start: float
    """Seconds since 1970."""
    seconds: float


class Lane:
    """The spans of one role. Keeps nothing before `begin`."""

    def __init__(self) -> None:
        self._spans: list[Span] | None = None

    def begin(self) -> None:
        """Keep what is done from now on, and forget what was done before."""
        self._spans = []

    @contextmanager
    def span(self, name: str) -> Iterator[None]:
        """Keep the time inside as `name`. Spans of one lane nest; they do not overlap."""
        spans = self._spans
        if spans is None:
            yield
            return
        start, mark = time.time(), time.perf_counter()
        try:
            yield
        finally:
            spans.append(Span(name=name, start=start, seconds=time.perf_counter() - mark))

    def spans(self) -> tuple[Span, ...]:
        """Return what was kept, in the order in which it ended."""
        return tuple(self._spans or ())


class Lanes(Protocol):
    """The lanes of all roles but the driver's."""

    def begin(self) -> None:
        """Let every lane begin."""
        ...

    def spans(self) -> Mapping[str, Sequence[Span]]:
        """Return every lane's spans by its name, e.g. `sampler 0`, in the order in which they are to be shown."""
        ...


class LanesHere:
    """Lanes of this process."""

    def __init__(self, lanes: Mapping[str, Lane]) -> None:
        self._lanes = lanes

    def begin(self) -> None:
        for lane in self._lanes.values():
            lane.begin()

    def spans(self) -> dict[str, tuple[Span, ...]]:
        return {name: lane.spans() for name, lane in self._lanes.items()}


def write_timeline(path: Path, lanes: Mapping[str, Sequence[Span]]) -> None:
    """Write lanes by name, one below the other, in Chrome's trace event format; whole or not at all."""
    events: list[dict[str, object]] = []
    for number, (name, spans) in enumerate(lanes.items()):
        events.append({"ph": "M", "name": "thread_name", "pid": 0, "tid": number, "args": {"name": name}})
        events.append({"ph": "M", "name": "thread_sort_index", "pid": 0, "tid": number, "args": {"sort_index": number}})
        events += [
            {
                "ph": "X",
                "name": span.name,
                "pid": 0,
                "tid": number,
                "ts": span.start * _MICROSECONDS,
                "dur": span.seconds * _MICROSECONDS,
            }
            for span in spans
        ]
    replace_file(path, json.dumps({"traceEvents": events, "displayTimeUnit": "ms"}).encode())


@contextmanager
def written_timeline(path: Path, driver: Lane, lanes: Lanes) -> Iterator[None]:
    """Write what all roles do inside to `path`, also when it ends with an error."""
    driver.begin()
    lanes.begin()
    try:
        yield
    finally:
        write_timeline(path, {DRIVER: driver.spans(), **lanes.spans()})
