import math
import os
import threading

import pytest

from effopd.config.schema import RunConfig
from effopd.config.verifier_time import SANDBOX_SECONDS_TO_END, SANDBOX_SECONDS_TO_START, seconds_per_answer
from effopd.errors import DataError
from effopd.rewards.code import extract_code, judge, verify
from effopd.rewards.code_tasks import humaneval, stdio
from effopd.rewards.guest.values import decode, encode
from effopd.rewards.sandbox import Limits


def function_tests(asserts: str, prompt: str = "def f(*arguments):\n") -> dict[str, object]:
    """Return HumanEval-style tests of a function `f`; every line of `asserts` is a line of `check`."""
    lines = "".join(f"    {line}\n" for line in asserts.splitlines())
    return humaneval({"prompt": prompt, "entry_point": "f", "test": f"def check(candidate):\n{lines}"}).tests


def program_tests(inputs: list[str], outputs: list[str]) -> dict[str, object]:
    return stdio({"prompt": "?", "input_output": {"inputs": inputs, "outputs": outputs}}).tests


@pytest.mark.parametrize(
    ("response", "code"),
    [
        ("x = 1", "x = 1"),
        ("    return 1", "    return 1"),
        ("Sure:\n```python\nx = 1\n```\nDone.", "x = 1\n"),
        ("```python\nx = 1\n```\nor better\n```py\nx = 2\n```", "x = 2\n"),
        ("```py\nx = 1\n```\nor better\n```python\nx = 2\n```", "x = 2\n"),
        ("```\nx = 1\n```", "x = 1\n"),
        ("```Python3\nx = 1\n```\nprints\n```\n1\n```", "x = 1\n"),
        ("```bash\nls\n```", "```bash\nls\n```"),
        ("```python\nx = 1\n", "x = 1\n"),
        ("  ```python\n  x = 1\n  ```", "  x = 1\n"),
        ("```python\n```", ""),
        ("", ""),
    ],
)
def test_the_code_is_the_last_python_block_or_else_the_response(response: str, code: str) -> None:
    assert extract_code(response) == code


VALUES = [
    None,
    True,
    0,
    -1,
    2**63,
    -(10**5000),
    0.1,
    -0.0,
    math.inf,
    -math.inf,
    1 + 2j,
    complex(0, math.inf),
    "",
    "ä\ud800\0",
    b"\xff\0",
    bytearray(b"a"),
    [],
    [[1, [2.5, None]], (), ((),)],
    (1, "a"),
    {1, "a", (2, 3)},
    frozenset({1}),
    {1: "a", (2, 3): {"b": [None]}, None: 0.5, frozenset({4}): set()},
    range(2, 9, 3),
    int,
    list(range(300)),
    tuple(str(number) for number in range(300)),
    [1, 2.0, "3", None, True] * 100,
    [10**5000] * 300,
    [[number] for number in range(300)],
]


def no_object(number: object) -> int:
    raise AssertionError(f"{number!r} is not plain")


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
def test_plain_values_survive_the_pipe_with_their_types(value: object) -> None:
    returned = decode(encode(value, no_object), no_object)
    assert returned == value and type(returned) is type(value)
    if isinstance(value, list | tuple):
        assert [type(item) for item in returned] == [type(item) for item in value]


def test_not_a_number_and_the_sign_of_zero_survive_the_pipe() -> None:
    assert math.isnan(decode(encode(math.nan, no_object), no_object))
    assert math.copysign(1, decode(encode(-0.0, no_object), no_object)) == -1


@pytest.mark.parametrize(
    "data", [b"", b"l", b"l\x01\0\0\0", b"s\x05\0\0\0abc", b"?\0\0\0\0", encode(1, no_object) + b"x"]
)
def test_malformed_values_are_refused(data: bytes) -> None:
    with pytest.raises((ValueError, KeyError)):
        decode(data, no_object)


