"""The clipped policy-gradient surrogate and its importance weights."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


def clipped_surrogate(
    logprobs: Float[Tensor, "B T"],
    old_logprobs: Float[Tensor, "B T"],
    advantages: Float[Tensor, "B T"],
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float,
) -> Float[Tensor, "B T"]:
    """Return the PPO loss per token, to be minimised.

    max(-A r, -A clip(r, 1 - clip_low, 1 + clip_high)) with r = exp(logprobs - old_logprobs); for negative advantages the
    loss is capped at -A * dual_clip. Sources: Schulman et al., arXiv 1707.06347, eq. 7; dual clip: Ye et al., arXiv
    1912.09729, eq. 5.
    """
    ratio = (logprobs - old_logprobs).exp()
    loss = torch.maximum(-advantages * ratio, -advantages * ratio.clamp(1 - clip_low, 1 + clip_high))
    return torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)


@dataclass(frozen=True, slots=True)
class Clipping:
    """The bounds of a clipped surrogate."""

    low: float
    high: float
    dual: float

    def loss(
        self,
        logprobs: Float[Tensor, "B T"],
        old_logprobs: Float[Tensor, "B T"],
        advantages: Float[Tensor, "B T"],
    ) -> Float[Tensor, "B T"]:
        """Return `clipped_surrogate` within these bounds."""
        return clipped_surrogate(
            logprobs, old_logprobs, advantages, clip_low=self.low, clip_high=self.high, dual_clip=self.dual
        )

    def is_outside(self, logprobs: Float[Tensor, "B T"], old_logprobs: Float[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        """Return where the ratio has left [1 - low, 1 + high]."""
        ratio = (logprobs - old_logprobs).exp()
        return (ratio < 1 - self.low) | (ratio > 1 + self.high)


def truncated_importance_weights(
    old_logprobs: Float[Tensor, "B T"], rollout_logprobs: Float[Tensor, "B T"], cap: float
) -> Float[Tensor, "B T"]:
    """Return min(exp(old_logprobs - rollout_logprobs), cap), detached.

    Corrects for a sampler whose probabilities differ from the learner's. It multiplies the loss and never the ratio, or
    clipping would act on the sampler's error.
    """
    return (old_logprobs - rollout_logprobs).exp().clamp(max=cap).detach()
