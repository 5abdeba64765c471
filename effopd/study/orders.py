"""What driver and worker say to each other. Light, for a worker reads it before it has loaded anything."""

from dataclasses import dataclass
from pathlib import Path

from effopd.config.schema import RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """One run to make."""

    number: int
    """Of the cell, in the study."""
    folder: Path
    config: RunConfig
    num_workers: int
    """That share the machine."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of an order."""

    number: int
    score: float | None = None
    """The final smoothed score."""
    error: str | None = None
    """In one line; None for a run that finished."""
    seconds: float
    """Wall-clock time, start-up included."""
