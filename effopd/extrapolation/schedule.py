"""When to try a jump. Standard library only: `effopd plan` counts triggers with it."""

from effopd.config.search_schema import ScheduleKind, SearchConfig


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
