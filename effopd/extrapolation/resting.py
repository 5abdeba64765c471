"""When a due trigger only looks, because jumps are refused again and again."""

from effopd.config.search_schema import ScheduleKind, SearchConfig
from effopd.types import Displacement, RunState


def steepness(displacement: Displacement) -> float:
    """Return how fast the loss falls along the direction, nats per unit of length; negative is uphill."""
    return -displacement.slope / displacement.direction_norm if displacement.direction_norm > 0 else 0.0


def is_resting(config: SearchConfig, state: RunState, displacement: Displacement) -> bool:
    """Return whether a due trigger only looks: jumps were refused `max_rejects` times in a row, and the way down has not
    become `resume_factor` times as steep as it was at the last refusal.

    Ours. Towards the end of training, or at a good learning rate, every search is refused, and this is what saves its cost.
    """
    if config.schedule is not ScheduleKind.adaptive or state.num_rejects < config.max_rejects:
        return False
    now, before = steepness(displacement), state.rejected_steepness
    if before is None:
        return False
    return now <= 0 or now < config.resume_factor * before
