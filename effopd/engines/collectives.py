"""Small reductions over all learner ranks. Every rank gets the same answer, bit for bit."""

from collections import defaultdict
from collections.abc import Mapping, Sequence

import torch
import torch.distributed as dist


def sum_over_ranks(*values: float, device: torch.device) -> list[float]:
    """Return each value summed over ranks, in float64."""
    tensor = torch.tensor(values, dtype=torch.float64, device=device)
    dist.all_reduce(tensor)
    return tensor.tolist()


def names_of_all_ranks(names: Sequence[str]) -> list[str]:
    """Return the names that any rank has, each once, sorted: in an order that does not depend on who has which."""
    per_rank: list[list[str]] = [[] for _ in range(dist.get_world_size())]
    dist.all_gather_object(per_rank, sorted(set(names)))
    return sorted({name for rank_names in per_rank for name in rank_names})


def max_over_ranks(value: int, device: torch.device) -> int:
    tensor = torch.tensor(value, device=device)
    dist.all_reduce(tensor, op=dist.ReduceOp.MAX)
    return int(tensor)


def sum_named_over_ranks(values: Mapping[str, float]) -> dict[str, float]:
    """Return sums over ranks by name. A rank without data knows no names, so they travel along."""
    per_rank: list[Mapping[str, float]] = [{} for _ in range(dist.get_world_size())]
    dist.all_gather_object(per_rank, dict(values))
    total: defaultdict[str, float] = defaultdict(float)
    for rank_values in per_rank:
        for name, value in rank_values.items():
            total[name] += value
    return dict(total)
