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


def split_by_prompt(rollouts: Sequence[Rollout], num_parts: int, first_part: int = 0) -> list[list[Rollout]]:
    """Return `rollouts` in `num_parts` parts that keep all samples of a prompt together.

    Prompts are dealt like cards, the first one to part `first_part`. When every sampler begins where the one before it
    ended, all parts together differ by at most one prompt, however few prompts each sampler has.
    """
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.prompt_id, []).append(rollout)
    parts: list[list[Rollout]] = [[] for _ in range(num_parts)]
    for number, group in enumerate(groups.values()):
        parts[(first_part + number) % num_parts] += group
    return parts


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
