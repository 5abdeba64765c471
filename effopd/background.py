"""A thread that does one thing after another beside the main one, and that a process does not wait for when it ends."""

import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import Generic, TypeVar

Result = TypeVar("Result")


class Background(Generic[Result]):
    """Calls functions in the order in which they are given.

    Unlike that of a ThreadPoolExecutor its thread does not keep the process: a run that was asked to end cannot wait for
    the longest response of a batch that nobody will train on.
    """

    def __init__(self, name: str) -> None:
        self._waiting: queue.SimpleQueue[tuple[Callable[[], Result], Future[Result]] | None] = queue.SimpleQueue()
        threading.Thread(target=self._work, name=name, daemon=True).start()

    def submit(self, function: Callable[[], Result]) -> Future[Result]:
        """Return what `function` will return or raise."""
        future: Future[Result] = Future()
        self._waiting.put((function, future))
        return future

    def close(self) -> None:
        """Let the thread end once all that was submitted is done or cancelled. Returns at once."""
        self._waiting.put(None)

    def _work(self) -> None:
        while (item := self._waiting.get()) is not None:
            function, future = item
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except BaseException as error:  # whoever asks for the result is told
                future.set_exception(error)
            del item, function, future  # and what they hold, while one waits for more
