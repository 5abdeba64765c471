"""One small process on every machine of a run that has several: it copies weights, and tells what only it can see."""

import os
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path

import numpy as np
import ray
from numpy.typing import NDArray

from effopd.actors.stacks import Sighting, expose_stacks, look_at
from effopd.types import Publication
from effopd.weights import SegmentCopy, SegmentReaders, shared_memory_folder


@ray.remote
class NodeActor:
    """What one machine does for the others."""

    def __init__(self) -> None:
        expose_stacks()
        self._readers = SegmentReaders()
        self._copy: SegmentCopy | None = None

    # Weights

    def read(self, publication: Publication, index: int) -> NDArray[np.uint8]:
        """Return bucket `index` of a publication of this machine."""
        return self._readers.of(publication.segment).bucket_bytes(publication.buckets[index])

    def receive(self, publication: Publication, index: int, data: NDArray[np.uint8]) -> None:
        """Write bucket `index` of another machine's publication into this machine's shared memory."""
        if self._copy is None:
            self._copy = SegmentCopy(shared_memory_folder())
        self._copy.write(publication, index, data)

    def received(self, publication: Publication) -> Publication:
        """Return what the samplers of this machine are to load, once all buckets are here."""
        assert self._copy is not None, "receive() comes first"
        return self._copy.publication(publication)

    # What this machine sees

    def authentication(self) -> str:
        """Return how Ray on this machine knows who calls; Ray processes have this from the `ray start` that began them."""
        return os.environ.get("RAY_AUTH_MODE", "disabled")

    def has_folder(self, folder: Path) -> bool:
        return folder.is_dir()

    def look_at(self, actor_ids: Collection[str]) -> dict[str, Sighting]:
        """Return what is seen of actors of this machine."""
        return look_at(actor_ids)

    def write_probe(self, path: Path) -> None:
        """Write a small file. Where that is not possible nothing happens, and the driver does not find it."""
        with suppress(OSError):
            path.write_text("")
