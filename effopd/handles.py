"""Building handles: which rollouts go to which learner rank, and what the driver learns of them."""

import itertools
from collections.abc import Sequence
from dataclasses import replace
from typing import TypeVar

from effopd.types import FinishReason, Rollout, RolloutSummary, ScoredRollout

Item = TypeVar("Item")


def split_evenly(items: Sequence[Item], num_parts: int) -> list[tuple[Item, ...]]:
    """Return `items` in `num_parts` contiguous parts whose lengths differ by at most one; some may be empty."""
    bounds = [len(items) * part // num_parts for part in range(num_parts + 1)]
    return [tuple(items[start:end]) for start, end in itertools.pairwise(bounds)]


def split_by_prompt(rollouts: Sequence[Rollout], num_parts: int) -> list[list[Rollout]]:
    """Return `rollouts` in `num_parts` parts that keep all samples of a prompt together.

    Samples of one prompt must be neighbours, as samplers return them.
    """
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.prompt_id, []).append(rollout)
    return [[rollout for group in part for rollout in group] for part in split_evenly(list(groups.values()), num_parts)]


def summarise(rollouts: Sequence[Rollout]) -> list[RolloutSummary]:
    return [
        RolloutSummary(
            prompt_id=rollout.prompt_id,
            sample_index=rollout.sample_index,
            prompt_len=len(rollout.prompt_token_ids),
            response_len=rollout.response_len,
            is_truncated=rollout.finish_reason == FinishReason.LENGTH,
        )
        for rollout in rollouts
    ]


def with_sampled_reverse_kl(
    summaries: Sequence[RolloutSummary], scored: Sequence[ScoredRollout]
) -> tuple[RolloutSummary, ...]:
    """Return `summaries` with the sampled reverse KL, where the teacher's sampled payload is there to tell it."""
    return tuple(
        summary
        if item.teacher is None or item.teacher.sampled is None
        else replace(
            summary, sampled_reverse_kl=float((item.rollout.rollout_logprobs - item.teacher.sampled).double().sum())
        )
        for summary, item in zip(summaries, scored, strict=True)
    )
