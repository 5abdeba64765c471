"""Tensors inside dataclasses, pickled as numpy arrays.

A rollout is a few tensors of a few hundred numbers, and a step sends hundreds of rollouts between actors. Pickling a
tensor costs twenty times as much as pickling an array, and takes the whole storage along where the tensor is a view.

Use: `__getstate__ = packed_state` and `__setstate__ = unpack_state` in the body of a dataclass with slots.
"""

from dataclasses import dataclass

import numpy
import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class _BFloat16Bits:
    bits: numpy.ndarray
    """int16."""


def packed_state(self: object) -> list[object]:
    """Return the fields in order, tensors (on the CPU, without gradient) as numpy arrays."""
    return [_packed(getattr(self, name)) for name in type(self).__slots__]  # pyright: ignore[reportAttributeAccessIssue]


def unpack_state(self: object, state: list[object]) -> None:
    for name, value in zip(type(self).__slots__, state, strict=True):  # pyright: ignore[reportAttributeAccessIssue]
        object.__setattr__(self, name, _unpacked(value))


def _packed(value: object) -> object:
    if not isinstance(value, Tensor):
        return value
    if value.dtype == torch.bfloat16:  # numpy has no such type
        return _BFloat16Bits(value.view(torch.int16).numpy())
    return value.numpy()


def _unpacked(value: object) -> object:
    # Copies: what Ray hands out lies in read-only memory that it shares with other processes.
    if isinstance(value, _BFloat16Bits):
        return torch.tensor(value.bits).view(torch.bfloat16)
    return torch.tensor(value) if isinstance(value, numpy.ndarray) else value
