"""Which run folders a person means: runs themselves, or folders of runs such as a sweep leaves. Standard library only."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from effopd.errors import ConfigError

FINISHED_NAME = "finished.json"
"""In the folder of a run that a study has finished."""

_EVALUATIONS = "eval.jsonl"
_MARKS = ("config.yaml", _EVALUATIONS, "versions.json")
"""A folder with one of these is a run; one that was killed early may have the last alone."""


def find_runs(folders: Sequence[Path]) -> list[Path]:
    """Return the runs among `folders` and, in the order of their names, those inside the folders that are none.

    Each run once. Raises ConfigError for a folder that does not exist or holds no run.
    """
    runs: dict[Path, Path] = {}  # resolved to as given
    for folder in folders:
        if not folder.is_dir():
            raise ConfigError(f"{folder}: no such folder; give a run folder, such as runs/<name>/<time>")
        found = list(_runs_in(folder))
        if not found:
            raise ConfigError(
                f"{folder}: no config.yaml in this folder or below; give a run folder, such as runs/<name>/<time>, "
                "or a folder of runs"
            )
        for run in found:
            runs.setdefault(run.resolve(), run)
    return list(runs.values())


def has_evaluations(run: Path) -> bool:
    """Return whether a run has come as far as its first evaluation."""
    path = run / _EVALUATIONS
    return path.is_file() and path.stat().st_size > 0


def _runs_in(folder: Path) -> Iterator[Path]:
    for name, folders, files in os.walk(folder):
        if any(mark in files for mark in _MARKS):
            yield Path(name)
            folders.clear()  # a run's own folders hold no runs, and a checkpoint many files
        folders.sort()