@pytest.mark.parametrize(
    ("asserts", "response"),
    [
        ("assert candidate({1, 2}) == {3, 4}", "def f(x): return {y + 2 for y in x}"),
        ("assert abs(candidate(2.0) - 1.41421356) < 1e-6", "def f(x): return x ** 0.5"),
        ("assert candidate(float('inf')) == float('-inf')", "def f(x): return -x"),
        ("assert candidate(3) is None", "def f(x): print(x)"),
        ("assert candidate(True) is True", "def f(x): return x"),
        ("assert candidate((1, (2,))) == (1, (2,))", "def f(x): return x"),
        ("assert candidate([1, 2]) == {1: (1,), 2: (2,)}", "def f(x): return {y: (y,) for y in x}"),
        ("assert candidate(b'ab') == b'ba'", "def f(x): return x[::-1]"),
        ("assert candidate(3, power=2) == 9", "def f(x, power): return x ** power"),
        ("xs = [3, 1, 2]\nassert candidate(xs) is None\nassert xs == [1, 2, 3]", "def f(xs): xs.sort()"),
        ("xs = {'a': 1}\ncandidate(xs)\nassert xs == {'a': 1, 'b': 2}", "def f(xs): xs['b'] = 2"),
        ("assert list(candidate(3)) == [0, 1, 2]", "def f(n):\n    yield from range(n)"),
        ("assert candidate('aab') == {'a': 2, 'b': 1}", "from collections import Counter\ndef f(x): return Counter(x)"),
        ("assert candidate('x') is not None", "import re\ndef f(x): return re.match('x', x)"),
        ("assert candidate(candidate('x')) == 1", "def f(x): return object if x == 'x' else int(x is object)"),
        ("assert candidate(2) == 4", "    return arguments[0] * 2"),
        ("assert candidate(2) == 4", "```python\n    return arguments[0] * 2\n```"),
        ("assert candidate(2) == 4", "print('noise' * 10**6)\ndef f(x):\n    print(x)\n    return x * 2"),
        ("assert candidate(2) == 4", "import time\ndef f(x):\n    time.sleep(0.3)\n    return x * 2"),
        (
            "assert candidate(2) == 4",
            "import threading\ndef f(x):\n    threading.Thread(target=print).start()\n    return 4",
        ),
        ("assert candidate(2) == 4", "def f(x): return 4\nif __name__ == '__main__': raise SystemExit"),
        ("assert candidate(10**30) == 10**30 + 1", "def f(x): return x + 1"),
        ("assert candidate(5) == 120", "def f(n): return 1 if n < 2 else n * f(n - 1)"),
        ("assert candidate(2) == 1", "cache = {}\ndef f(n):\n    cache[n] = cache.get(n, 0) + 1\n    return cache[n]"),
        (
            "assert candidate(1) == 2",
            "from dataclasses import dataclass\n@dataclass\nclass A:\n    x: int\ndef f(n): return A(n).x + 1",
        ),
        ("import random\nx = random.random()\nassert candidate(x) == x", "def f(x): return x"),
        ("print('tests may print')\nassert candidate(1) == 1", "def f(x): return x"),
    ],
)
def test_right_programs_pass(asserts: str, response: str) -> None:
    verdict = judge(response, function_tests(asserts))
    assert verdict.is_passed, verdict.reason


@pytest.mark.parametrize(
    ("asserts", "response"),
    [
        ("assert candidate(2) == 4", ""),
        ("assert candidate(2) == 4", "def g(x): return x * 2"),
        ("assert candidate(2) == 4", "def f(x): return 5"),
        ("assert candidate(2) == 4", "def f(x): return '4'"),
        ("assert candidate(2) == 4", "def f(x): return [4]"),
        ("assert candidate(2) == 4", "def f(x)\n    return 4"),
        ("assert candidate(2) == 4", "def f(x): return 4\0"),
        ("assert candidate(2) == 4", "def f(x): return 1 / 0"),
        ("assert candidate(2) == (4,)", "def f(x): return [4]"),
        ("assert candidate(2) == 4\nassert candidate(3) == 9", "def f(x): return 4"),
        ("xs = [3, 1]\ncandidate(xs)\nassert xs == [1, 3]", "def f(xs): return sorted(xs)"),
        ("assert candidate(2) == 4", "import numpy\ndef f(x): return 4"),
    ],
)
def test_wrong_programs_fail(asserts: str, response: str) -> None:
    assert not judge(response, function_tests(asserts)).is_passed


@pytest.mark.parametrize(
    ("response", "is_right"),
    [
        ("a, b = map(int, input().split())\nprint(a + b)", True),
        ("import sys\nprint(sum(map(int, sys.stdin.read().split())))", True),
        ("import sys\nfor line in sys.stdin:\n    sys.stdout.write(str(sum(map(int, line.split()))))", True),
        ("print(sum(map(int, open(0).read().split())), end='  \\n\\n')", True),
        ("import os\nos.write(1, str(sum(map(int, os.read(0, 99).split()))).encode())", True),
        ("def main():\n    print(sum(map(int, input().split())))\nif __name__ == '__main__':\n    main()", True),
        ("import sys\nprint(sum(map(int, input().split())))\nsys.exit(0)", True),
        ("import threading\nthreading.Thread(target=lambda: print(sum(map(int, input().split())))).start()", True),
        ("import atexit\natexit.register(lambda: print(sum(map(int, input().split()))))", True),
        ("print(sum(map(int, input().split())))\n1 / 0", False),
        ("import sys\nprint(sum(map(int, input().split())))\nsys.exit(1)", False),
        ("print(3)", False),
        ("print(sum(map(int, input().split())), 0)", False),
        ("print(float(sum(map(int, input().split()))))", False),
        ("print(", False),
    ],
)
def test_whole_programs_are_judged_by_what_they_print(response: str, is_right: bool) -> None:
    assert judge(response, program_tests(["1 2\n", "30 4\n"], ["3\n", "34"])).is_passed == is_right


