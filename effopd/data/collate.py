"""Ragged rollouts into right-padded rectangles, under the alignment rule of `effopd.types`."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from effopd.types import ScoredBatch, ScoredRollout


def collate(rollouts: Sequence[ScoredRollout], pad_token_id: int) -> ScoredBatch:
    """Return one batch of B = len(rollouts) rows; T is the longest prompt plus response.

    The teacher's payload and the rewards are taken when every rollout has them, and must be absent from all or none.
    """
    assert rollouts, "an empty list has no rectangle; the learner handles a rank without rollouts itself"
    token_ids: list[Tensor] = []
    response_mask: list[Tensor] = []
    for scored in rollouts:
        prompt = torch.tensor(scored.rollout.prompt_token_ids, dtype=torch.int64)
        response = scored.rollout.response_token_ids
        token_ids.append(torch.cat([prompt, response]))
        response_mask.append(
            torch.cat([torch.zeros_like(prompt, dtype=torch.bool), torch.ones_like(response, dtype=torch.bool)])
        )

    group_of = {
        prompt_id: index for index, prompt_id in enumerate(dict.fromkeys(r.rollout.prompt_id for r in rollouts))
    }
    teacher_logprobs = _all_or_none([scored.teacher and scored.teacher.sampled for scored in rollouts])
    teacher_hidden = _all_or_none([scored.teacher and scored.teacher.hidden_states for scored in rollouts])
    return ScoredBatch(
        token_ids=pad_sequence(token_ids, batch_first=True, padding_value=pad_token_id),
        attention_mask=pad_sequence([torch.ones_like(ids, dtype=torch.bool) for ids in token_ids], batch_first=True),
        response_mask=pad_sequence(response_mask, batch_first=True),
        rollout_logprobs=_align(rollouts, [scored.rollout.rollout_logprobs for scored in rollouts]),
        group_index=torch.tensor([group_of[scored.rollout.prompt_id] for scored in rollouts]),
        teacher_logprobs=None if teacher_logprobs is None else _align(rollouts, teacher_logprobs),
        teacher_hidden_states=None if teacher_hidden is None else _align(rollouts, teacher_hidden),
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


def _align(rollouts: Sequence[ScoredRollout], per_token: list[Tensor]) -> Tensor:
    """Return [B, T, ...] with each response's values at its tokens' own positions and zeros elsewhere."""
    rows = []
    for scored, values in zip(rollouts, per_token, strict=True):
        assert values.shape[0] == scored.rollout.response_len, (
            f"{values.shape[0]} values for the {scored.rollout.response_len} response tokens of {scored.rollout.prompt_id}"
        )
        rows.append(torch.cat([values.new_zeros(len(scored.rollout.prompt_token_ids), *values.shape[1:]), values]))
    return pad_sequence(rows, batch_first=True)
