"""What a study says while it runs: a line for every cell that ends."""

import time
from collections.abc import Callable

from effopd.study.orders import Outcome


def progress_line(done: int, total: int, label: str, outcome: Outcome, seconds_left: float) -> str:
    """Return what to say of a cell that has ended."""
    left = "" if done == total else f"; about {spoken_time(seconds_left)} left"
    what = f"failed: {outcome.error}" if outcome.score is None else f"score {outcome.score:.3f}"
    return f"[{done}/{total}] {label}: {what} ({spoken_time(outcome.seconds)}){left}"


def spoken_time(seconds: float) -> str:
    """Return a time as people say it: `42 s`, `12 min`, `3 h 5 min`."""
    minutes = round(seconds / 60)
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"


class Eta:
    """How long the rest will take, from the rate so far: a machine that is shared is slower than its runs' own times say."""

    def __init__(self, total: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._total = total
        self._clock = clock
        self._started = clock()

    def seconds_left(self, done: int) -> float:
        return (self._clock() - self._started) / done * (self._total - done)
