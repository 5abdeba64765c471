"""Log-probabilities and divergences between full next-token distributions, from logits."""

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import cross_entropy


def gather_logprobs(logits: Float[Tensor, "N V"], token_ids: Int[Tensor, " N"]) -> Float[Tensor, " N"]:
    """Return the log-probability of each token under softmax(logits), nats."""
    if not torch.is_grad_enabled():
        return -cross_entropy(logits, token_ids, reduction="none")  # fused: half the passes over the matrix
    return logits.gather(-1, token_ids[:, None]).squeeze(-1) - logits.logsumexp(-1)


def exact_reverse_kl(logits: Float[Tensor, "N V"], teacher_logits: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Return KL(student || teacher) per row, summed over the whole vocabulary, nats; never negative but for rounding."""
    logprobs, teacher_logprobs = logits.log_softmax(-1), teacher_logits.log_softmax(-1)
    return (logprobs.exp() * (logprobs - teacher_logprobs)).sum(-1)


def exact_forward_kl(logits: Float[Tensor, "N V"], teacher_logits: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Return KL(teacher || student) per row, summed over the whole vocabulary, nats."""
    return exact_reverse_kl(teacher_logits, logits)


def entropy(logits: Float[Tensor, "N V"]) -> Float[Tensor, " N"]:
    """Return the entropy of softmax(logits) per row, nats."""
    logprobs = logits.log_softmax(-1)
    return -torch.xlogy(logprobs.exp(), logprobs.exp()).sum(-1)
