"""Programs that attack: reward 0 for each, and the host as it was before."""

import os
import re
import secrets
import socket
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from effopd.rewards.code import judge
from effopd.rewards.code_tasks import humaneval, stdio
from effopd.rewards.sandbox import Limits

LIMITS = Limits(wall_seconds=2.0, cpu_seconds=1, address_space_bytes=2**28)
PATIENT = replace(LIMITS, wall_seconds=60.0)  # on a busy machine an honest program takes its time
NUM_ANSWERS = 3
PROGRAMS = [
    tuple(part.split("\n", 1))
    for part in re.split(r"^=== ", Path(__file__).with_name("hostile_programs.txt").read_text(), flags=re.MULTILINE)[1:]
]


@dataclass(frozen=True)
class Host:
    """What an attack could reach for, outside."""

    canary: Path
    victim: "subprocess.Popen[bytes]"
    listener: socket.socket
    abstract_listener: socket.socket
    abstract_name: str

    def fill_in(self, source: str) -> str:
        port = str(self.listener.getsockname()[1])
        marks = {
            "CANARY": str(self.canary),
            "VICTIM": str(self.victim.pid),
            "PORT": port,
            "ABSTRACT": self.abstract_name,
        }
        for mark, value in marks.items():
            source = source.replace(f"@{mark}@", value)
        return source


@pytest.fixture(scope="module")
def host(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Host]:
    canary = tmp_path_factory.mktemp("host") / "canary"
    canary.write_text("alive")
    name = f"effopd-{secrets.token_hex(8)}"
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket(socket.AF_UNIX) as abstract_listener:
        abstract_listener.bind("\0" + name)
        abstract_listener.listen()
        listener.setblocking(False)
        abstract_listener.setblocking(False)
        victim = subprocess.Popen(["sleep", "1000"])
        yield Host(canary, victim, listener, abstract_listener, name)
        victim.kill()
        victim.wait()


def process_namespaces() -> set[str]:
    """Return the process namespaces of all processes that can be seen; a sandbox that is gone has none."""
    found = set()
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            found.add(os.readlink(folder / "ns" / "pid"))
        except OSError:  # it has just ended, or is another user's
            continue
    return found


def assert_unharmed(host: Host, namespaces_before: set[str]) -> None:
    assert host.canary.read_text() == "alive"
    assert host.victim.poll() is None, "a process of the host was killed"
    for listener in (host.listener, host.abstract_listener):
        with pytest.raises(BlockingIOError):
            listener.accept()
    deadline = time.monotonic() + 10
    while process_namespaces() - namespaces_before:
        assert time.monotonic() < deadline, "a process of the sandbox is still there"
        time.sleep(0.05)


def answers() -> list[str]:
    return [secrets.token_hex(8) for _ in range(NUM_ANSWERS)]


def function_tests(expected: list[str]) -> dict[str, object]:
    """Return tests that only the right answers pass, with imports that a program may try to answer for."""
    asserts = "".join(f"    assert candidate({number}) == {answer!r}\n" for number, answer in enumerate(expected))
    test = f"def check(candidate):\n    import colorsys, fractions, json\n{asserts}"
    return humaneval({"prompt": "def pick(x):\n", "entry_point": "pick", "test": test}).tests


def forgiving_tests(expected: list[str]) -> dict[str, object]:
    """Return tests with a bare `except:` around honest work, which only an exception raised from outside could end."""
    test = (
        "def check(candidate):\n    right = False\n"
        f"    assert candidate(0) in ('', {expected[0]!r})\n"
        "    try:\n        for _ in range(3 * 10**6):\n            pass\n"
        f"        right = candidate(1) == {expected[1]!r}\n"
        "    except:\n        right = True\n    assert right\n"
    )
    return humaneval({"prompt": "def pick(x):\n", "entry_point": "pick", "test": test}).tests


def program_tests(expected: list[str]) -> dict[str, object]:
    cases = {"inputs": [f"{number}\n" for number in range(NUM_ANSWERS)], "outputs": expected}
    return stdio({"prompt": "Print the answer.", "input_output": cases}).tests


@pytest.mark.parametrize(("name", "source"), PROGRAMS, ids=[name.replace(" ", "_") for name, _ in PROGRAMS])
def test_an_attack_earns_nothing_and_leaves_the_host_unharmed(name: str, source: str, host: Host) -> None:
    before = process_namespaces()
    make_tests = {"function": function_tests, "interrupted": forgiving_tests, "program": program_tests}
    assert not judge(host.fill_in(source), make_tests[name.partition(":")[0]](answers()), LIMITS).is_passed
    assert_unharmed(host, before)


def test_the_same_tests_are_passed_by_a_program_that_knows_the_answers(host: Host) -> None:
    expected = answers()
    before = process_namespaces()
    assert judge(f"def pick(x):\n    return {expected!r}[x]", function_tests(expected), PATIENT).is_passed
    assert judge(f"print({expected!r}[int(input())])", program_tests(expected), PATIENT).is_passed
    assert_unharmed(host, before)


def test_an_attack_does_not_spoil_the_next_program() -> None:
    expected = answers()
    for source in ("import os\nwhile True:\n    os.fork()", "open('random.py', 'w').write('1/0')"):
        judge(source, function_tests(expected), LIMITS)
        program = f"import random\ndef pick(x):\n    return {expected!r}[x]"
        assert judge(program, function_tests(expected), PATIENT).is_passed


def test_there_are_at_least_forty_attacks_and_each_tries_something_else() -> None:
    assert len(set(PROGRAMS)) == len({name for name, _ in PROGRAMS}) == len(PROGRAMS) >= 40
