"""SIGTERM as a request: what is finished is saved, and then the run ends.

Schedulers send it before they take a machine back, and kill after a grace period. While responses are sampled and scored,
which is most of a step, the learner holds exactly what the last finished step left, so a run can save at once and needs not
wait. Anywhere else the signal is remembered until the step's update, trigger, evaluation and records are done.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


class Terminated(KeyboardInterrupt):
    """The run was asked to end and did. No error, so nothing that mends or reports errors may catch it."""


class Termination:
    """Whether this process was asked to end. One run's, on the main thread."""

    def __init__(self) -> None:
        self.is_requested = False
        self._is_interruptible = False

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM for a request, inside. Not so outside the main thread, which alone may handle signals."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        previous = signal.signal(signal.SIGTERM, self._receive)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, previous)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Raise Terminated as soon as there is a request, or was one before: for work that may be thrown away."""
        self._is_interruptible = True
        try:
            if self.is_requested:
                raise KeyboardInterrupt
            yield
        except KeyboardInterrupt:
            if not self.is_requested:
                raise
            raise Terminated("ended by SIGTERM") from None
        finally:
            self._is_interruptible = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.is_requested = True
        if self._is_interruptible:
            # Of this type, because it is the only one that Ray lets out of its waiting.
            raise KeyboardInterrupt