@pytest.mark.parametrize(
    ("printed", "expected", "is_same"),
    [
        ("1 2\n3", "1  2 \n3\n\n", True),
        ("1 2 3", "1 2\n3", False),
        ("0.3333333", "0.33333333", True),
        ("0.333", "0.33333333", False),
        ("1e-3", "0.001", True),
        ("1000000007", "1000000008", False),
        ("1000000007.0", "1000000008", False),
        ("nan", "0.5", False),
        ("YES", "yes", False),
        ("", "", True),
    ],
)
def test_printed_numbers_with_a_fraction_have_a_tolerance_and_whole_ones_none(
    printed: str, expected: str, is_same: bool
) -> None:
    assert judge(f"print({printed!r}, end='')", program_tests(["x"], [expected])).is_passed == is_same


def test_runs_of_one_program_share_nothing_but_the_folder() -> None:
    source = "counter = globals().get('counter', 0) + 1\nimport math\nmath.pi += 1\nprint(counter, int(math.pi))"
    assert judge(source, program_tests(["", "", ""], ["1 4", "1 4", "1 4"])).is_passed


def test_methods_of_class_solution_are_found() -> None:
    cases = {"fn_name": "add", "inputs": [[1, 2]], "outputs": [3]}
    tests = stdio({"prompt": "?", "input_output": cases}).tests
    source = "class Solution:\n    def add(self, a: int, b: Optional[int]) -> List[int]:\n        return gcd(a, b) + b"
    assert judge(source, tests).is_passed
    assert judge("def add(a, b):\n    return a + b", tests).is_passed
    assert not judge("def add(a, b):\n    return a - b", tests).is_passed


def test_every_test_has_time_of_its_own_and_all_together_have_a_limit_too() -> None:
    source, tests = "import time\ntime.sleep(0.4)\nprint(1)", program_tests([""] * 4, ["1"] * 4)
    # Four tests of 0.4 s are 1.6 s and more.
    assert judge(source, tests, Limits(seconds_per_test=1.5, wall_seconds=30)).is_passed
    assert "out of time in one test" in judge(source, tests, Limits(seconds_per_test=0.3, wall_seconds=30)).reason
    assert judge(source, tests, Limits(seconds_per_test=1.5, wall_seconds=1)).reason == "out of time"
    endless, asserts = "def f(x):\n    while True: pass", function_tests("candidate(1)")
    assert "out of time in one test" in judge(endless, asserts, Limits(seconds_per_test=0.3)).reason


def test_the_pool_waits_for_the_sandbox_and_other_verifiers_have_ten_seconds() -> None:
    config, limits = RunConfig(), Limits()
    allowed = seconds_per_answer(config, "effopd.rewards.code:verify")
    assert allowed > SANDBOX_SECONDS_TO_START + limits.wall_seconds + SANDBOX_SECONDS_TO_END
    # 40 tests of half a second are 20 s, in one process where they are calls of a function.
    assert 20 < limits.cpu_seconds <= limits.wall_seconds and limits.seconds_per_test < limits.wall_seconds
    assert seconds_per_answer(config, "effopd.rewards.math:verify") == 10
    config.data.verifier_seconds = 200.0
    assert seconds_per_answer(config, "effopd.rewards.code:verify") == 200


def test_verify_returns_one_or_zero() -> None:
    metadata = {"code_tests": function_tests("assert candidate(2) == 4"), "prompt": "?"}
    assert verify("def f(x): return x * 2", "", metadata) == 1.0
    assert verify("def f(x): return x * 3", "", metadata) == 0.0


@pytest.mark.parametrize("metadata", [{}, {"code_tests": None}, {"code_tests": {}}])
def test_verify_without_tests_is_an_error_that_names_the_key(metadata: dict[str, object]) -> None:
    with pytest.raises(DataError, match="code_tests"):
        verify("x", "", metadata)


def test_the_reason_says_what_the_program_got_wrong() -> None:
    assert "prints '4" in judge("print(4)", program_tests(["2"], ["5"])).reason
    assert "ZeroDivisionError" in judge("def f(x): return 1 / 0", function_tests("candidate(1)")).reason


def test_several_threads_can_judge_at_once_and_leave_nothing_behind() -> None:
    tests = function_tests("assert candidate(2) == 4")
    judge("def f(x): return 4", tests)
    before = sorted(os.listdir("/proc/self/fd"))
    verdicts = []
    threads = [
        threading.Thread(target=lambda n=n: verdicts.append((n, judge(f"def f(x): return {n}", tests).is_passed)))
        for n in range(2, 7)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(verdicts) == [(n, n == 4) for n in range(2, 7)]
    assert sorted(os.listdir("/proc/self/fd")) == before
