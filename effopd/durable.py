"""Files that are complete or absent, whatever kills the process.

A new version is written beside the old one, flushed to the disk and renamed over it; the rename is durable once the
folder itself has been flushed.
"""

import os
from pathlib import Path


def sync_file(path: Path) -> None:
    """Flush a written file to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Flush the names in a folder to the disk: what was created, renamed or removed in it."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def replace_file(path: Path, data: bytes) -> None:
    """Make `data` the content of `path`. A reader, or a run after a crash, sees the old content or the new one."""
    temporary = path.with_name(f".{path.name}.tmp-{os.getpid()}")
    with temporary.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)
    sync_directory(path.parent)
