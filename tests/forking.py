"""Processes forked from one that has imported what takes seconds to import: ranks of the learner's tests, `effopd` commands."""

import multiprocessing
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

TIMEOUT = 600  # seconds, of a command

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["DS_ACCELERATOR"] = "cpu"
CONTEXT = multiprocessing.get_context("forkserver")
# A test process has one server, so all that is ever forked from it is named here. A module that cannot be found is left out.
CONTEXT.set_forkserver_preload(
    [
        "deepspeed",
        "effopd.launch",
        "effopd.local",
        "learner_rl_cases",
        "preset_cases",
        "transformers.models.qwen3.modeling_qwen3",
        "trigger_cases",
    ]
)


def _run(commands: Sequence[Sequence[str]], environment: Mapping[str, str], output: Path) -> None:
    from effopd.cli import main

    for stream, name in ((1, "stdout"), (2, "stderr")):
        with (output / name).open("w") as file:
            os.dup2(file.fileno(), stream)
    os.environ.update(environment)
    codes = []
    for command in commands:
        sys.argv = ["effopd", *command]
        codes.append(main())
    sys.exit(max(codes))


def run_commands(
    commands: Sequence[Sequence[str]], environment: Mapping[str, str], output: Path
) -> subprocess.CompletedProcess[str]:
    """Run `effopd` commands one after the other in a process of their own; what it prints goes through files of `output`.

    The exit code is the highest of theirs.
    """
    process = CONTEXT.Process(target=_run, args=(commands, environment, output))
    process.start()
    process.join(TIMEOUT)
    if process.exitcode is None:
        process.kill()
        process.join()
        raise subprocess.TimeoutExpired(str(commands), TIMEOUT)
    printed = [(output / name).read_text() for name in ("stdout", "stderr")]
    return subprocess.CompletedProcess(str(commands), process.exitcode, *printed)
