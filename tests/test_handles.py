import pickle

import pytest
import torch

from effopd.handles import as_scored, regroup, rewards_of, split_by_prompt, split_evenly, to_train_on
from effopd.types import (
    FinishReason,
    PolicyVersion,
    Rollout,
    RolloutHandle,
    ScoredHandle,
    ScoredRollout,
    TeacherScores,
)


def rollouts(num_prompts: int, num_samples: int = 1) -> list[Rollout]:
    return [
        Rollout(
            prompt_id=f"p{prompt}",
            sample_index=sample,
            prompt_token_ids=(3, 4),
            response_token_ids=torch.tensor([5, 6, 7]),
            rollout_logprobs=torch.zeros(3),
            text="",
            finish_reason=FinishReason.STOP,
            seed=0,
            policy_version=PolicyVersion(step=0),
        )
        for prompt in range(num_prompts)
        for sample in range(num_samples)
    ]


def test_even_parts_differ_by_at_most_one() -> None:
    assert [len(part) for part in split_evenly(range(10), 4)] == [2, 3, 2, 3]
    assert [len(part) for part in split_evenly(range(2), 4)] == [0, 1, 0, 1]


def test_what_was_put_together_comes_apart_as_it_was() -> None:
    parts = [["a"], [], ["b", "c"]]
    assert regroup(["A", "B", "C"], parts) == [["A"], [], ["B", "C"]]
    assert regroup([], []) == []
    with pytest.raises(AssertionError, match="2 items"):
        regroup(["A", "B"], parts)


def test_samples_of_a_prompt_stay_together() -> None:
    for part in split_by_prompt(rollouts(5, num_samples=3), 2):
        ids = [rollout.prompt_id for rollout in part]
        assert all(ids.count(prompt_id) == 3 for prompt_id in ids)


@pytest.mark.parametrize(
    ("num_samplers", "num_prompts", "num_ranks"), [(8, 8, 4), (2, 2, 2), (8, 24, 2), (8, 50, 8), (32, 256, 32)]
)
def test_ranks_get_equal_shares_however_few_prompts_a_sampler_has(
    num_samplers: int, num_prompts: int, num_ranks: int
) -> None:
    per_rank, start = [0] * num_ranks, 0
    for share in split_evenly(range(num_prompts), num_samplers):
        parts = split_by_prompt(rollouts(len(share)), num_ranks, start, num_prompts)
        per_rank = [total + len(part) for total, part in zip(per_rank, parts, strict=True)]
        start += len(share)
    assert max(per_rank) - min(per_rank) <= 1


def test_what_a_sampler_makes_is_for_few_ranks() -> None:
    # 16 prompts for each of 64 samplers, 32 for each of 32 ranks: half a rank's share comes from one sampler.
    parts = split_by_prompt(rollouts(16), 32, start=3 * 16, num_prompts=64 * 16)
    assert [(rank, len(part)) for rank, part in enumerate(parts) if part] == [(1, 16)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_pickled_tensors_come_back_writable_and_without_the_storage_they_were_cut_from(dtype: torch.dtype) -> None:
    whole = torch.randn(100_000, 4).to(dtype)
    pickled = pickle.dumps(TeacherScores(hidden_states=whole[2:5]))
    assert len(pickled) < 1000
    restored = pickle.loads(pickled).hidden_states
    assert restored.dtype == dtype
    assert torch.equal(restored, whole[2:5])
    restored.zero_()
    assert whole[2:5].abs().sum() > 0


def test_a_pickled_rollout_is_the_same_rollout() -> None:
    (rollout,) = rollouts(1)
    restored = pickle.loads(pickle.dumps(rollout))
    assert restored.response_token_ids.tolist() == [5, 6, 7]
    assert restored.response_token_ids.dtype == torch.int64
    assert (restored.prompt_token_ids, restored.policy_version) == ((3, 4), PolicyVersion(step=0))


def handle(items: list[Rollout] | list[ScoredRollout], rewards: dict[tuple[str, int], float] | None) -> ScoredHandle:
    return ScoredHandle(parts=((items,),), summaries=(), policy_version=PolicyVersion(step=0), rewards=rewards)


def test_nobody_has_scored_a_fresh_batch() -> None:
    fresh = RolloutHandle(parts=((rollouts(2),),), summaries=(), policy_version=PolicyVersion(step=3))
    scored = as_scored(fresh)
    assert scored.parts is fresh.parts
    assert (scored.rewards, scored.policy_version) == (None, PolicyVersion(step=3))


def test_rewards_of_several_batches_are_one_table() -> None:
    first, second = handle([], {("a", 0): 1.0}), handle([], {("b", 1): 0.5})
    assert rewards_of([first, second]) == {("a", 0): 1.0, ("b", 1): 0.5}
    assert rewards_of([handle([], None)]) is None
    # A batch of which nothing is kept says so; it is not a batch without rewards.
    assert rewards_of([handle([], {})]) == {}


def test_what_has_no_reward_in_the_table_is_not_trained_on() -> None:
    table = {("p0", 1): 1.0, ("p2", 0): 0.0}
    kept = to_train_on(rollouts(3, num_samples=2), table)
    assert [(item.rollout.prompt_id, item.rollout.sample_index, item.reward) for item in kept] == [
        ("p0", 1, 1.0),
        ("p2", 0, 0.0),
    ]


def test_without_a_table_everything_is_trained_on_and_keeps_what_it_has() -> None:
    scored = [ScoredRollout(rollout=rollout, reward=0.25) for rollout in rollouts(2)]
    assert to_train_on(scored, None) == scored
    assert [item.reward for item in to_train_on(rollouts(2), None)] == [None, None]


def test_a_reward_leaves_the_other_scores_alone() -> None:
    (rollout,) = rollouts(1)
    scored = ScoredRollout(
        rollout=rollout, teacher=TeacherScores(sampled=torch.ones(3)), reference_logprobs=torch.zeros(3)
    )
    (item,) = to_train_on([scored], {("p0", 0): 1.0})
    assert item.teacher is scored.teacher and item.reference_logprobs is scored.reference_logprobs
