"""Gathering shards: the files do not know how many ranks there were."""

import random
from itertools import pairwise

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from effopd.checkpoints.snapshot import gather_snapshot, snapshot_path
from effopd.errors import CheckpointError
from effopd.types import Fragment, ShardKind

SHAPES = {"b.weight": (5, 3), "a.weight": (2, 2), "a.bias": (7,), "scale": ()}
MOVED = {"b.weight", "a.weight"}


def make_tensors():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in SHAPES.items()}


def split(num_ranks, seed=0):
    """Cut every parameter at random places; some fragments are empty."""
    rng = random.Random(seed)
    fragments = [[] for _ in range(num_ranks)]
    for name, shape in SHAPES.items():
        numel = torch.Size(shape).numel()
        cuts = [0, *sorted(rng.randint(0, numel) for _ in range(num_ranks - 1)), numel]
        for rank, (start, end) in enumerate(pairwise(cuts)):
            fragments[rank].append(
                Fragment(name=name, shape=shape, start=start, num_elements=end - start, is_moved=name in MOVED)
            )
    return fragments


class Ranks:
    """Hands out pieces of whole tensors and remembers what it was asked for."""

    def __init__(self, tensors, fragments):
        self.tensors, self.fragments, self.requests = tensors, fragments, []

    def read(self, rank, kind, names):
        self.requests.append((rank, kind, tuple(names)))
        own = {fragment.name: fragment for fragment in self.fragments[rank]}
        return {
            name: self.tensors[name].reshape(-1)[own[name].start : own[name].start + own[name].num_elements]
            for name in names
        }


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 8])
@pytest.mark.parametrize("bucket_bytes", [1, 40, 10**9])
def test_the_snapshot_is_the_same_for_any_number_of_ranks_and_any_bucket(tmp_path, num_ranks, bucket_bytes):
    tensors = make_tensors()
    for folder, fragments in (("one", split(1)), ("many", split(num_ranks, seed=num_ranks))):
        (tmp_path / folder).mkdir()
        gather_snapshot(
            tmp_path / folder, fragments, Ranks(tensors, fragments).read, [ShardKind.MASTER], bucket_bytes=bucket_bytes
        )
    one, many = (snapshot_path(tmp_path / folder, ShardKind.MASTER) for folder in ("one", "many"))
    assert one.read_bytes() == many.read_bytes()
    loaded = load_file(many)
    assert loaded.keys() == tensors.keys()
    assert all(torch.equal(loaded[name], tensors[name]) for name in tensors)


def test_anchor_and_displacement_hold_moved_parameters_only(tmp_path):
    fragments = split(2)
    kinds = [ShardKind.EXP_AVG, ShardKind.ANCHOR, ShardKind.PREVIOUS_DISPLACEMENT]
    records = gather_snapshot(tmp_path, fragments, Ranks(make_tensors(), fragments).read, kinds)
    names = {}
    for kind in kinds:
        with safe_open(snapshot_path(tmp_path, kind), framework="pt") as file:
            names[kind] = set(file.keys())
    assert names == {
        ShardKind.EXP_AVG: set(SHAPES),
        ShardKind.ANCHOR: MOVED,
        ShardKind.PREVIOUS_DISPLACEMENT: MOVED,
    }
    assert [record.name for record in records] == [
        "exp_avg.safetensors",
        "anchor.safetensors",
        "previous_displacement.safetensors",
    ]


def test_no_more_than_one_bucket_is_asked_for_at_a_time(tmp_path):
    # In order of name a.bias (28 bytes), a.weight (16), b.weight (60), scale (4), in buckets of 44 bytes:
    # {a.bias, a.weight}, {b.weight} alone because it is larger than a bucket, {scale}.
    fragments = split(1)
    ranks = Ranks(make_tensors(), fragments)
    gather_snapshot(tmp_path, fragments, ranks.read, [ShardKind.MASTER], bucket_bytes=44)
    assert [names for _, _, names in ranks.requests] == [("a.bias", "a.weight"), ("b.weight",), ("scale",)]


def fragment(start, num_elements, shape=(4,), is_moved=True):
    return Fragment(name="w", shape=shape, start=start, num_elements=num_elements, is_moved=is_moved)


@pytest.mark.parametrize(
    ("fragments", "message"),
    [
        ([[fragment(0, 2)], [fragment(3, 1)]], "rank 1 at 3 leaves a gap, expected 2"),
        ([[fragment(0, 3)], [fragment(2, 2)]], "rank 1 at 2 overlaps another, expected 3"),
        ([[fragment(0, 4)], [fragment(0, 4)]], "overlaps"),
        ([[fragment(0, 3)], []], "cover 3 elements of 4"),
        ([[fragment(0, 6)]], "cover 6 elements of 4"),
        ([[fragment(0, 2), fragment(2, 2)]], "rank 0 owns two fragments"),
        ([[fragment(0, 2)], [fragment(2, 2, shape=(2, 2))]], "ranks 0 and 1 disagree"),
        ([[fragment(0, 2)], [fragment(2, 2, is_moved=False)]], "ranks 0 and 1 disagree"),
    ],
)
def test_fragments_that_do_not_tile_are_refused(tmp_path, fragments, message):
    with pytest.raises(CheckpointError, match=message):
        gather_snapshot(tmp_path, fragments, lambda rank, kind, names: {}, [ShardKind.MASTER])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("piece", "found"),
    [
        ({}, "nothing"),
        ({"w": torch.ones(3)}, r"float32 \(3,\)"),
        ({"w": torch.ones(2, 2)}, r"float32 \(2, 2\)"),
        ({"w": torch.ones(4, dtype=torch.bfloat16)}, "bfloat16"),
    ],
)
def test_a_rank_that_hands_over_something_else_is_refused(tmp_path, piece, found):
    with pytest.raises(CheckpointError, match=f"w: rank 0 handed over .*{found}"):
        gather_snapshot(tmp_path, [[fragment(0, 4)]], lambda rank, kind, names: piece, [ShardKind.MASTER])
