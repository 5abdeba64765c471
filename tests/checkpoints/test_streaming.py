"""Streamed safetensors files are ordinary safetensors files."""

import hashlib

import pytest
import torch
from safetensors import safe_open

from effopd.checkpoints.streaming import StreamWriter

TENSORS = {
    "wide": torch.arange(6, dtype=torch.float32).reshape(2, 3),
    "scalar": torch.tensor(-1.5),
    "empty": torch.empty(0, 4),
    "half": torch.tensor([1.0, -2.0, 0.5], dtype=torch.bfloat16),
    "flag": torch.tensor([True, False, True]),
}


def write(path, tensors, metadata=None):
    layout = {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    with StreamWriter(path, layout, metadata or {}) as writer:
        for name, tensor in tensors.items():
            writer.write(name, tensor)
        return writer.close()


def test_a_streamed_file_reads_back_bit_for_bit(tmp_path):
    write(tmp_path / "x.safetensors", TENSORS, {"format": "pt"})
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}
        assert set(file.keys()) == set(TENSORS)
        for name, tensor in TENSORS.items():
            found = file.get_tensor(name)
            assert found.dtype == tensor.dtype and torch.equal(found, tensor), name


def test_the_record_is_that_of_the_bytes_on_the_disk(tmp_path):
    record = write(tmp_path / "x.safetensors", TENSORS)
    data = (tmp_path / "x.safetensors").read_bytes()
    assert record.name == "x.safetensors"
    assert record.num_bytes == len(data)
    assert record.blake2b == hashlib.blake2b(data).hexdigest()


def test_the_tensors_begin_at_a_multiple_of_eight(tmp_path):
    for name_length in range(1, 9):
        path = tmp_path / f"{name_length}.safetensors"
        write(path, {"x" * name_length: torch.ones(1)})
        assert int.from_bytes(path.read_bytes()[:8], "little") % 8 == 0


def test_a_transposed_tensor_is_written_in_its_own_order(tmp_path):
    tensor = torch.arange(6, dtype=torch.float32).reshape(2, 3).T
    write(tmp_path / "x.safetensors", {"t": tensor})
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert torch.equal(file.get_tensor("t"), tensor)


def test_a_file_without_tensors_is_readable(tmp_path):
    write(tmp_path / "x.safetensors", {})
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert list(file.keys()) == []


def test_a_tensor_out_of_order_is_refused(tmp_path):
    layout = {"a": (torch.float32, (1,)), "b": (torch.float32, (1,))}
    with (
        pytest.raises(AssertionError, match="has a next, got b"),
        StreamWriter(tmp_path / "x.safetensors", layout, {}) as writer,
    ):
        writer.write("b", torch.ones(1))


@pytest.mark.parametrize("tensor", [torch.ones(2), torch.ones(1, dtype=torch.float64)])
def test_a_tensor_unlike_its_layout_is_refused(tmp_path, tensor):
    with (
        pytest.raises(AssertionError, match="the layout says"),
        StreamWriter(tmp_path / "x.safetensors", {"a": (torch.float32, (1,))}, {}) as writer,
    ):
        writer.write("a", tensor)


def test_closing_early_is_refused(tmp_path):
    with (
        pytest.raises(AssertionError, match="closed before a"),
        StreamWriter(tmp_path / "x.safetensors", {"a": (torch.float32, (1,))}, {}) as writer,
    ):
        writer.close()


def test_a_layout_that_would_misalign_a_tensor_is_refused(tmp_path):
    # Three bytes of bool, then a float32 at offset 3: the format allows no padding between tensors.
    with pytest.raises(AssertionError, match="misaligned"):
        StreamWriter(tmp_path / "x.safetensors", {"a": (torch.bool, (3,)), "b": (torch.float32, (1,))}, {})


def test_an_existing_file_is_not_overwritten(tmp_path):
    (tmp_path / "x.safetensors").write_text("mine")
    with pytest.raises(FileExistsError):
        StreamWriter(tmp_path / "x.safetensors", {}, {})
