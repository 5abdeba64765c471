"""Verifiers for the tests of the pool; its workers import them from this folder."""

import json
import os
import signal
import sys
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

from effopd.toy.verify import sums

not_a_function = 3

_is_started = False


def start_worker() -> None:
    global _is_started
    _is_started = True


def checksum(response: str, answer: str, metadata: Mapping[str, object]) -> float:
    """A score that says which response it is of, after a little work."""
    time.sleep(0.005)
    return zlib.crc32(response.encode()) / 2**32


def obey(response: str, answer: str, metadata: Mapping[str, object]) -> float:
    """Do what the response says."""
    match response:
        case "die":
            os.kill(os.getpid(), signal.SIGSEGV)
        case "be killed":
            os.kill(os.getpid(), signal.SIGKILL)
        case "die once":  # `answer` is a file that remembers it
            if not Path(answer).exists():
                Path(answer).touch()
                os.kill(os.getpid(), signal.SIGKILL)
        case "be killed five times":  # likewise
            with open(answer, "a") as file:
                file.write("x")
            if Path(answer).stat().st_size <= 5:
                os.kill(os.getpid(), signal.SIGKILL)
        case "hang":
            Path(answer).touch()
            9**9**9**9  # inside one C call: no signal handler and no other thread of Python gets a turn
        case "raise":
            raise ValueError("no such thing")
        case "exit":
            sys.exit(3)
        case "talk":
            print(sys.stdin.read(), "not a reply")  # noqa: T201
        case "fork":
            if os.fork() == 0:
                time.sleep(1000)
        case "is torch loaded":
            return float("torch" in sys.modules)
        case "is started":
            return float(_is_started)
        case "metadata":
            return float(metadata == json.loads(answer))
    return float(answer) if response == "score" else 1.0


def returns_nothing(response: str, answer: str, metadata: Mapping[str, object]) -> float:
    return None  # type: ignore


def slow_sums(response: str, answer: str, metadata: Mapping[str, object]) -> float:
    """The toy verifier, slowly, noting in the file `$VERIFIER_LOG` who begins what."""
    line = json.dumps([os.getpid(), metadata["prompt_id"], response])
    with open(os.environ["VERIFIER_LOG"], "a") as file:
        file.write(line + "\n")
    time.sleep(0.05)
    return sums(response, answer, metadata)
