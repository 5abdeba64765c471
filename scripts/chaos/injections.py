"""Faults as they are put into a run that is under way. A run that a fault ends is resumed here, at once."""

import os
import random
import re
import shutil
import signal
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

from fault_plan import DAMAGES, Fault, Kind
from processes import Process, now, wait_until
from toy_run import CHECKPOINT_EVERY, LONGEST_WAIT, RunFailedError, ToyRun

from effopd.checkpoints.manifest import (
    MANIFEST_NAME,
    checkpoint_root,
    list_checkpoints,
    step_directory_name,
    verify_checkpoint,
)
from effopd.errors import CheckpointError

_ROLES = {
    Kind.SAMPLER: "Sampler",
    Kind.SAMPLER_PAUSED: "Sampler",
    Kind.TEACHER: "Teacher",
    Kind.VERIFIER: "Verifier",
    Kind.LEARNER: "Learner",
    Kind.LEARNER_PAUSED: "Learner",
    Kind.CONTROLLER: "Controller",
}
_WORKER = "from effopd.rewards.worker import main"
_LONGEST_TITLE = 60
_PAUSES = (1.0, 4.0)
_BALLAST = ".ballast"
_BLOCK = bytes(2**16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deed:
    """What was done, and when."""

    row: int
    """Steps that were written down."""
    what: str
    """Which process, in which call if it was in one; or which file."""
    after: str | None = None
    """What was done with the run, if the fault ended it."""
    victim: Process | None = None
    """What was killed, if it was not the driver."""
    moment: int = 0
    """Clock ticks since the machine's start, as for processes."""


def inject(fault: Fault, run: ToyRun) -> Deed:
    """Put a fault into a run. Return when it has happened, and the run is resumed if it has ended by it.

    Raises RunFailedError when the run does something else than it must.
    """
    rng = random.Random(fault.choice)
    row, moment, victim = run.num_rows(), now(), None
    match fault.kind:
        case Kind.SAMPLER | Kind.TEACHER | Kind.VERIFIER | Kind.LEARNER | Kind.CONTROLLER:
            victim = _actor(run, _ROLES[fault.kind], rng)
            what = _kill(victim)
        case Kind.VERIFIER_WORKER:
            victim = _one(run, lambda title: _WORKER in title, "worker of the verifier", rng)
            what = _kill(victim)
        case Kind.SAMPLER_PAUSED | Kind.LEARNER_PAUSED:
            what = _pause(_actor(run, _ROLES[fault.kind], rng), rng.uniform(*_PAUSES))
        case Kind.DRIVER:
            what = _end(run, signal.SIGKILL)
        case Kind.SIGTERM:
            what = _end(run, signal.SIGTERM)
        case Kind.TRUNCATED | Kind.FLIPPED | Kind.MISSING | Kind.HALF_WRITTEN:
            what = _end_and_damage(run, fault.kind, rng)
        case Kind.FULL_DISK:
            what = _fill_disk(run)
        case Kind.NONFINITE_STOP:
            _poison(run, fault)
            what = _require_end(run, "not finite")
        case Kind.NONFINITE_SKIP | Kind.NONFINITE_ROLL_BACK:
            what = _poison(run, fault)
    after = run.start() if run.has_ended() else None
    return Deed(row=row, what=what, after=after, victim=victim, moment=moment)


def _actor(run: ToyRun, role: str, rng: random.Random) -> Process:
    # Ray adds the method that is running to the title.
    pattern = re.compile(rf"ray::{role}Actor\b")
    return _one(run, lambda title: pattern.match(title) is not None, f"{role}Actor", rng)


def _one(run: ToyRun, fits: Callable[[str], bool], name: str, rng: random.Random) -> Process:
    """Return one of the run's processes whose title fits, waiting for one if there is none at the moment."""
    found: list[Process] = []

    def is_there() -> bool:
        found[:] = [process for process in run.processes() if fits(process.title)]
        return bool(found) or run.has_ended()

    wait_until(is_there, LONGEST_WAIT)
    if not found:
        raise RunFailedError(f"has no {name} to do anything to")
    return rng.choice(found)


def _kill(process: Process) -> str:
    try:
        os.kill(process.pid, signal.SIGKILL)
    except ProcessLookupError as error:
        raise RunFailedError(f"{process.title} was gone before it could be killed") from error
    return shorten(process.title, _LONGEST_TITLE, placeholder=" ...")


def _pause(process: Process, seconds: float) -> str:
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGCONT)
    return f"{process.title} for {seconds:.1f} s"


