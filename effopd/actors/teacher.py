"""The teacher actor: rollouts go in by reference, scores come out by reference. One that dies is replaced."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from itertools import chain, cycle

import ray
import torch
from ray import ObjectRef
from ray.actor import ActorHandle
from torch import Tensor

from effopd.actors.run_actor import RunActor
from effopd.actors.supervision import Member, Request, all_answers, answers_to, ask, make_ready
from effopd.config.schema import Device, TeacherConfig
from effopd.engines.deepspeed_setup import resolve_device
from effopd.engines.hf_teacher import HFTeacher
from effopd.errors import NotReadyError
from effopd.handles import regroup, split_evenly, summarise, to_train_on, with_sampled_reverse_kl
from effopd.types import Rollout, RolloutHandle, ScoredHandle, ScoredRollout, TeacherPayload

CALLS_PER_MEMBER = 8
"""At most, for one batch. Calls cost the driver time, and a teacher scores responses of one call together; but what a call
holds is in a teacher's memory at once, and is repeated when the teacher dies."""


@ray.remote
class TeacherActor(RunActor):
    """One frozen model."""

    def __init__(self, config: TeacherConfig, model_path: str, *, attn_implementation: str, device: Device) -> None:
        super().__init__()
        torch.set_num_threads(config.num_threads)
        self._build = partial(HFTeacher, config, model_path, attn_implementation=attn_implementation)
        self._device = device
        self._engine: HFTeacher | None = None

    def ready(self) -> None:
        """Return once the model is loaded and agrees with itself."""
        if self._engine is None:
            engine = self._build(device=resolve_device(self._device))
            engine.check_itself()
            self._engine = engine

    @property
    def _running(self) -> HFTeacher:
        if self._engine is None:
            raise NotReadyError("ready() comes first")
        return self._engine

    def head(self) -> Tensor:
        return self._running.head()

    def score(self, payload: TeacherPayload, *parts: Sequence[Rollout]) -> tuple:
        """Return the summaries of all parts, then every part scored."""
        rollouts = [rollout for part in parts for rollout in part]
        with self._lane.span("score"):
            scored = self._running.score(rollouts, payload)
        return with_sampled_reverse_kl(summarise(rollouts), scored), *regroup(scored, parts)

    def score_reference(self, *parts: Sequence[Rollout | ScoredRollout]) -> tuple:
        """Return nothing, for the driver to wait for, then every part scored."""
        items = to_train_on((item for part in parts for item in part), None)
        with self._lane.span("score"):
            scored = self._running.score_reference(items)
        return None, *regroup(scored, parts)


class RayTeacher:
    """All teacher replicas as one teacher."""

    def __init__(self, members: Sequence[Member], phase: Callable[[str], AbstractContextManager[None]]) -> None:
        self._members = members
        self._turns = cycle(members)
        self._phase = phase

    def score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> ScoredHandle:
        return self.begin_score(rollouts, payload)()

    def begin_score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> Callable[[], ScoredHandle]:
        def asking(parts: Sequence[object]) -> Callable[[ActorHandle], list[ObjectRef]]:
            return lambda actor: actor.score.options(num_returns=1 + len(parts)).remote(payload, *parts)

        with self._phase("score"):
            asked = ask(self._dealt(rollouts.parts, asking))

        def scored() -> ScoredHandle:
            with self._phase("score"):
                summaries, answers = all_answers(asked, "scoring", make_ready)
            return ScoredHandle(
                parts=_scored_parts(answers, rollouts.parts),
                summaries=tuple(summary for part in summaries for summary in part),
                policy_version=rollouts.policy_version,
            )

        return scored

    def score_reference(self, batch: ScoredHandle) -> ScoredHandle:
        def asking(parts: Sequence[object]) -> Callable[[ActorHandle], list[ObjectRef]]:
            return lambda actor: actor.score_reference.options(num_returns=1 + len(parts)).remote(*parts)

        with self._phase("score"):
            _, answers = answers_to(self._dealt(batch.parts, asking), "scoring", make_ready)
        return replace(batch, parts=_scored_parts(answers, batch.parts))

    def _dealt(
        self,
        parts: Sequence[Sequence[object]],
        asking: Callable[[Sequence[object]], Callable[[ActorHandle], list[ObjectRef]]],
    ) -> list[Request]:
        """Return requests that together hold every reference once, in order. Members take turns, also from batch to batch, for a
        piece of one may be a single request."""
        references = list(chain.from_iterable(parts))
        shares = [share for share in split_evenly(references, CALLS_PER_MEMBER * len(self._members)) if share]
        return [Request(next(self._turns), asking(share)) for share in shares]


def _scored_parts(
    answers: Sequence[Sequence[ObjectRef]], parts: Sequence[Sequence[object]]
) -> tuple[tuple[ObjectRef, ...], ...]:
    """Return what requests were answered with, behind the first of each answer, in the shape of `parts`."""
    scored = list(chain.from_iterable(answer[1:] for answer in answers))
    return tuple(map(tuple, regroup(scored, parts)))
