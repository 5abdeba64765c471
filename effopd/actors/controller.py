"""The controller actor: it runs triggers and gathers snapshots, so that neither passes through the driver."""

from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import ray
from ray.actor import ActorHandle

from effopd.accelerate import EffOPD, is_trigger
from effopd.actors.calls import wait_for
from effopd.actors.cast import ActorCast
from effopd.actors.run_actor import RunActor
from effopd.actors.watchdog import Watchdog, keep_watch
from effopd.candidates import TriggerRoles, TriggerSetting
from effopd.checkpoints.manifest import FileRecord
from effopd.config.schema import AccelerateConfig
from effopd.production import uncharged
from effopd.publishing import CheckedPublisher
from effopd.types import Gathered, Prompt, RunState, TriggerRecord

ROLE = "the controller"


@dataclass(frozen=True, slots=True, kw_only=True)
class TriggerSetup:
    """What a controller needs to know of a run."""

    accelerate: AccelerateConfig
    setting: TriggerSetting
    canary_prompts: tuple[Prompt, ...]
    canary_every: int
    canary_tolerance: float


def build_accelerator(setup: TriggerSetup, cast: ActorCast) -> EffOPD:
    learner, sampler = cast.learner(uncharged), cast.sampler(uncharged)
    roles = TriggerRoles(
        learner=learner,
        sampler=sampler,
        teacher=cast.teacher(uncharged),
        publisher=CheckedPublisher(
            learner,
            sampler,
            setup.canary_prompts,
            every=setup.canary_every,
            tolerance=setup.canary_tolerance,
            phase=uncharged,
        ),
        verifier=cast.verifier_role(),
    )
    return EffOPD(setup.accelerate, setup.setting, roles, uncharged)


@ray.remote
class ControllerActor(RunActor):
    """One process without an engine. `begin` starts the next run in it."""

    def begin(self, cast: ActorCast, setup: TriggerSetup, watchdog: Watchdog) -> None:
        keep_watch(watchdog)
        self._learner = cast.learner(uncharged)
        self._accelerator = build_accelerator(setup, cast)

    def try_jump(self, state: RunState, gathered: Gathered) -> TriggerRecord:
        with self._lane.span("trigger"):
            return self._accelerator.try_jump(state, gathered)

    def save(self, directory: Path) -> tuple[FileRecord, ...]:
        with self._lane.span("save"):
            return self._learner.save(directory)


class RayController:
    """The controller as the driver sees it: an accelerator that can also save."""

    def __init__(
        self,
        actor: ActorHandle,
        config: AccelerateConfig,
        num_steps: int,
        phase: Callable[[str], AbstractContextManager[None]],
    ) -> None:
        self._actor = actor
        self._config = config
        self._num_steps = num_steps
        self._phase = phase

    def is_due(self, step: int) -> bool:
        return is_trigger(self._config, step, self._num_steps)

    def try_jump(self, state: RunState, gathered: Gathered) -> TriggerRecord:
        with self._phase("gate"):
            return wait_for([self._actor.try_jump.remote(state, gathered)], ROLE, "trying a jump")[0]

    def save(self, directory: Path) -> tuple[FileRecord, ...]:
        with self._phase("save"):
            return wait_for([self._actor.save.remote(directory)], ROLE, "saving")[0]
