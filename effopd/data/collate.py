"""Ragged rollouts into right-padded rectangles, under the alignment rule of `effopd.types`."""

from collections.abc import Sequence
from itertools import chain

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from effopd.types import ScoredBatch, ScoredRollout


def collate(rollouts: Sequence[ScoredRollout], pad_token_id: int) -> ScoredBatch:
    """Return one batch of B = len(rollouts) rows; T is the longest prompt plus response.

    The teacher's payload and the rewards are taken when every rollout has them, and must be absent from all or none.
    """
    assert rollouts, "an empty list has no rectangle; the learner handles a rank without rollouts itself"
    prompts = [scored.rollout.prompt_token_ids for scored in rollouts]
    responses = [scored.rollout.response_token_ids for scored in rollouts]
    starts = torch.tensor([len(prompt) for prompt in prompts])[:, None]  # [B, 1] where responses begin
    ends = starts + torch.tensor([response.numel() for response in responses])[:, None]
    positions = torch.arange(int(ends.max()))
    attention_mask = positions < ends
    response_mask = attention_mask & (positions >= starts)

    token_ids = torch.full(attention_mask.shape, pad_token_id)
    token_ids[positions < starts] = torch.tensor(list(chain.from_iterable(prompts)))
    token_ids[response_mask] = torch.cat(responses)
    groups = {prompt_id: index for index, prompt_id in enumerate(dict.fromkeys(r.rollout.prompt_id for r in rollouts))}
    teacher_logprobs = _all_or_none([scored.teacher and scored.teacher.sampled for scored in rollouts])
    teacher_hidden = _all_or_none([scored.teacher and scored.teacher.hidden_states for scored in rollouts])
    reference = _all_or_none([scored.reference_logprobs for scored in rollouts])
    return ScoredBatch(
        token_ids=token_ids,
        attention_mask=attention_mask,
        response_mask=response_mask,
        rollout_logprobs=align([scored.rollout.rollout_logprobs for scored in rollouts], response_mask),
        group_index=torch.tensor([groups[scored.rollout.prompt_id] for scored in rollouts]),
        teacher_logprobs=None if teacher_logprobs is None else align(teacher_logprobs, response_mask),
        teacher_hidden_states=None if teacher_hidden is None else align(teacher_hidden, response_mask),
        reference_logprobs=None if reference is None else align(reference, response_mask),
        rewards=_rewards(rollouts),
    )


def _all_or_none(values: list[Tensor | None]) -> list[Tensor] | None:
    present = [value for value in values if value is not None]
    assert len(present) in (0, len(values)), f"{len(present)} of {len(values)} rollouts carry this teacher payload"
    return present or None


def _rewards(rollouts: Sequence[ScoredRollout]) -> Tensor | None:
    rewards = [scored.reward for scored in rollouts if scored.reward is not None]
    assert len(rewards) in (0, len(rollouts)), f"{len(rewards)} of {len(rollouts)} rollouts carry a reward"
    return torch.tensor(rewards, dtype=torch.float32) if rewards else None


def align(per_token: list[Tensor], response_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T *features"]:
    """Return each response's [R, ...] values at its tokens' own positions and zeros elsewhere."""
    lengths = [values.shape[0] for values in per_token]
    assert lengths == response_mask.sum(-1).tolist(), f"{lengths} values for {response_mask.sum(-1).tolist()} tokens"
    aligned = per_token[0].new_zeros(*response_mask.shape, *per_token[0].shape[1:])
    aligned[response_mask] = torch.cat(per_token)
    return aligned
