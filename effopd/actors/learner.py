"""The learner: one actor per ZeRO rank, called together, none ever left waiting inside a collective."""

import gc
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import cast

import ray
from ray.actor import ActorHandle
from torch import Tensor

from effopd.actors.calls import wait_for
from effopd.actors.run_actor import RunActor
from effopd.checkpoints.learner_state import LearnerProgress, save_learner
from effopd.checkpoints.manifest import FileRecord
from effopd.engines.build import LearnerSetup, build_learner
from effopd.engines.deepspeed_learner import DeepSpeedLearner
from effopd.engines.rendezvous import meet_at_port
from effopd.handles import rewards_of, to_train_on
from effopd.types import (
    Displacement,
    Fragment,
    KLSum,
    PolicyVersion,
    Publication,
    Rollout,
    RolloutHandle,
    ScoredHandle,
    ScoredRollout,
    Settlement,
    ShardKind,
    UpdateReport,
)

ROLE = "a learner rank"


@ray.remote
class LearnerActor(RunActor):
    """One rank. The process outlives a run; `begin` starts the next one in it."""

    def __init__(self, rank: int, world_size: int) -> None:
        super().__init__()
        self._rank = rank
        self._world_size = world_size
        self._learner: DeepSpeedLearner | None = None
        self._staged: Publication | None = None
        self._port: str | None = None
        self._folder = TemporaryDirectory()  # stays as long as the process group may ask for it

    def file_to_meet(self) -> str:
        """Return where ranks of this machine can meet: a file, for a port would be open to others."""
        return f"file://{self._folder.name}/rendezvous"

    def port_to_meet(self) -> str:
        """Return where ranks of several machines can meet: always the same port, of the address that Ray was given."""
        if self._port is None:
            self._port = meet_at_port(ray.util.get_node_ip_address())
        return self._port

    def begin(self, setup: LearnerSetup, teacher_head: Tensor | None, init_method: str) -> None:
        # The old engine goes before the new one comes: two at once would need twice the memory.
        old, self._learner, self._staged = self._learner, None, None
        if old is not None:
            old.close()
            del old
            gc.collect()
        self._learner = build_learner(
            setup, teacher_head, rank=self._rank, world_size=self._world_size, init_method=init_method
        )

    def update(
        self, rewards: Mapping[tuple[str, int], float] | None, *parts: Sequence[Rollout | ScoredRollout]
    ) -> UpdateReport:
        with self._lane.span("update"):
            return self._engine.update(to_train_on((item for part in parts for item in part), rewards))

    def stage(self, version: PolicyVersion) -> Publication | None:
        with self._lane.span("publish"):
            self._staged = self._engine.stage(version)
        return self._staged

    def staged(self) -> Publication | None:
        """Return what was staged last, for a sampler that has to load it again. None except on rank 0."""
        return self._staged

    def response_logprobs(self, *parts: Sequence[Rollout]) -> list[list[float]]:
        with self._lane.span("canary"):
            return self._engine.response_logprobs([rollout for part in parts for rollout in part])

    def reverse_kl(self, *parts: Sequence[ScoredRollout]) -> list[KLSum]:
        with self._lane.span("reverse_kl"):
            return self._engine.reverse_kl([rollout for part in parts for rollout in part])

    def open_trigger(self) -> Displacement:
        with self._lane.span("trigger"):
            return self._engine.open_trigger()

    def write_candidate(self, step_size: float) -> None:
        with self._lane.span("trigger"):
            self._engine.write_candidate(step_size)

    def close_trigger(self, settlement: Settlement) -> None:
        with self._lane.span("trigger"):
            self._engine.close_trigger(settlement)

    def roll_back(self) -> None:
        with self._lane.span("trigger"):
            self._engine.roll_back()

    def fragments(self) -> list[Fragment]:
        return self._engine.fragments()

    def critic_fragments(self) -> list[Fragment]:
        return self._engine.critic_fragments()

    def progress(self) -> LearnerProgress:
        return self._engine.progress()

    def read(self, kind: ShardKind, names: Sequence[str]) -> dict[str, Tensor]:
        with self._lane.span("save"):
            return self._engine.read(kind, names)

    def load_state(self, directory: Path) -> None:
        self._engine.load_state(directory)

    @property
    def _engine(self) -> DeepSpeedLearner:
        assert self._learner is not None, "begin() comes first"
        return self._learner


class RayLearner:
    """All ranks as one learner. Results that are the same on every rank are taken from rank 0.

    Every call raises ActorLostError when a rank died: nobody else has its shard.
    """

    def __init__(self, actors: Sequence[ActorHandle], phase: Callable[[str], AbstractContextManager[None]]) -> None:
        self._actors = actors
        self._phase = phase

    def update(self, batches: Sequence[ScoredHandle]) -> UpdateReport:
        with self._phase("train"):
            rewards = rewards_of(batches)
            calls = [
                actor.update.remote(rewards, *(reference for batch in batches for reference in batch.parts[rank]))
                for rank, actor in enumerate(self._actors)
            ]
            return wait_for(calls, ROLE, "training")[0]

    def stage(self, version: PolicyVersion) -> Publication:
        calls = [actor.stage.remote(version) for actor in self._actors]
        return cast(Publication, wait_for(calls, ROLE, f"publishing weights {version}")[0])

    def staged(self) -> Publication | None:
        """Return what lies in shared memory now."""
        return wait_for([self._actors[0].staged.remote()], ROLE, "publishing")[0]

    def response_logprobs(self, rollouts: RolloutHandle) -> list[list[float]]:
        own_parts = zip(self._actors, rollouts.parts, strict=True)
        calls = [actor.response_logprobs.remote(*part) for actor, part in own_parts]
        return [values for answer in wait_for(calls, ROLE, "measuring a canary") for values in answer]

    def reverse_kl(self, batch: ScoredHandle) -> list[KLSum]:
        own_parts = zip(self._actors, batch.parts, strict=True)
        calls = [actor.reverse_kl.remote(*part) for actor, part in own_parts]
        return [item for answer in wait_for(calls, ROLE, "measuring the reverse KL") for item in answer]

    def open_trigger(self) -> Displacement:
        return wait_for([actor.open_trigger.remote() for actor in self._actors], ROLE, "opening a trigger")[0]

    def write_candidate(self, step_size: float) -> None:
        wait_for([actor.write_candidate.remote(step_size) for actor in self._actors], ROLE, "writing a candidate")

    def close_trigger(self, settlement: Settlement) -> None:
        wait_for([actor.close_trigger.remote(settlement) for actor in self._actors], ROLE, "closing a trigger")

    def roll_back(self) -> None:
        wait_for([actor.roll_back.remote() for actor in self._actors], ROLE, "taking back a jump")

    def save(self, directory: Path) -> tuple[FileRecord, ...]:
        """Gather every rank's shards into `directory`, bucket by bucket, in the process that calls this."""
        fragments = wait_for([actor.fragments.remote() for actor in self._actors], ROLE, "saving")
        critic_fragments = wait_for([actor.critic_fragments.remote() for actor in self._actors], ROLE, "saving")
        (progress,) = wait_for([self._actors[0].progress.remote()], ROLE, "saving")

        def read(rank: int, kind: ShardKind, names: Sequence[str]) -> dict[str, Tensor]:
            return wait_for([self._actors[rank].read.remote(kind, names)], f"learner rank {rank}", "saving")[0]

        return save_learner(
            directory, fragments=fragments, critic_fragments=critic_fragments, progress=progress, read=read
        )

    def load(self, directory: Path) -> None:
        wait_for([actor.load_state.remote(directory) for actor in self._actors], ROLE, "loading a checkpoint")
