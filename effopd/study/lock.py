"""One driver at a time in a study's folder."""

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from effopd.errors import ConfigError


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder. Raises ConfigError when another process does. The system lets go when this process ends, however."""
    with (folder / ".lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigError(f"--output={folder}: another effopd study is at work there; wait for it") from error
        yield
