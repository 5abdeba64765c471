"""Policy weights on their way from a learner to the samplers of the same machine: one file in shared memory.

The learner copies its tensors into a memory-mapped file, one at a time; samplers map the same file and read it in place,
so a publish costs one copy however many samplers there are. The file is reused from publish to publish, because fresh
pages are several times slower to write than ones that are already mapped. On another machine a `SegmentCopy` is filled,
bucket by bucket, with the same bytes at the same places. Nothing here knows an engine, a network or a process group, and
nothing here tells a sampler that there is something to read: that is what a `Publication` is for.
"""

import math
import mmap
import os
import tempfile
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import chain
from pathlib import Path

import numpy as np
import torch
import xxhash
from numpy.typing import NDArray
from torch import Tensor

from effopd.errors import WeightSyncError
from effopd.types import PolicyVersion, Publication, TensorSlot

_ALIGNMENT = 64  # bytes: a cache line, and a multiple of every dtype's size

Layout = Sequence[tuple[str, torch.dtype, tuple[int, ...]]]
"""Name, dtype and shape of every tensor, in the order in which they are written."""


def shared_memory_folder() -> Path:
    """Return where segments live: in shared memory where the system has it, else in the temporary folder."""
    shared_memory = Path("/dev/shm")
    return shared_memory if shared_memory.is_dir() else Path(tempfile.gettempdir())


