"""Samplers: one engine per actor, prompts spread over all of them."""

import itertools
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

import ray
from ray.actor import ActorHandle

from effopd.actors.calls import wait_for
from effopd.actors.weight_routes import WeightRoutes, load_weights
from effopd.config.schema import Device, RolloutConfig
from effopd.engines.build import SamplerEngine, build_sampler
from effopd.handles import split_by_prompt, split_evenly, summarise
from effopd.types import GenerateRequest, PolicyVersion, Publication, Rollout, RolloutHandle

ROLE = "a sampler"


@ray.remote
class SamplerActor:
    """One engine."""

    def __init__(
        self, config: RolloutConfig, model_path: str, *, max_model_len: int, device: Device, seed: int
    ) -> None:
        # The engine starts in `ready`: what a constructor raises reaches nobody but as "the actor died".
        self._build = partial(build_sampler, config, model_path, max_model_len=max_model_len, device=device, seed=seed)
        self._engine: SamplerEngine | None = None

    def ready(self) -> None:
        """Return once the engine stands."""
        if self._engine is None:
            self._engine = self._build()

    @property
    def _running(self) -> SamplerEngine:
        assert self._engine is not None, "ready() comes first"
        return self._engine

    def first(self, rollouts: list[Rollout], num_rollouts: int) -> list[Rollout]:
        return rollouts[:num_rollouts]

    def load(self, publication: Publication) -> None:
        self._running.load(publication)

    def generate(self, request: GenerateRequest, version: PolicyVersion, num_parts: int, first_part: int) -> tuple:
        """Return the summaries of every part, then the parts."""
        parts = split_by_prompt(self._running.generate(request, version), num_parts, first_part)
        return tuple(summarise(part) for part in parts), *parts


class RaySampler:
    """All sampler actors as one sampler."""

    def __init__(
        self,
        actors: Sequence[ActorHandle],
        routes: WeightRoutes,
        num_parts: int,
        phase: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        """`num_parts` is the number of learner ranks that handles are made for."""
        self._actors = actors
        self._routes = routes
        self._num_parts = num_parts
        self._phase = phase

    def load(self, publication: Publication) -> None:
        load_weights(publication, self._actors, self._routes, ROLE)

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        with self._phase("generate"):
            shares = split_evenly(request.prompts, len(self._actors))
            starts = [0, *itertools.accumulate(len(share) for share in shares)]
            answers = [
                actor.generate.options(num_returns=1 + self._num_parts).remote(
                    replace(request, prompts=share), version, self._num_parts, start
                )
                for actor, share, start in zip(self._actors, shares, starts, strict=False)
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
            fetched += wait_for([self._actors[0].first.remote(reference, num_rollouts - len(fetched))], ROLE)[0]
        return fetched[:num_rollouts]

    def engines(self) -> Sequence["RaySampler"]:
        return [
            RaySampler([actor], self._routes.to(index), self._num_parts, self._phase)
            for index, actor in enumerate(self._actors)
        ]
