"""A sampler and a teacher in Ray actors, the product's own, around engines that sleep as long as work would take; for `overlap.py`.

The sampling engine runs all responses at once, a token of each at a time, so that a response is finished after a time in
proportion to its length. The teacher takes a time for every token that it is given.
"""

import random
import time
from collections.abc import Iterator, Sequence

import ray
import torch

from effopd.actors.sampler import RaySampler, SamplerActor, nothing_staged
from effopd.actors.supervision import Member, make_ready
from effopd.actors.teacher import RayTeacher, TeacherActor
from effopd.actors.weight_routes import WeightRoutes
from effopd.config.schema import Device, RolloutConfig
from effopd.handles import split_evenly
from effopd.production import Phase
from effopd.types import (
    FinishReason,
    GenerateRequest,
    PolicyVersion,
    Prompt,
    Publication,
    Rollout,
    ScoredRollout,
    TeacherPayload,
    TeacherScores,
)

MOST_TOKENS = 2000
MEDIAN_TOKENS = 400.0
SPREAD = 1.0
"""Standard deviation of the logarithm of a length."""


def response_len(prompt: Prompt) -> int:
    """Return how many tokens the response to `prompt` has: lognormal with a cap, and always the same for a prompt."""
    return min(round(random.Random(prompt.prompt_id).lognormvariate(0, SPREAD) * MEDIAN_TOKENS) + 1, MOST_TOKENS)


class SleepingSampler:
    """The engine of a sampler."""

    def __init__(self, seconds_per_token: float) -> None:
        self._seconds_per_token = seconds_per_token

    def load(self, publication: Publication) -> None:
        """Take any weights for what they are called."""

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> list[Rollout]:
        return [rollout for _, piece in self.stream(request, version, 1) for rollout in piece]

    def stream(
        self, request: GenerateRequest, version: PolicyVersion, num_pieces: int
    ) -> Iterator[tuple[int, list[Rollout]]]:
        started = time.monotonic()
        pieces = split_evenly(request.prompts, num_pieces)
        ends = [max(map(response_len, prompts)) * self._seconds_per_token for prompts in pieces]
        for number in sorted(range(num_pieces), key=ends.__getitem__):
            time.sleep(max(0.0, started + ends[number] - time.monotonic()))
            yield number, [self._rollout(prompt, version) for prompt in pieces[number]]

    def close(self) -> None:
        """Do nothing."""

    def _rollout(self, prompt: Prompt, version: PolicyVersion) -> Rollout:
        num_tokens = response_len(prompt)
        return Rollout(
            prompt_id=prompt.prompt_id,
            sample_index=0,
            prompt_token_ids=prompt.token_ids,
            response_token_ids=torch.zeros(num_tokens, dtype=torch.int64),
            rollout_logprobs=torch.zeros(num_tokens),
            text="",
            finish_reason=FinishReason.STOP,
            seed=0,
            policy_version=version,
        )


class SleepingTeacher:
    """The engine of a teacher."""

    def __init__(self, seconds_per_token: float) -> None:
        self._seconds_per_token = seconds_per_token

    def score(self, rollouts: Sequence[Rollout], payload: TeacherPayload) -> list[ScoredRollout]:
        time.sleep(sum(rollout.response_len for rollout in rollouts) * self._seconds_per_token)
        return [
            ScoredRollout(rollout=rollout, teacher=TeacherScores(sampled=rollout.rollout_logprobs))
            for rollout in rollouts
        ]


def _class_of(remote_class) -> type:
    return remote_class.__ray_metadata__.modified_class.__ray_actor_class__


class SleepingSamplerActor(_class_of(SamplerActor)):
    def __init__(self, seconds_per_token: float) -> None:
        super().__init__(RolloutConfig(), "", max_model_len=0, device=Device.cpu, seed=0)
        self._build = lambda: SleepingSampler(seconds_per_token)


class SleepingTeacherActor(_class_of(TeacherActor)):
    def __init__(self, seconds_per_token: float) -> None:
        super(_class_of(TeacherActor), self).__init__()
        self._engine = SleepingTeacher(seconds_per_token)


def start_sampler(seconds_per_token: float, num_pieces: int) -> Member:
    actor = ray.remote(SleepingSamplerActor).options(num_cpus=0, max_concurrency=num_pieces + 1)
    member = Member("sampler 0", actor.remote(seconds_per_token))
    make_ready(member)
    return member


def start_teacher(seconds_per_token: float) -> Member:
    return Member("teacher 0", ray.remote(SleepingTeacherActor).options(num_cpus=0).remote(seconds_per_token))


def sampler_role(member: Member, num_pieces: int, phase: Phase) -> RaySampler:
    """Return the sampler as a role for one learner rank, with weights 0.0."""
    role = RaySampler([member], WeightRoutes(receivers=(None,)), 1, phase, nothing_staged, num_pieces)
    role.load(Publication(version=PolicyVersion(step=0), segment="", buckets=(), checksum=""))
    return role


def teacher_role(member: Member, phase: Phase) -> RayTeacher:
    return RayTeacher([member], phase)
