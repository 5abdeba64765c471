"""Single-sample estimates of KL(student || teacher) at sampled tokens, in nats.

Sign, once and for all: reverse KL = KL(student || teacher) = E_student[log p - log q], p the student and q the teacher.
It is never negative in expectation; a single-sample estimate may be. Source: Schulman, "Approximating KL Divergence"
(2020).

These are for measuring. As losses to differentiate, k1 and k3 are traps: the direct gradient of k1 does not depend on
the teacher, and that of k3 is the forward KL's. `tests/algorithms/test_gradient_oracle.py` shows both.
"""

from jaxtyping import Float
from torch import Tensor


def reverse_kl_k1(logprobs: Float[Tensor, "*S"], teacher_logprobs: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Return log p - log q: unbiased, high variance, may be negative."""
    return logprobs - teacher_logprobs


def reverse_kl_k2(logprobs: Float[Tensor, "*S"], teacher_logprobs: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Return (log p - log q)^2 / 2: biased, low variance, never negative."""
    return (logprobs - teacher_logprobs).square() / 2


def reverse_kl_k3(logprobs: Float[Tensor, "*S"], teacher_logprobs: Float[Tensor, "*S"]) -> Float[Tensor, "*S"]:
    """Return q/p - 1 - log(q/p): unbiased, low variance, never negative."""
    log_ratio = teacher_logprobs - logprobs
    return log_ratio.expm1() - log_ratio
