"""Rows of a batch one after another in a single row, so that no token that is computed is padding.

That no sample sees another is the attention's concern: `engines/packed_attention.py`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from effopd.engines.microbatches import per_token_tensors
from effopd.types import TrainBatch


@dataclass(frozen=True, slots=True)
class PackedRows:
    """Rows that are computed as one; `lengths` are theirs, without padding."""

    rows: tuple[int, ...]
    lengths: tuple[int, ...]

    @property
    def num_computed_tokens(self) -> int:
        return sum(self.lengths)

    def take(self, batch: TrainBatch, device: torch.device) -> TrainBatch:
        """Return one row that holds these, in order."""
        # The last hidden state of a sample would predict the first token of the next.
        assert not batch.response_mask[torch.tensor(self.rows), 0].any(), "a response needs a prompt before it"
        packed = {
            name: torch.cat([tensor[row, :length] for row, length in zip(self.rows, self.lengths, strict=True)])[None]
            for name, tensor in per_token_tensors(batch).items()
        }
        return replace(
            batch, **{name: tensor.to(device) for name, tensor in packed.items()}, packed_lengths=self.lengths
        )

    def split(self, values: Tensor) -> Sequence[Tensor]:
        return values[0].split(self.lengths)

    def alone(self) -> Sequence["PackedRows"]:
        return [PackedRows((row,), (length,)) for row, length in zip(self.rows, self.lengths, strict=True)]


def plan_packed_micro_batches(
    lengths: Sequence[int], max_tokens: int, chosen: Sequence[int] | None = None
) -> list[PackedRows]:
    """Return micro-batches that cover every row, or every `chosen` row, once, none of more than `max_tokens` tokens.

    First fit, the longest rows first, which needs at most 11/9 of the fewest micro-batches there can be, and one more. Those of most tokens
    come first, so that a run that is going to exhaust the memory does so at once. A row longer than the budget has a
    micro-batch of its own.
    """
    bins: list[list[int]] = []
    num_tokens: list[int] = []  # of each
    for row in sorted(range(len(lengths)) if chosen is None else chosen, key=lambda row: lengths[row], reverse=True):
        fitting = (index for index, held in enumerate(num_tokens) if held + lengths[row] <= max_tokens)
        index = next(fitting, len(bins))
        if index == len(bins):
            bins.append([])
            num_tokens.append(0)
        bins[index].append(row)
        num_tokens[index] += lengths[row]
    plan = [PackedRows(tuple(rows), tuple(lengths[row] for row in rows)) for rows in bins]
    return sorted(plan, key=lambda micro_batch: micro_batch.num_computed_tokens, reverse=True)
