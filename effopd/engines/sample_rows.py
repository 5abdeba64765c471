"""What every sampler does in the same way, whatever draws its tokens.

A request becomes rows, one per response to draw; drawn tokens become rollouts. In between only the engine differs, and it
draws all rows of a request together, however many pieces they are handed out in.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from transformers import AutoConfig, AutoTokenizer

from effopd.errors import RolloutError, WeightSyncError
from effopd.handles import split_evenly
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


@dataclass(frozen=True, slots=True)
class Drawn:
    """What an engine drew for one row."""

    row: int
    """Its number."""
    token_ids: Tensor
    """[R] int64."""
    logprobs: Tensor
    """[R] float32."""


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

    def pieces(
        self, rows: Sequence[SampleRow], drawn: Iterable[Drawn], sizes: Sequence[int], version: PolicyVersion
    ) -> Iterator[tuple[int, list[Rollout]]]:
        """Yield `rows` as rollouts, in pieces of `sizes` consecutive rows, each as soon as all of it is `drawn`: the number of
        the piece, and its rollouts in the order of the rows."""
        piece_of = [piece for piece, size in enumerate(sizes) for _ in range(size)]
        finished: list[list[Drawn]] = [[] for _ in sizes]
        for one in drawn:
            piece = piece_of[one.row]
            finished[piece].append(one)
            if len(finished[piece]) == sizes[piece]:
                in_order = sorted(finished[piece], key=lambda one: one.row)
                finished[piece] = []
                yield piece, self._rollouts(rows, in_order, version)

    def _rollouts(self, rows: Sequence[SampleRow], drawn: Sequence[Drawn], version: PolicyVersion) -> list[Rollout]:
        texts = self._tokenizer.batch_decode([one.token_ids.tolist() for one in drawn], skip_special_tokens=True)
        return [
            Rollout(
                prompt_id=rows[one.row].prompt.prompt_id,
                sample_index=rows[one.row].sample_index,
                prompt_token_ids=rows[one.row].prompt.token_ids,
                response_token_ids=one.token_ids,
                rollout_logprobs=one.logprobs,
                text=text,
                finish_reason=(
                    FinishReason.STOP if int(one.token_ids[-1]) in self.stop_token_ids else FinishReason.LENGTH
                ),
                seed=rows[one.row].seed,
                policy_version=version,
            )
            for one, text in zip(drawn, texts, strict=True)
        ]


def piece_sizes(request: GenerateRequest, num_pieces: int) -> list[int]:
    """Return how many rows each piece of `request` has: whole prompts, and as many as in any other but for one."""
    return [request.num_samples * len(prompts) for prompts in split_evenly(request.prompts, num_pieces)]


def require_version(held: PolicyVersion | None, asked: PolicyVersion) -> None:
    """Raise WeightSyncError unless the sampler holds the weights it is asked to sample from."""
    if held != asked:
        raise WeightSyncError(f"weights {asked} were asked for, but this sampler holds {held or 'none yet'}")
