"""Cutting one rank's rows into micro-batches that fit a token budget."""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import torch

from effopd.types import TrainBatch

_MAX_PADDING = 0.05
_NEGLIGIBLE_PADDING = 256  # tokens; to compute them costs less than the launch of another pass


@dataclass(frozen=True, slots=True)
class MicroBatch:
    """Rows of a batch that are computed together, padded to the longest of them."""

    rows: tuple[int, ...]
    length: int

    @property
    def num_padded_tokens(self) -> int:
        return len(self.rows) * self.length


def plan_micro_batches(
    lengths: Sequence[int], max_tokens: int, chosen: Sequence[int] | None = None
) -> list[MicroBatch]:
    """Return micro-batches that cover every row, or every `chosen` row, once, none larger than `max_tokens` padded tokens.

    Rows of similar length go together, the longest first, so that a run that is going to exhaust the memory does so at
    once. A row longer than the budget has a micro-batch of its own. A micro-batch ends early where the rows become so much
    shorter that more than a twentieth of it would be padding, unless that is a few tokens only.
    """
    plan: list[MicroBatch] = []
    rows: list[int] = []
    num_tokens = 0  # of `rows`
    for row in sorted(range(len(lengths)) if chosen is None else chosen, key=lambda row: lengths[row], reverse=True):
        num_padded = (len(rows) + 1) * lengths[rows[0]] if rows else 0
        padding = num_padded - num_tokens - lengths[row]
        is_wasteful = padding > max(_MAX_PADDING * num_padded, _NEGLIGIBLE_PADDING)
        if rows and (num_padded > max_tokens or is_wasteful):
            plan.append(MicroBatch(tuple(rows), lengths[rows[0]]))
            rows, num_tokens = [], 0
        rows.append(row)
        num_tokens += lengths[row]
    if rows:
        plan.append(MicroBatch(tuple(rows), lengths[rows[0]]))
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
