"""The process that calls a verifier for `effopd.rewards.pool`, and the lines it exchanges with the pool.

In comes one JSON list `[response, answer, metadata]` a line. Out goes, a line each and at once, `["ready"]` or
`["refused", message]`, and from then on one `["score", number]` or `["error", message]` per line that came in. Nothing
here imports torch, so that a worker starts in a tenth of a second and stays small.
"""

import ctypes
import json
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from typing import BinaryIO

from effopd.errors import ConfigError
from effopd.rewards.verifier import VerifierFunction, start_verifier

_MAX_MESSAGE_CHARS = 2000
_STDIN, _STDOUT, _STDERR = 0, 1, 2
_PR_SET_PDEATHSIG = 1  # <linux/prctl.h>


def main(name: str) -> None:
    """Judge what comes in until standard input ends."""
    requests, replies = _take_pipes()
    _die_with_parent()
    try:
        verifier = start_verifier(name)
    except ConfigError as error:
        _send(replies, "refused", str(error))
        return
    _send(replies, "ready")
    for line in requests:
        response, answer, metadata = json.loads(line)
        _send(replies, *_judge(verifier, response, answer, metadata))


def _judge(
    verifier: VerifierFunction, response: str, answer: str, metadata: Mapping[str, object]
) -> tuple[str, float | str]:
    try:
        return "score", float(verifier(response, answer, metadata))
    except (Exception, SystemExit) as error:  # anything the user's code raises is reported, and the worker goes on
        return "error", traceback.format_exception_only(error)[-1].strip()[:_MAX_MESSAGE_CHARS]


def _take_pipes() -> tuple[BinaryIO, int]:
    """Return the pool's pipes; what the verifier prints goes to standard error, and it finds its input empty."""
    requests, replies = os.fdopen(os.dup(_STDIN), "rb"), os.dup(_STDOUT)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, _STDIN)
    os.close(nothing)
    os.dup2(_STDERR, _STDOUT)
    return requests, replies


def _die_with_parent() -> None:
    """Ask the kernel for SIGKILL when the thread that started this process ends.

    The end of standard input does the same for a worker that waits, but not for one in the middle of an endless answer.
    """
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)


def _send(replies: int, *reply: object) -> None:
    """Write one line. It is shorter than a pipe holds, and written whole."""
    os.write(replies, json.dumps(reply).encode() + b"\n")


if __name__ == "__main__":
    main(sys.argv[1])