def assign_slots(layout: Layout, bucket_bytes: int) -> tuple[tuple[TensorSlot, ...], ...]:
    """Return the slots of `layout` one after another, grouped into buckets of at most `bucket_bytes`.

    A tensor that is larger than a bucket has one of its own.
    """
    buckets: list[list[TensorSlot]] = []
    offset = bucket_size = 0
    for name, dtype, shape in layout:
        num_bytes = math.prod(shape) * dtype.itemsize
        slot = TensorSlot(
            name=name, dtype=str(dtype).removeprefix("torch."), shape=tuple(shape), offset=offset, num_bytes=num_bytes
        )
        if not buckets or bucket_size + num_bytes > bucket_bytes:
            buckets.append([])
            bucket_size = 0
        buckets[-1].append(slot)
        bucket_size += num_bytes
        offset += -(-num_bytes // _ALIGNMENT) * _ALIGNMENT
    return tuple(tuple(bucket) for bucket in buckets)


def segment_checksum(segment: memoryview, slots: Iterable[TensorSlot]) -> str:
    """Return the 128-bit XXH3 hash, in hexadecimal, of the bytes of `slots` in order.

    XXH3 runs at memory speed and sees every changed bit; it guards against accidents, not against forgery. Padding between
    slots is not part of it.
    """
    hasher = xxhash.xxh3_128()
    for slot in slots:
        hasher.update(segment[slot.offset : slot.offset + slot.num_bytes])
    return hasher.hexdigest()


def _view(segment: Tensor, slot: TensorSlot) -> Tensor:
    """Return the tensor in `slot`, sharing memory with the bytes of `segment`."""
    flat = segment[slot.offset : slot.offset + slot.num_bytes]
    return flat.view(getattr(torch, slot.dtype)).view(slot.shape)


def _end_of(slots: Iterable[TensorSlot]) -> int:
    """Return how many bytes a segment must have to hold all of `slots`."""
    return max((slot.offset + slot.num_bytes for slot in slots), default=0)


class SegmentWriter:
    """Owns one segment: creates, fills and finally drops it.

    The file never has a name, so it cannot clash with another run's, and the system takes it back however the process
    ends. Readers reach it through the writer's `/proc/<pid>/fd`, which its own user alone may open.
    """

    def __init__(self, folder: Path) -> None:
        """Create the segment in `folder`, which should be in memory."""
        self._file = os.open(folder, os.O_RDWR | os.O_TMPFILE, 0o600)
        self.path = Path("/proc", str(os.getpid()), "fd", str(self._file))
        """Where processes of this machine find the segment."""
        self._map: mmap.mmap | None = None

    def write(
        self, version: PolicyVersion, tensors: Iterable[tuple[str, Tensor]], *, layout: Layout, bucket_bytes: int
    ) -> Publication:
        """Return the publication of `tensors`, which are copied in one by one and cast to the dtypes of `layout`.

        `tensors` may be a generator that materialises one tensor at a time, on any device; it must follow `layout` in
        names, order and shapes. The previous publication is overwritten, so every sampler must have loaded it.

        Raises:
            WeightSyncError: when shared memory has no room for the segment.

        """
        buckets = assign_slots(layout, bucket_bytes)
        slots = list(chain.from_iterable(buckets))
        buffer = self.reserve(_end_of(slots))
        segment = torch.frombuffer(buffer, dtype=torch.uint8)
        for slot, (name, tensor) in zip(slots, tensors, strict=True):
            assert name == slot.name, f"{name} comes where the layout has {slot.name}"
            assert tuple(tensor.shape) == slot.shape, f"{name} has shape {tuple(tensor.shape)}; layout: {slot.shape}"
            _view(segment, slot).copy_(tensor.detach())
        return Publication(
            version=version,
            segment=str(self.path),
            buckets=buckets,
            checksum=segment_checksum(memoryview(buffer), slots),
        )

    def close(self) -> None:
        """Drop the segment. Samplers that still map it keep their view; nobody can open it any more."""
        if self._file < 0:
            return
        self._map = None
        os.close(self._file)
        self._file = -1

    def reserve(self, num_bytes: int) -> mmap.mmap:
        """Return a writable mapping of at least `num_bytes`, growing the file when it is too small.

        Raises:
            WeightSyncError: when shared memory has no room for the segment.

        """
        if self._map is None or len(self._map) < num_bytes:
            try:
                # Claims the pages now: writing to a hole of a full file system would kill the process with SIGBUS.
                os.posix_fallocate(self._file, 0, max(num_bytes, 1))
            except OSError as error:
                raise WeightSyncError(
                    f"no room for {num_bytes} bytes of weights in shared memory ({error.strerror}): "
                    "free some shared memory, or give the container more (docker run --shm-size)"
                ) from error
            self._map = mmap.mmap(self._file, max(num_bytes, 1))
        return self._map


class SegmentReader:
    """Reads publications of one segment in place.

    Keep one reader for all publications: its mapping stays valid and warm until the writer replaces or grows the file.
    Tensors it returns are views that the next publish overwrites, and writing to them crashes the process.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._identity: tuple[int, int] | None = None
        self._segment = torch.empty(0, dtype=torch.uint8)
        self._bytes = memoryview(b"")

    def tensors(self, slots: Iterable[TensorSlot]) -> list[tuple[str, Tensor]]:
        """Return name and view of every tensor in `slots`, e.g. of one bucket of a publication.

        Raises:
            WeightSyncError: when there is no segment, or it is too short for a slot.

        """
        slots = list(slots)
        self._map_file(_end_of(slots))
        return [(slot.name, _view(self._segment, slot)) for slot in slots]

    def bucket_bytes(self, bucket: Sequence[TensorSlot]) -> NDArray[np.uint8]:
        """Return a view of everything from the first to the last byte of a bucket, padding included.

        Raises:
            WeightSyncError: as `tensors` does.

        """
        self._map_file(_end_of(bucket))
        return np.frombuffer(self._bytes, dtype=np.uint8)[bucket[0].offset : _end_of(bucket)]

    def verify(self, publication: Publication) -> None:
        """Raise WeightSyncError, naming version and both hashes, unless the segment holds what was published."""
        slots = list(chain.from_iterable(publication.buckets))
        self._map_file(_end_of(slots))
        checksum = segment_checksum(self._bytes, slots)
        if checksum != publication.checksum:
            raise WeightSyncError(
                f"weights {publication.version} in {self._path} have checksum {checksum}, "
                f"but {publication.checksum} was published: the segment was overwritten or damaged"
            )

    def close(self) -> None:
        """Forget the mapping. The memory goes back once the last view of it is gone."""
        self._identity = None
        self._segment = torch.empty(0, dtype=torch.uint8)
        self._bytes = memoryview(b"")

    def _map_file(self, num_bytes: int) -> None:
        """Map the file unless the mapping at hand is of this very file at this very size."""
        try:
            status = os.stat(self._path)
            identity = (status.st_ino, status.st_size)
            if identity != self._identity:
                with self._path.open("rb") as file:
                    buffer = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # torch has no read-only tensors and says so
                    self._segment = torch.frombuffer(buffer, dtype=torch.uint8)
                self._bytes = memoryview(buffer)
                self._identity = identity
        except OSError as error:
            raise WeightSyncError(f"cannot read weights from {self._path}: {error.strerror}") from error
        if len(self._bytes) < num_bytes:
            raise WeightSyncError(
                f"the segment {self._path} has {len(self._bytes)} bytes, but the publication needs {num_bytes}"
            )


class SegmentCopy:
    """The segment of another machine in this one's shared memory, the same bytes at the same places.

    It checks nothing: samplers compare what they read with the checksum that the learner has published.
    """

    def __init__(self, folder: Path) -> None:
        """Create the segment in `folder`, which should be in memory."""
        self._writer = SegmentWriter(folder)

    def write(self, publication: Publication, index: int, data: NDArray[np.uint8]) -> None:
        """Overwrite bucket `index` with `data`, which `SegmentReader.bucket_bytes` gave on the other machine.

        Raises:
            WeightSyncError: when shared memory has no room, or `data` is not the whole bucket.

        """
        bucket = publication.buckets[index]
        start, end = bucket[0].offset, _end_of(bucket)
        if data.nbytes != end - start:
            raise WeightSyncError(
                f"bucket {index} of weights {publication.version} has {data.nbytes} bytes, but {end - start} were published"
            )
        # Room for all buckets at once: a mapping that grows from bucket to bucket would be made anew each time.
        buffer = self._writer.reserve(_end_of(chain.from_iterable(publication.buckets)))
        np.frombuffer(buffer, dtype=np.uint8)[start:end] = data

    def publication(self, publication: Publication) -> Publication:
        """Return what the samplers of this machine are to load once all buckets are written."""
        return replace(publication, segment=str(self._writer.path))

    def close(self) -> None:
        """Drop the segment; see `SegmentWriter.close`."""
        self._writer.close()


class SegmentReaders:
    """The reader of the segment in use. Learners are replaced, from run to run and when one dies; samplers stay."""

    def __init__(self) -> None:
        self._current: tuple[str, SegmentReader] | None = None

    def of(self, segment: str) -> SegmentReader:
        """Return the reader of a segment, and forget that of another: the weights of a learner that is gone would stay in
        memory."""
        if self._current is None or self._current[0] != segment:
            self.close()
            self._current = (segment, SegmentReader(Path(segment)))
        return self._current[1]

    def verified(self, publication: Publication) -> SegmentReader:
        """Return the reader of the publication's segment. Raises WeightSyncError unless it holds what was published."""
        reader = self.of(publication.segment)
        reader.verify(publication)
        return reader

    def close(self) -> None:
        if self._current is not None:
            self._current[1].close()
            self._current = None
