"""What every sampler does in the same way, whatever draws its tokens.

A request becomes rows, one per response to draw; drawn tokens become rollouts. In between only the engine differs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from effopd.errors import RolloutError, WeightSyncError
from effopd.models import end_token_ids
from effopd.seeds import sample_seed
from effopd.types import FinishReason, GenerateRequest, PolicyVersion, Prompt, Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleRow:
    """One response to draw."""

    prompt: Prompt
    sample_index: int
    seed: int
    max_response_len: int
    """Tokens: the request's limit, or less where prompt and response would not fit the model."""


class SampleFormat:
    """Turns requests into rows and tokens into rollouts, for one model."""

    def __init__(self, model_path: str, max_model_len: int) -> None:
        self._tokenizer = AutoTokenizer.from_pretrained(model_path, trust_remote_code=False)
        self._max_model_len = max_model_len
        self._vocab_size = AutoConfig.from_pretrained(model_path, trust_remote_code=False).get_text_config().vocab_size
        self.stop_token_ids = end_token_ids(Path(model_path))

    def rows(self, request: GenerateRequest) -> list[SampleRow]:
        """Return one row per response, prompt by prompt, sample by sample.

        Raises:
            RolloutError: when a prompt is empty, leaves no room for a response or has tokens that the model lacks.

        """
        for prompt in request.prompts:
            if not 1 <= len(prompt.token_ids) < self._max_model_len:
                raise RolloutError(
                    f"prompt {prompt.prompt_id} has {len(prompt.token_ids)} tokens; the sampler takes 1 to "
                    f"{self._max_model_len - 1}, one less than its max_model_len of {self._max_model_len}"
                )
            if not 0 <= min(prompt.token_ids) <= max(prompt.token_ids) < self._vocab_size:
                raise RolloutError(
                    f"prompt {prompt.prompt_id} has token ids outside the model's vocabulary of {self._vocab_size}: "
                    "its tokenizer is another model's"
                )
        return [
            SampleRow(
                prompt=prompt,
                sample_index=sample_index,
                seed=sample_seed(request.seed, prompt.prompt_id, sample_index),
                max_response_len=min(request.max_response_len, self._max_model_len - len(prompt.token_ids)),
            )
            for prompt in request.prompts
            for sample_index in range(request.num_samples)
        ]

    def rollouts(
        self,
        rows: Sequence[SampleRow],
        token_ids: Sequence[Tensor],
        logprobs: Sequence[Tensor],
        version: PolicyVersion,
    ) -> list[Rollout]:
        """Return one rollout per row from its int64 tokens [R] and float32 log-probabilities [R]."""
        texts = self._tokenizer.batch_decode([ids.tolist() for ids in token_ids], skip_special_tokens=True)
        return [
            Rollout(
                prompt_id=row.prompt.prompt_id,
                sample_index=row.sample_index,
                prompt_token_ids=row.prompt.token_ids,
                response_token_ids=ids,
                rollout_logprobs=row_logprobs,
                text=text,
                finish_reason=FinishReason.STOP if int(ids[-1]) in self.stop_token_ids else FinishReason.LENGTH,
                seed=row.seed,
                policy_version=version,
            )
            for row, ids, row_logprobs, text in zip(rows, token_ids, logprobs, texts, strict=True)
        ]


def require_version(held: PolicyVersion | None, asked: PolicyVersion) -> None:
    """Raise WeightSyncError unless the sampler holds the weights it is asked to sample from."""
    if held != asked:
        raise WeightSyncError(f"weights {asked} were asked for, but this sampler holds {held or 'none yet'}")