def _end(run: ToyRun, number: int) -> str:
    run.require_running()
    run.send(number)
    code = run.wait_for_end()
    if code == 0:
        raise RunFailedError("was over before the fault: more steps are needed, or earlier faults")
    return f"exit code {code}"


def _end_and_damage(run: ToyRun, kind: Kind, rng: random.Random) -> str:
    """Kill the driver and damage the newest checkpoint. The one before must be sound, or the run rightly refuses to go on."""
    if not wait_until(lambda: len(_sound_checkpoints(run)) >= 2 or run.has_ended(), LONGEST_WAIT):
        raise RunFailedError("has written no two checkpoints")
    _end(run, signal.SIGKILL)
    return damage(_sound_checkpoints(run)[-1], kind, rng)


def _sound_checkpoints(run: ToyRun) -> list[Path]:
    return [path for path in list_checkpoints(run.folder).values() if _is_sound(path)]


def _is_sound(checkpoint: Path) -> bool:
    try:
        verify_checkpoint(checkpoint)
    except (CheckpointError, FileNotFoundError):  # the run removes old ones meanwhile
        return False
    return True


def damage(checkpoint: Path, kind: Kind, rng: random.Random) -> str:
    """Damage a checkpoint, or leave a half-written one that looks newer. Return what was done to which file."""
    assert kind in DAMAGES
    files = sorted(path for path in checkpoint.iterdir() if path.is_file())
    path = rng.choice(files)
    content = bytearray(path.read_bytes())
    name = f"{checkpoint.name}/{path.name}"
    match kind:
        case Kind.TRUNCATED:
            size = rng.randrange(len(content))
            os.truncate(path, size)
            return f"{name} cut to {size} of {len(content)} bytes"
        case Kind.FLIPPED:
            position, bit = rng.randrange(len(content)), rng.randrange(8)
            content[position] ^= 1 << bit
            path.write_bytes(content)
            return f"{name}: bit {bit} of byte {position}"
        case Kind.MISSING:
            path.unlink()
            return f"{name} removed"
    step = int(checkpoint.name.rpartition("_")[2]) + CHECKPOINT_EVERY
    half = checkpoint_root(checkpoint.parent.parent) / step_directory_name(step)
    half.mkdir()
    written = [file for file in files if file.name != MANIFEST_NAME][: rng.randrange(1, len(files) - 1)]
    for file in written:
        shutil.copy(file, half)
    return f"{half.name} with {len(written)} of {len(files)} files"


def _fill_disk(run: ToyRun) -> str:
    """Fill the run's file system until the run ends, and make room again."""
    ballast = run.folder.parent / _BALLAST
    with ballast.open("wb", buffering=0) as file:

        def is_over() -> bool:
            with suppress(OSError):  # full; but the run removes old checkpoints, which makes room again
                while True:
                    file.write(_BLOCK)
            return run.has_ended()

        wait_until(is_over, LONGEST_WAIT)
    try:
        return _require_end(run, "No space left on device")
    finally:
        ballast.unlink()


def _poison(run: ToyRun, fault: Fault) -> str:
    (run.poison_folder / f"poison-{fault.after_row}").touch()
    return f"in the update after row {run.num_rows()}"


def _require_end(run: ToyRun, said: str) -> str:
    """Return the driver's last line, when it ends with an error that says so."""
    code = run.wait_for_end()
    lines = run.last_lines()
    if code == 0 or said not in lines:
        raise RunFailedError(f"ended with {code} and without saying {said!r}:\n{lines}")
    return next(line for line in reversed(lines.splitlines()) if said in line)
