"""Sampler, teacher and learner actors without an engine and without torch, for `control_plane.py`.

They have the methods that a training step calls, and answer at once with what an engine would have made: the product's own
rollouts and scores, of the right size, through the product's own splitting, summaries and pickling. A process with torch
takes 0.26 GB, too much for a hundred of them on one small machine. So in an actor's process, where Ray is
connected before this module is loaded, a few lines of numpy take its name.
"""

import sys
from collections.abc import Mapping, Sequence
from types import ModuleType

import numpy as np
import ray


class ArrayAsTensor(np.ndarray):
    """What this module and `effopd.handles` ask of a tensor."""

    def numel(self) -> int:
        return self.size

    def double(self) -> np.ndarray:
        return self.astype(np.float64)

    def numpy(self) -> np.ndarray:
        return self.view(np.ndarray)


def numpy_as_torch() -> ModuleType:
    module = ModuleType("torch")
    module.Tensor = ArrayAsTensor
    module.bfloat16 = object()  # nothing is of this type
    module.tensor = lambda values: np.array(values).view(ArrayAsTensor)
    return module


if ray.is_initialized():
    sys.modules["torch"] = numpy_as_torch()

import torch  # noqa: E402

from effopd.handles import regroup, split_by_prompt, summarise, to_train_on, with_sampled_reverse_kl  # noqa: E402
from effopd.seeds import sample_seed  # noqa: E402
from effopd.types import (  # noqa: E402
    FinishReason,
    GenerateRequest,
    PolicyVersion,
    Publication,
    Rollout,
    ScoredRollout,
    TeacherPayload,
    TeacherScores,
    TensorSlot,
    UpdateReport,
)

LOGPROB = -1.5
TEXT_PER_TOKEN = 3.5
"""Characters; about what English mathematics takes."""


class FakeSampler:
    """Answers every prompt with the longest response, as long as its request allows."""

    def ready(self) -> None:
        """Return at once."""

    def load(self, publication: Publication) -> None:
        """Forget the publication."""

    def first(self, rollouts: list[Rollout], num_rollouts: int) -> list[Rollout]:
        return rollouts[:num_rollouts]

    def generate(
        self, request: GenerateRequest, version: PolicyVersion, num_parts: int, start: int, num_prompts: int
    ) -> tuple:
        num_tokens = request.max_response_len
        token_ids = np.arange(num_tokens, dtype=np.int64)
        logprobs = np.full(num_tokens, LOGPROB, dtype=np.float32)
        text = "x" * round(TEXT_PER_TOKEN * num_tokens)
        rollouts = [
            Rollout(
                prompt_id=prompt.prompt_id,
                sample_index=index,
                prompt_token_ids=prompt.token_ids,
                # An object of its own each time: pickle sends what it meets twice only once.
                response_token_ids=torch.tensor(token_ids),
                rollout_logprobs=torch.tensor(logprobs),
                text=f"{prompt.prompt_id}{index}{text}",
                finish_reason=FinishReason.LENGTH,
                seed=sample_seed(request.seed, prompt.prompt_id, index),
                policy_version=version,
            )
            for prompt in request.prompts
            for index in range(request.num_samples)
        ]
        parts = [part for part in split_by_prompt(rollouts, num_parts, start, num_prompts) if part]
        return tuple(summarise(part) for part in parts), *parts


class FakeTeacher:
    """Agrees with the policy."""

    def ready(self) -> None:
        """Return at once."""

    def score(self, payload: TeacherPayload, *parts: Sequence[Rollout]) -> tuple:
        assert payload is TeacherPayload.SAMPLED
        rollouts = [rollout for part in parts for rollout in part]
        scored = [
            ScoredRollout(
                rollout=rollout,
                teacher=TeacherScores(sampled=torch.tensor(np.full(rollout.response_len, LOGPROB, np.float32))),
            )
            for rollout in rollouts
        ]
        return with_sampled_reverse_kl(summarise(rollouts), scored), *regroup(scored, parts)


class FakeLearner:
    """Rank `rank` of a learner that learns nothing and publishes `num_tensors` tensors that nobody reads."""

    def __init__(self, rank: int, num_tensors: int) -> None:
        self._rank = rank
        self._num_tensors = num_tensors

    def ready(self) -> None:
        """Return at once."""

    def update(
        self, rewards: Mapping[tuple[str, int], float] | None, *parts: Sequence[Rollout | ScoredRollout]
    ) -> UpdateReport:
        items = to_train_on((item for part in parts for item in part), rewards)
        assert all(item.teacher is not None for item in items)
        num_tokens = sum(item.rollout.response_len for item in items)
        return UpdateReport(num_response_tokens=num_tokens, metrics={"loss": 0.0, "reverse_kl": 0.0})

    def stage(self, version: PolicyVersion) -> Publication | None:
        if self._rank > 0:
            return None
        slots = tuple(
            TensorSlot(
                name=f"model.layers.{index // 11}.self_attn.q_proj.weight{index % 11}",
                dtype="bfloat16",
                shape=(4096, 4096),
                offset=index * 2**25,
                num_bytes=2**25,
            )
            for index in range(self._num_tensors)
        )
        return Publication(version=version, segment="/dev/null", buckets=(slots,), checksum="0" * 32)

    def staged(self) -> Publication | None:
        return None

    def response_logprobs(self, *parts: Sequence[Rollout]) -> list[list[float]]:
        return [rollout.rollout_logprobs.tolist() for part in parts for rollout in part]
