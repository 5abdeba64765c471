"""What a run needs of the machine besides processors: disk, shared memory, clock, sandbox."""

import os
import shutil
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from effopd.doctor.finding import Finding, failed, passed, skipped
from effopd.doctor.sizes import shown_bytes
from effopd.rewards.sandbox import require_sandbox

CODE_VERIFIERS = "effopd.rewards.code:"

PROBE_BYTES = 32 * 2**20
SECONDS_PER_STEP = 60.0
"""What the steps of a real run take, to an order of magnitude; a save that takes half of that is too slow."""
MAX_SAVE_SHARE = 0.5

CLOCK_SECONDS = 0.1
MAX_CLOCK_DRIFT = 0.05
"""Seconds by which the two clocks may differ over that time: a busy machine may be slow between the two readings."""


def existing_parent(folder: Path) -> Path:
    """Return the folder itself, or the nearest one above it that is there."""
    return next(place for place in (folder.absolute(), *folder.absolute().parents) if place.is_dir())


def check_disk(folder: Path, checkpoint_bytes: int, num_checkpoints: int, free_bytes: int) -> Finding:
    """`num_checkpoints` are kept at a time, the one that is being written included."""
    name, needed = "disk space", checkpoint_bytes * num_checkpoints
    arithmetic = f"{num_checkpoints} checkpoints of {shown_bytes(checkpoint_bytes)} are {shown_bytes(needed)}"
    if needed > free_bytes:
        return failed(
            name,
            f"{arithmetic}, and {existing_parent(folder)} has {shown_bytes(free_bytes)} free",
            "free some, lower checkpoint.keep_last, or give an output_dir on another disk",
        )
    return passed(name, f"{arithmetic}; {shown_bytes(free_bytes)} free")


def free_bytes(folder: Path) -> int:
    return shutil.disk_usage(existing_parent(folder)).free


def bytes_below(folder: Path) -> int:
    """Return the size of all files below a folder; 0 where there is none."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def measure_write_speed(folder: Path) -> float:
    """Return bytes per second, flushing included, of a file that is gone afterwards. Raises OSError."""
    data = os.urandom(2**20)
    with tempfile.NamedTemporaryFile(dir=existing_parent(folder)) as file:
        start = time.monotonic()
        for _ in range(PROBE_BYTES // len(data)):
            file.write(data)
        file.flush()
        os.fsync(file.fileno())
        return PROBE_BYTES / max(time.monotonic() - start, 1e-9)


def check_write_speed(checkpoint_bytes: int, every: int, bytes_per_second: float) -> Finding:
    """Spread over the steps between two of them, checkpoints may take half of a step of a minute."""
    name, seconds = "write speed", checkpoint_bytes / bytes_per_second
    said = f"{shown_bytes(int(bytes_per_second))}/s, a checkpoint takes {seconds:.1f} s"
    if every and seconds / every > SECONDS_PER_STEP * MAX_SAVE_SHARE:
        wanted = int(seconds / (SECONDS_PER_STEP * MAX_SAVE_SHARE)) + 1
        return failed(name, f"{said}, every {every} steps", f"type checkpoint.every={wanted}, or use a faster disk")
    return passed(name, said)


def check_shared_memory(folder: Path, segment_bytes: int, free_bytes: int) -> Finding:
    """Weights travel to the samplers of a machine through one segment in shared memory."""
    name = "shared memory"
    said = f"a publish takes {shown_bytes(segment_bytes)} of {folder}, {shown_bytes(free_bytes)} are free"
    if segment_bytes > free_bytes:
        size = -(-2 * segment_bytes // 2**30)
        return failed(name, said, f"docker run --shm-size={size}g, or mount -o remount,size={size}G {folder}")
    return passed(name, said)


@dataclass(frozen=True, slots=True, kw_only=True)
class ClockFacts:
    """Two clocks over the same moment, in seconds."""

    wall: float
    monotonic: float
    now: float
    """Seconds since 1970 by the wall clock."""
    newest_source: float
    """When the newest source file of effopd was written, likewise; a sound clock is later."""


def read_clock_facts(package: Path) -> ClockFacts:
    wall, monotonic = time.time(), time.monotonic()
    time.sleep(CLOCK_SECONDS)
    return ClockFacts(
        wall=time.time() - wall,
        monotonic=time.monotonic() - monotonic,
        now=time.time(),
        newest_source=max(path.stat().st_mtime for path in package.rglob("*.py")),
    )


def check_clock(clock: ClockFacts) -> Finding:
    name, remedy = "clock", "set the clock: timedatectl set-ntp true"
    if abs(clock.wall - clock.monotonic) > MAX_CLOCK_DRIFT:
        return failed(
            name, f"wall clock and monotonic clock differ: {clock.wall:.3f} s and {clock.monotonic:.3f} s", remedy
        )
    if clock.now < clock.newest_source - 1:
        date = time.strftime("%Y-%m-%d %H:%M", time.localtime(clock.now))
        return failed(name, f"it is {date} by the clock, before effopd's own files were written", remedy)
    return passed(name, "wall clock and monotonic clock agree (one machine)")


def check_sandbox(verifiers: Sequence[str]) -> Finding:
    """Raises ConfigError, with the remedy, when code is to be judged and cannot be run safely."""
    name = "sandbox"
    if not any(verifier.startswith(CODE_VERIFIERS) for verifier in verifiers):
        return skipped(name, "no verifier here runs code")
    require_sandbox()
    return passed(name, "bubblewrap runs Python")
