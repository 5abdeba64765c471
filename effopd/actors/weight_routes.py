"""How published weights come to samplers on several machines: once to each machine, and from there to all its samplers.

On the learner's own machine samplers read its segment in place. For every other machine a bucket crosses the network once,
through Ray's object store, into a segment of that machine. Whatever the way, a sampler accepts nothing but bytes with the
checksum that the learner published, and stamps them with the learner's version.
"""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace

from ray import ObjectRef
from ray.actor import ActorHandle

from effopd.actors.calls import wait_for
from effopd.types import Publication

BUCKETS_AT_A_TIME = 2
"""In the object stores: while one crosses the network the next one is read."""

COPIER, DOING = "the process that looks after a machine", "copying weights from another"


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightRoutes:
    """The way of weights to every sampler of a group."""

    source: ActorHandle | None = None
    """The `NodeActor` of the machine that weights are published on; None when all samplers are there."""
    receivers: tuple[ActorHandle | None, ...]
    """The `NodeActor` of every sampler's machine, in the order of the samplers; None where that is the source's."""

    def to(self, indices: Sequence[int]) -> "WeightRoutes":
        """Return the routes to some of the samplers."""
        return replace(self, receivers=tuple(self.receivers[index] for index in indices))


def copies_of(publication: Publication, routes: WeightRoutes) -> dict[ActorHandle, ObjectRef]:
    """Copy `publication` to all receivers' machines; return what the samplers of each are to load, by receiver."""
    receivers = {receiver for receiver in routes.receivers if receiver is not None}
    if not receivers:
        return {}
    assert routes.source is not None, "somebody has to read what is to be copied"
    under_way: deque[list[ObjectRef]] = deque()
    for index in range(len(publication.buckets)):
        if len(under_way) == BUCKETS_AT_A_TIME:
            wait_for(under_way.popleft(), COPIER, DOING)
        bucket = routes.source.read.remote(publication, index)
        under_way.append([receiver.receive.remote(publication, index, bucket) for receiver in receivers])
    for writing in under_way:
        wait_for(writing, COPIER, DOING)
    return {receiver: receiver.received.remote(publication) for receiver in receivers}
