"""Model-written code: run in a sandbox against tests that it can neither see nor answer for.

Three processes take part. The verifier, outside, never parses what the model wrote. Inside a sandbox of its own the judge
forks the process that runs it, and only then receives the tests and a nonce; it calls the program over pipes, gets plain
values back, compares them itself and prints the nonce when all tests have passed. So an exit code, printed text, a patched
built-in or an object that equals everything proves nothing: there is nothing to patch where the comparison is made.
"""

import functools
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from effopd.errors import DataError
from effopd.rewards.guest.values import encode
from effopd.rewards.sandbox import Limits, compile_inside, require_sandbox, run

TESTS_KEY = "code_tests"
_FENCE = "```"
_PYTHON = ("python", "py", "python3")
_GUEST = Path(__file__).parent / "guest"
_GUEST_MODULES = ("values", "frames", "remote", "compare", "candidate")


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """Whether a response passes all its tests, and if not, why; the reason may quote what the program printed."""

    is_passed: bool
    reason: str


def start_worker() -> None:
    """Refuse a machine without a sandbox before anything else starts, and compile the judge, at no answer's expense.

    Raises ConfigError, with the remedy.
    """
    require_sandbox()
    _guest_bytecode()


def verify(response: str, answer: str, metadata: Mapping[str, object]) -> float:
    """Return 1.0 when the code in the response passes all tests of `metadata["code_tests"]`, else 0.0.

    `answer` is not read. Raises DataError when there are no tests, ConfigError when there is no sandbox.
    """
    tests = metadata.get(TESTS_KEY)
    if not isinstance(tests, Mapping) or "kind" not in tests:
        raise DataError(
            f"metadata[{TESTS_KEY!r}] must be the tests of a CodeTask, as effopd.rewards.code_tasks makes them; "
            f"it is {tests!r:.100}"
        )
    return float(judge(response, tests).is_passed)


def judge(response: str, tests: Mapping[str, object], limits: Limits | None = None) -> Verdict:
    """Return the verdict on the code in the response. `tests` is `CodeTask.tests`."""
    nonce, limits = secrets.token_hex(16), Limits() if limits is None else limits
    head = {
        "source": extract_code(response),
        "prompt": tests.get("prompt", ""),
        "is_stdio": tests["kind"] == "stdio",
        "seconds_per_test": limits.seconds_per_test,
    }
    # Two messages: the judge forks the program's process after the first and before it reads the second.
    stdin = b"".join(_message(part) for part in (head, (nonce, dict(tests))))
    program, modules = _guest_bytecode()
    result = run(program, stdin, limits, modules)
    if result.is_overtime:
        return Verdict(is_passed=False, reason="out of time")
    said = result.stdout.decode("utf-8", "replace")
    return Verdict(is_passed=said == nonce, reason="" if said == nonce else said or "the judge was killed")


def extract_code(response: str) -> str:
    """Return the last fenced Python block, else the last fence that names no language, else the whole response.

    A block that is never closed ends with the response.
    """
    blocks: list[tuple[str, list[str]]] = []
    is_inside = False
    for line in response.splitlines(keepends=True):
        mark = line.strip()
        if not is_inside and mark.startswith(_FENCE):
            blocks.append((mark.removeprefix(_FENCE).strip().lower(), []))
            is_inside = True
        elif mark == _FENCE:
            is_inside = False
        elif is_inside:
            blocks[-1][1].append(line)
    for languages in (_PYTHON, ("",)):
        for language, lines in reversed(blocks):
            if language in languages:
                return "".join(lines)
    return response


def _message(value: object) -> bytes:
    data = encode(value, _refuse)
    return len(data).to_bytes(8, "little") + data


def _refuse(value: object) -> int:
    raise DataError(f"metadata[{TESTS_KEY!r}] holds a {type(value).__name__}; tests are plain values")


@functools.cache
def _guest_bytecode() -> tuple[bytes, dict[str, bytes]]:
    """Return the judge and the modules that it imports; compiling them anew would double the time of a short program."""
    modules = {f"effopd.rewards.guest.{name}": _compiled(name) for name in _GUEST_MODULES}
    return _compiled("judge"), modules


def _compiled(name: str) -> bytes:
    return compile_inside((_GUEST / f"{name}.py").read_text())
