"""What a learner saves: its shards, gathered, and where its optimizer stands."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from effopd.checkpoints.snapshot import ReadShard, gather_snapshot
from effopd.checkpoints.streaming import FileRecord
from effopd.types import Fragment, ShardKind

PROGRESS_NAME = "learner.json"

CRITIC_KINDS = (ShardKind.CRITIC_MASTER, ShardKind.CRITIC_EXP_AVG, ShardKind.CRITIC_EXP_AVG_SQ)
POLICY_KINDS = tuple(kind for kind in ShardKind if kind not in CRITIC_KINDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerProgress:
    """The few numbers of a learner that are not tensors."""

    optimizer_step: int
    has_previous_displacement: bool


def save_learner(
    directory: Path,
    *,
    fragments: Sequence[Sequence[Fragment]],
    critic_fragments: Sequence[Sequence[Fragment]] = (),
    progress: LearnerProgress,
    read: ReadShard,
) -> tuple[FileRecord, ...]:
    """Write master weights, moments, anchor and progress of all ranks into an existing directory, the critic's too."""
    (directory / PROGRESS_NAME).write_text(json.dumps(asdict(progress)) + "\n")
    kinds = [
        kind for kind in POLICY_KINDS if kind != ShardKind.PREVIOUS_DISPLACEMENT or progress.has_previous_displacement
    ]
    records = gather_snapshot(directory, fragments, read, kinds)
    if any(critic_fragments):
        records += gather_snapshot(directory, critic_fragments, read, CRITIC_KINDS)
    return records
