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
from effopd.algorithms.surrogate import truncated_importance_weights
from effopd.types import LossOutput, ScoredBatch, TeacherPayload, TrainBatch


@dataclass(frozen=True, slots=True)
class FullVocabularyOPD:
    """Exact reverse KL at sampled prefixes."""

    importance_cap: float

    @property
    def teacher_payload(self) -> TeacherPayload:
        return TeacherPayload.HIDDEN_STATES

    def prepare(self, batch: ScoredBatch) -> TrainBatch:
        assert batch.teacher_hidden_states is not None, "the exact reverse KL needs the teacher's hidden states"
        return TrainBatch(
            token_ids=batch.token_ids,
            attention_mask=batch.attention_mask,
            response_mask=batch.response_mask,
            rollout_logprobs=batch.rollout_logprobs,
            teacher_hidden_states=batch.teacher_hidden_states,
            old_logprobs=batch.old_logprobs,
        )

    def loss(self, batch: TrainBatch, output: PolicyOutput, teacher_head: Head | None, num_tokens: int) -> LossOutput:
        """Return the mean exact reverse KL. The importance weight is that of the sampled token, which chose the prefix."""
        assert teacher_head is not None and batch.teacher_hidden_states is not None
        reverse_kl = policy_reverse_kl(output, teacher_head, batch.teacher_hidden_states)
        with torch.no_grad():
            logprobs = output.logprobs
            old_logprobs = logprobs if batch.old_logprobs is None else batch.old_logprobs
            weights = truncated_importance_weights(old_logprobs, batch.rollout_logprobs, self.importance_cap)
            metrics = {
                "reverse_kl": token_mean(reverse_kl.detach(), batch.response_mask, num_tokens),
                "sampler_gap": token_mean((logprobs - batch.rollout_logprobs).abs(), batch.response_mask, num_tokens),
                "importance_weight": token_mean(weights, batch.response_mask, num_tokens),
            }
        return LossOutput(loss=token_mean(weights * reverse_kl, batch.response_mask, num_tokens), metrics=metrics)


def policy_reverse_kl(output: PolicyOutput, teacher_head: Head, teacher_hidden_states: Tensor) -> Tensor:
    """Return KL(student || teacher) at every response token, [B, T], nats, chunk by chunk over the vocabulary axis."""

    def chunk(logits: Tensor, hidden: Tensor) -> Tensor:
        return exact_reverse_kl(logits, teacher_head(hidden).float())

    return output.per_token(chunk, teacher_hidden_states)
