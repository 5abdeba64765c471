"""The checkpoints of one run: written whole or not at all, pruned to the newest few and the best.

A checkpoint is built in `.tmp-<step>-<pid>`, flushed to the disk and renamed to `step_<NNNNNN>`, so a crash at any moment
leaves the previous ones as they were. A run folder has one writer.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict
from pathlib import Path

from effopd.checkpoints.manifest import (
    BEST_NAME,
    FORMAT,
    MANIFEST_NAME,
    STATE_NAME,
    FileRecord,
    checkpoint_root,
    hash_file,
    list_checkpoints,
    step_directory_name,
)
from effopd.checkpoints.reading import Checkpoint, latest_checkpoint, read_state, weights_hash
from effopd.durable import replace_file, sync_directory, sync_file
from effopd.errors import CheckpointError
from effopd.types import RunState

__all__ = ["Checkpoint", "CheckpointStore", "weights_hash"]

WriteFiles = Callable[[Path], Iterable[FileRecord] | None]
"""Writes a learner's files into an existing folder. Files whose records it returns are not read again to hash them."""

_TEMPORARY_NAME = re.compile(r"\.tmp-\d+-(?P<pid>\d+)|\.best\.json\.tmp-(?P<file_pid>\d+)")


class CheckpointStore:
    """Writes and finds the checkpoints under `<run_dir>/checkpoints`."""

    def __init__(self, run_dir: Path, keep_last: int, keep_best: bool) -> None:
        """Create the folder and remove what runs that died while saving have left in it."""
        self._run_dir = run_dir
        self._root = checkpoint_root(run_dir)
        self._keep_last = keep_last
        self._keep_best = keep_best
        self._root.mkdir(parents=True, exist_ok=True)
        self._remove_leftovers()

    def save(self, state: RunState, write: WriteFiles, extra: Mapping[str, object], score: float | None) -> Path:
        """Write a checkpoint at `state.step`, prune, and return its folder.

        `extra` must be JSON. `score` is the evaluation score of these weights, None when they have none. A checkpoint
        already there for this step is replaced. Checkpoints of later steps are removed: they belong to a course that
        the run left when it was resumed from an earlier step.
        """
        directory = self._root / step_directory_name(state.step)
        temporary = self._root / f".tmp-{state.step}-{os.getpid()}"
        temporary.mkdir()
        try:
            records = {record.name: record for record in write(temporary) or ()}
            content = {"format": FORMAT, "state": asdict(state), "extra": dict(extra), "score": score}
            (temporary / STATE_NAME).write_text(json.dumps(content, indent=2, allow_nan=False) + "\n")
            _write_manifest(temporary, records)
            for path in temporary.rglob("*"):
                if path.is_dir():
                    sync_directory(path)
            sync_directory(temporary)
        except BaseException:
            shutil.rmtree(temporary)
            raise
        self._put_in_place(temporary, directory)
        self._prune(state.step)
        return directory

    def latest(self) -> Checkpoint | None:
        """Return the newest intact checkpoint; see `reading.latest_checkpoint`."""
        return latest_checkpoint(self._run_dir)

    def _put_in_place(self, temporary: Path, directory: Path) -> None:
        # A folder cannot be renamed over another that holds files. The old one is set aside under a name that
        # `list_checkpoints` still counts, so there is no moment without a complete checkpoint of this step.
        replaced = self._root / f".old-{directory.name}"
        if directory.exists():
            if replaced.exists():
                shutil.rmtree(replaced)
            directory.rename(replaced)
        temporary.rename(directory)
        sync_directory(self._root)
        if replaced.exists():
            self._remove(replaced)

    def _prune(self, step: int) -> None:
        available = list_checkpoints(self._run_dir)
        current = [known for known in available if known <= step]
        kept = set(current[-self._keep_last :])
        scores = {known: score for known in current if (score := _score(available[known])) is not None}
        candidates = scores if self._keep_best else {known: scores[known] for known in scores if known in kept}
        # Of equal scores the earliest: fewer steps for the same result.
        best = max(candidates, key=lambda known: (candidates[known], -known), default=None)
        # Named before the others go, so that best.json never names a checkpoint that is not there.
        if best is None:
            (self._root / BEST_NAME).unlink(missing_ok=True)
        else:
            kept.add(best)
            content = {"step": best, "score": candidates[best]}
            replace_file(self._root / BEST_NAME, (json.dumps(content) + "\n").encode())
        for known, directory in available.items():
            if known not in kept:
                self._remove(directory)

    def _remove(self, directory: Path) -> None:
        """Delete a folder so that a crash half-way leaves no checkpoint with files missing."""
        doomed = self._root / f".tmp-0-{os.getpid()}"
        directory.rename(doomed)
        shutil.rmtree(doomed)

    def _remove_leftovers(self) -> None:
        for path in self._root.iterdir():
            temporary = _TEMPORARY_NAME.fullmatch(path.name)
            is_dead = temporary is not None and not _is_other_process(int(temporary["pid"] or temporary["file_pid"]))
            is_replaced = path.name.startswith(".old-") and (self._root / path.name.removeprefix(".old-")).exists()
            if path.is_dir() and (is_dead or is_replaced):
                shutil.rmtree(path)
            elif is_dead:
                path.unlink()


def _write_manifest(directory: Path, records: Mapping[str, FileRecord]) -> None:
    """Write `manifest.json` for all files of a folder, flushing each to the disk."""
    files = []
    for path in sorted(directory.rglob("*")):
        if path.is_file():
            sync_file(path)
            files.append(asdict(_file_record(path, path.relative_to(directory).as_posix(), records)))
    content = json.dumps({"format": FORMAT, "files": files}, indent=2) + "\n"
    (directory / MANIFEST_NAME).write_text(content)
    sync_file(directory / MANIFEST_NAME)


def _file_record(path: Path, name: str, records: Mapping[str, FileRecord]) -> FileRecord:
    num_bytes = path.stat().st_size
    known = records.get(name)
    if known is None:
        return FileRecord(name=name, num_bytes=num_bytes, blake2b=hash_file(path))
    assert known.num_bytes == num_bytes, f"{name}: {num_bytes} bytes on the disk, {known.num_bytes} were written"
    return known


def _score(directory: Path) -> float | None:
    """Return the score of a checkpoint, None when it has none or cannot be read."""
    try:
        return read_state(directory).score
    except CheckpointError:
        return None


def _is_other_process(pid: int) -> bool:
    """Return whether another process has the id now. Leftovers under this process's own id are of an earlier process,
    for they are looked for before anything is saved."""
    if pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
