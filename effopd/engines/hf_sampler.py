"""Sampling with plain transformers: the portable engine, and the reference that vLLM is held to.

Its own decode loop instead of `generate`: every row has its own seed and limit, finished rows leave the batch, and the
log-probability of each sampled token is kept.
"""

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import DynamicCache

from effopd.config.schema import Device, RolloutConfig
from effopd.engines.policy_module import load_causal_lm
from effopd.engines.sample_rows import Drawn, SampleFormat, SampleRow, piece_sizes, require_version
from effopd.errors import WeightSyncError
from effopd.types import GenerateRequest, PolicyVersion, Publication, Rollout
from effopd.weights import SegmentReaders

_COMPACT_BELOW = 0.75  # share of rows still running below which gathering the KV cache pays for itself


class HFSampler:
    """One transformers model.

    It starts with the weights in `model_path` but samples only after the first `load`, because those weights have no
    version. A response depends on the other rows of its batch only through rounding.
    """

    def __init__(
        self, config: RolloutConfig, model_path: str, *, max_model_len: int, device: Device, seed: int
    ) -> None:
        """`seed` is not used, since every response has its own; it is here because vLLM wants one."""
        del seed
        torch.set_num_threads(config.num_threads)
        self._format = SampleFormat(model_path, max_model_len)
        self._version: PolicyVersion | None = None
        self._readers = SegmentReaders()
        self._max_num_seqs = config.max_num_seqs
        is_cuda = device is Device.cuda or (device is Device.auto and torch.cuda.is_available())
        self._device = torch.device("cuda" if is_cuda else "cpu")
        model = load_causal_lm(model_path, getattr(torch, config.dtype.value), "sdpa")
        self._model = model.requires_grad_(False)
        torch.nn.Module.to(model, self._device)  # transformers wraps `to` in a way that type checkers misread
        self._stop_token_ids = torch.tensor(self._format.stop_token_ids, dtype=torch.int64, device=self._device)

    @property
    def version(self) -> PolicyVersion | None:
        """The weights in force; None before the first load and after one that failed half-way."""
        return self._version

    def load(self, publication: Publication) -> None:
        """Make `publication` the weights in force.

        Raises:
            WeightSyncError: when the segment does not hold what was published (the old weights stay in force), or when
                its tensors are not those of the model (then none are).

        """
        reader = self._readers.verified(publication)
        self._version = None
        # Tied weights are one parameter under several names; any of them will do.
        parameters = dict(self._model.named_parameters(remove_duplicate=False))
        loaded: set[int] = set()
        for bucket in publication.buckets:
            for name, tensor in reader.tensors(bucket):
                if name not in parameters or parameters[name].shape != tensor.shape:
                    raise WeightSyncError(
                        f"weights {publication.version}: the model has no parameter {name} of shape {tuple(tensor.shape)}"
                    )
                parameters[name].copy_(tensor)
                loaded.add(id(parameters[name]))
        missing = [name for name, parameter in parameters.items() if id(parameter) not in loaded]
        if missing:
            raise WeightSyncError(f"weights {publication.version} lack those of {', '.join(missing)}")
        self._version = publication.version

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> list[Rollout]:
        """Return the responses, prompt by prompt, sample by sample.

        `rollout_logprobs` are those of the raw model distribution, at temperature 1, whatever the request's temperature.

        Raises:
            WeightSyncError: when other weights than `version` are loaded.
            RolloutError: when a prompt is empty or too long; it names the prompt.

        """
        return [rollout for _, piece in self.stream(request, version, num_pieces=1) for rollout in piece]

    def stream(
        self, request: GenerateRequest, version: PolicyVersion, num_pieces: int
    ) -> Iterator[tuple[int, list[Rollout]]]:
        """Yield what `generate` returns, cut into pieces of consecutive prompts, each as soon as it is finished: its number and
        its responses. Errors are those of `generate`."""
        require_version(self._version, version)
        rows = self._format.rows(request)
        drawn = self._draw(rows, request.temperature, request.top_p)
        return self._format.pieces(rows, drawn, piece_sizes(request, num_pieces), version)

    def close(self) -> None:
        """Forget the segment mappings."""
        self._readers.close()

    def _draw(self, rows: list[SampleRow], temperature: float, top_p: float) -> Iterator[Drawn]:
        """Yield every row when it is finished."""
        # Prompts of like length share a batch, so that there is little padding.
        order = sorted(range(len(rows)), key=lambda index: len(rows[index].prompt.token_ids))
        for start in range(0, len(order), self._max_num_seqs):
            chunk = order[start : start + self._max_num_seqs]
            for numbers, token_ids, logprobs in self._draw_batch([rows[index] for index in chunk], temperature, top_p):
                for number, own_token_ids, own_logprobs in zip(numbers, token_ids, logprobs, strict=True):
                    # A clone, because inference tensors are barred from autograd, and so as not to keep the others alive.
                    yield Drawn(chunk[number], own_token_ids.clone(), own_logprobs.clone())

    @torch.inference_mode()
    def _draw_batch(
        self, rows: list[SampleRow], temperature: float, top_p: float
    ) -> Iterator[tuple[list[int], Int[Tensor, "n R"], Float[Tensor, "n R"]]]:
        """Yield the numbers of the n rows that are finished together, after R tokens, with their tokens and log-probabilities.

        Below, B counts the rows that are still in the batch.
        """
        input_ids, attention_mask = self._left_padded(rows)
        position_ids = attention_mask.cumsum(-1).sub_(1).clamp_(min=0)  # [B, prompt_len]
        is_padded = not bool(attention_mask.all())
        limits = torch.tensor([row.max_response_len for row in rows], device=self._device)
        noise = _row_noise(rows).to(self._device)  # [rows, longest limit]
        drawn_token_ids = torch.zeros(noise.shape, dtype=torch.int64, device=self._device)
        drawn_logprobs = torch.zeros(noise.shape, device=self._device)
        row_index = torch.arange(len(rows), device=self._device)  # [B] which row an entry of the batch is
        is_done = torch.zeros_like(row_index, dtype=torch.bool)  # [B]
        cache = DynamicCache(config=self._model.config)
        for step in range(noise.shape[1]):
            output = self._model(
                input_ids=input_ids,
                # Without padding the attention kernel is faster without a mask, and positions follow from the cache.
                attention_mask=attention_mask if is_padded else None,
                position_ids=position_ids if is_padded else None,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            logprobs = output.logits[:, -1].float().log_softmax(-1)  # [B, V]
            token_ids = draw_tokens(logprobs, noise[row_index, step], temperature, top_p)  # [B]
            drawn_token_ids[row_index, step] = token_ids
            drawn_logprobs[row_index, step] = logprobs.gather(-1, token_ids[:, None]).squeeze(-1)
            ends_here = (torch.isin(token_ids, self._stop_token_ids) | (limits[row_index] == step + 1)) & ~is_done
            finished = row_index[ends_here]
            if finished.numel() > 0:
                so_far = (finished, slice(step + 1))
                yield finished.tolist(), drawn_token_ids[so_far].cpu(), drawn_logprobs[so_far].cpu()
            is_done |= ends_here
            num_running = int((~is_done).sum())
            if num_running == 0:
                break
            input_ids = token_ids[:, None]
            position_ids = position_ids[:, -1:] + 1
            attention_mask = torch.nn.functional.pad(attention_mask, (0, 1), value=1)
            if num_running < _COMPACT_BELOW * is_done.numel():
                kept = (~is_done).nonzero().squeeze(-1)
                cache.batch_select_indices(kept)
                input_ids, position_ids, attention_mask = input_ids[kept], position_ids[kept], attention_mask[kept]
                row_index, is_done = row_index[kept], is_done[kept]

    def _left_padded(self, rows: list[SampleRow]) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
        """Return the prompts, padded on the left so that all responses start in the same column, and their mask."""
        longest = max(len(row.prompt.token_ids) for row in rows)
        padding = [longest - len(row.prompt.token_ids) for row in rows]
        # Which token pads does not matter: the mask hides it.
        token_ids = [[0] * width + list(row.prompt.token_ids) for width, row in zip(padding, rows, strict=True)]
        mask = torch.arange(longest) >= torch.tensor(padding)[:, None]
        return torch.tensor(token_ids, device=self._device), mask.long().to(self._device)


def draw_tokens(
    logprobs: Float[Tensor, "B V"], noise: Float[Tensor, " B"], temperature: float, top_p: float
) -> Int[Tensor, " B"]:
    """Return one token per row by inverting the distribution function at `noise`, which lies in (0, 1].

    One number decides a token, so a row's whole noise is known before the first step, and the rows of a batch do not share
    a generator. The sum runs in float64: in float32 the tail of a large vocabulary would drown in rounding.

    Args:
        logprobs: of the raw distribution.
        noise: not used when greedy.
        temperature: 0 takes the most likely token.
        top_p: keep the fewest tokens that together reach this probability.

    """
    if temperature == 0:
        return logprobs.argmax(-1)
    logprobs = logprobs.double()
    probabilities = logprobs.exp() if temperature == 1 else (logprobs / temperature).softmax(-1)
    if top_p < 1:
        descending, order = probabilities.sort(-1, descending=True)
        is_kept = descending.cumsum(-1) - descending < top_p  # what precedes a token has not reached top_p yet
        probabilities = torch.zeros_like(probabilities).scatter_(-1, order, descending * is_kept)
    cumulative = probabilities.cumsum(-1)
    # Noise is never 0 and never above 1, so the first entry that reaches the threshold exists and has positive probability.
    thresholds = noise[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, thresholds).squeeze(-1)


def _row_noise(rows: list[SampleRow]) -> Float[Tensor, "rows R"]:
    """Return uniform numbers in (0, 1], each row's from its own seed. A longer limit extends a row and changes nothing."""
    noise = torch.empty(len(rows), max(row.max_response_len for row in rows), dtype=torch.float64)
    generator = torch.Generator()
    for row, row_noise in zip(rows, noise, strict=True):
        row_noise.uniform_(generator=generator.manual_seed(row.seed))
    return 1 - noise
