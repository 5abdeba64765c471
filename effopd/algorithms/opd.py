"""On-policy distillation as the paper trains it: the sampled token's log-ratio as advantage in a clipped surrogate.

Source: arXiv 2605.11739, appendix C.1, and Thinking Machines, "On-Policy Distillation" (2025). How this differs from the
printed text:

1. Discount 0: the advantage of token t is its own log-ratio, not the sum of the later ones. The paper uses this
   approximation too. Its expected gradient is that of the exact KL at every sampled prefix, prefixes held fixed.
2. The importance weight corrects for the sampler's numerics and is truncated at 5, as in the authors' code.
3. The mean is over all response tokens of the step, on all ranks.

With `reward_coef` the group-normalised reward of GRPO is added to the log-ratio: distillation and outcome in one advantage.
With `teacher_scale` lambda other than 1 this is G-OPD (arXiv 2602.12125), whose optimum is proportional to
reference * (teacher / reference)^lambda; lambda above 1 goes beyond the teacher (ExOPD). The reference is the student as it
was before training. It has nothing to do with the anchor of weight extrapolation, which moves.
"""

from dataclasses import dataclass

import torch

from effopd.algorithms.advantages import group_normalised, over_response
from effopd.algorithms.divergence import reverse_kl_k1, reverse_kl_k3
from effopd.algorithms.masked import token_mean
from effopd.algorithms.policy_output import Head, PolicyOutput
from effopd.algorithms.surrogate import Clipping, truncated_importance_weights
from effopd.types import AlgorithmNeeds, LossOutput, ScoredBatch, StepTotals, TeacherPayload, TrainBatch


@dataclass(frozen=True, slots=True)
class OPD:
    """Sampled-token OPD."""

    clipping: Clipping
    importance_cap: float
    reward_coef: float = 0.0
    """Weight of the outcome's advantage beside the log-ratio, which is in nats; 0 asks no verifier."""
    teacher_scale: float = 1.0
    """Lambda of G-OPD; 1 asks no reference."""

    @property
    def needs(self) -> AlgorithmNeeds:
        return AlgorithmNeeds(
            teacher=TeacherPayload.SAMPLED, rewards=self.reward_coef > 0, reference=self.teacher_scale != 1
        )

    def prepare(self, batch: ScoredBatch) -> TrainBatch:
        """Return the batch to train on. Log-ratios need this step's log-probabilities and are formed in the loss."""
        assert batch.teacher_logprobs is not None, "OPD needs the teacher's log-probability of every sampled token"
        outcome = None
        if self.reward_coef > 0:
            assert batch.rewards is not None, "algo.reward_coef needs a reward for every response"
            outcome = over_response(group_normalised(batch.rewards, batch.group_index), batch.response_mask)
        return TrainBatch(
            token_ids=batch.token_ids,
            attention_mask=batch.attention_mask,
            response_mask=batch.response_mask,
            rollout_logprobs=batch.rollout_logprobs,
            teacher_logprobs=batch.teacher_logprobs,
            old_logprobs=batch.old_logprobs,
            reference_logprobs=batch.reference_logprobs,
            advantages=outcome,
        )

    def loss(
        self, batch: TrainBatch, output: PolicyOutput, teacher_head: Head | None, totals: StepTotals
    ) -> LossOutput:
        """Return this micro-batch's share of the mean surrogate over all response tokens."""
        assert batch.teacher_logprobs is not None
        logprobs, mask, num_tokens = output.logprobs, batch.response_mask, totals.num_tokens
        old_logprobs = logprobs.detach() if batch.old_logprobs is None else batch.old_logprobs
        advantages = -reverse_kl_k1(old_logprobs, batch.teacher_logprobs)
        if self.teacher_scale != 1:
            assert batch.reference_logprobs is not None, "algo.teacher_scale needs the reference's log-probabilities"
            beyond = batch.teacher_logprobs - batch.reference_logprobs
            advantages = advantages + (self.teacher_scale - 1) * beyond
        if batch.advantages is not None:
            advantages = advantages + self.reward_coef * batch.advantages
        per_token = self.clipping.loss(logprobs, old_logprobs, advantages)
        weights = truncated_importance_weights(old_logprobs, batch.rollout_logprobs, self.importance_cap)
        with torch.no_grad():
            detached = logprobs.detach()
            metrics = {
                "reverse_kl": token_mean(reverse_kl_k1(detached, batch.teacher_logprobs), mask, num_tokens),
                "reverse_kl_k3": token_mean(reverse_kl_k3(detached, batch.teacher_logprobs), mask, num_tokens),
                "sampler_gap": token_mean((old_logprobs - batch.rollout_logprobs).abs(), mask, num_tokens),
                "importance_weight": token_mean(weights, mask, num_tokens),
            }
        return LossOutput(loss=token_mean(weights * per_token, mask, num_tokens), metrics=metrics)
