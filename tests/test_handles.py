import pickle

import pytest
import torch

from effopd.handles import split_by_prompt, split_evenly
from effopd.types import FinishReason, PolicyVersion, Rollout, TeacherScores


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
        parts = split_by_prompt(rollouts(len(share)), num_ranks, start)
        per_rank = [total + len(part) for total, part in zip(per_rank, parts, strict=True)]
        start += len(share)
    assert max(per_rank) - min(per_rank) <= 1


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
