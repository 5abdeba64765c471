"""When to try a jump."""


def is_power_of_two(step: int) -> bool:
    """Return whether `step` is 1, 2, 4, 8, ...; the triggers of arXiv 2605.11739."""
    return step >= 1 and step & (step - 1) == 0


def num_triggers(step: int) -> int:
    """Return how many triggers lie in 1 .. step."""
    return step.bit_length() if step >= 1 else 0
