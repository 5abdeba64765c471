"""PPO: a critic's estimate of what is still to come, subtracted from what came, as advantage in a clipped surrogate.

Sources: Schulman et al., arXiv 1707.06347 (surrogate), arXiv 1506.02438 (GAE); for language models Ouyang et al., arXiv
2203.02155: the verifier's score arrives with the last token, and a KL to the reference is charged per token, in the reward
as there, or in the loss. How this differs: advantages are whitened over the whole batch of all ranks (the learner does so),
truncated importance weights correct for the sampler's numerics, the surrogate has dual clip (set it high to be without),
and the value loss is clipped as in OpenAI's baselines.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from effopd.algorithms.advantages import at_last_token, generalised_advantages
from effopd.algorithms.divergence import reverse_kl_k1, reverse_kl_k3
from effopd.algorithms.grpo import reward_surrogate
from effopd.algorithms.masked import masked_sum, token_mean
from effopd.algorithms.policy_output import Head, PolicyOutput
from effopd.algorithms.surrogate import Clipping
from effopd.types import AlgorithmNeeds, LossOutput, ScoredBatch, StepTotals, TrainBatch


@dataclass(frozen=True, slots=True)
class PPO:
    clipping: Clipping
    importance_cap: float
    kl_coef: float
    """Weight of the KL to the reference; 0 does without a reference."""
    is_kl_in_reward: bool
    """Charge the sampled token's log-ratio in its reward; else add the k3 estimator to the loss."""
    discount: float
    gae_lambda: float
    value_clip: float

    @property
    def needs(self) -> AlgorithmNeeds:
        return AlgorithmNeeds(rewards=True, critic=True, reference=self.kl_coef > 0)

    def prepare(self, batch: ScoredBatch) -> TrainBatch:
        """Return the batch with advantages, not whitened, and the critic's targets."""
        assert batch.rewards is not None, "PPO needs a reward for every response"
        assert batch.values is not None, "PPO needs the critic's values"
        rewards = at_last_token(batch.rewards, batch.response_mask)
        if self.kl_coef > 0 and self.is_kl_in_reward:
            assert batch.reference_logprobs is not None
            # The sampler's own log-probabilities: what the response was in fact drawn from.
            log_ratio = reverse_kl_k1(batch.rollout_logprobs, batch.reference_logprobs)
            rewards = rewards - self.kl_coef * log_ratio * batch.response_mask
        advantages, returns = generalised_advantages(
            rewards, batch.values, batch.response_mask, discount=self.discount, gae_lambda=self.gae_lambda
        )
        return TrainBatch(
            token_ids=batch.token_ids,
            attention_mask=batch.attention_mask,
            response_mask=batch.response_mask,
            rollout_logprobs=batch.rollout_logprobs,
            old_logprobs=batch.old_logprobs,
            reference_logprobs=batch.reference_logprobs,
            advantages=advantages,
            old_values=batch.values,
            returns=returns,
        )

    def loss(
        self, batch: TrainBatch, output: PolicyOutput, teacher_head: Head | None, totals: StepTotals
    ) -> LossOutput:
        """Return this micro-batch's share of the mean over all response tokens."""
        per_token, metrics = reward_surrogate(batch, output.logprobs, self.clipping, self.importance_cap, totals)
        if self.kl_coef > 0:
            assert batch.reference_logprobs is not None
            reference_kl = reverse_kl_k3(output.logprobs, batch.reference_logprobs)
            if not self.is_kl_in_reward:
                per_token = per_token + self.kl_coef * reference_kl
            metrics["reference_kl"] = token_mean(reference_kl.detach(), batch.response_mask, totals.num_tokens)
        return LossOutput(loss=token_mean(per_token, batch.response_mask, totals.num_tokens), metrics=metrics)

    def value_loss(self, batch: TrainBatch, values: Tensor, totals: StepTotals) -> LossOutput:
        """Return half the squared error of the critic, [B, T] values, the larger of clipped and unclipped per token."""
        assert batch.old_values is not None and batch.returns is not None
        mask = batch.response_mask
        clipped = batch.old_values + (values - batch.old_values).clamp(-self.value_clip, self.value_clip)
        error, clipped_error = (values - batch.returns).square(), (clipped - batch.returns).square()
        loss = token_mean(torch.maximum(error, clipped_error) / 2, mask, totals.num_tokens)
        with torch.no_grad():
            metrics = {
                "value_error": token_mean(error, mask, totals.num_tokens),
                "value_clipped_fraction": masked_sum(clipped_error > error, mask) / totals.num_tokens,
            }
        return LossOutput(loss=loss, metrics=metrics)
