"""A run that goes on from its last checkpoint, in this process, when something has happened that it can go on from.

It does what resuming does: records after the checkpoint are removed and the steps since are taken again, with the same
seeds, so the run ends as if nothing had happened. What a process may have left half-done is not looked at.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from effopd.checkpoints.store import Checkpoint, CheckpointStore
from effopd.config.schema import DebugMode, NonfiniteRule, RunConfig
from effopd.errors import ActorLostError, EffOPDError
from effopd.termination import Terminated, Termination
from effopd.tracking import discard_records_after
from effopd.train import SpoiledUpdateError

logger = logging.getLogger(__name__)

Attempt = Callable[[Checkpoint | None, int], None]
"""Train to the end from a checkpoint, or from the beginning, leaving out the batches of prompts before a position."""


def train_with_restarts(
    attempt: Attempt,
    checkpoint: Checkpoint | None,
    config: RunConfig,
    run_dir: Path,
    store: CheckpointStore,
    stop_irreplaceable: Callable[[], None],
    termination: Termination,
) -> None:
    """Train to the end, beginning at `checkpoint`.

    After the death of a process that held what no other has, what is left of its kind is stopped and all begin anew, at most
    `cluster.max_restarts` times. After a gradient that is not finite, with `learner.on_nonfinite=roll_back`, the run goes on
    with other prompts.

    Raises:
        EffOPDError: when one of the two has happened too often, or anything else has.

    """
    num_restarts, data_position = 0, 0
    rolled_back_to: int | None = None
    while True:
        try:
            return attempt(checkpoint, data_position)
        except SpoiledUpdateError as error:
            checkpoint = store.latest()
            step = _step(checkpoint)
            # Other prompts led from the same weights to the same end: it is not the prompts.
            if config.learner.on_nonfinite is not NonfiniteRule.roll_back or step == rolled_back_to:
                raise
            rolled_back_to, data_position = step, error.data_position
            logger.warning("%s\nthe run goes on from step %d with the prompts after those", error, step)
        except ActorLostError as error:
            if termination.signal_number is not None:  # whoever ends this process may have ended the others first
                raise Terminated(termination.signal_number) from error
            # A recording has no checkpoints to go on from.
            if num_restarts == config.cluster.max_restarts or config.debug.mode is DebugMode.rollout_only:
                raise EffOPDError(
                    f"{error}\nthe run ends after {num_restarts} restarts (cluster.max_restarts="
                    f"{config.cluster.max_restarts}); continue it with resume={run_dir}"
                ) from error
            num_restarts += 1
            with termination.interruptible():  # it may wait for a machine
                stop_irreplaceable()
            checkpoint = store.latest()
            logger.warning(
                "%s\nthe run goes on from step %d (restart %d of at most cluster.max_restarts=%d)",
                error,
                _step(checkpoint),
                num_restarts,
                config.cluster.max_restarts,
            )
        if checkpoint is None:
            discard_records_after(run_dir, -1)


def _step(checkpoint: Checkpoint | None) -> int:
    return 0 if checkpoint is None else checkpoint.state.step
