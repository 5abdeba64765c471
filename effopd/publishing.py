"""Bringing weights from the learner to the samplers, and making sure that they arrived.

A checksum proves that the bytes arrived. It does not prove that the engine uses them: vLLM packs weights after loading,
and a stale packed copy samples from old weights without any error. So a canary compares *sampled* log-probabilities of
fixed prompts with the learner's own forward, after the first publish and every `rollout.canary_every` publishes.
"""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager

from effopd.config.schema import Dtype
from effopd.errors import WeightSyncError
from effopd.roles import Learner, Sampler
from effopd.types import GenerateRequest, PolicyVersion, Prompt

CANARY_PROMPTS = 4
CANARY_TOKENS = 8
CANARY_TOLERANCE = {Dtype.float32: 1e-3, Dtype.bfloat16: 0.1}
"""Mean absolute difference in nats. A stale tied head is off by tenths of a nat in float32."""


class CheckedPublisher:
    """Publishes weights and runs the canary when it is due."""

    def __init__(
        self,
        learner: Learner,
        sampler: Sampler,
        prompts: Sequence[Prompt],
        *,
        every: int,
        dtype: Dtype,
        phase: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._learner = learner
        self._sampler = sampler
        self._request = GenerateRequest(
            prompts=tuple(prompts[:CANARY_PROMPTS]),
            num_samples=1,
            max_response_len=CANARY_TOKENS,
            temperature=1.0,
            top_p=1.0,
            seed=0,
        )
        self._every = every
        self._tolerance = CANARY_TOLERANCE[dtype]
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
        sampled = [
            value
            for rollout in self._sampler.preview(rollouts, CANARY_PROMPTS)
            for value in rollout.rollout_logprobs.tolist()
        ]
        own = [value for response in self._learner.response_logprobs(rollouts) for value in response]
        assert len(sampled) == len(own), f"the learner scored {len(own)} of {len(sampled)} canary tokens"
        gap = sum(abs(a - b) for a, b in zip(sampled, own, strict=True)) / len(own)
        if not gap <= self._tolerance:
            raise WeightSyncError(
                f"after publishing weights {version} the sampler's log-probabilities differ from the learner's by "
                f"{gap:.2g} nats on average (tolerance {self._tolerance}); the sampler holds stale or different weights, "
                "or rollout.dtype and learner.dtype are too far apart"
            )
