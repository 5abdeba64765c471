"""On which machine every actor of a run is to live, worked out before any of them starts. Knows no Ray.

The driver's machine comes first, the others follow in order of address, so the same cluster gives the same layout. Where
actors have GPUs, these decide. Where none has, learner ranks stay on the driver's machine and the models that sample or
score are dealt out to the others in turn.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from effopd.errors import ConfigError

_COUNTED_BY = {"sampler": "rollout.num_samplers", "learner": "learner.num_ranks"}
"""The settings that say how many of a role there are."""


class Place(StrEnum):
    """What an actor wants of its machine."""

    DRIVER = "driver"
    """The driver's own: it runs the user's code or writes into the run folder."""
    TOGETHER = "together"
    """On as few machines as possible: learner ranks talk to each other all the time."""
    ANYWHERE = "anywhere"
    """Wherever there is room."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """An actor to place. All its GPUs must be on one machine."""

    name: str
    """Such as `sampler 0`; what stands before the number is its role."""
    place: Place
    num_gpus: int
    memory_gib: float = 0.0
    """Host memory that it takes at least, shared pages not counted."""

    @property
    def role(self) -> str:
        return self.name.rsplit(" ", 1)[0]


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """A machine of the cluster."""

    node_id: str
    """Ray's name for it."""
    address: str
    num_gpus: int
    is_driver: bool
    memory_gib: float = math.inf
    """Host memory that was free when Ray started there."""


def place_actors(needs: Sequence[Need], nodes: Sequence[Node]) -> dict[str, Node]:
    """Return the machine of every actor by name.

    Raises ConfigError, with the arithmetic, when some actor finds too few free GPUs on any machine, or a machine has too little
    memory for the processes that it gets.
    """
    ordered = sorted(nodes, key=lambda node: (not node.is_driver, node.address))
    with_gpus = [need for need in needs if need.num_gpus > 0]
    together_first = sorted(with_gpus, key=lambda need: (need.place is not Place.TOGETHER, -need.num_gpus))
    # Many ranks side by side may leave gaps on every machine that are too small for a tensor-parallel sampler.
    largest_first = sorted(with_gpus, key=lambda need: (-need.num_gpus, need.place is not Place.TOGETHER))
    placed = _first_fit(together_first, ordered)
    if len(placed) < len(with_gpus):
        other = _first_fit(largest_first, ordered)
        placed = max(placed, other, key=len)
    left_out = [need for need in with_gpus if need.name not in placed]
    if left_out:
        raise ConfigError(_refusal(left_out[0], with_gpus, placed, ordered))
    placed |= _deal_out([need for need in needs if need.num_gpus == 0], ordered)
    for node in ordered:
        _require_memory(node, [need for need in needs if placed[need.name] == node], needs)
    return placed


def _first_fit(needs: Sequence[Need], nodes: Sequence[Node]) -> dict[str, Node]:
    """Give every need, in order, the first machine with room; those that find none are left out."""
    free = {node.node_id: node.num_gpus for node in nodes}
    placed = {}
    for need in needs:
        node = next((node for node in nodes if free[node.node_id] >= need.num_gpus), None)
        if node is not None:
            free[node.node_id] -= need.num_gpus
            placed[need.name] = node
    return placed


def _deal_out(needs: Sequence[Need], nodes: Sequence[Node]) -> dict[str, Node]:
    others = nodes[1:] or nodes
    anywhere = [need.name for need in needs if need.place is Place.ANYWHERE]
    return {
        need.name: others[anywhere.index(need.name) % len(others)] if need.place is Place.ANYWHERE else nodes[0]
        for need in needs
    }


def _require_memory(node: Node, here: Sequence[Need], needs: Sequence[Need]) -> None:
    """Raise ConfigError when the processes of `here`, those of `needs` that are on `node`, cannot all be in its memory."""
    total_gib = sum(need.memory_gib for need in here)
    if total_gib <= node.memory_gib:
        return
    counts = Counter((need.role, need.memory_gib) for need in here)
    (largest, _), _ = max(counts.items(), key=lambda item: item[0][1] * item[1])
    num_largest = sum(need.role == largest for need in needs)
    blamed = f"{_COUNTED_BY[largest]}={num_largest}: " if largest in _COUNTED_BY else ""
    processes = " + ".join(f"{count} {role} x {size:.2f}" for (role, size), count in counts.items())
    raise ConfigError(
        f"{blamed}the processes on machine {node.address} take {total_gib:.1f} GiB of memory before they load a model ({processes}), and "
        f"{node.memory_gib:.1f} GiB were free when Ray started there; lower rollout.num_samplers or learner.num_ranks, or "
        "give the run more machines"
    )


def _refusal(left_out: Need, needs: Sequence[Need], placed: dict[str, Node], nodes: Sequence[Node]) -> str:
    needed, present = sum(need.num_gpus for need in needs), sum(node.num_gpus for node in nodes)
    counts = Counter((need.role, need.num_gpus) for need in needs)
    roles = " + ".join(f"{count} {role} x {size}" for (role, size), count in counts.items())
    machines = "; ".join(_account(node, needs, placed) for node in nodes)
    remedy = (
        "lower rollout.num_samplers, rollout.tensor_parallel_size or learner.num_ranks, put every role into one "
        "process with cluster=local, or set cluster.device=cpu"
    )
    if needed > present:
        return f"the plan needs {needed} GPUs ({roles}) and the cluster has {present} ({machines}); {remedy}"
    return (
        f"the plan needs {needed} GPUs ({roles}) of the cluster's {present}, but no machine has the {left_out.num_gpus} together that "
        f"{left_out.name} takes ({machines}); {remedy}"
    )


def _account(node: Node, needs: Sequence[Need], placed: dict[str, Node]) -> str:
    """Return a machine's GPUs, who gets them, and what is left, such as `10.0.0.1: 8 - 6 learner = 2 free`."""
    taken = Counter()
    for need in needs:
        if placed.get(need.name) == node:
            taken[need.role] += need.num_gpus
    parts = "".join(f" - {num_gpus} {role}" for role, num_gpus in taken.items())
    return f"{node.address}: {node.num_gpus}{parts} = {node.num_gpus - taken.total()} free"
