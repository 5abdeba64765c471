"""Faults without a run to put them into: damaged checkpoints, processes found and lost, what a driver's words are taken for."""

import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from fault_plan import DAMAGES, Kind
from injections import Deed, damage
from outcomes import outcome_of
from processes import descendants, kill_all, now, wait_until

from effopd.checkpoints.reading import latest_checkpoint
from effopd.checkpoints.store import CheckpointStore
from effopd.types import RunState


def write(folder: Path) -> None:
    for name in ("master", "exp_avg", "exp_avg_sq"):
        (folder / f"{name}.safetensors").write_bytes(name.encode() * 100)


@pytest.mark.parametrize("kind", DAMAGES)
@pytest.mark.parametrize("seed", range(10))
def test_whatever_is_damaged_the_newest_checkpoint_that_is_not_is_used(kind: Kind, seed: int, tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep_last=2, keep_best=False)
    for step in (2, 4):
        store.save(RunState(step=step), write, {}, None)
    damage(tmp_path / "checkpoints" / "step_000004", kind, random.Random(seed))
    found = latest_checkpoint(tmp_path)
    assert found is not None and len(found.skipped) == 1
    assert found.state.step == (4 if kind is Kind.HALF_WRITTEN else 2)


def test_processes_are_found_below_the_one_that_started_them_and_known_to_be_gone() -> None:
    inner = "import time; time.sleep(60)"
    outer = f"import subprocess, sys; subprocess.run([sys.executable, '-c', {inner!r}])"
    began = now()
    process = subprocess.Popen([sys.executable, "-c", outer])
    try:
        assert wait_until(lambda: len(descendants(process.pid)) == 1, 30)
        (child,) = descendants(process.pid)
        assert child.title == f"{sys.executable} -c {inner}" and child.parent == process.pid
        assert 0 <= child.started - began < 30 * os.sysconf("SC_CLK_TCK")
        kill_all([child], signal.SIGKILL)
        assert wait_until(lambda: not child.is_alive(), 30)
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize(
    ("after", "printed", "is_replaced", "outcome"),
    [
        (None, "", False, "nothing to be seen"),
        (None, "", True, "replaced"),  # in a trigger
        (None, "sampler 0 died while sampling; another process takes its place\n", True, "replaced"),
        (
            None,
            "the controller died; its log ends with\n  teacher 0 died while scoring; another process takes its place\n"
            "the run goes on from step 4 (restart 1 of at most cluster.max_restarts=100)\n",
            True,
            "restarted from the last checkpoint",
        ),
        ("resumed", "skipping the damaged checkpoint step_000004: no such file\n", False, "resumed, damaged checkpoint passed over"),
    ],
)  # fmt: skip
def test_what_followed_a_fault_is_read_from_what_the_driver_said(
    after: str | None, printed: str, is_replaced: bool, outcome: str
) -> None:
    assert outcome_of(Deed(row=3, what="", after=after), printed, is_replaced=is_replaced) == outcome
