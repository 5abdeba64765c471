"""Judging model-written programs in the sandbox, against a bare `bwrap python3 -c pass`.

Each program is a reference solution, judged by all tests of its task in a sandbox of its own, one after the other on one
core: what is pinned there is the verifier and everything it starts. The baseline is bubblewrap with its usual mounts and a
Python that does nothing. Both are in programs per second, so the ratio is the share of a start that judging leaves.
Goal: at least 20 programs per second and core on HumanEval+ Mini, whose file `--tasks` names; the default is a handful of
small tasks of the test suite.

    python scripts/bench/sandbox.py --tasks HumanEvalPlus-Mini.jsonl.gz
"""

import gzip
import json
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

from measure import Comparison, alternate, argument_parser, parse, report

from effopd.rewards.code import judge
from effopd.rewards.code_tasks import CodeTask, humaneval

GOAL_PER_SECOND = 20.0
NUM_BARE = 20
SMALL = Path(__file__).parents[2] / "tests" / "rewards" / "humaneval_small.jsonl"
BARE = [
    "bwrap", "--unshare-all", "--ro-bind", "/usr", "/usr", "--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64",
    "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "/usr/bin/python3", "-c", "pass",
]  # fmt: skip


def read_tasks(path: Path) -> list[tuple[CodeTask, str]]:
    """Return every task of a file in one of HumanEval's formats, with its reference solution."""
    text = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    rows = [json.loads(line) for line in text.splitlines()]
    return [(humaneval(row), row["prompt"] + row["canonical_solution"]) for row in rows]


def per_second(action: Callable[[], int]) -> float:
    """Return the number that `action` returns, by its seconds."""
    start = time.perf_counter()
    number = action()
    return number / (time.perf_counter() - start)


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument(
        "--tasks", type=Path, default=SMALL, metavar="FILE", help="a file in one of HumanEval's formats"
    )
    parser.set_defaults(rounds=3)
    arguments = parse(parser)
    tasks = read_tasks(arguments.tasks)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    num_passed: list[int] = []

    def judge_all() -> int:
        num_passed.append(sum(judge(solution, task.tests).is_passed for task, solution in tasks))
        return len(tasks)

    def start_bare() -> int:
        for _ in range(NUM_BARE):
            subprocess.run(BARE, env={}, check=True)
        return NUM_BARE

    candidate, baseline = alternate(arguments.rounds, lambda: per_second(judge_all), lambda: per_second(start_bare))
    report(
        arguments,
        [
            Comparison(
                what=f"programs judged per second and core, {arguments.tasks.name}",
                baseline_name="bare `bwrap python3 -c pass`",
                unit="programs/s",
                candidate=candidate,
                baseline=baseline,
                is_speed=True,
                goal=GOAL_PER_SECOND / median(baseline),
                notes={
                    "programs per second and core (goal >= 20)": median(candidate),
                    "reference solutions that pass": f"{min(num_passed)} of {len(tasks)}",
                },
            )
        ],
    )


if __name__ == "__main__":
    main()
