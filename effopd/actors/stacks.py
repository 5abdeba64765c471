"""The Python stacks of actors, those that hang included: a signal asks for them, so no answer of the actor is needed.

Every actor opens a file in the folder of Ray's session on its machine and has `faulthandler` write there, which works in the
middle of native code, too. Whoever is on the same machine can ask and read. The file stays locked as long as the process
lives, so a signal never goes to another process that has been given the same number since. An actor that itself waits for
others touches a second file at every wait: a sign of life.
"""

import faulthandler
import fcntl
import os
import re
import signal
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import ray

SECONDS_TO_WRITE = 10.0
"""How long all processes together may take to write their stacks; one that is stopped never does."""

_SECONDS_BETWEEN_LOOKS = 0.1
_NUM_UNCHANGED_LOOKS = 3
"""After which a file is taken for complete."""

_FRAME = re.compile(r'  File "(?P<file>.*)", line (?P<line>\d+) in (?P<function>.*)')
_NUM_FRAMES = 3
_CALL = "actor_method_executor"
"""The function of Ray's from which a method is called, but for one that may trace it."""
_TRACED_CALL = "_resume_span"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What can be seen of an actor from outside."""

    pid: int
    phase: str
    """The method that it is in, such as `in generate`, or `idle`."""
    stacks: str
    """Of all its threads, innermost frames first; empty when it did not write any."""

    @property
    def place(self) -> str | None:
        """Where the thread is that does the work, e.g. `wait (threading.py:327) < update (learner.py:82)`; None when it is not
        known."""
        threads = _threads(self.stacks)
        working = [frames for frames in threads if _is_at_background_work(frames)]  # calls wait for it
        in_calls = [frames for frames in threads if any(frame["function"] == _CALL for frame in frames)]
        main = [frames for frames in threads if frames[-1]["function"] == "<module>"]  # which Python was started with
        return next((_innermost(frames) for frames in (*working, *in_calls, *main)), None)


def expose_stacks() -> None:
    """Let the stacks of this actor be taken from now on. For constructors."""
    actor_id = _own_actor_id()
    assert actor_id is not None, "only actors are looked at"
    folder = _folder()
    folder.mkdir(exist_ok=True)
    file = (folder / f"{actor_id}-{os.getpid()}").open("a")
    with suppress(BlockingIOError):  # held by a child of an earlier process of this number
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    faulthandler.register(signal.SIGUSR1, file=file, all_threads=True)  # which keeps the file, and with it the lock


def show_life() -> None:
    """Say that this actor, which is about to wait for another, does not hang. Elsewhere nothing happens."""
    actor_id = _own_actor_id()
    if actor_id is not None and _folder().exists():
        _sign_of(actor_id).touch()


def seconds_since_sign(actor_id: str) -> float | None:
    """Return the seconds since an actor on this machine last showed life; None for one that never has."""
    try:
        return time.time() - _sign_of(actor_id).stat().st_mtime
    except FileNotFoundError:
        return None


def look_at(actor_ids: Collection[str]) -> dict[str, Sighting]:
    """Return what is seen of those actors that live on this machine and expose their stacks."""
    files = {actor_id: path for actor_id in actor_ids if (path := _file_of(actor_id)) is not None}
    starts = {path: path.stat().st_size for path in files.values()}
    phases = {path: _phase(_pid(path)) for path in files.values()}
    for path in files.values():
        with suppress(ProcessLookupError):
            os.kill(_pid(path), signal.SIGUSR1)
    _wait_until_written(starts)
    sightings = {}
    for actor_id, path in files.items():
        stacks = _text_from(path, starts[path])
        sightings[actor_id] = Sighting(pid=_pid(path), phase=_method_in(stacks) or phases[path], stacks=stacks)
    return sightings


def _threads(stacks: str) -> list[list[re.Match[str]]]:
    """Return the frames of every thread that has some, innermost first."""
    threads = [list(_FRAME.finditer(thread)) for thread in stacks.split("\n\n")]
    return [frames for frames in threads if frames]


def _is_at_background_work(frames: Sequence[re.Match[str]]) -> bool:
    """Return whether a thread is one of `effopd.background` that has something to do."""
    return any(Path(frame["file"]).name == "background.py" for frame in frames[1:])


def _method_in(stacks: str) -> str | None:
    """Return `in update` for an actor that is in that method. The title of its process tells of the call that began or ended last
    alone, and an actor may work on several."""
    for frames in _threads(stacks):
        functions = [frame["function"] for frame in frames]
        if _CALL in functions:
            inside = [name for name in functions[: functions.index(_CALL)] if name != _TRACED_CALL]
            return f"in {inside[-1]}" if inside else None
    return None


def _innermost(frames: Sequence[re.Match[str]]) -> str:
    return " < ".join(
        f"{frame['function']} ({Path(frame['file']).name}:{frame['line']})" for frame in frames[:_NUM_FRAMES]
    )


def _wait_until_written(starts: Mapping[Path, int]) -> None:
    """Return when every file has grown beyond its size in `starts` and is complete, or when there is no more time."""
    deadline = time.monotonic() + SECONDS_TO_WRITE
    sizes, num_unchanged = dict(starts), 0
    while time.monotonic() < deadline and num_unchanged < _NUM_UNCHANGED_LOOKS:
        time.sleep(_SECONDS_BETWEEN_LOOKS)
        before, sizes = sizes, {path: path.stat().st_size for path in starts}
        have_all_begun = all(sizes[path] > start for path, start in starts.items())
        num_unchanged = num_unchanged + 1 if sizes == before and have_all_begun else 0


def _text_from(path: Path, start: int) -> str:
    with path.open(errors="replace") as file:
        file.seek(start)
        return file.read()


def _file_of(actor_id: str) -> Path | None:
    """Return the file of an actor that lives on this machine, else None."""
    return next((path for path in sorted(_folder().glob(f"{actor_id}-*")) if _is_alive(path)), None)


def _is_alive(path: Path) -> bool:
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            # A child that outlives it may hold the lock, too.
            return Path("/proc", str(_pid(path))).exists()
    return False


def _phase(pid: int) -> str:
    """Return the method that an actor is in: Ray makes it the title of the process, as `ray::SamplerActor.generate`."""
    try:
        title = Path("/proc", str(pid), "cmdline").read_bytes().rstrip(b"\0").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return "gone"
    _, _, method = title.partition(".")
    return f"in {method}" if title.startswith("ray::") and method else "idle"


def _pid(path: Path) -> int:
    return int(path.name.rpartition("-")[2])


def _sign_of(actor_id: str) -> Path:
    return _folder() / f"life-{actor_id}"


def _folder() -> Path:
    context = ray.get_runtime_context()
    return Path(context.get_temp_dir(), context.get_session_name(), "stacks")


def _own_actor_id() -> str | None:
    return ray.get_runtime_context().get_actor_id() if ray.is_initialized() else None
