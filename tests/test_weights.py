"""A segment holds exactly what was written, in place, and says so when it does not."""

import os
import signal
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch

from effopd.errors import WeightSyncError
from effopd.types import PolicyVersion
from effopd.weights import SegmentCopy, SegmentReader, SegmentWriter, assign_slots, shared_memory_folder

VERSION = PolicyVersion(step=3, candidate=1)

DTYPES = [torch.float32, torch.bfloat16, torch.float16, torch.float64, torch.int64, torch.int8, torch.uint8, torch.bool]


def layout_of(tensors):
    return [(name, tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()]


def random_tensors(sizes, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return {f"w{index}": torch.randn(size, generator=generator).to(dtype) for index, size in enumerate(sizes)}


@pytest.fixture
def writer(tmp_path):
    writer = SegmentWriter(tmp_path)
    yield writer
    writer.close()


def write(writer, tensors, *, version=VERSION, bucket_bytes=1 << 20):
    return writer.write(version, tensors.items(), layout=layout_of(tensors), bucket_bytes=bucket_bytes)


def read(publication):
    reader = SegmentReader(Path(publication.segment))
    reader.verify(publication)
    return dict(pair for bucket in publication.buckets for pair in reader.tensors(bucket))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_dtype_comes_back_bit_for_bit(writer, dtype):
    tensors = {
        "matrix": torch.arange(21).reshape(3, 7).to(dtype),
        "scalar": torch.tensor(1).to(dtype),
        "empty": torch.empty(0, 4, dtype=dtype),
        "odd": torch.arange(13).to(dtype),
    }
    received = read(write(writer, tensors))
    assert list(received) == list(tensors)
    for name, tensor in tensors.items():
        assert received[name].dtype == dtype
        assert received[name].shape == tensor.shape
        assert torch.equal(received[name], tensor)


def test_tensors_are_cast_to_the_dtype_of_the_layout(writer):
    master = torch.randn(5, 3)
    publication = writer.write(VERSION, [("w", master)], layout=[("w", torch.bfloat16, (5, 3))], bucket_bytes=64)
    assert torch.equal(read(publication)["w"], master.bfloat16())


def test_a_non_contiguous_tensor_is_written_in_its_logical_order(writer):
    tensor = torch.arange(12.0).reshape(3, 4).T
    assert torch.equal(read(write(writer, {"w": tensor}))["w"], tensor)


def test_slots_are_aligned_and_do_not_overlap():
    slots = [
        slot
        for bucket in assign_slots(layout_of(random_tensors([(3, 5), (1,), (64,), (7,)])), 1 << 20)
        for slot in bucket
    ]
    assert all(slot.offset % 64 == 0 for slot in slots)
    assert all(first.offset + first.num_bytes <= second.offset for first, second in pairwise(slots))


def test_a_bucket_holds_as_many_tensors_as_fit_and_a_larger_tensor_is_alone():
    # float32, 100 bytes a bucket: 40 + 60 fit, 200 does not and is alone, 100 fits exactly, 4 starts anew.
    layout = layout_of(random_tensors([(10,), (15,), (50,), (25,), (1,)]))
    assert [[slot.num_bytes for slot in bucket] for bucket in assign_slots(layout, 100)] == [
        [40, 60],
        [200],
        [100],
        [4],
    ]


def test_one_tensor_at_a_time_is_enough(writer):
    alive = []

    def stream():
        for index in range(4):
            assert not alive, "the writer kept a tensor of the stream"
            tensor = torch.full((100,), float(index))
            alive.append(index)
            yield f"w{index}", tensor
            alive.pop()

    publication = writer.write(
        VERSION, stream(), layout=[(f"w{index}", torch.float32, (100,)) for index in range(4)], bucket_bytes=1 << 20
    )
    assert [tensor[0].item() for tensor in read(publication).values()] == [0, 1, 2, 3]


@pytest.mark.parametrize(("name", "shape"), [("other", (2, 3)), ("w", (3, 2))], ids=["another name", "another shape"])
def test_a_tensor_that_is_not_the_next_of_the_layout_is_refused(writer, name, shape):
    with pytest.raises(AssertionError, match="layout"):
        writer.write(VERSION, [(name, torch.zeros(shape))], layout=[("w", torch.float32, (2, 3))], bucket_bytes=64)


def test_a_stream_that_ends_early_is_refused(writer):
    layout = [("a", torch.float32, (2,)), ("b", torch.float32, (2,))]
    with pytest.raises(ValueError, match="shorter"):
        writer.write(VERSION, [("a", torch.zeros(2))], layout=layout, bucket_bytes=64)


def test_the_same_file_is_reused_and_one_reader_sees_every_publication(writer):
    tensors = random_tensors([(64, 64)])
    first = write(writer, tensors)
    reader = SegmentReader(Path(first.segment))
    reader.verify(first)
    inode = os.stat(first.segment).st_ino
    second = write(writer, {"w0": tensors["w0"] + 1}, version=PolicyVersion(step=4))
    reader.verify(second)
    assert os.stat(second.segment).st_ino == inode
    assert second.checksum != first.checksum
    assert torch.equal(reader.tensors(second.buckets[0])[0][1], tensors["w0"] + 1)


def test_the_segment_grows_when_it_has_to_and_readers_follow(writer):
    small = write(writer, random_tensors([(8,)]))
    reader = SegmentReader(Path(small.segment))
    reader.verify(small)
    tensors = random_tensors([(300, 300), (5,)])
    large = write(writer, tensors)
    reader.verify(large)
    assert torch.equal(reader.tensors(large.buckets[0])[0][1], tensors["w0"])
    again = write(writer, random_tensors([(8,)]))
    reader.verify(again)


@pytest.mark.parametrize("position", [0, 1234, -1])
def test_a_single_flipped_bit_is_caught_and_the_error_names_version_and_both_hashes(writer, position):
    publication = write(writer, random_tensors([(40, 30), (17,)]))
    slots = [slot for bucket in publication.buckets for slot in bucket]
    place = slots[-1].offset + slots[-1].num_bytes - 1 if position == -1 else position
    with open(publication.segment, "r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ 0x10]))
    with pytest.raises(WeightSyncError, match=rf"3\.1.*[0-9a-f]{{32}}.*{publication.checksum}"):
        read(publication)


def test_an_older_publication_does_not_verify_after_the_next_one(writer):
    old = write(writer, {"w": torch.zeros(100)})
    write(writer, {"w": torch.ones(100)})
    with pytest.raises(WeightSyncError, match="overwritten"):
        read(old)


def test_a_segment_that_is_gone_is_named(writer):
    publication = write(writer, random_tensors([(4,)]))
    writer.close()
    with pytest.raises(WeightSyncError, match=publication.segment):
        read(publication)


def test_a_segment_shorter_than_the_publication_is_refused(writer):
    publication = write(writer, random_tensors([(4096,)]))
    os.truncate(publication.segment, 64)
    with pytest.raises(WeightSyncError, match="64 bytes"):
        read(publication)


def test_only_the_owner_may_read_a_segment(writer):
    publication = write(writer, random_tensors([(4,)]))
    assert os.stat(publication.segment).st_mode & 0o777 == 0o600


def test_nothing_is_left_behind_even_when_the_writer_is_killed(tmp_path):
    script = (
        "import sys, torch; from pathlib import Path; from effopd.types import PolicyVersion\n"
        "from effopd.weights import SegmentWriter; writer = SegmentWriter(Path(sys.argv[1]))\n"
        "writer.write(PolicyVersion(step=0), [('w', torch.ones(9))], layout=[('w', torch.float32, (9,))], bucket_bytes=64)\n"
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"
    )
    done = subprocess.run([sys.executable, "-c", script, str(tmp_path)], capture_output=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert list(tmp_path.iterdir()) == []


def test_no_room_is_an_error_with_a_remedy(writer, monkeypatch):
    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(WeightSyncError, match="shm-size"):
        write(writer, random_tensors([(4,)]))


def test_two_segments_in_one_folder_do_not_meet(writer, tmp_path):
    other = SegmentWriter(tmp_path)
    first, second = write(writer, random_tensors([(4,)])), write(other, random_tensors([(7,)]))
    assert read(first)["w0"].shape == (4,) and read(second)["w0"].shape == (7,)
    other.close()


@pytest.fixture
def copy(tmp_path):
    copy = SegmentCopy(tmp_path)
    yield copy
    copy.close()


def copied(copy, publication, *, buckets):
    """The publication as another machine's samplers see it, after the buckets named have arrived there."""
    reader = SegmentReader(Path(publication.segment))
    for index in buckets:
        copy.write(publication, index, reader.bucket_bytes(publication.buckets[index]).copy())
    return copy.publication(publication)


def test_a_copy_holds_what_was_published_under_the_same_version_and_checksum(writer, copy):
    tensors = random_tensors([(10, 3), (17,), (64, 2), (5,)])
    publication = write(writer, tensors, bucket_bytes=200)
    there = copied(copy, publication, buckets=range(len(publication.buckets)))
    assert len(publication.buckets) == 3  # 120 + 68, 512, 20 bytes
    assert (there.version, there.checksum) == (publication.version, publication.checksum)
    assert there.segment != publication.segment
    assert all(torch.equal(tensor, tensors[name]) for name, tensor in read(there).items())


def test_a_copy_is_reused_for_the_next_publication_and_its_readers_follow(writer, copy):
    first = copied(copy, write(writer, random_tensors([(9,)])), buckets=[0])
    tensors = random_tensors([(300,), (40,)])
    second = copied(copy, write(writer, tensors), buckets=[0])
    assert second.segment == first.segment
    assert torch.equal(read(second)["w1"], tensors["w1"])


def test_a_bucket_that_did_not_arrive_is_caught_by_the_checksum(writer, copy):
    publication = write(writer, random_tensors([(50,), (60,)]), bucket_bytes=220)
    with pytest.raises(WeightSyncError, match=publication.checksum):
        read(copied(copy, publication, buckets=[0]))


def test_a_bucket_of_another_size_is_refused(writer, copy):
    publication = write(writer, random_tensors([(4,)]))
    with pytest.raises(WeightSyncError, match=r"bucket 0 of weights 3\.1 has 3 bytes, but 16 were published"):
        copy.write(publication, 0, np.zeros(3, dtype=np.uint8))


def test_the_shared_memory_folder_exists():
    assert shared_memory_folder().is_dir()
