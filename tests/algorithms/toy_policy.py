"""A policy so small that all its responses can be enumerated, and comparisons of gradients. For the oracles."""

import torch
from torch import Tensor


class ToyPolicy:
    """Hidden state t = tanh of the sum of embeddings up to t; logits = hidden @ head."""

    def __init__(self, seed: int, vocabulary: int, width: int) -> None:
        generator = torch.Generator().manual_seed(seed)
        self.embedding = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64)
        self.head = torch.randn(vocabulary, width, generator=generator, dtype=torch.float64)

    def parameters(self) -> list[Tensor]:
        return [self.embedding, self.head]

    def requires_grad(self) -> "ToyPolicy":
        for parameter in self.parameters():
            parameter.requires_grad_()
        return self

    def moved(self, seed: int, distance: float) -> "ToyPolicy":
        """Return a policy nearby: what this one was some steps ago, or what a sampler makes of it."""
        other = ToyPolicy(seed, *self.embedding.shape)
        other.embedding = self.embedding.detach() + distance * other.embedding
        other.head = self.head.detach() + distance * other.head
        return other

    def hidden(self, token_ids: Tensor) -> Tensor:
        return self.embedding[token_ids].cumsum(1).tanh()

    def logits(self, token_ids: Tensor) -> Tensor:
        return self.hidden(token_ids) @ self.head.T


def response_logprobs(policy: ToyPolicy, token_ids: Tensor) -> Tensor:
    """[B, T], aligned with the tokens, 0 at the first, which is the prompt."""
    logprobs = policy.logits(token_ids).log_softmax(-1)
    picked = logprobs[:, :-1].gather(-1, token_ids[:, 1:, None]).squeeze(-1)
    return torch.cat([torch.zeros(len(token_ids), 1, dtype=picked.dtype), picked], dim=1)


def assert_same(actual: list[Tensor], expected: list[Tensor]) -> None:
    # The core computes in float32, as it does in training: relative 1e-4 of the largest entry.
    for ours, exact in zip(actual, expected, strict=True):
        torch.testing.assert_close(ours, exact, rtol=1e-3, atol=1e-4 * exact.abs().max().item())


def difference(actual: list[Tensor], expected: list[Tensor]) -> float:
    """Relative distance between two gradients."""
    flat, exact = (torch.cat([part.flatten() for part in parts]) for parts in (actual, expected))
    return ((flat - exact).norm() / exact.norm()).item()
