"""Samplers: one engine per actor, prompts spread over all of them. One that dies is replaced; see `supervision.py`."""

import itertools
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from effopd.actors.run_actor import RunActor
from effopd.actors.supervision import Member, Request, answers_to, get_from, make_ready
from effopd.actors.weight_routes import WeightRoutes, copies_of
from effopd.config.schema import Device, RolloutConfig
from effopd.engines.build import SamplerEngine, build_sampler
from effopd.errors import NotReadyError, WeightsLostError
from effopd.handles import part_of_prompt, split_by_prompt, split_evenly, summarise
from effopd.types import GenerateRequest, PolicyVersion, Prompt, Publication, Rollout, RolloutHandle, RolloutSummary

Staged = Callable[[], AbstractContextManager[Publication | None]]
"""Gives what lies in shared memory at the moment, for as long as the context is open; None if nothing does."""


def nothing_staged() -> AbstractContextManager[None]:
    return nullcontext()


@ray.remote
class SamplerActor(RunActor):
    """One engine."""

    def __init__(
        self, config: RolloutConfig, model_path: str, *, max_model_len: int, device: Device, seed: int
    ) -> None:
        super().__init__()
        # The engine starts in `ready`: what a constructor raises reaches nobody but as "the actor died".
        self._build = partial(build_sampler, config, model_path, max_model_len=max_model_len, device=device, seed=seed)
        self._engine: SamplerEngine | None = None
        self._has_weights = False

    def ready(self) -> None:
        """Return once the engine stands."""
        if self._engine is None:
            self._engine = self._build()

    @property
    def _running(self) -> SamplerEngine:
        if self._engine is None:
            raise NotReadyError("ready() comes first")
        return self._engine

    def first(self, rollouts: list[Rollout], num_rollouts: int) -> list[Rollout]:
        return rollouts[:num_rollouts]

    def load(self, publication: Publication) -> None:
        with self._lane.span("load"):
            self._running.load(publication)
        self._has_weights = True

    def generate(
        self, request: GenerateRequest, version: PolicyVersion, num_parts: int, start: int, num_prompts: int
    ) -> tuple:
        """Return the summaries of every part that is not empty, then these parts; see `handles.split_by_prompt`."""
        if not self._has_weights:
            raise NotReadyError("load() comes first")
        with self._lane.span("generate"):
            split = split_by_prompt(self._running.generate(request, version), num_parts, start, num_prompts)
        parts = [part for part in split if part]
        return tuple(summarise(part) for part in parts), *parts


class RaySampler:
    """All sampler actors as one sampler."""

    def __init__(
        self,
        members: Sequence[Member],
        routes: WeightRoutes,
        num_parts: int,
        phase: Callable[[str], AbstractContextManager[None]],
        staged: Staged,
    ) -> None:
        """`num_parts` is the number of learner ranks that handles are made for, `staged` what a replacement can load."""
        self._members = members
        self._routes = routes
        self._num_parts = num_parts
        self._phase = phase
        self._staged = staged

    def load(self, publication: Publication) -> None:
        routed = list(zip(self._members, self._routes.receivers, strict=True))
        near = [member for member, receiver in routed if receiver is None]
        far = [(member, receiver) for member, receiver in routed if receiver is not None]
        once = ray.put(publication)  # hundreds of slots, which would else be pickled for every sampler
        with ThreadPoolExecutor(1) as pool:
            copying = pool.submit(copies_of, publication, self._routes)
            # Whoever reads in place need not wait for the network.
            answers_to([_load(member, once) for member in near], "loading weights", make_ready)
            copies = copying.result()
        answers_to([_load(member, copies[receiver]) for member, receiver in far], "loading weights", make_ready)

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        """Sample. Raises WeightsLostError when a sampler had to be replaced and other weights are staged than `version`."""

        num_prompts = len(request.prompts)

        def asking(share: tuple[Prompt, ...], start: int, num_own: int) -> Callable[[ActorHandle], list[ObjectRef]]:
            return lambda actor: actor.generate.options(num_returns=1 + num_own).remote(
                replace(request, prompts=share), version, self._num_parts, start, num_prompts
            )

        requests, own_parts = [], []
        start = 0
        for member, share in zip(self._members, split_evenly(request.prompts, len(self._members)), strict=True):
            indices = range(start, start + len(share))
            own = sorted({part_of_prompt(index, num_prompts, self._num_parts) for index in indices})
            if own:
                requests.append(Request(member, asking(share, start, len(own))))
                own_parts.append(own)
            start += len(share)
        with self._phase("generate"):
            answered, answers = answers_to(requests, f"sampling from weights {version}", self._with_weights(version))
        parts: list[list[ObjectRef]] = [[] for _ in range(self._num_parts)]
        summaries: list[list[RolloutSummary]] = [[] for _ in range(self._num_parts)]
        for own, by_part, (_, *references) in zip(own_parts, answered, answers, strict=True):
            for part, of_part, reference in zip(own, by_part, references, strict=True):
                parts[part].append(reference)
                summaries[part] += of_part
        return RolloutHandle(
            parts=tuple(map(tuple, parts)),
            summaries=tuple(itertools.chain.from_iterable(summaries)),
            policy_version=version,
        )

    def preview(self, rollouts: RolloutHandle, num_rollouts: int) -> list[Rollout]:
        fetched: list[Rollout] = []
        for reference in (reference for part in rollouts.parts for reference in part):
            if len(fetched) >= num_rollouts:
                break
            ask = partial(_ask_for_first, reference, num_rollouts - len(fetched))
            # Nothing is restored here: whoever samples next from a new process will see that it is new.
            (answer,), _ = answers_to([Request(self._members[0], ask)], "showing responses", make_ready)
            fetched += answer
        return fetched[:num_rollouts]

    def groups(self, most: int) -> Sequence["RaySampler"]:
        shares = split_evenly(range(len(self._members)), min(most, len(self._members)))
        # While they hold different weights, what is staged is overwritten at any time.
        return [
            RaySampler(
                [self._members[index] for index in share],
                self._routes.to(share),
                self._num_parts,
                self._phase,
                nothing_staged,
            )
            for share in shares
        ]

    def _with_weights(self, version: PolicyVersion) -> Callable[[Member], None]:
        def restore(member: Member) -> None:
            make_ready(member)
            route = self._routes.to([[other.name for other in self._members].index(member.name)])
            (receiver,) = route.receivers
            with self._staged() as publication:
                if publication is None or publication.version != version:
                    raise WeightsLostError(f"{member.name} was replaced, and weights {version} are not staged any more")
                near = publication if receiver is None else copies_of(publication, route)[receiver]
                get_from(member, member.actor.load.remote(near), "loading weights")

        return restore


def _load(member: Member, publication: ObjectRef) -> Request:
    return Request(member, lambda actor: [actor.load.remote(publication)])


def _ask_for_first(reference: object, num_rollouts: int, actor: ActorHandle) -> list[ObjectRef]:
    return [actor.first.remote(reference, num_rollouts)]
