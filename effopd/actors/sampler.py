"""Samplers: one engine per actor, prompts spread over all of them. One that dies is replaced; see `supervision.py`."""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial
from typing import Any

import ray
from ray import ObjectRef
from ray.actor import ActorHandle

from effopd.actors.pieces import PieceRequest, Sharing
from effopd.actors.run_actor import RunActor
from effopd.actors.supervision import (
    Answer,
    Member,
    Request,
    answers_as_they_come,
    answers_to,
    ask,
    get_from,
    make_ready,
)
from effopd.actors.weight_routes import WeightRoutes, copies_of
from effopd.background import Background
from effopd.config.schema import Device, RolloutConfig
from effopd.engines.build import SamplerEngine, build_sampler
from effopd.errors import NotReadyError, WeightsLostError
from effopd.handles import joined, part_of_prompt, split_by_prompt, split_evenly, summarise
from effopd.timeline import Span
from effopd.types import GenerateRequest, PolicyVersion, Prompt, Publication, Rollout, RolloutHandle

Staged = Callable[[], AbstractContextManager[Publication | None]]
"""Gives what lies in shared memory at the moment, for as long as the context is open; None if nothing does."""


def nothing_staged() -> AbstractContextManager[None]:
    return nullcontext()


@ray.remote
class SamplerActor(RunActor):
    """One engine, on a thread of its own: it is started, loaded and run there, one thing after another, whichever of Ray's
    threads a call comes on."""

    def __init__(
        self, config: RolloutConfig, model_path: str, *, max_model_len: int, device: Device, seed: int
    ) -> None:
        super().__init__()
        # The engine starts in `ready`: what a constructor raises reaches nobody but as "the actor died".
        self._build = partial(build_sampler, config, model_path, max_model_len=max_model_len, device=device, seed=seed)
        self._engine: SamplerEngine | None = None
        self._has_weights = False
        self._thread: Background[Any] = Background("engine")
        self._sharing = Sharing()

    def ready(self) -> None:
        """Return once the engine stands."""
        self._thread.submit(self._start).result()

    def _start(self) -> None:
        if self._engine is None:
            self._engine = self._build()

    @property
    def _running(self) -> SamplerEngine:
        if self._engine is None:
            raise NotReadyError("ready() comes first")
        return self._engine

    def spans(self) -> tuple[Span, ...]:
        return self._thread.submit(self._lane.spans).result()  # behind what the engine is at, whose span is not over

    def first(self, rollouts: list[Rollout], num_rollouts: int) -> list[Rollout]:
        return rollouts[:num_rollouts]

    def load(self, publication: Publication) -> None:
        self._thread.submit(partial(self._load, publication)).result()

    def _load(self, publication: Publication) -> None:
        with self._lane.span("load"):
            self._running.load(publication)
        self._has_weights = True

    def generate(
        self, request: GenerateRequest, version: PolicyVersion, num_parts: int, start: int, num_prompts: int
    ) -> tuple:
        """Return the summaries of every part that is not empty, then these parts; see `handles.split_by_prompt`."""
        (sampled,) = self._begin(request, version, num_pieces=1)
        return _in_parts(sampled.result(), num_parts, start, num_prompts)

    def piece(self, asked: PieceRequest) -> tuple:
        """Return the same of one piece of a share, as soon as that is finished."""

        def begin() -> list[Future[list[Rollout]]]:
            return self._begin(ray.get(asked.share), asked.version, asked.num_pieces)

        sampled = self._sharing.take(asked, begin).result()
        return _in_parts(sampled, asked.num_parts, asked.start, asked.num_prompts)

    def _begin(self, request: GenerateRequest, version: PolicyVersion, num_pieces: int) -> list[Future[list[Rollout]]]:
        """Return the pieces that `request` will be sampled in."""
        if not self._has_weights:
            raise NotReadyError("load() comes first")
        pieces: list[Future[list[Rollout]]] = [Future() for _ in range(num_pieces)]
        self._thread.submit(partial(self._sample, request, version, pieces))
        return pieces

    def _sample(
        self, request: GenerateRequest, version: PolicyVersion, pieces: Sequence[Future[list[Rollout]]]
    ) -> None:
        try:
            with self._lane.span("generate"):
                for number, rollouts in self._running.stream(request, version, len(pieces)):
                    pieces[number].set_result(rollouts)
            assert all(piece.done() for piece in pieces), "the engine ended without a piece"
        except BaseException as error:  # whoever waits for a piece is told
            for piece in pieces:
                if not piece.done():
                    piece.set_exception(error)


