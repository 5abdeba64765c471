"""Mathematical answers: exact match first, then math-verify in worker processes that are killed on overrun.

math-verify parses hostile strings with sympy: it can hang, and its own time-outs need the main thread. So it runs in
processes of its own; an answer that overruns counts as wrong and costs its worker its life.
"""

import atexit
import json
import re
import select
import subprocess
import sys
from collections.abc import Mapping
from fractions import Fraction

SECONDS_PER_ANSWER = 10.0
SECONDS_TO_START = 120.0

_BOXED = "\\boxed"
_MAX_DIGITS = 1000  # Python refuses to read integers of more than 4,300 digits
_NUMBER = re.compile(r"[-+]?(\d{1,3}(,\d{3})+|\d+)(\.\d+)?(/\d+)?$", re.ASCII)


def verify(response: str, answer: str, metadata: Mapping[str, object]) -> float:
    """Return 1.0 when the response's final answer equals `answer`, else 0.0. Never raises on a response.

    The final answer is the content of the last `\\boxed{}`, else what follows the last `#### `, else the last line.
    """
    final = extract_final_answer(response)
    if final is None:
        return 0.0
    if _normalise(final) == _normalise(answer):
        return 1.0
    given, wanted = _as_number(final), _as_number(answer)
    if given is not None and wanted is not None:
        return float(given == wanted)
    return _WORKER.verify(answer, final)


def extract_final_answer(response: str) -> str | None:
    """Return the text of the final answer, or None when there is none or its braces never close."""
    start = response.rfind(_BOXED)
    if start >= 0:
        return _braced(response, start + len(_BOXED))
    if "#### " in response:
        return response.rsplit("#### ", 1)[1].split("\n", 1)[0].strip() or None
    lines = response.strip().splitlines()
    return lines[-1].strip() or None if lines else None


def _braced(text: str, position: int) -> str | None:
    """Return what stands between the brace at `position` (spaces allowed before it) and its partner."""
    rest = text[position:].lstrip()
    if not rest.startswith("{"):
        return None
    depth = 0
    for index, character in enumerate(rest):
        if character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if depth == 0:
                return rest[1:index].strip() or None
    return None


def _normalise(text: str) -> str:
    return re.sub(r"\s+", "", text).strip("$").rstrip(".")


def _as_number(text: str) -> Fraction | None:
    compact = _normalise(text)
    if len(compact) > _MAX_DIGITS or not _NUMBER.match(compact) or compact.endswith("/0"):
        return None
    numerator, _, denominator = compact.replace(",", "").partition("/")
    value = Fraction(numerator)
    if not denominator:
        return value
    return value / Fraction(denominator) if Fraction(denominator) else None


class _Worker:
    """One process with math-verify in it, started at first use and again after it was killed."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None
        atexit.register(self._kill)

    def verify(self, gold: str, given: str) -> float:
        process = self._start()
        reply = _ask(process, json.dumps([gold, given]), SECONDS_PER_ANSWER)
        if reply is None:
            self._kill()
            return 0.0
        return float(reply == "true")

    def _start(self) -> "subprocess.Popen[str]":
        if self._process is None or self._process.poll() is not None:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "effopd.rewards.math_worker"],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                bufsize=1,
            )
            if _ask(self._process, json.dumps(["1", "1"]), SECONDS_TO_START) != "true":
                self._kill()
                raise RuntimeError("the math-verify worker did not start; install effopd with its `math` extra")
        return self._process

    def _kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None


def _ask(process: "subprocess.Popen[str]", line: str, seconds: float) -> str | None:
    """Return the worker's one-line reply, or None when it overran or died."""
    assert process.stdin is not None and process.stdout is not None
    try:
        process.stdin.write(line + "\n")
    except BrokenPipeError:
        return None
    is_readable, _, _ = select.select([process.stdout], [], [], seconds)
    return process.stdout.readline().strip() or None if is_readable else None


_WORKER = _Worker()
