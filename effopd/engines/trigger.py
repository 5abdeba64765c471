"""One trigger as a transaction on this rank's shards: measure Δ, choose a direction, try candidates, settle on one.

Everything is element-wise on float32 master fragments, so nothing is gathered. Beyond DeepSpeed's own state there are two
float32 copies of the moved fragments, in host memory: between triggers the anchor and the previous direction, during a
trigger the direction and the current weights, so that a candidate is one pass over memory. Other anchors than the weights
after the last trigger, other directions than the displacement and the way back from a jump need more; `effopd/README.md`
says how much.
"""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from effopd.checkpoints.learner_state import LearnerProgress
from effopd.config.schema import AccelerateConfig, AnchorRule
from effopd.engines.collectives import sum_over_ranks
from effopd.engines.directions import Measured, build_direction
from effopd.engines.moved_fragments import (
    Buffer,
    MovedFragments,
    chunks,
    displacement_products,
    host_copy,
    inner_products,
)
from effopd.engines.zero_shards import ZeroShards
from effopd.extrapolation.jump import extrapolate
from effopd.types import Displacement, Settlement, ShardKind


@dataclass(slots=True)
class _Trial:
    """What an open trigger holds."""

    current: Buffer
    direction: Buffer
    held_step_size: float
    """Of the candidate in the masters."""


@dataclass(slots=True)
class _BeforeJump:
    """What a roll-back returns to."""

    weights: Buffer
    """Of all parameters: those that a jump does not move have been trained since."""
    anchor: Buffer
    num_updates: int
    """Between that anchor and those weights."""
    lr_scale: float
    num_updates_since: int
    """Updates since the jump: 0 or 1."""


