"""What a policy's forward pass hands to a loss: hidden states and a head, never a [B, T, V] tensor.

The shift by one lives here: the hidden state at t - 1 predicts the token at t. Everything returned is aligned with
`token_ids` (see `effopd.types`).
"""

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from effopd.algorithms.logprobs import gather_logprobs

Head = Callable[[Tensor], Tensor]
"""[N, D] hidden states to [N, V] logits."""


class PolicyOutput:
    """One forward pass over a micro-batch.

    Only positions in `response_mask` are ever pushed through the head, `chunk_tokens` at a time. When there is more than
    one chunk each is recomputed in the backward pass, so at most one [chunk_tokens, V] float32 matrix is alive.
    """

    def __init__(
        self,
        hidden_states: Float[Tensor, "B T D"],
        head: Head,
        token_ids: Int[Tensor, "B T"],
        response_mask: Bool[Tensor, "B T"],
        chunk_tokens: int,
    ) -> None:
        assert not response_mask[:, 0].any(), "position 0 has no prefix and cannot be a response token"
        self._hidden_states = hidden_states
        self._head = head
        self._token_ids = token_ids
        self._response_mask = response_mask
        self._chunk_tokens = chunk_tokens
        self._logprobs: Tensor | None = None

    @property
    def predicting_hidden_states(self) -> Float[Tensor, "N D"]:
        """The hidden states that predict the N response tokens, row by row."""
        rows, columns = self._response_mask.nonzero(as_tuple=True)
        return self._hidden_states[rows, columns - 1]

    @property
    def logprobs(self) -> Float[Tensor, "B T"]:
        """Log-probability of each response token given what precedes it, float32, with gradient; 0 elsewhere."""
        if not torch.is_grad_enabled():
            return self.per_token(gather_logprobs, self._token_ids)
        if self._logprobs is None:
            self._logprobs = self.per_token(gather_logprobs, self._token_ids)
        return self._logprobs

    def per_token(self, function: Callable[..., Tensor], *inputs: Tensor) -> Float[Tensor, "B T"]:
        """Return `function` of the logits at every response token; 0 elsewhere.

        Args:
            function: maps float32 logits [N, V] and the rows [N, ...] of each input to [N] numbers. It must not keep
                anything from one call to the next: it runs once per chunk, and again in the backward pass.
            inputs: [B, T, ...] tensors aligned with `token_ids`.

        """
        rows, columns = self._response_mask.nonzero(as_tuple=True)
        hidden = self._hidden_states[rows, columns - 1]  # [N, D]; N response tokens
        selected = [tensor[rows, columns] for tensor in inputs]

        def chunk(hidden_chunk: Tensor, *input_chunks: Tensor) -> Tensor:
            return function(self._head(hidden_chunk).float(), *input_chunks)

        num_tokens = rows.numel()
        if num_tokens <= self._chunk_tokens:
            values = chunk(hidden, *selected)
        else:
            values = torch.cat(
                [
                    checkpoint(chunk, *parts, use_reentrant=False)
                    for parts in zip(*(tensor.split(self._chunk_tokens) for tensor in [hidden, *selected]), strict=True)
                ]
            )
        result = torch.zeros(self._token_ids.shape, dtype=torch.float32, device=hidden.device)
        return result.index_put((rows, columns), values)
