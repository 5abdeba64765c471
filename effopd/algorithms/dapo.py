"""DAPO: GRPO's advantages with a wider upper clip, a mean over tokens, no KL, and a soft punishment of long responses.

Source: Yu et al., DAPO, arXiv 2503.14476, sections 3.1 to 3.4. Clip-higher is `algo.clip_high`; dynamic sampling, which
replaces groups whose responses are all right or all wrong, happens where rollouts are gathered (`effopd.gathering`) and
looks at the verifier's score before any punishment. Beyond the paper: truncated importance weights for the sampler's
numerics, and dual clip (set it high to be without).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from effopd.algorithms.advantages import group_normalised, over_response
from effopd.algorithms.grpo import reward_surrogate
from effopd.algorithms.masked import token_mean
from effopd.algorithms.policy_output import Head, PolicyOutput
from effopd.algorithms.surrogate import Clipping
from effopd.types import AlgorithmNeeds, LossOutput, ScoredBatch, StepTotals, TrainBatch


@dataclass(frozen=True, slots=True)
class DAPO:
    clipping: Clipping
    importance_cap: float
    max_response_len: int
    overlong_buffer: int
    """Tokens before the limit in which the punishment grows from 0 to 1; 0 punishes nothing."""

    @property
    def needs(self) -> AlgorithmNeeds:
        return AlgorithmNeeds(rewards=True)

    def prepare(self, batch: ScoredBatch) -> TrainBatch:
        """Return the batch with group-normalised advantages of the shaped rewards."""
        assert batch.rewards is not None, "DAPO needs a reward for every response"
        rewards = batch.rewards
        if self.overlong_buffer > 0:
            lengths = batch.response_mask.sum(-1)
            rewards = rewards + overlong_punishment(lengths, self.max_response_len, self.overlong_buffer)
        return TrainBatch(
            token_ids=batch.token_ids,
            attention_mask=batch.attention_mask,
            response_mask=batch.response_mask,
            rollout_logprobs=batch.rollout_logprobs,
            old_logprobs=batch.old_logprobs,
            advantages=over_response(group_normalised(rewards, batch.group_index), batch.response_mask),
        )

    def loss(
        self, batch: TrainBatch, output: PolicyOutput, teacher_head: Head | None, totals: StepTotals
    ) -> LossOutput:
        """Return this micro-batch's share of the mean over all response tokens."""
        per_token, metrics = reward_surrogate(batch, output.logprobs, self.clipping, self.importance_cap, totals)
        return LossOutput(loss=token_mean(per_token, batch.response_mask, totals.num_tokens), metrics=metrics)


def overlong_punishment(lengths: Tensor, max_response_len: int, buffer: int) -> Tensor:
    """Return what is added to the reward of responses of `lengths` tokens, [B], in [-1, 0] (DAPO, eq. 13).

    Up to max_response_len - buffer tokens 0, then falling linearly to -1 at max_response_len.
    """
    return ((max_response_len - buffer - lengths) / buffer).clamp(-1.0, 0.0).to(torch.float32)
