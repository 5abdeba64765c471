"""On-policy distillation with the exact reverse KL over the whole vocabulary at every sampled prefix.

Same expected gradient as `opd.py` (both hold the prefixes fixed), without the sampled token's noise. It needs the
teacher's full distribution, which travels as hidden states and meets the teacher's head beside the learner.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from effopd.algorithms.logprobs import exact_reverse_kl
from effopd.algorithms.masked import token_mean
from effopd.algorithms.policy_output import Head, PolicyOutput
from effopd.types import AlgorithmNeeds, LossOutput, ScoredBatch, StepTotals, TeacherPayload, TrainBatch


@dataclass(frozen=True, slots=True)
class FullVocabularyOPD:
    """Exact reverse KL at sampled prefixes.

    There is no importance weight: the divergence at t does not depend on the token that was sampled at t, so that
    token's weight would be noise, and the weight of a whole prefix is a product that explodes.
    """

    @property
    def needs(self) -> AlgorithmNeeds:
        return AlgorithmNeeds(teacher=TeacherPayload.HIDDEN_STATES)

    def prepare(self, batch: ScoredBatch) -> TrainBatch:
        assert batch.teacher_hidden_states is not None, "the exact reverse KL needs the teacher's hidden states"
        return TrainBatch(
            token_ids=batch.token_ids,
            attention_mask=batch.attention_mask,
            response_mask=batch.response_mask,
            rollout_logprobs=batch.rollout_logprobs,
            old_logprobs=batch.old_logprobs,
            teacher_hidden_states=batch.teacher_hidden_states,
        )

    def loss(
        self, batch: TrainBatch, output: PolicyOutput, teacher_head: Head | None, totals: StepTotals
    ) -> LossOutput:
        """Return this micro-batch's share of the mean exact reverse KL over all response tokens."""
        assert teacher_head is not None and batch.teacher_hidden_states is not None
        reverse_kl = policy_reverse_kl(output, teacher_head, batch.teacher_hidden_states)
        loss = token_mean(reverse_kl, batch.response_mask, totals.num_tokens)
        with torch.no_grad():
            old_logprobs = output.logprobs if batch.old_logprobs is None else batch.old_logprobs
            gap = (old_logprobs - batch.rollout_logprobs).abs()
            metrics = {
                "reverse_kl": loss.detach(),
                "sampler_gap": token_mean(gap, batch.response_mask, totals.num_tokens),
            }
        return LossOutput(loss=loss, metrics=metrics)


def policy_reverse_kl(output: PolicyOutput, teacher_head: Head, teacher_hidden_states: Tensor) -> Tensor:
    """Return KL(student || teacher) at every response token, [B, T], nats, chunk by chunk over the vocabulary axis."""

    def chunk(logits: Tensor, hidden: Tensor) -> Tensor:
        return exact_reverse_kl(logits, teacher_head(hidden).float())

    return output.per_token(chunk, teacher_hidden_states)
