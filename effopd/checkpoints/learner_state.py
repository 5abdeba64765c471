"""What a learner saves: its shards, gathered, and where its optimizer and its trigger stand."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from effopd.checkpoints.manifest import FileRecord
from effopd.checkpoints.snapshot import ReadShard, gather_snapshot
from effopd.errors import CheckpointError
from effopd.types import Fragment, ShardKind

PROGRESS_NAME = "learner.json"

OPTIMIZER_KINDS = (ShardKind.MASTER, ShardKind.EXP_AVG, ShardKind.EXP_AVG_SQ)
CRITIC_KINDS = (ShardKind.CRITIC_MASTER, ShardKind.CRITIC_EXP_AVG, ShardKind.CRITIC_EXP_AVG_SQ)
PATH_KINDS = tuple(kind for kind in ShardKind if kind.value.startswith("path_"))
POLICY_KINDS = tuple(kind for kind in ShardKind if kind not in CRITIC_KINDS)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerProgress:
    """The few numbers of a learner that are not tensors."""

    optimizer_step: int
    critic_optimizer_step: int | None = None
    """The critic's own, which is another when a step of one of them was skipped; None: the same."""
    kinds: tuple[ShardKind, ...] = ()
    """What there is of the policy beside master weights and moments."""
    lr_scale: float = 1.0
    """Factor on the learning rate that triggers have settled on."""
    num_updates_since_anchor: int = 0
    num_updates_since_jump: int | None = None
    """0 or 1 while the last jump may be rolled back, else None."""
    pre_jump_lr_scale: float = 1.0
    """What a roll-back returns to; likewise the next."""
    pre_jump_num_updates: int = 0


def read_progress(directory: Path) -> LearnerProgress:
    """Return the numbers that are not tensors. Raises CheckpointError naming the file."""
    path = directory / PROGRESS_NAME
    try:
        content = json.loads(path.read_text())
        kinds = tuple(ShardKind(kind) for kind in content["kinds"])
        return LearnerProgress(**(content | {"kinds": kinds}))
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise CheckpointError(f"{path}: missing or damaged ({type(error).__name__}: {error})") from error


def save_learner(
    directory: Path,
    *,
    fragments: Sequence[Sequence[Fragment]],
    critic_fragments: Sequence[Sequence[Fragment]] = (),
    progress: LearnerProgress,
    read: ReadShard,
) -> tuple[FileRecord, ...]:
    """Write what all ranks have, and progress, into an existing directory, the critic's too."""
    (directory / PROGRESS_NAME).write_text(json.dumps(asdict(progress)) + "\n")
    records = gather_snapshot(directory, fragments, read, (*OPTIMIZER_KINDS, *progress.kinds))
    if any(critic_fragments):
        records += gather_snapshot(directory, critic_fragments, read, CRITIC_KINDS)
    return records
