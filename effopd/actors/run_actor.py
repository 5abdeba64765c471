"""What the actors of a run have in common."""

from effopd.actors.stacks import expose_stacks
from effopd.timeline import Lane, Span


class RunActor:
    """An actor whose stacks a watchdog can take, and that keeps a lane of the run's timeline."""

    def __init__(self) -> None:
        expose_stacks()
        self._lane = Lane()

    def begin_lane(self) -> None:
        self._lane.begin()

    def spans(self) -> tuple[Span, ...]:
        return self._lane.spans()
