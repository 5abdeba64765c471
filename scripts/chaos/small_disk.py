"""A disk so small that it can be filled: a file system in memory, which only root can mount."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

SIZE = "256m"


def why_not() -> str | None:
    """Return why there can be no such disk here; None when there can."""
    if os.geteuid() != 0:
        return "only root can mount a small disk"
    with TemporaryDirectory() as folder:
        done = _mount(Path(folder))
        if done.returncode == 0:
            _unmount(Path(folder))
            return None
        return f"a small disk cannot be mounted here ({done.stderr.strip()})"


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Yield a folder on a disk of its own; what is on it at the end is then found in `folder`."""
    mounted = folder.with_name(f"{folder.name}.disk")
    mounted.mkdir(parents=True)
    done = _mount(mounted)
    assert done.returncode == 0, done.stderr
    try:
        yield mounted
        shutil.copytree(mounted, folder, dirs_exist_ok=True)
    finally:
        _unmount(mounted)
        mounted.rmdir()


def _mount(folder: Path) -> subprocess.CompletedProcess[str]:
    command = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(folder)]
    return subprocess.run(command, capture_output=True, text=True)


def _unmount(folder: Path) -> None:
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
