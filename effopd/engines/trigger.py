"""One trigger as a transaction on this rank's shards: measure Δ, try candidates, settle on one.

Everything is element-wise on float32 master fragments, so nothing is gathered. Beyond DeepSpeed's own state there are two
float32 copies of the moved fragments, in host memory. Between triggers they hold the anchor and the previous displacement,
during a trigger the current displacement and the current weights, so that a candidate is one pass over memory.
"""

import math
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor

from effopd.engines.zero_shards import ZeroShards
from effopd.extrapolation.jump import extrapolate
from effopd.types import Settlement, ShardKind

_CHUNK = 1 << 20  # elements that are written at once: few enough to stay in a cache between two operations
_DOUBLE_CHUNK = 1 << 18  # elements that are in float64 at once


class Trigger:
    """Anchor and displacement of the moved fragments that this rank holds. There is no anchor while a trigger is open."""

    def __init__(self, shards: ZeroShards) -> None:
        self._shards = shards
        self._moved = [fragment.name for fragment in shards.held if fragment.is_moved]
        self._owned = {fragment.name for fragment in shards.owned}
        self.anchor = {name: _host_copy(shards.view(ShardKind.MASTER, name)) for name in self._moved}
        self.previous_displacement: dict[str, Tensor] | None = None
        self._displacement: dict[str, Tensor] = {}
        self._current: dict[str, Tensor] | None = None
        self._held_step_size = 0.0

    @property
    def is_open(self) -> bool:
        return self._current is not None

    @torch.no_grad()
    def open(self) -> Tensor:
        """Keep the current weights aside; return this rank's share of ‖Δ‖², ‖current‖², Δ·previous and ‖previous‖².

        [4], float64; only fragments that this rank owns count. Δ = current - anchor.
        """
        assert not self.is_open, "a trigger is open already"
        sums = torch.zeros(4, dtype=torch.float64)
        current = self.previous_displacement or {name: _host_like(anchor) for name, anchor in self.anchor.items()}
        for name in self._moved:
            master = self._shards.view(ShardKind.MASTER, name).to("cpu")
            if name in self._owned:
                previous = None if self.previous_displacement is None else self.previous_displacement[name]
                sums += _share(master, self.anchor[name], previous)
            current[name].copy_(master)
            torch.sub(master, self.anchor[name], out=self.anchor[name])
        self._displacement, self.anchor = self.anchor, {}
        self.previous_displacement = None
        self._current = current
        self._held_step_size = 0.0
        return sums

    @torch.no_grad()
    def write(self, step_size: float) -> None:
        """Make masters and forward weights current + step_size * Δ. Collective."""
        assert self._current is not None, "write_candidate outside a trigger"
        for name in self._moved:
            master = self._shards.view(ShardKind.MASTER, name)
            rounded = self._shards.rounded(name)
            current, displacement = self._current[name], self._displacement[name]
            for chunk in _chunks(master.numel(), _CHUNK):
                extrapolate(current[chunk], displacement[chunk], step_size, out=master[chunk])
                if rounded is not None:
                    rounded[chunk].copy_(master[chunk])
        self._shards.finish_writes(are_rounded=True)
        self._held_step_size = step_size

    @torch.no_grad()
    def close(self, settlement: Settlement) -> None:
        """Settle, make the result the next anchor and Δ the previous displacement. Collective."""
        assert self._current is not None, "close_trigger outside a trigger"
        if self._held_step_size != settlement.step_size:
            self.write(settlement.step_size)
        for name in self._moved:
            self._current[name].copy_(self._shards.view(ShardKind.MASTER, name))
            if settlement.exp_avg_scale != 1:
                self._shards.view(ShardKind.EXP_AVG, name).mul_(settlement.exp_avg_scale)
        self.anchor, self.previous_displacement = self._current, self._displacement
        self._displacement, self._current = {}, None

    @torch.no_grad()
    def restore(
        self,
        anchor: Iterable[tuple[str, Tensor]] | None,
        previous_displacement: Iterable[tuple[str, Tensor]] | None,
    ) -> None:
        """Take over what a checkpoint held; without an anchor the weights of this moment are the anchor."""
        assert not self.is_open, "cannot load a checkpoint inside a trigger"
        if anchor is None:
            anchor = ((name, self._shards.view(ShardKind.MASTER, name)) for name in self._moved)
        for name, tensor in anchor:
            self.anchor[name].copy_(tensor)
        self.previous_displacement = None
        if previous_displacement is not None:
            self.previous_displacement = {name: _host_copy(tensor) for name, tensor in previous_displacement}


def _share(master: Tensor, anchor: Tensor, previous: Tensor | None) -> Tensor:
    """Return ‖Δ‖², ‖master‖², Δ·previous and ‖previous‖² of one fragment, [4], accumulated in float64."""
    sums = torch.zeros(4, dtype=torch.float64)
    for chunk in _chunks(master.numel(), _DOUBLE_CHUNK):
        current = master[chunk].double()
        displacement = current - anchor[chunk].double()
        sums[0] += displacement.square().sum()
        sums[1] += current.square().sum()
        if previous is not None:
            before = previous[chunk].double()
            sums[2] += (displacement * before).sum()
            sums[3] += before.square().sum()
    return sums


def cosine(dot: float, square: float, other_square: float) -> float:
    """Return the cosine of two vectors from their dot product and squared norms; 0 when one of them is zero."""
    return dot / math.sqrt(square * other_square) if square > 0 and other_square > 0 else 0.0


def _chunks(num_elements: int, size: int) -> Iterator[slice]:
    for start in range(0, num_elements, size):
        yield slice(start, start + size)


def _host_like(tensor: Tensor) -> Tensor:
    """Return an uninitialised float32 host tensor of the same length; pinned where a GPU will copy from it."""
    return torch.empty(tensor.shape, dtype=torch.float32, pin_memory=torch.cuda.is_available())


def _host_copy(tensor: Tensor) -> Tensor:
    return _host_like(tensor).copy_(tensor)