def _in_parts(rollouts: list[Rollout], num_parts: int, start: int, num_prompts: int) -> tuple:
    parts = [part for part in split_by_prompt(rollouts, num_parts, start, num_prompts) if part]
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
        num_pieces: int = 1,
    ) -> None:
        """`num_parts` is the number of learner ranks that handles are made for, `staged` what a replacement can load,
        `num_pieces` is `pipeline.num_pieces`."""
        self._members = members
        self._routes = routes
        self._num_parts = num_parts
        self._phase = phase
        self._staged = staged
        self._num_pieces = num_pieces

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
        for member, share, start in self._shares(request.prompts):
            own_parts.append(self._parts_of(start, len(share), num_prompts))
            requests.append(Request(member, asking(share, start, len(own_parts[-1]))))
        with self._phase("generate"):
            answers = sorted(self._answers(requests, version), key=lambda answer: answer.number)
        return joined([self._handle(answer, own_parts[answer.number], version) for answer in answers])

    def stream(self, request: GenerateRequest, version: PolicyVersion) -> Iterator[tuple[int, RolloutHandle]]:
        """Sample, and yield `num_pieces` pieces of every sampler's share; with one, the whole batch. Errors are those of
        `generate`."""
        if self._num_pieces == 1:
            yield 0, self.generate(request, version)
            return
        num_prompts = len(request.prompts)

        def asking(asked: PieceRequest, num_own: int) -> Callable[[ActorHandle], list[ObjectRef]]:
            return lambda actor: actor.piece.options(num_returns=1 + num_own).remote(asked)

        requests, own_parts = [], []
        for member, share, start in self._shares(request.prompts):
            # Once, and not in every call: prompts can be long.
            reference = ray.put(replace(request, prompts=share))
            pieces = split_evenly(share, min(self._num_pieces, len(share)))
            for number, prompts in enumerate(pieces):
                asked = PieceRequest(
                    share=reference,
                    version=version,
                    num_pieces=len(pieces),
                    piece=number,
                    num_parts=self._num_parts,
                    start=start,
                    num_prompts=num_prompts,
                )
                own_parts.append(self._parts_of(start, len(prompts), num_prompts))
                requests.append(Request(member, asking(asked, len(own_parts[-1]))))
                start += len(prompts)
        answers = self._answers(requests, version)
        while True:
            with self._phase("generate"):
                answer = next(answers, None)
            if answer is None:
                return
            yield answer.number, self._handle(answer, own_parts[answer.number], version)

    def _answers(self, requests: Sequence[Request], version: PolicyVersion) -> Iterator[Answer]:
        doing = f"sampling from weights {version}"
        yield from answers_as_they_come(ask(requests), doing, self._with_weights(version))

    def _shares(self, prompts: tuple[Prompt, ...]) -> Iterator[tuple[Member, tuple[Prompt, ...], int]]:
        """Yield the members that have something to do, their prompts, and the number of the first of them."""
        start = 0
        for member, share in zip(self._members, split_evenly(prompts, len(self._members)), strict=True):
            if share:
                yield member, share, start
            start += len(share)

    def _parts_of(self, start: int, num_own: int, num_prompts: int) -> list[int]:
        """Return the parts that `num_own` prompts from number `start` on belong to."""
        indices = range(start, start + num_own)
        return sorted({part_of_prompt(index, num_prompts, self._num_parts) for index in indices})

    def _handle(self, answer: Answer, own_parts: list[int], version: PolicyVersion) -> RolloutHandle:
        """Return the handle of one answer, which holds `own_parts`."""
        parts: list[tuple[object, ...]] = [()] * self._num_parts
        for part, reference in zip(own_parts, answer.references[1:], strict=True):
            parts[part] = (reference,)
        summaries = tuple(summary for of_part in answer.first for summary in of_part)
        return RolloutHandle(parts=tuple(parts), summaries=summaries, policy_version=version)

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
                self._num_pieces,
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
