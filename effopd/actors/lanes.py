"""The lanes of actors in the timeline of a run: each keeps its own, and gives it when the run ends."""

from collections.abc import Mapping

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayError

from effopd.timeline import Span

SECONDS_TO_ANSWER = 10.0
"""After which a lane is left out: its actor is still at something, in a run that was broken off."""


class ActorLanes:
    """The lanes of `RunActor`s by their names."""

    def __init__(self, actors: Mapping[str, ActorHandle]) -> None:
        self._actors = actors

    def begin(self) -> None:
        ray.get([actor.begin_lane.remote() for actor in self._actors.values()])

    def spans(self) -> dict[str, tuple[Span, ...]]:
        """Return the lane of every actor, empty for one that is dead or does not answer."""
        asked = {name: actor.spans.remote() for name, actor in self._actors.items()}
        answered, _ = ray.wait(list(asked.values()), num_returns=len(asked), timeout=SECONDS_TO_ANSWER)
        return {name: _spans_in(reference) if reference in answered else () for name, reference in asked.items()}


def _spans_in(reference: ray.ObjectRef) -> tuple[Span, ...]:
    try:
        return ray.get(reference)
    except RayError:  # the run's end has told of it, and its lane is not worth another word
        return ()
