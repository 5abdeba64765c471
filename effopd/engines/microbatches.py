"""Cutting one rank's rows into micro-batches that fit a token budget."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol

import torch
from torch import Tensor

from effopd.types import TrainBatch

_MAX_PADDING = 0.05
_NEGLIGIBLE_PADDING = 256  # tokens; to compute them costs less than the launch of another pass


class MicroBatch(Protocol):
    """Rows of a batch that are computed together: padded here, packed in `engines/packing.py`."""

    @property
    def rows(self) -> tuple[int, ...]: ...

    @property
    def num_computed_tokens(self) -> int:
        """Padding included."""
        ...

    def take(self, batch: TrainBatch, device: torch.device) -> TrainBatch:
        """Return the rows as one forward takes them, on `device`."""
        ...

    def split(self, values: Tensor) -> Sequence[Tensor]:
        """Return what belongs to each of `rows`, [its T, ...], of what such a forward gives, [B, T, ...]."""
        ...

    def alone(self) -> Sequence["MicroBatch"]:
        """Return each of `rows` as a micro-batch of its own."""
        ...


@dataclass(frozen=True, slots=True)
class PaddedRows:
    """Rows that are padded to the longest of them."""

    rows: tuple[int, ...]
    length: int

    @property
    def num_computed_tokens(self) -> int:
        return len(self.rows) * self.length

    def take(self, batch: TrainBatch, device: torch.device) -> TrainBatch:
        """Return the rows without columns in which all of them are padding."""
        index = torch.tensor(self.rows)
        cut = {name: tensor[index, : self.length].to(device) for name, tensor in per_token_tensors(batch).items()}
        return replace(batch, **cut)

    def split(self, values: Tensor) -> Sequence[Tensor]:
        return values.unbind()

    def alone(self) -> Sequence["PaddedRows"]:
        return [PaddedRows((row,), self.length) for row in self.rows]


def per_token_tensors(batch: TrainBatch) -> dict[str, Tensor]:
    """Return the [B, T, ...] tensors of `batch` that there are, by field."""
    values = {field.name: getattr(batch, field.name) for field in fields(batch)}
    return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def plan_micro_batches(
    lengths: Sequence[int], max_tokens: int, chosen: Sequence[int] | None = None
) -> list[PaddedRows]:
    """Return micro-batches that cover every row, or every `chosen` row, once, none larger than `max_tokens` padded tokens.

    Rows of similar length go together, the longest first, so that a run that is going to exhaust the memory does so at
    once. A row longer than the budget has a micro-batch of its own. A micro-batch ends early where the rows become so much
    shorter that more than a twentieth of it would be padding, unless that is a few tokens only.
    """
    plan: list[PaddedRows] = []
    rows: list[int] = []
    num_tokens = 0  # of `rows`
    for row in sorted(range(len(lengths)) if chosen is None else chosen, key=lambda row: lengths[row], reverse=True):
        num_padded = (len(rows) + 1) * lengths[rows[0]] if rows else 0
        padding = num_padded - num_tokens - lengths[row]
        is_wasteful = padding > max(_MAX_PADDING * num_padded, _NEGLIGIBLE_PADDING)
        if rows and (num_padded > max_tokens or is_wasteful):
            plan.append(PaddedRows(tuple(rows), lengths[rows[0]]))
            rows, num_tokens = [], 0
        rows.append(row)
        num_tokens += lengths[row]
    if rows:
        plan.append(PaddedRows(tuple(rows), lengths[rows[0]]))
    return plan


def split_rows(prompt_ids: Sequence[str], num_minibatches: int, all_prompt_ids: Sequence[str]) -> list[list[int]]:
    """Return the rows of each mini-batch; `prompt_ids` says which prompt each row of this rank answers.

    `all_prompt_ids`, the prompts of all ranks, each once and in the same order on every rank, are dealt to mini-batches in
    turn. So a mini-batch is the same prompts however they are spread over ranks, and mini-batches differ by at most one.
    """
    minibatch_of = {prompt_id: index % num_minibatches for index, prompt_id in enumerate(all_prompt_ids)}
    minibatches: list[list[int]] = [[] for _ in range(num_minibatches)]
    for row, prompt_id in enumerate(prompt_ids):
        minibatches[minibatch_of[prompt_id]].append(row)
    return minibatches


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