class Trigger:
    """Anchor, direction and the way back, of the moved fragments that this rank holds.

    Unless the anchor must outlast it there is none while a trigger is open.
    """

    def __init__(
        self, shards: ZeroShards, config: AccelerateConfig, *, max_lr_scale: float, device: torch.device
    ) -> None:
        """Make the weights of this moment the anchor. `max_lr_scale` bounds what settlements make of the learning rate."""
        self._shards = shards
        self._config = config
        self._max_lr_scale = max_lr_scale
        self._device = device
        self._moved = MovedFragments(shards, device)
        self._rule = build_direction(self._moved, config)
        self._anchor = self._moved.empty()
        self._moved.copy_masters(self._anchor)
        self._num_updates = 0
        self._previous: Buffer | None = None
        self._before_jump: _BeforeJump | None = None
        self._trial: _Trial | None = None
        self.lr_scale = 1.0
        """Factor on the policy's learning rate, the product of what settlements have asked for."""

    @property
    def is_open(self) -> bool:
        return self._trial is not None

    # Around an update

    @torch.no_grad()
    def before_update(self) -> None:
        """Keep what must be kept of weights that are about to change."""
        assert not self.is_open, "update inside a trigger"
        if self._before_jump is not None and self._before_jump.num_updates_since == 1:
            self._before_jump = None
        if self._config.anchor is AnchorRule.previous_step:
            self._moved.copy_masters(self._anchor)
            self._num_updates = 0
        self._rule.before_update()

    def after_update(self) -> None:
        self._num_updates += 1
        if self._before_jump is not None:
            self._before_jump.num_updates_since += 1

    # The trigger itself

    @torch.no_grad()
    def open(self) -> Displacement:
        """Keep the current weights aside, measure Δ = current - anchor and turn it into the direction. Collective."""
        assert not self.is_open, "a trigger is open already"
        self._before_jump = None
        previous, self._previous = self._previous, None
        # Wherever a buffer is not needed any more its memory serves again.
        current = self._moved.empty() if previous is None or self._rule.reads_previous else previous
        displacement = self._moved.empty() if self._keeps_anchor else self._anchor
        owned = set(self._moved.owned)
        sums = torch.zeros(4, dtype=torch.float64)
        for name in self._moved.names:
            master = self._moved.host(ShardKind.MASTER, name)
            if name in owned:
                before = None if previous is None else previous[name]
                sums += displacement_products(master, self._anchor[name], before)
            current[name].copy_(master)
            torch.sub(master, self._anchor[name], out=displacement[name])
        square, current_square, dot, previous_square = sum_over_ranks(*sums.tolist(), device=self._device)
        if not self._keeps_anchor:
            self._anchor = {}
        measured = Measured(square=square, dot=dot, previous_square=previous_square, num_updates=self._num_updates)
        direction = displacement
        self._rule.turn(direction, current, previous, measured)  # in place
        slope, direction_square = self._moved.total(
            2, lambda name: inner_products(self._moved.host(ShardKind.EXP_AVG, name), direction[name])
        )
        self._trial = _Trial(current=current, direction=direction, held_step_size=0.0)
        return Displacement(
            norm=math.sqrt(square),
            relative_norm=math.sqrt(square / current_square) if current_square > 0 else 0.0,
            cosine_to_previous=None if previous is None else cosine(dot, square, previous_square),
            slope=slope,
            direction_norm=math.sqrt(direction_square),
            num_updates=self._num_updates,
        )

    @torch.no_grad()
    def write(self, step_size: float) -> None:
        """Make masters and forward weights current + step_size * direction. Collective."""
        assert self._trial is not None, "write_candidate outside a trigger"
        for name in self._moved.names:
            master = self._shards.view(ShardKind.MASTER, name)
            rounded = self._shards.rounded(name)
            current, direction = self._trial.current[name], self._trial.direction[name]
            for chunk in chunks(master.numel()):
                extrapolate(current[chunk], direction[chunk], step_size, out=master[chunk])
                if rounded is not None:
                    rounded[chunk].copy_(master[chunk])
        self._shards.finish_writes(are_rounded=True)
        self._trial.held_step_size = step_size

    @torch.no_grad()
    def close(self, settlement: Settlement) -> None:
        """Settle, choose the next anchor and make the direction the previous one. Collective."""
        trial = self._trial
        assert trial is not None, "close_trigger outside a trigger"
        if trial.held_step_size != settlement.step_size:
            self.write(settlement.step_size)
        if settlement.exp_avg_scale != 1:
            for name in self._moved.names:
                self._shards.view(ShardKind.EXP_AVG, name).mul_(settlement.exp_avg_scale)
        if self._config.max_kl_increase is not None and settlement.step_size != 0:
            self._before_jump = self._way_back(trial.current)
        self._set_anchor(trial.current)
        self.lr_scale = min(self.lr_scale * settlement.lr_factor, self._max_lr_scale)
        self._previous, self._trial = trial.direction, None
        if settlement.step_size != 0:
            self._rule.after_jump()

    @torch.no_grad()
    def roll_back(self) -> None:
        """Undo the last jump and the one update after it; see `roles.Learner.roll_back`. Collective."""
        before = self._before_jump
        assert before is not None and before.num_updates_since == 1 and not self.is_open, (
            "roll_back is for the moment after the first update after a jump, with accelerate.max_kl_increase set"
        )
        for fragment in self._shards.held:
            self._shards.view(ShardKind.MASTER, fragment.name).copy_(before.weights[fragment.name])
        self._shards.finish_writes()
        self._anchor, self._num_updates, self.lr_scale = before.anchor, before.num_updates, before.lr_scale
        # The next displacement contains that of the trigger that is undone, which must not count twice.
        self._previous = None
        self._before_jump = None
        self._rule.after_roll_back()

    @property
    def _keeps_anchor(self) -> bool:
        """Whether the anchor outlasts a trigger, or a jump may have to be undone."""
        return self._config.anchor is AnchorRule.initial or self._config.max_kl_increase is not None

    def _way_back(self, current: Buffer) -> _BeforeJump:
        still = [fragment.name for fragment in self._shards.held if not fragment.is_moved]
        return _BeforeJump(
            weights=current | {name: host_copy(self._shards.view(ShardKind.MASTER, name)) for name in still},
            anchor=self._anchor,
            num_updates=self._num_updates,
            lr_scale=self.lr_scale,
            num_updates_since=0,
        )

    def _set_anchor(self, current: Buffer) -> None:
        """Choose what the next displacement is measured from; `current` are the weights before the settlement."""
        match self._config.anchor:
            case AnchorRule.initial:
                return
            case AnchorRule.pre_jump:
                self._anchor = current
            case AnchorRule.post_jump | AnchorRule.previous_step:
                self._anchor = current if self._before_jump is None else self._moved.empty()
                self._moved.copy_masters(self._anchor)
        self._num_updates = 0

    # Snapshots

    def buffers(self) -> dict[ShardKind, Buffer]:
        """Return everything that a snapshot has to keep, itself."""
        assert not self.is_open, "cannot save a checkpoint inside a trigger"
        kept = {ShardKind.ANCHOR: self._anchor}
        if self._previous is not None:
            kept[ShardKind.PREVIOUS_DISPLACEMENT] = self._previous
        if self._before_jump is not None:
            kept[ShardKind.PRE_JUMP_MASTER] = self._before_jump.weights
            kept[ShardKind.PRE_JUMP_ANCHOR] = self._before_jump.anchor
        return kept | self._rule.buffers()

    def progress(self, optimizer_step: int) -> LearnerProgress:
        before = self._before_jump
        return LearnerProgress(
            optimizer_step=optimizer_step,
            kinds=tuple(self.buffers()),
            lr_scale=self.lr_scale,
            num_updates_since_anchor=self._num_updates,
            num_updates_since_jump=None if before is None else before.num_updates_since,
            pre_jump_lr_scale=1.0 if before is None else before.lr_scale,
            pre_jump_num_updates=0 if before is None else before.num_updates,
        )

    @torch.no_grad()
    def restore(self, progress: LearnerProgress, stored: Mapping[ShardKind, Iterable[tuple[str, Tensor]]]) -> None:
        """Take over what a checkpoint held; without an anchor the weights of this moment are the anchor."""
        assert not self.is_open, "cannot load a checkpoint inside a trigger"
        self._anchor, self._previous, self._before_jump = {}, None, None  # their memory is needed
        kept = {kind: {name: host_copy(tensor) for name, tensor in tensors} for kind, tensors in stored.items()}
        if ShardKind.ANCHOR in kept:
            self._anchor = kept[ShardKind.ANCHOR]
        else:
            self._anchor = self._moved.empty()
            self._moved.copy_masters(self._anchor)
        self.lr_scale = progress.lr_scale
        self._num_updates = progress.num_updates_since_anchor
        self._previous = kept.get(ShardKind.PREVIOUS_DISPLACEMENT)
        self._rule.restore(kept)
        if progress.num_updates_since_jump is not None:
            self._before_jump = _BeforeJump(
                weights=kept[ShardKind.PRE_JUMP_MASTER],
                anchor=kept[ShardKind.PRE_JUMP_ANCHOR],
                num_updates=progress.pre_jump_num_updates,
                lr_scale=progress.pre_jump_lr_scale,
                num_updates_since=progress.num_updates_since_jump,
            )


def cosine(dot: float, square: float, other_square: float) -> float:
    """Return the cosine of two vectors from their dot product and squared norms; 0 when one of them is zero."""
    return dot / math.sqrt(square * other_square) if square > 0 and other_square > 0 else 0.0
