"""Samplers: one engine per actor, prompts spread over all of them."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace

import ray
from ray.actor import ActorHandle

from effopd.actors.calls import wait_for
from effopd.config.schema import Device, RolloutConfig
from effopd.engines.build import build_sampler
from effopd.handles import split_by_prompt, split_evenly, summarise
from effopd.types import GenerateRequest, PolicyVersion, Publication, Rollout, RolloutHandle

ROLE = "a sampler"


@ray.remote
class SamplerActor:
    """One engine."""

    def __init__(
        self, config: RolloutConfig, model_path: str, *, max_model_len: int, device: Device, seed: int
    ) -> None:
        self._engine = build_sampler(config, model_path, max_model_len=max_model_len, device=device, seed=seed)

    def ready(self) -> None:
        """Return once the engine stands."""

    def load(self, publication: Publication) -> None:
        self._engine.load(publication)

    def generate(self, request: GenerateRequest, version: PolicyVersion, num_parts: int) -> tuple:
        """Return the summaries of every part, then the parts."""
        parts = split_by_prompt(self._engine.generate(request, version), num_parts)
        return tuple(summarise(part) for part in parts), *parts


class RaySampler:
    """All sampler actors as one sampler."""

    def __init__(
        self, actors: Sequence[ActorHandle], num_parts: int, phase: Callable[[str], AbstractContextManager[None]]
    ) -> None:
        """`num_parts` is the number of learner ranks that handles are made for."""
        self._actors = actors
        self._num_parts = num_parts
        self._phase = phase

    def load(self, publication: Publication) -> None:
        wait_for([actor.load.remote(publication) for actor in self._actors], ROLE)

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        with self._phase("generate"):
            shares = split_evenly(request.prompts, len(self._actors))
            answers = [
                actor.generate.options(num_returns=1 + self._num_parts).remote(
                    replace(request, prompts=share), version, self._num_parts
                )
                for actor, share in zip(self._actors, shares, strict=True)
                if share
            ]
            summaries = wait_for([answer[0] for answer in answers], ROLE)
        ranks = range(self._num_parts)
        return RolloutHandle(
            parts=tuple(tuple(answer[1 + rank] for answer in answers) for rank in ranks),
            summaries=tuple(summary for rank in ranks for by_part in summaries for summary in by_part[rank]),
            policy_version=version,
        )

    def preview(self, rollouts: RolloutHandle, num_rollouts: int) -> list[Rollout]:
        fetched: list[Rollout] = []
        for reference in (reference for part in rollouts.parts for reference in part):
            if len(fetched) >= num_rollouts:
                break
            fetched += wait_for([reference], ROLE)[0]
        return fetched[:num_rollouts]
