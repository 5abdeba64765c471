"""Bringing weights from the learner to the samplers, and making sure that they arrived.

A checksum proves that the bytes arrived. It does not prove that the engine uses them: vLLM packs weights after loading,
and a stale packed copy samples from old weights without any error. So a canary compares *sampled* log-probabilities of
fixed prompts with the learner's own forward, after the first publish and every `rollout.canary_every` publishes.
"""

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

import torch

from effopd.config.schema import Dtype
from effopd.errors import WeightSyncError
from effopd.roles import Learner, Sampler
from effopd.types import GenerateRequest, PolicyVersion, Prompt

CANARY_TOKENS = 8
CANARY_TOLERANCE = {Dtype.float32: 1e-3, Dtype.bfloat16: 0.1}
"""Mean absolute difference over a response, in nats. A stale tied head is off by tenths of a nat in float32."""


def num_canaries(num_samplers: int) -> int:
    """Return how many prompts a canary takes: enough for every sampler to answer two."""
    return max(4, 2 * num_samplers)


def canary_tolerance(learner_dtype: Dtype, sampler_dtype: Dtype) -> float:
    """Return the difference that the coarser of the two precisions explains."""
    return max(CANARY_TOLERANCE[learner_dtype], CANARY_TOLERANCE[sampler_dtype])


class CheckedPublisher:
    """Publishes weights and runs the canary when it is due."""

    def __init__(
        self,
        learner: Learner,
        sampler: Sampler,
        prompts: Sequence[Prompt],
        *,
        every: int,
        tolerance: float,
        phase: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._learner = learner
        self._sampler = sampler
        self._request = GenerateRequest(
            prompts=tuple(prompts),
            num_samples=1,
            max_response_len=CANARY_TOKENS,
            temperature=1.0,
            top_p=1.0,
            seed=0,
        )
        self._every = every
        self._tolerance = tolerance
        self._phase = phase
        self._num_publishes = 0

    def publish(self, version: PolicyVersion) -> None:
        """Load the learner's weights into every sampler. Raises WeightSyncError when the canary dies."""
        with self._phase("publish"):
            self._sampler.load(self._learner.stage(version))
            is_canary_due = self._num_publishes == 0 or (self._every and self._num_publishes % self._every == 0)
            self._num_publishes += 1
            if is_canary_due:
                self._run_canary(version)

    def _run_canary(self, version: PolicyVersion) -> None:
        rollouts = self._sampler.generate(self._request, version)
        sampled = self._sampler.preview(rollouts, len(self._request.prompts))
        own = self._learner.response_logprobs(rollouts)
        # Response by response, so that one stale sampler among many is not averaged away.
        gaps = [
            (rollout.rollout_logprobs - torch.tensor(logprobs)).abs().mean().item()
            for rollout, logprobs in zip(sampled, own, strict=True)
        ]
        worst = max(gaps, key=lambda gap: math.inf if math.isnan(gap) else gap)
        if not worst <= self._tolerance:
            raise WeightSyncError(
                f"after publishing weights {version} a sampler's log-probabilities differ from the learner's by "
                f"{worst:.2g} nats a token (tolerance {self._tolerance}); it holds stale or different weights, "
                "or rollout.dtype and learner.dtype are too far apart"
            )
