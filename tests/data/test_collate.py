import pytest
import torch

from effopd.data.collate import collate
from effopd.types import FinishReason, PolicyVersion, Rollout, ScoredRollout, TeacherScores


def scored(prompt_id: str, prompt: list[int], response: list[int], teacher: TeacherScores | None) -> ScoredRollout:
    rollout = Rollout(
        prompt_id=prompt_id,
        sample_index=0,
        prompt_token_ids=tuple(prompt),
        response_token_ids=torch.tensor(response),
        rollout_logprobs=-torch.arange(1.0, len(response) + 1),
        text="",
        finish_reason=FinishReason.STOP,
        seed=0,
        policy_version=PolicyVersion(step=0),
    )
    return ScoredRollout(rollout=rollout, teacher=teacher)


def test_entry_t_describes_the_token_at_t() -> None:
    batch = collate(
        [
            scored("a", [5, 6], [7, 8, 9], TeacherScores(sampled=torch.tensor([-0.1, -0.2, -0.3]))),
            scored("b", [5], [7], TeacherScores(sampled=torch.tensor([-0.4]))),
        ],
        pad_token_id=0,
    )
    assert batch.token_ids.tolist() == [[5, 6, 7, 8, 9], [5, 7, 0, 0, 0]]
    assert batch.attention_mask.long().tolist() == [[1, 1, 1, 1, 1], [1, 1, 0, 0, 0]]
    assert batch.response_mask.long().tolist() == [[0, 0, 1, 1, 1], [0, 1, 0, 0, 0]]
    assert batch.rollout_logprobs.tolist() == [[0, 0, -1, -2, -3], [0, -1, 0, 0, 0]]
    assert batch.teacher_logprobs is not None
    torch.testing.assert_close(batch.teacher_logprobs, torch.tensor([[0, 0, -0.1, -0.2, -0.3], [0, -0.4, 0, 0, 0]]))
    assert batch.group_index.tolist() == [0, 1]


def test_hidden_states_are_aligned_like_every_per_token_array() -> None:
    hidden = torch.arange(6.0).reshape(3, 2)
    batch = collate([scored("a", [5, 6], [7, 8, 9], TeacherScores(hidden_states=hidden))], pad_token_id=0)
    assert batch.teacher_hidden_states is not None
    assert batch.teacher_hidden_states[0].tolist() == [[0, 0], [0, 0], [0, 1], [2, 3], [4, 5]]


def test_a_payload_that_only_some_rollouts_carry_is_a_broken_promise() -> None:
    with pytest.raises(AssertionError, match="1 of 2 rollouts"):
        collate([scored("a", [5], [7], TeacherScores(sampled=torch.tensor([0.0]))), scored("b", [5], [7], None)], 0)
