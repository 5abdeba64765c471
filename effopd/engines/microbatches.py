"""Cutting one rank's rows into micro-batches that fit a token budget."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch

from effopd.types import TrainBatch


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of a batch that are computed together, padded to the longest of them."""

    rows: tuple[int, ...]
    length: int

    @property
    def num_padded_tokens(self) -> int:
        return len(self.rows) * self.length


def plan_micro_batches(lengths: Sequence[int], max_tokens: int) -> list[MicroBatch]:
    """Return micro-batches that cover every row once, none larger than `max_tokens` padded tokens.

    Rows of similar length go together, the longest first, so that a run that is going to exhaust the memory does so at
    once. A row longer than the budget has a micro-batch of its own.
    """
    plan: list[MicroBatch] = []
    rows: list[int] = []
    for row in sorted(range(len(lengths)), key=lambda row: lengths[row], reverse=True):
        if rows and (len(rows) + 1) * lengths[rows[0]] > max_tokens:
            plan.append(MicroBatch(tuple(rows), lengths[rows[0]]))
            rows = []
        rows.append(row)
    if rows:
        plan.append(MicroBatch(tuple(rows), lengths[rows[0]]))
    return plan


def take_rows(batch: TrainBatch, micro_batch: MicroBatch, device: torch.device) -> TrainBatch:
    """Return the rows of `micro_batch` on `device`, without columns in which all of them are padding."""
    index = torch.tensor(micro_batch.rows)
    present = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return replace(
        batch,
        **{
            name: tensor[index, : micro_batch.length].to(device)
            for name, tensor in present.items()
            if tensor is not None
        },
    )


def idle_micro_batch(device: torch.device) -> TrainBatch:
    """Return a micro-batch without response tokens, for a rank that has run out of rows while others have not.

    Its forward and backward run the same modules in the same order as any other, which is all that collectives need.
    """
    token_ids = torch.zeros(1, 2, dtype=torch.int64, device=device)
    nothing = torch.zeros_like(token_ids, dtype=torch.bool)
    return TrainBatch(
        token_ids=token_ids,
        attention_mask=torch.ones_like(nothing),
        response_mask=nothing,
        rollout_logprobs=torch.zeros_like(token_ids, dtype=torch.float32),
    )
