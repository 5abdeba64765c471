"""Signal handlers beside a library that sets its own, as Ray does when it starts."""

import os
import signal
import sys
from types import FrameType

import pytest

from effopd.termination import Terminated, Termination, handlers_kept


def exit_at_once(number: int, frame: FrameType | None) -> None:
    sys.exit(15)


def test_a_request_that_the_library_answers_with_an_exit_is_a_request_all_the_same() -> None:
    termination = Termination()
    with (
        pytest.raises(Terminated, match="ended by SIGTERM"),
        termination.listening(),
        termination.interruptible(),
        handlers_kept(),
    ):
        signal.signal(signal.SIGTERM, exit_at_once)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("the exit comes first")


def test_handlers_are_set_again_and_so_is_the_order_to_ignore_a_signal() -> None:
    termination = Termination()
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    try:
        with termination.listening():
            own = signal.getsignal(signal.SIGINT)
            with handlers_kept():
                signal.signal(signal.SIGTERM, exit_at_once)
                signal.signal(signal.SIGINT, exit_at_once)
            assert signal.getsignal(signal.SIGTERM) is signal.SIG_IGN
            assert signal.getsignal(signal.SIGINT) == own
    finally:
        signal.signal(signal.SIGTERM, before)


def test_a_signal_without_a_handler_is_left_to_the_library() -> None:
    before = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with handlers_kept():
            signal.signal(signal.SIGTERM, exit_at_once)
        assert signal.getsignal(signal.SIGTERM) is exit_at_once
    finally:
        signal.signal(signal.SIGTERM, before)
