"""The toy tasks: their problems, their worked solutions, and which problems are held out.

`sums` asks for the running sums of four two-digit numbers; `programs` for the trace of a small string program:

    12+34+56+78=   46,102,180
    abc:RDU=       cba,cbacba,CBACBA

A solution lists every intermediate result, separated by commas; the last one is the answer. Standard library only, so
that prompts and verifiers load without torch.
"""

import hashlib
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from itertools import accumulate

# Letters a program may work on. d, r, s and u are left out, so that D, R, S and U always stand for operations.
LETTERS = "abcefghijklmnopqtvwx"

OPERATIONS: dict[str, Callable[[str], str]] = {
    "D": lambda text: text + text,
    "R": lambda text: text[::-1],
    "S": lambda text: text[-1] + text[1:-1] + text[0],
    "U": str.upper,
}
"""Double, reverse, swap the first and the last letter, upper-case; each takes at least two letters."""

SPLITS = ("train", "eval")

_SUM = re.compile(r"[1-9][0-9](?:\+[1-9][0-9]){3}=")
_PROGRAM = re.compile(rf"([{LETTERS}]{{2,}}):([{''.join(OPERATIONS)}]+)=")

# One prompt in this many is held out.
_EVAL_MODULUS = 8


@dataclass(frozen=True, slots=True)
class ToyProblem:
    """A problem, its answer, and the one correct solution."""

    prompt: str
    """What the model reads, ending in `=`."""
    answer: str
    """The last field of the solution."""
    solution: str
    """What the model should write before its end-of-sequence token."""


Slip = Callable[[str], str]
"""What becomes of a step between being worked out and being written down."""


def without_slip(step: str) -> str:
    """The step itself."""
    return step


def solve_sums(prompt: str, slip: Slip = without_slip) -> str:
    """The running sums of a `sums` prompt, separated by commas.

    A slip is carried on: the next sum starts from the number that was written. Raises ValueError for any other text.
    """
    if _SUM.fullmatch(prompt) is None:
        raise ValueError(f"not a `sums` prompt: {prompt!r}; expected four two-digit numbers, such as '12+34+56+78='")
    first, *rest = prompt.removesuffix("=").split("+")
    sums = accumulate(rest, lambda total, term: slip(str(int(total) + int(term))), initial=first)
    return ",".join(list(sums)[1:])


def solve_programs(prompt: str, slip: Slip = without_slip) -> str:
    """The string after each operation of a `programs` prompt, separated by commas: the program is run.

    A slip is carried on: the next operation applies to the string that was written. Raises ValueError for any other text.
    """
    program = _PROGRAM.fullmatch(prompt)
    if program is None:
        raise ValueError(
            f"not a `programs` prompt: {prompt!r}; expected letters of {LETTERS!r} and operations of "
            f"{''.join(OPERATIONS)!r}, such as 'abc:RDU='"
        )
    text, operations = program.groups()
    strings = accumulate(operations, lambda string, name: slip(OPERATIONS[name](string)), initial=text)
    return ",".join(list(strings)[1:])


def answer_of(solution: str) -> str:
    """The last comma-separated field, which is all that is judged."""
    return solution.rpartition(",")[2]


def sums(rng: random.Random) -> ToyProblem:
    """A sum of four two-digit numbers. The prompt has 12 characters, the solution 8 to 11."""
    prompt = "+".join(str(rng.randint(10, 99)) for _ in range(4)) + "="
    solution = solve_sums(prompt)
    return ToyProblem(prompt, answer_of(solution), solution)


def programs(rng: random.Random) -> ToyProblem:
    """A program of two to four operations on two to four letters. The prompt has 6 to 10 characters, the solution 5 to 35.

    It doubles at most once, which bounds the solution: four strings of eight letters and three commas.
    """
    text = "".join(rng.choices(LETTERS, k=rng.randint(2, 4)))
    names = ""
    for _ in range(rng.randint(2, 4)):
        names += rng.choice("RSU" if "D" in names else "DRSU")
    prompt = f"{text}:{names}="
    solution = solve_programs(prompt)
    return ToyProblem(prompt, answer_of(solution), solution)


GENERATORS: dict[str, Callable[[random.Random], ToyProblem]] = {"sums": sums, "programs": programs}
SOLVERS: dict[str, Callable[[str, Slip], str]] = {"sums": solve_sums, "programs": solve_programs}
MAX_SOLUTION_CHARS = {"sums": 11, "programs": 35}
"""The longest solution. A response needs one token more, for the end of the sequence."""


def split_of(prompt: str) -> str:
    """The split a prompt belongs to.

    It is read off a hash of the text alone, so no choice of seeds can make the splits overlap, and a problem keeps its
    split in every process and Python version.
    """
    return "eval" if hashlib.sha256(prompt.encode()).digest()[0] % _EVAL_MODULUS == 0 else "train"


def problems(task: str, split: str, num: int, seed: int) -> list[ToyProblem]:
    """`num` different problems of a split, the same ones for the same arguments.

    A longer list begins with the shorter one of the same seed. Raises ValueError for an unknown task or split.
    """
    if task not in GENERATORS:
        raise ValueError(f"unknown task {task!r}; choose one of {', '.join(GENERATORS)}")
    if split not in SPLITS:
        raise ValueError(f"unknown split {split!r}; choose one of {', '.join(SPLITS)}")
    if num < 0:
        raise ValueError(f"num is {num}; it must be 0 or more")
    rng = random.Random(f"{task}/{split}/{seed}")
    found: dict[str, ToyProblem] = {}
    while len(found) < num:
        problem = GENERATORS[task](rng)
        if split_of(problem.prompt) == split:
            found.setdefault(problem.prompt, problem)
    return list(found.values())
