"""A sampler's share of a batch, asked for in pieces, so that a piece can go on while the rest is still sampled.

Every piece is a call of its own: its answer belongs to whoever asked, outlives the sampler, and is asked for again when the
sampler dies, like any other. Yet the share is sampled as a whole, by whichever call comes first, so that all of it is in the
engine's batch at once and cutting it changes neither speed nor rounding. So a sampler that replaces a dead one samples the
whole share again, too, though only what was not answered is asked for; finished pieces, which are the short ones, cost it little.
"""

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass

from ray import ObjectRef

from effopd.types import PolicyVersion, Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class PieceRequest:
    """What one call asks of a sampler."""

    share: ObjectRef
    """Resolves to the `GenerateRequest` of the whole share. A reference, for only the first call needs it; and so the share's
    name, too, by which calls for its pieces find each other."""
    version: PolicyVersion
    num_pieces: int
    piece: int
    num_parts: int
    """As for `handles.split_by_prompt`; likewise the next two."""
    start: int
    num_prompts: int


class Sharing:
    """The pieces of the share that was begun last, each until it is taken. For calls on several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._share: ObjectRef | None = None
        self._pieces: dict[int, Future[list[Rollout]]] = {}

    def take(self, asked: PieceRequest, begin: Callable[[], Sequence[Future[list[Rollout]]]]) -> Future[list[Rollout]]:
        """Return the piece that is asked for, of the running sampling or, where that has none, of one that `begin` begins."""
        with self._lock:
            if asked.share != self._share or asked.piece not in self._pieces:
                self._share, self._pieces = asked.share, dict(enumerate(begin()))
            return self._pieces.pop(asked.piece)
