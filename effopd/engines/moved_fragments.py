"""The fragments that a jump moves, on this rank: float32 copies of them in host memory, and sums over all ranks."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from effopd.engines.collectives import sum_over_ranks
from effopd.engines.zero_shards import ZeroShards
from effopd.types import ShardKind

Buffer = dict[str, Tensor]
"""One 1-D float32 tensor in host memory per fragment, by name of its parameter."""

CHUNK = 1 << 20  # elements that are written at once: few enough to stay in a cache between two operations
DOUBLE_CHUNK = 1 << 18  # elements that are in float64 at once


class MovedFragments:
    """Everything is element-wise, so nothing is gathered; only sums travel between ranks."""

    def __init__(self, shards: ZeroShards, device: torch.device) -> None:
        self.shards = shards
        self.names = [fragment.name for fragment in shards.held if fragment.is_moved]
        self.owned = [fragment.name for fragment in shards.owned if fragment.is_moved]
        self._device = device

    def host(self, kind: ShardKind, name: str) -> Tensor:
        """Return a fragment's master or moment for reading: itself where it lives in host memory, else a copy."""
        return self.shards.view(kind, name).to("cpu")

    def empty(self) -> Buffer:
        """Return an uninitialised buffer."""
        return {name: host_like(self.shards.view(ShardKind.MASTER, name)) for name in self.names}

    def copy_masters(self, out: Buffer) -> None:
        for name in self.names:
            out[name].copy_(self.shards.view(ShardKind.MASTER, name))

    def total(self, num_sums: int, share: Callable[[str], Tensor]) -> list[float]:
        """Return the sums over all moved parameters of `share(name)`, [num_sums] float64. Collective."""
        sums = torch.zeros(num_sums, dtype=torch.float64)
        for name in self.owned:
            sums += share(name)
        return sum_over_ranks(*sums.tolist(), device=self._device)


def inner_products(left: Tensor, right: Tensor) -> Tensor:
    """Return left · right and right · right, [2], accumulated in float64."""
    sums = torch.zeros(2, dtype=torch.float64)
    for chunk in chunks(left.numel(), DOUBLE_CHUNK):
        double = right[chunk].double()
        sums[0] += (left[chunk].double() * double).sum()
        sums[1] += double.square().sum()
    return sums


def displacement_products(master: Tensor, anchor: Tensor, previous: Tensor | None) -> Tensor:
    """Return ‖Δ‖², ‖master‖², Δ · previous and ‖previous‖², [4], accumulated in float64; Δ = master - anchor."""
    sums = torch.zeros(4, dtype=torch.float64)
    for chunk in chunks(master.numel(), DOUBLE_CHUNK):
        current = master[chunk].double()
        displacement = current - anchor[chunk].double()
        sums[0] += displacement.square().sum()
        sums[1] += current.square().sum()
        if previous is not None:
            before = previous[chunk].double()
            sums[2] += (displacement * before).sum()
            sums[3] += before.square().sum()
    return sums


def chunks(num_elements: int, size: int = CHUNK) -> Iterator[slice]:
    for start in range(0, num_elements, size):
        yield slice(start, start + size)


def host_like(tensor: Tensor) -> Tensor:
    """Return an uninitialised float32 host tensor of the same length; pinned where a GPU will copy from it."""
    return torch.empty(tensor.shape, dtype=torch.float32, pin_memory=torch.cuda.is_available())


def host_copy(tensor: Tensor) -> Tensor:
    return host_like(tensor).copy_(tensor)
