"""SIGTERM and Ctrl-C as a request: what is finished is saved, and then the run ends.

Schedulers send SIGTERM before they take a machine back, and kill after a grace period. While responses are sampled and
scored, which is most of a step, and while the policy is evaluated, the learner holds exactly what the last finished step
left, so a run can save at once and needs not wait. An evaluation that is broken off is made up for when the run is resumed.
Anywhere else the signal is remembered until the step's update, trigger and records are done, and after the last step until
the evaluation is; a second Ctrl-C does not wait.
"""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

logger = logging.getLogger(__name__)


class Terminated(KeyboardInterrupt):
    """The run was asked to end and did. No error, so nothing that mends or reports errors may catch it."""

    def __init__(self, signal_number: int, remedy: str = "") -> None:
        super().__init__(f"ended by {signal.Signals(signal_number).name}{remedy}")
        self.signal_number = signal_number
        self._remedy = remedy

    def __reduce__(self) -> tuple[type["Terminated"], tuple[int, str]]:
        return type(self), (self.signal_number, self._remedy)


@contextmanager
def handlers_kept() -> Iterator[None]:
    """Keep this process's handlers of SIGTERM and Ctrl-C, although what is inside sets others, as Ray does when it starts: those
    print a stack and abort. SIGTERM that has no handler here is left to Ray, which ends its processes, too."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    kept = {number: handler for number, handler in handlers.items() if callable(handler) or handler is signal.SIG_IGN}

    def restore() -> None:
        for number, handler in kept.items():
            signal.signal(number, handler)

    try:
        yield
    except SystemExit:  # Ray's answer to SIGTERM while it starts
        if signal.SIGTERM in kept:
            restore()
            signal.raise_signal(signal.SIGTERM)
        raise
    finally:
        restore()


class Termination:
    """Whether this process was asked to end, and by which signal. One run's, on the main thread."""

    def __init__(self) -> None:
        self.signal_number: int | None = None
        self._is_interruptible = False

    @property
    def is_requested(self) -> bool:
        return self.signal_number is not None

    @contextmanager
    def listening(self) -> Iterator[None]:
        """Take SIGTERM and Ctrl-C for a request, inside. Not so outside the main thread, which alone may handle signals, and
        no signal that this process was told to ignore."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        numbers = [
            number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) is not signal.SIG_IGN
        ]
        previous = {number: signal.signal(number, self._receive) for number in numbers}
        try:
            yield
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Raise Terminated as soon as there is a request, or was one before: for work that may be thrown away."""
        try:
            self._is_interruptible = True
            if self.is_requested:
                raise KeyboardInterrupt
            yield
        except KeyboardInterrupt:
            if self.signal_number is None:
                raise
            raise Terminated(self.signal_number) from None
        finally:
            self._is_interruptible = False

    def _receive(self, number: int, frame: FrameType | None) -> None:
        is_second = self.is_requested
        self.signal_number = number
        # Of this type, because it is the only one that Ray lets out of its waiting.
        if self._is_interruptible or (is_second and number == signal.SIGINT):
            raise KeyboardInterrupt
        logger.warning("the step is finished and saved first; Ctrl-C now would end the run without that")
