"""Shards of all ranks, gathered into files that no longer know how they were sharded.

A snapshot is one safetensors file per `ShardKind`, tensors whole, in float32 and in order of name, so that the bytes are
the same whatever number of ranks wrote them. It is gathered bucket by bucket: never more than one bucket of whole tensors
is in memory, and nothing passes through a collective.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from effopd.checkpoints.manifest import FileRecord
from effopd.checkpoints.streaming import StreamWriter, num_tensor_bytes
from effopd.errors import CheckpointError
from effopd.types import Fragment, ShardKind

OF_ALL_PARAMETERS = frozenset(
    {
        ShardKind.MASTER,
        ShardKind.EXP_AVG,
        ShardKind.EXP_AVG_SQ,
        ShardKind.CRITIC_MASTER,
        ShardKind.CRITIC_EXP_AVG,
        ShardKind.CRITIC_EXP_AVG_SQ,
        ShardKind.PRE_JUMP_MASTER,
    }
)
"""The other kinds exist for moved parameters alone."""

ReadShard = Callable[[int, ShardKind, Sequence[str]], Mapping[str, Tensor]]
"""`read(rank, kind, names)`: parameter name to the rank's own 1-D float32 piece of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parameter:
    shape: tuple[int, ...]
    is_moved: bool
    pieces: tuple[tuple[int, Fragment], ...]
    """(rank, fragment) in order of start; fragments without elements left out."""


def snapshot_path(directory: Path, kind: ShardKind) -> Path:
    """Return where a snapshot in `directory` keeps `kind`."""
    return directory / f"{kind.value}.safetensors"


def gather_snapshot(
    directory: Path,
    fragments: Sequence[Sequence[Fragment]],
    read: ReadShard,
    kinds: Sequence[ShardKind],
    bucket_bytes: int = 512 * 2**20,
) -> tuple[FileRecord, ...]:
    """Write `<kind>.safetensors` into an existing directory for every kind and return the records of the files.

    `fragments[rank]` is what rank `rank` owns, at most one fragment per parameter. Raises CheckpointError when the
    fragments of a parameter do not tile it exactly once, or when a rank hands over something else than its fragment.
    """
    parameters = tile_parameters(fragments)
    records = []
    for kind in kinds:
        chosen = {name: entry for name, entry in parameters.items() if entry.is_moved or kind in OF_ALL_PARAMETERS}
        layout = {name: (torch.float32, entry.shape) for name, entry in chosen.items()}
        with StreamWriter(snapshot_path(directory, kind), layout, {"kind": kind.value}) as writer:
            for names in _buckets(chosen, bucket_bytes):
                bucket = _gather_bucket({name: chosen[name] for name in names}, read, kind)
                for name in names:
                    writer.write(name, bucket.pop(name))
            records.append(writer.close())
    return tuple(records)


def tile_parameters(fragments: Sequence[Sequence[Fragment]]) -> dict[str, _Parameter]:
    """Return every parameter with its pieces, in order of name. Raises CheckpointError unless they tile it exactly."""
    owned: dict[str, list[tuple[int, Fragment]]] = {}
    for rank, own in enumerate(fragments):
        names = set()
        for fragment in own:
            if fragment.name in names:
                raise CheckpointError(f"{fragment.name}: rank {rank} owns two fragments of it; one is allowed")
            names.add(fragment.name)
            owned.setdefault(fragment.name, []).append((rank, fragment))
    return {name: _tile(name, owned[name]) for name in sorted(owned)}


def _tile(name: str, pieces: Sequence[tuple[int, Fragment]]) -> _Parameter:
    rank, first = pieces[0]
    for other, fragment in pieces:
        if (fragment.shape, fragment.is_moved) != (first.shape, first.is_moved):
            raise CheckpointError(f"{name}: ranks {rank} and {other} disagree about its shape or whether it is moved")
    filled = tuple(sorted((piece for piece in pieces if piece[1].num_elements > 0), key=lambda piece: piece[1].start))
    end = 0
    for other, fragment in filled:
        if fragment.start != end:
            fault = "leaves a gap" if fragment.start > end else "overlaps another"
            raise CheckpointError(f"{name}: the fragment of rank {other} at {fragment.start} {fault}, expected {end}")
        end += fragment.num_elements
    if end != math.prod(first.shape):
        raise CheckpointError(f"{name}: the fragments cover {end} elements of {math.prod(first.shape)}")
    return _Parameter(shape=first.shape, is_moved=first.is_moved, pieces=filled)


def _buckets(parameters: Mapping[str, _Parameter], bucket_bytes: int) -> list[list[str]]:
    """Return the names in order, cut into runs of at most `bucket_bytes`; a larger parameter has a bucket of its own."""
    buckets: list[list[str]] = []
    room = 0
    for name, entry in parameters.items():
        size = num_tensor_bytes(torch.float32, entry.shape)
        if not buckets or size > room:
            buckets.append([])
            room = bucket_bytes
        buckets[-1].append(name)
        room -= size
    return buckets


def _gather_bucket(parameters: Mapping[str, _Parameter], read: ReadShard, kind: ShardKind) -> dict[str, Tensor]:
    whole = {name: torch.empty(math.prod(entry.shape), dtype=torch.float32) for name, entry in parameters.items()}
    by_rank: dict[int, list[Fragment]] = {}
    for entry in parameters.values():
        for rank, fragment in entry.pieces:
            by_rank.setdefault(rank, []).append(fragment)
    for rank in sorted(by_rank):
        pieces = read(rank, kind, [fragment.name for fragment in by_rank[rank]])
        for fragment in by_rank[rank]:
            piece = pieces.get(fragment.name)
            if piece is None or piece.dtype != torch.float32 or tuple(piece.shape) != (fragment.num_elements,):
                found = "nothing" if piece is None else f"{piece.dtype} {tuple(piece.shape)}"
                raise CheckpointError(
                    f"{fragment.name}: rank {rank} handed over {found} as its {kind.value}, "
                    f"expected torch.float32 ({fragment.num_elements},)"
                )
            whole[fragment.name].narrow(0, fragment.start, fragment.num_elements).copy_(piece)
    return {name: whole[name].view(entry.shape) for name, entry in parameters.items()}
