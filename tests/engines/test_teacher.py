"""The teacher on transformers, held to a plain forward of the same model."""

import pytest
import torch
from transformers import AutoModelForCausalLM

from effopd.config.schema import TeacherConfig
from effopd.engines.hf_teacher import HFTeacher
from effopd.errors import ConfigError
from effopd.model_folders import resolve_model_path
from effopd.types import FinishReason, PolicyVersion, Rollout, TeacherPayload

MODEL = str(resolve_model_path("teacher.path", "toy:sums_teacher"))


def make_teacher(max_tokens_per_batch: int = 16384, logit_chunk_tokens: int = 512) -> HFTeacher:
    config = TeacherConfig(path=MODEL, max_tokens_per_batch=max_tokens_per_batch, logit_chunk_tokens=logit_chunk_tokens)
    return HFTeacher(config, MODEL, attn_implementation="sdpa", device=torch.device("cpu"))


@pytest.fixture(scope="module")
def rollouts() -> list[Rollout]:
    """Ragged prompts and responses of random tokens."""
    generator = torch.Generator().manual_seed(0)
    made = []
    for index in range(9):
        prompt_len = int(torch.randint(1, 12, (1,), generator=generator))
        response_len = int(torch.randint(1, 15, (1,), generator=generator))
        made.append(
            Rollout(
                prompt_id=f"p{index}",
                sample_index=0,
                prompt_token_ids=tuple(torch.randint(3, 40, (prompt_len,), generator=generator).tolist()),
                response_token_ids=torch.randint(3, 40, (response_len,), generator=generator),
                rollout_logprobs=torch.zeros(response_len),
                text="",
                finish_reason=FinishReason.STOP,
                seed=0,
                policy_version=PolicyVersion(step=0),
            )
        )
    return made


def expected_distribution(rollout: Rollout) -> torch.Tensor:
    """[R, V] log-probabilities that predict the response tokens, from an unpadded forward."""
    model = AutoModelForCausalLM.from_pretrained(MODEL, dtype=torch.float32)
    ids = torch.cat([torch.tensor(rollout.prompt_token_ids), rollout.response_token_ids])
    with torch.no_grad():
        logits = model(input_ids=ids[None]).logits[0]
    return logits[len(rollout.prompt_token_ids) - 1 : -1].log_softmax(-1)


@pytest.mark.parametrize(("max_tokens_per_batch", "logit_chunk_tokens"), [(16384, 512), (30, 512), (16384, 4), (1, 1)])
def test_sampled_scores_equal_an_unpadded_forward_whatever_the_batches_and_chunks(
    rollouts: list[Rollout], max_tokens_per_batch: int, logit_chunk_tokens: int
) -> None:
    scored = make_teacher(max_tokens_per_batch, logit_chunk_tokens).score(rollouts, TeacherPayload.SAMPLED)
    assert [item.rollout for item in scored] == rollouts
    for item in scored:
        expected = expected_distribution(item.rollout).gather(-1, item.rollout.response_token_ids[:, None]).squeeze(-1)
        assert item.teacher is not None and item.teacher.sampled is not None
        torch.testing.assert_close(item.teacher.sampled, expected, atol=1e-5, rtol=1e-5)


def test_hidden_states_and_head_give_the_teachers_whole_distribution(rollouts: list[Rollout]) -> None:
    teacher = make_teacher()
    head = teacher.head()
    for item in teacher.score(rollouts, TeacherPayload.HIDDEN_STATES):
        assert item.teacher is not None and item.teacher.hidden_states is not None
        distribution = (item.teacher.hidden_states @ head.T).log_softmax(-1)
        torch.testing.assert_close(distribution, expected_distribution(item.rollout), atol=1e-5, rtol=1e-5)


def test_a_sound_teacher_agrees_with_itself() -> None:
    make_teacher(logit_chunk_tokens=5).check_itself()


def test_a_scored_rollout_does_not_carry_its_whole_batch_along(rollouts: list[Rollout]) -> None:
    scored = make_teacher().score(rollouts, TeacherPayload.HIDDEN_STATES)
    assert scored[0].teacher is not None and scored[0].teacher.hidden_states is not None
    payload = scored[0].teacher.hidden_states
    assert payload.untyped_storage().nbytes() == payload.numel() * payload.itemsize


@pytest.mark.parametrize("scale", [1.01, float("nan")])
def test_a_teacher_that_disagrees_with_itself_is_refused(scale: float) -> None:
    teacher = make_teacher()
    original = teacher._model.forward

    def scaled(*arguments: object, **keywords: object) -> object:
        output = original(*arguments, **keywords)
        output.logits *= scale
        return output

    teacher._model.forward = scaled
    with pytest.raises(ConfigError, match="disagrees with itself"):
        teacher.check_itself()
