"""How many float32 copies of parameters extrapolation keeps beside the optimizer's state: counted from the settings.

Kept by `engines/trigger.py` and `engines/directions.py`; the table is in `effopd/README.md`. Standard library only: `effopd
plan` and `effopd doctor` count bytes with it.
"""

from dataclasses import dataclass

from effopd.config.schema import AccelerateConfig, AnchorRule, DirectionKind, GateKind


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerCopies:
    """Numbers of copies, each the most there can be at a time."""

    anchor: int = 0
    previous: int = 0
    """The previous trigger's direction."""
    history: int = 0
    """What the kind of direction remembers: weights before the last updates, or a velocity."""
    pre_jump_anchor: int = 0
    pre_jump_masters: int = 0
    """Of all parameters; all other numbers are of those that a jump moves."""
    passing: int = 0
    """More than all of these while a trigger is open; a checkpoint never has them."""

    @property
    def num_saved(self) -> int:
        """In a checkpoint, as if every parameter were moved."""
        return self.anchor + self.previous + self.history + self.pre_jump_anchor + self.pre_jump_masters


def num_trigger_copies(config: AccelerateConfig) -> TriggerCopies:
    """Return what is kept between triggers, and what one that is open adds."""
    if config.gate is GateKind.none:
        return TriggerCopies()
    match config.direction:
        case DirectionKind.gram_pca:
            history = config.history_size
        case DirectionKind.nesterov:
            history = 1
        case _:
            history = 0
    if config.max_kl_increase is not None:
        # What a way back holds is gone before the next trigger opens, and makes room for all that this one adds.
        return TriggerCopies(anchor=1, previous=1, history=history, pre_jump_anchor=1, pre_jump_masters=1)
    # An average reads the previous direction, and an anchor that stays does not give its memory to the displacement.
    passing = (config.direction is DirectionKind.ema) + (config.anchor is AnchorRule.initial)
    return TriggerCopies(anchor=1, previous=1, history=history, passing=passing)
