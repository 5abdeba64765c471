"""Directions on shards: `extrapolation.direction` has the formulas, here is what each keeps of the past, and where.

A trigger turns its displacement into a direction in place. Whatever a direction keeps is a copy of the moved fragments in
host memory; a snapshot keeps it, too.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from effopd.checkpoints.learner_state import PATH_KINDS
from effopd.config.schema import AccelerateConfig, DirectionKind
from effopd.engines.moved_fragments import DOUBLE_CHUNK, Buffer, MovedFragments, chunks, inner_products
from effopd.extrapolation.direction import (
    blend,
    ema_weights,
    group_factors,
    outer_step,
    principal_weights,
    weighted_path,
)
from effopd.extrapolation.groups import GROUPS, parameter_groups
from effopd.types import ShardKind


@dataclass(frozen=True, slots=True, kw_only=True)
class Measured:
    """A displacement, and how it lies to the previous trigger's direction, over all ranks."""

    square: float
    """‖Δ‖²."""
    dot: float
    """Δ · previous direction; 0 without one, likewise the next."""
    previous_square: float
    num_updates: int
    """Between the anchor and the current weights."""


class Direction:
    """The displacement as it is. The other kinds say what they do differently."""

    reads_previous = False
    """Whether `turn` reads the previous direction, whose memory is otherwise given to the current weights."""

    def __init__(self, moved: MovedFragments, config: AccelerateConfig) -> None:
        self._moved = moved
        self._config = config

    def before_update(self) -> None:
        """The masters are about to change."""

    def turn(self, displacement: Buffer, current: Buffer, previous: Buffer | None, measured: Measured) -> None:
        """Make `displacement` the direction, in place. Collective."""

    def after_jump(self) -> None:
        """The weights have left the path that updates took them along."""

    def after_roll_back(self) -> None:
        """What came of the last trigger was undone."""

    def buffers(self) -> dict[ShardKind, Buffer]:
        """Return what a snapshot has to keep, itself."""
        return {}

    def restore(self, kept: Mapping[ShardKind, Buffer]) -> None:
        """Take over what a snapshot has kept."""


class SmoothedDirection(Direction):
    """`ema`."""

    reads_previous = True

    def turn(self, displacement: Buffer, current: Buffer, previous: Buffer | None, measured: Measured) -> None:
        if previous is None:
            return
        own, past = ema_weights(
            measured.square, measured.dot, measured.previous_square, decay=self._config.direction_ema
        )
        for name, vector in displacement.items():
            for chunk in chunks(vector.numel()):
                blend(vector[chunk], own, previous[name][chunk], past)


class PrincipalDirection(Direction):
    """`gram_pca`. Keeps the weights before each of the last `history_size` updates since the last jump, oldest first."""

    def __init__(self, moved: MovedFragments, config: AccelerateConfig) -> None:
        super().__init__(moved, config)
        self._path: list[Buffer] = []

    def before_update(self) -> None:
        is_full = len(self._path) == self._config.history_size
        point = self._path.pop(0) if is_full else self._moved.empty()
        self._moved.copy_masters(point)
        self._path.append(point)

    def turn(self, displacement: Buffer, current: Buffer, previous: Buffer | None, measured: Measured) -> None:
        if not self._path:
            return  # right after a roll-back
        path = [*self._path, current]
        size = len(path) - 1

        def share(name: str) -> Tensor:
            gram = torch.zeros(size, size, dtype=torch.float64)
            for chunk in chunks(current[name].numel(), DOUBLE_CHUNK // size):
                points = torch.stack([point[name][chunk] for point in path]).double()
                rows = points[1:] - points[0]
                gram += rows @ rows.T
            return gram.flatten()

        gram = torch.tensor(self._moved.total(size**2, share), dtype=torch.float64).view(size, size)
        weights = principal_weights(gram, measured.num_updates)
        for name, vector in displacement.items():
            for chunk in chunks(vector.numel()):
                weighted_path([point[name][chunk] for point in path], weights, out=vector[chunk])

    def after_jump(self) -> None:
        self._path = []

    def after_roll_back(self) -> None:
        self._path = []

    def buffers(self) -> dict[ShardKind, Buffer]:
        return dict(zip(PATH_KINDS, self._path, strict=False))

    def restore(self, kept: Mapping[ShardKind, Buffer]) -> None:
        self._path = [kept[kind] for kind in PATH_KINDS if kind in kept]


class GroupedDirection(Direction):
    """`grouped`."""

    def __init__(self, moved: MovedFragments, config: AccelerateConfig) -> None:
        super().__init__(moved, config)
        group_of = parameter_groups(moved.shards.shapes)
        self._group_of = {name: group_of(name) for name in moved.names}

    def turn(self, displacement: Buffer, current: Buffer, previous: Buffer | None, measured: Measured) -> None:
        def share(name: str) -> Tensor:
            """Slope and ‖Δ‖² of every group, of which a parameter has a part in one."""
            sums = torch.zeros(len(GROUPS), 2, dtype=torch.float64)
            exp_avg = self._moved.host(ShardKind.EXP_AVG, name)
            sums[self._group_of[name]] = inner_products(exp_avg, displacement[name])
            return sums.flatten()

        sums = self._moved.total(2 * len(GROUPS), share)
        factors = group_factors(slopes=sums[0::2], squares=sums[1::2])
        for name, vector in displacement.items():
            vector.mul_(factors[self._group_of[name]])


class OuterDirection(Direction):
    """`nesterov`. Keeps the velocity, which is 0 at first and again after a roll-back."""

    def __init__(self, moved: MovedFragments, config: AccelerateConfig) -> None:
        super().__init__(moved, config)
        self._velocity: Buffer | None = None

    def turn(self, displacement: Buffer, current: Buffer, previous: Buffer | None, measured: Measured) -> None:
        if self._velocity is None:
            self._velocity = {name: vector.zero_() for name, vector in self._moved.empty().items()}
        for name, vector in displacement.items():
            velocity = self._velocity[name]
            for chunk in chunks(vector.numel()):
                outer_step(vector[chunk], velocity[chunk], self._config.outer_momentum, self._config.outer_lr)

    def after_roll_back(self) -> None:
        self._velocity = None

    def buffers(self) -> dict[ShardKind, Buffer]:
        return {} if self._velocity is None else {ShardKind.OUTER_VELOCITY: self._velocity}

    def restore(self, kept: Mapping[ShardKind, Buffer]) -> None:
        self._velocity = kept.get(ShardKind.OUTER_VELOCITY)


def build_direction(moved: MovedFragments, config: AccelerateConfig) -> Direction:
    """Return what `config.direction` names."""
    match config.direction:
        case DirectionKind.difference:
            return Direction(moved, config)
        case DirectionKind.ema:
            return SmoothedDirection(moved, config)
        case DirectionKind.gram_pca:
            return PrincipalDirection(moved, config)
        case DirectionKind.grouped:
            return GroupedDirection(moved, config)
        case DirectionKind.nesterov:
            return OuterDirection(moved, config)
