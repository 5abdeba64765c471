"""The processes of one run, found below its driver, which started them: never by name alone, for others may train here too."""

import os
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    pid: int
    parent: int
    title: str
    """As it calls itself, e.g. `ray::SamplerActor.generate`."""
    started: int
    """Clock ticks since the machine's start: tells it from a later process with the same number."""

    def is_like(self, other: "Process") -> bool:
        """Return whether both do the same, whatever they are at: Ray adds the method that is running to the title."""
        return self.title.partition(".")[0] == other.title.partition(".")[0]

    def is_alive(self) -> bool:
        found = _process(self.pid)
        return found is not None and found.started == self.started


def descendants(pid: int) -> list[Process]:
    """Return what a process has started, and what that has started, parents before children."""
    children: dict[int, list[Process]] = {}
    for entry in _PROC.iterdir():
        if entry.name.isdigit() and (process := _process(int(entry.name))) is not None:
            children.setdefault(process.parent, []).append(process)
    found = list(children.get(pid, []))
    for process in found:  # which grows meanwhile
        found += children.get(process.pid, [])
    return found


def now() -> int:
    """Return the moment that a process which started now would have as its start."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * os.sysconf("SC_CLK_TCK"))


def kill_all(processes: list[Process], number: int) -> None:
    """Send a signal to those that are still there."""
    for process in processes:
        if process.is_alive():
            with suppress(ProcessLookupError):
                os.kill(process.pid, number)


def wait_until(condition: Callable[[], bool], seconds: float) -> bool:
    """Return whether a condition came true within so many seconds."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.02)
    return True


def _process(pid: int) -> Process | None:
    """Return a living process; None when it has ended, though its parent may not know yet."""
    try:
        # The name, in parentheses, may have spaces in it.
        state, parent, *rest = (_PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
        title = (_PROC / str(pid) / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace").strip()
    except (FileNotFoundError, ProcessLookupError):
        return None
    if state in "ZX":
        return None
    return Process(pid=pid, parent=int(parent), title=title, started=int(rest[17]))  # field 22; see proc(5)
