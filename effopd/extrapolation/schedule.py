"""When to try a jump."""

from effopd.config.search_schema import ScheduleKind, SearchConfig
from effopd.types import Displacement, RunState


def is_scheduled(config: SearchConfig, step: int, num_steps: int) -> bool:
    """Return whether a jump is tried after optimizer step `step` of a run of `num_steps`."""
    match config.schedule:
        case ScheduleKind.powers_of_two:
            is_due, number = is_power_of_two(step), num_triggers(step)
        case ScheduleKind.every | ScheduleKind.adaptive:
            is_due, number = step >= 1 and step % config.every == 0, step // config.every
        case ScheduleKind.last:
            is_due, number = step == num_steps, 1
    return is_due and (config.max_triggers is None or number <= config.max_triggers)


def is_power_of_two(step: int) -> bool:
    """Return whether `step` is 1, 2, 4, 8, ...; the triggers of arXiv 2605.11739."""
    return step >= 1 and step & (step - 1) == 0


def num_triggers(step: int) -> int:
    """Return how many powers of two lie in 1 .. step."""
    return step.bit_length() if step >= 1 else 0


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
