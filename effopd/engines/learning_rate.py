"""The learning rate as a function of the step, so that resuming needs no scheduler state."""

import math

from effopd.config.schema import LearnerConfig, LRSchedule


def lr_at(config: LearnerConfig, step: int, num_steps: int) -> float:
    """Return the learning rate of optimizer step `step` (the first is 0) in a run of `num_steps`.

    Warm-up rises linearly and reaches `config.lr` on its last step; a decay would reach 0 at step `num_steps`, so the
    last step of the run still moves.
    """
    if step < config.warmup_steps:
        return config.lr * (step + 1) / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / max(1, num_steps - config.warmup_steps))
    match config.lr_schedule:
        case LRSchedule.constant:
            return config.lr
        case LRSchedule.linear:
            return config.lr * (1 - progress)
        case LRSchedule.cosine:
            return config.lr * 0.5 * (1 + math.cos(math.pi * progress))
