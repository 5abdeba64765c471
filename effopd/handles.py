"""Building handles: which rollouts go to which learner rank, and what the driver learns of them."""

import itertools
from collections.abc import Iterable, Mapping, Sequence, Sized
from dataclasses import replace
from typing import TypeVar

from effopd.types import FinishReason, Rollout, RolloutHandle, RolloutSummary, ScoredHandle, ScoredRollout

Handle = TypeVar("Handle", RolloutHandle, ScoredHandle)
Item = TypeVar("Item")


def split_evenly(items: Sequence[Item], num_parts: int) -> list[tuple[Item, ...]]:
    """Return `items` in `num_parts` contiguous parts whose lengths differ by at most one; some may be empty."""
    bounds = [len(items) * part // num_parts for part in range(num_parts + 1)]
    return [tuple(items[start:end]) for start, end in itertools.pairwise(bounds)]


def part_of_prompt(index: int, num_prompts: int, num_parts: int) -> int:
    """Return the part that prompt number `index` of a batch of `num_prompts` goes to; parts differ by at most one prompt.

    Neighbours go to the same part, so that what a sampler makes of its share is for as few parts as possible.
    """
    return index * num_parts // num_prompts


def split_by_prompt(
    rollouts: Sequence[Rollout], num_parts: int, start: int = 0, num_prompts: int | None = None
) -> list[list[Rollout]]:
    """Return `rollouts` in `num_parts` parts, some maybe empty, that keep all samples of a prompt together.

    `rollouts` answer the prompts from number `start` on of a batch of `num_prompts`; None where they answer the whole batch.
    """
    groups: dict[str, list[Rollout]] = {}
    for rollout in rollouts:
        groups.setdefault(rollout.prompt_id, []).append(rollout)
    parts: list[list[Rollout]] = [[] for _ in range(num_parts)]
    for index, group in enumerate(groups.values(), start):
        parts[part_of_prompt(index, num_prompts or len(groups), num_parts)] += group
    return parts


def regroup(items: Sequence[Item], parts: Iterable[Sized]) -> list[list[Item]]:
    """Return `items`, as many as `parts` have together, in lists that are as long as those."""
    ends = list(itertools.accumulate(len(part) for part in parts))
    assert len(items) == (ends[-1] if ends else 0), f"{len(items)} items for parts that end at {ends}"
    return [list(items[start:end]) for start, end in itertools.pairwise([0, *ends])]


def joined(pieces: Sequence[Handle]) -> Handle:
    """Return pieces of one batch, at least one and in the order of its prompts, as one."""
    parts = zip(*(piece.parts for piece in pieces), strict=True)
    return replace(
        pieces[0],
        parts=tuple(tuple(itertools.chain.from_iterable(own)) for own in parts),
        summaries=tuple(summary for piece in pieces for summary in piece.summaries),
    )


def as_scored(rollouts: RolloutHandle) -> ScoredHandle:
    """Return the same responses as a batch that nobody has scored yet."""
    return ScoredHandle(parts=rollouts.parts, summaries=rollouts.summaries, policy_version=rollouts.policy_version)


def rewards_of(batches: Iterable[ScoredHandle]) -> dict[tuple[str, int], float] | None:
    """Return the rewards of all batches together; None when they have none."""
    present = [batch.rewards for batch in batches if batch.rewards is not None]
    return {key: reward for rewards in present for key, reward in rewards.items()} if present else None


def to_train_on(
    items: Iterable[Rollout | ScoredRollout], rewards: Mapping[tuple[str, int], float] | None
) -> list[ScoredRollout]:
    """Return what parts of handles resolve to, with rewards; without those that `rewards`, when given, does not name."""
    scored = [item if isinstance(item, ScoredRollout) else ScoredRollout(rollout=item) for item in items]
    if rewards is None:
        return scored
    keyed = [((item.rollout.prompt_id, item.rollout.sample_index), item) for item in scored]
    return [replace(item, reward=rewards[key]) for key, item in keyed if key in rewards]


def summarise(rollouts: Sequence[Rollout]) -> list[RolloutSummary]:
    return [
        RolloutSummary(
            prompt_id=rollout.prompt_id,
            sample_index=rollout.sample_index,
            prompt_len=len(rollout.prompt_token_ids),
            response_len=rollout.response_len,
            is_truncated=rollout.finish_reason == FinishReason.LENGTH,
            sampled_entropy=-float(rollout.rollout_logprobs.double().sum()),
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
