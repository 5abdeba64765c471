"""What a learner saves: its shards, gathered, and where its optimizer stands."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from effopd.checkpoints.snapshot import ReadShard, gather_snapshot
from effopd.checkpoints.streaming import FileRecord
from effopd.types import Fragment, ShardKind

PROGRESS_NAME = "learner.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerProgress:
    """The few numbers of a learner that are not tensors."""

    optimizer_step: int
    has_previous_displacement: bool


def save_learner(
    directory: Path, *, fragments: Sequence[Sequence[Fragment]], progress: LearnerProgress, read: ReadShard
) -> tuple[FileRecord, ...]:
    """Write master weights, moments, anchor and progress of all ranks into an existing directory."""
    (directory / PROGRESS_NAME).write_text(json.dumps(asdict(progress)) + "\n")
    kinds = [
        kind for kind in ShardKind if kind != ShardKind.PREVIOUS_DISPLACEMENT or progress.has_previous_displacement
    ]
    return gather_snapshot(directory, fragments, read, kinds)
