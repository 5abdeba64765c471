"""GRPO: the rewards of one prompt's responses, compared with each other, as advantage in a clipped surrogate.

Source: Shao et al., DeepSeekMath, arXiv 2402.03300, section 4.1. As printed: advantages are normalised by the group's
mean and standard deviation and shared by all tokens of a response; the loss is averaged over a response's tokens first and
over responses then; the KL to the reference is the k3 estimator inside the loss. Beyond it: truncated importance weights
for the sampler's numerics, and dual clip (set it high to be without).

What is differentiated is the surrogate. The normalisation by std reweights prompts, and the gradient of the k3 term is not
that of the reverse KL (see `divergence.py`): GRPO is known by this form, so this is the form.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from effopd.algorithms.advantages import group_normalised, over_response
from effopd.algorithms.divergence import reverse_kl_k3
from effopd.algorithms.masked import masked_sum, sequence_mean, token_mean
from effopd.algorithms.policy_output import Head, PolicyOutput
from effopd.algorithms.surrogate import Clipping, truncated_importance_weights
from effopd.types import AlgorithmNeeds, LossOutput, ScoredBatch, StepTotals, TrainBatch


@dataclass(frozen=True, slots=True)
class GRPO:
    clipping: Clipping
    importance_cap: float
    kl_coef: float
    """Weight of the KL to the reference; 0 does without a reference."""

    @property
    def needs(self) -> AlgorithmNeeds:
        return AlgorithmNeeds(rewards=True, reference=self.kl_coef > 0)

    def prepare(self, batch: ScoredBatch) -> TrainBatch:
        """Return the batch with group-normalised advantages. All responses to a prompt must be in `batch`."""
        assert batch.rewards is not None, "GRPO needs a reward for every response"
        return TrainBatch(
            token_ids=batch.token_ids,
            attention_mask=batch.attention_mask,
            response_mask=batch.response_mask,
            rollout_logprobs=batch.rollout_logprobs,
            old_logprobs=batch.old_logprobs,
            reference_logprobs=batch.reference_logprobs,
            advantages=over_response(group_normalised(batch.rewards, batch.group_index), batch.response_mask),
        )

    def loss(
        self, batch: TrainBatch, output: PolicyOutput, teacher_head: Head | None, totals: StepTotals
    ) -> LossOutput:
        """Return this micro-batch's share of the mean over sequences of the mean over their tokens."""
        per_token, metrics = reward_surrogate(batch, output.logprobs, self.clipping, self.importance_cap, totals)
        if self.kl_coef > 0:
            assert batch.reference_logprobs is not None
            reference_kl = reverse_kl_k3(output.logprobs, batch.reference_logprobs)
            per_token = per_token + self.kl_coef * reference_kl
            metrics["reference_kl"] = token_mean(reference_kl.detach(), batch.response_mask, totals.num_tokens)
        loss = sequence_mean(per_token, batch.response_mask, totals.num_sequences, batch.packed_lengths)
        return LossOutput(loss=loss, metrics=metrics)


def reward_surrogate(
    batch: TrainBatch, logprobs: Tensor, clipping: Clipping, importance_cap: float, totals: StepTotals
) -> tuple[Tensor, dict[str, Tensor]]:
    """Return the weighted clipped loss per token, [B, T], from `batch.advantages`, and the metrics that go with it."""
    assert batch.advantages is not None
    old_logprobs = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
    weights = truncated_importance_weights(old_logprobs, batch.rollout_logprobs, importance_cap)
    per_token = weights * clipping.loss(logprobs, old_logprobs, batch.advantages)
    with torch.no_grad():
        mask, detached = batch.response_mask, logprobs.detach()
        metrics = {
            "sampled_entropy": token_mean(-detached, mask, totals.num_tokens),
            "sampler_gap": token_mean((old_logprobs - batch.rollout_logprobs).abs(), mask, totals.num_tokens),
            "importance_weight": token_mean(weights, mask, totals.num_tokens),
            "clipped_fraction": masked_sum(clipping.is_outside(detached, old_logprobs), mask) / totals.num_tokens,
        }
    return per_token, metrics
