"""The trusted program inside the sandbox: forks the untrusted one, then receives the tests and judges its answers.

As process 1 of its namespace it can be neither killed nor stopped from within, and when it ends, everything in the sandbox
ends. It writes the nonce to its standard output when all tests have passed, else a reason.
"""

import os
import sys

from effopd.rewards.guest.candidate import serve_functions, serve_programs
from effopd.rewards.guest.compare import is_expected, is_listed, is_same_set, is_same_text
from effopd.rewards.guest.frames import receive
from effopd.rewards.guest.remote import Failed, Opaque, fork_with_pipes
from effopd.rewards.guest.values import decode

MAX_TESTS_BYTES = 2**30
PRELOADED = (
    "bisect",
    "collections",
    "copy",
    "functools",
    "heapq",
    "itertools",
    "math",
    "random",
    "re",
    "string",
    "typing",
)


def main():
    result = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_RDWR), 1)  # tests may print
    program = decode(receive(0, MAX_TESTS_BYTES), _no_reference)
    _preload(program["source"] + program["prompt"])
    remote = fork_with_pipes(lambda requests, replies: _serve(program, requests, replies), program["seconds_per_test"])
    if remote is None:
        return
    # From here on there is something to hide: the process that runs the program was made before.
    nonce, tests = decode(receive(0, MAX_TESTS_BYTES), _no_reference)
    try:
        JUDGES[tests["kind"]](tests, remote)
    except BaseException as error:  # whatever goes wrong, in tests or program, this did not pass
        os.write(result, f"{type(error).__name__}: {error}"[:1000].encode("utf-8", "replace"))
    else:
        os.write(result, nonce.encode())
    os._exit(0)


def judge_asserts(tests, remote):
    """Tests written as Python: they run here, with functions that stand for the program's."""
    remote.expect_loaded()
    namespace = {"__name__": "tests"}
    exec(compile(tests["prompt"], "<prompt>", "exec"), namespace)
    namespace.update({name: remote.function(name) for name in tests["functions"]})
    namespace.update({name: remote.type(name) for name in tests["types"]})
    exec(compile(tests["source"], "<tests>", "exec"), namespace)


def judge_against_reference(tests, remote):
    """EvalPlus's tests: inputs, on which a reference solution says what is expected."""
    remote.expect_loaded()
    function = remote.function(tests["entry_point"])
    references = [_function(source, tests["entry_point"]) for source in tests["references"]]
    is_right = COMPARISONS[tests["comparison"]]
    inputs, inputs_of_reference = _evaluate(tests["inputs"]), _evaluate(tests["inputs"])
    for arguments, copies in zip(inputs, inputs_of_reference):  # noqa: B905
        output = function(*arguments)
        if not any(is_right(output, reference, copies, tests["atol"]) for reference in references):
            raise Failed(f"{tests['entry_point']}({_shown(copies)}) is {_shown(output)}")


def judge_calls(tests, remote):
    """Arguments and expected results, for one function."""
    remote.expect_loaded()
    function = remote.function(tests["entry_point"])
    for arguments, expected in zip(_evaluate(tests["inputs"]), _evaluate(tests["outputs"])):  # noqa: B905
        output = function(*arguments)
        if not is_listed(output, expected, is_wrapped=tests["is_wrapped"]):
            raise Failed(f"{tests['entry_point']} returns {_shown(output)}, not {_shown(expected)}")


def judge_programs(tests, remote):
    """Standard inputs and expected standard outputs of a whole program."""
    for stdin, expected in zip(tests["inputs"], tests["outputs"]):  # noqa: B905
        is_ended_well, output = remote.run(stdin)
        if not is_ended_well:
            raise Failed("the program ended with an error")
        if not is_same_text(output, expected):
            raise Failed(f"the program prints {_shown(output)}, not {_shown(expected)}")


JUDGES = {
    "asserts": judge_asserts,
    "reference": judge_against_reference,
    "calls": judge_calls,
    "stdio": judge_programs,
}

COMPARISONS = {
    "equal": lambda output, reference, arguments, atol: is_expected(output, reference(*arguments), atol),
    "same_set": lambda output, reference, arguments, atol: is_same_set(output, reference(*arguments)),
    "is_given": lambda output, reference, arguments, atol: _is_given(output) == _is_given(reference(*arguments)),
    "is_bool": lambda output, reference, arguments, atol: isinstance(output, bool),
    "is_zero": lambda output, reference, arguments, atol: abs(reference(*arguments, output)) <= atol,
}


def _is_given(output):
    """For functions that may return a match object where others return whether there is one."""
    return output if isinstance(output, bool) else output is not None


def _serve(program, requests, replies):
    if program["is_stdio"]:
        serve_programs(program["source"], requests, replies)
    else:
        serve_functions(program["source"], program["prompt"], requests, replies)


def _preload(text):
    """Import here, once, what both processes would import, and make `random` start from the same place every time."""
    for name in PRELOADED:
        if f"import {name}" in text or f"from {name}" in text:
            __import__(name)
    if "random" in sys.modules:
        sys.modules["random"].seed(0)


def _function(source, name):
    namespace = {"__name__": "reference"}
    exec(compile(source, "<reference>", "exec"), namespace)
    return namespace[name]


def _evaluate(text):
    """Return the value of a Python literal; literals in the tests are the tests' own, so `eval` is safe."""
    return eval(text, {"inf": float("inf"), "nan": float("nan")})


def _shown(value):
    return f"an object of type {type(value).__name__}" if isinstance(value, Opaque) else repr(value)[:200]


def _no_reference(number):
    raise ValueError("the verifier sends plain values only")


if __name__ == "__main__":
    main()
