"""The teacher actor: rollouts go in by reference, scores come out by reference. One that dies is replaced."""

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial

import ray
import torch
from ray import ObjectRef
from ray.actor import ActorHandle
from torch import Tensor

from effopd.actors.lanes import HasLane
from effopd.actors.supervision import Member, Request, answers_to, make_ready
from effopd.config.schema import Device, TeacherConfig
from effopd.engines.deepspeed_setup import resolve_device
from effopd.engines.hf_teacher import HFTeacher
from effopd.errors import NotReadyError
from effopd.handles import summarise, to_train_on, with_sampled_reverse_kl
from effopd.types import Rollout, RolloutHandle, ScoredHandle, ScoredRollout, TeacherPayload


@ray.remote
class TeacherActor(HasLane):
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

    def score(self, rollouts: Sequence[Rollout], payload: TeacherPayload) -> tuple:
        """Return the summaries, then the scored rollouts."""
        with self._lane.span("score"):
            scored = self._running.score(rollouts, payload)
        return with_sampled_reverse_kl(summarise(rollouts), scored), scored

    def score_reference(self, items: Sequence[Rollout | ScoredRollout]) -> tuple:
        """Return nothing, for the driver to wait for, then the scored rollouts."""
        with self._lane.span("score"):
            return None, self._running.score_reference(to_train_on(items, None))


class RayTeacher:
    """All teacher replicas as one teacher."""

    def __init__(self, members: Sequence[Member], phase: Callable[[str], AbstractContextManager[None]]) -> None:
        self._members = members
        self._phase = phase

    def score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> ScoredHandle:
        def asking(reference: object) -> Callable[[ActorHandle], list[ObjectRef]]:
            return lambda actor: actor.score.options(num_returns=2).remote(reference, payload)

        with self._phase("score"):
            requests = self._dealt([asking(reference) for part in rollouts.parts for reference in part])
            summaries, answers = answers_to(requests, "scoring", make_ready)
        scored = iter(answer[1] for answer in answers)
        return ScoredHandle(
            parts=tuple(tuple(next(scored) for _ in part) for part in rollouts.parts),
            summaries=tuple(summary for part in summaries for summary in part),
            policy_version=rollouts.policy_version,
        )

    def score_reference(self, batch: ScoredHandle) -> ScoredHandle:
        def asking(reference: object) -> Callable[[ActorHandle], list[ObjectRef]]:
            return lambda actor: actor.score_reference.options(num_returns=2).remote(reference)

        with self._phase("score"):
            requests = self._dealt([asking(reference) for part in batch.parts for reference in part])
            _, answers = answers_to(requests, "scoring", make_ready)
        scored = iter(answer[1] for answer in answers)
        return replace(batch, parts=tuple(tuple(next(scored) for _ in part) for part in batch.parts))

    def _dealt(self, asks: Sequence[Callable[[ActorHandle], list[ObjectRef]]]) -> list[Request]:
        return [Request(self._members[index % len(self._members)], ask) for index, ask in enumerate(asks)]
