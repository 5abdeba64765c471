"""Every role in this process, without Ray: for a debugger, for a GPU box without Ray, for tests.

There is one sampler, one learner rank and one part to every handle, and a part is the list itself.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Protocol, cast

from effopd.accelerate import EffOPD
from effopd.candidates import TriggerRoles
from effopd.checkpoints.learner_state import save_learner
from effopd.checkpoints.manifest import FileRecord
from effopd.config.check import needs_teacher_head
from effopd.config.evaluation import verifier_names
from effopd.config.schema import DebugMode, RunConfig
from effopd.config.verifier_time import seconds_per_answer
from effopd.engines.build import SamplerEngine, build_learner, build_sampler
from effopd.engines.deepspeed_learner import DeepSpeedLearner
from effopd.engines.deepspeed_setup import resolve_device
from effopd.engines.hf_teacher import HFTeacher
from effopd.engines.rendezvous import ALONE
from effopd.handles import rewards_of, summarise, to_train_on, with_sampled_reverse_kl
from effopd.inputs import RunInputs
from effopd.preflight import ModelFiles, max_model_len
from effopd.production import (
    Phase,
    Production,
    algorithm_needs,
    learner_setup,
    replay_production,
    static_publication,
    trigger_setting,
    uncharged,
)
from effopd.publishing import CheckedPublisher, canary_tolerance
from effopd.rewards.pool import VerifierPool, items_of
from effopd.timeline import Lane, LanesHere
from effopd.types import (
    Displacement,
    GenerateRequest,
    KLSum,
    PolicyVersion,
    Prompt,
    Publication,
    Rollout,
    RolloutHandle,
    ScoredHandle,
    ScoredRollout,
    Settlement,
    TeacherPayload,
    UpdateReport,
)


class TeacherEngine(Protocol):
    """One frozen model that scores; `engines.hf_teacher` is such."""

    def score(self, rollouts: Sequence[Rollout], payload: TeacherPayload) -> list[ScoredRollout]: ...

    def score_reference(self, rollouts: Sequence[ScoredRollout]) -> list[ScoredRollout]: ...


class LocalSampler:
    def __init__(self, engine: SamplerEngine, phase: Phase) -> None:
        self._engine = engine
        self._phase = phase
        self.lane = Lane()

    def load(self, publication: Publication) -> None:
        with self.lane.span("load"):
            self._engine.load(publication)

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        with self._phase("generate"), self.lane.span("generate"):
            rollouts = self._engine.generate(request, version)
        return RolloutHandle(parts=((rollouts,),), summaries=tuple(summarise(rollouts)), policy_version=version)

    def stream(self, request: GenerateRequest, version: PolicyVersion) -> Iterator[tuple[int, RolloutHandle]]:
        # Nobody could score a piece while this process samples the next.
        yield 0, self.generate(request, version)

    def preview(self, rollouts: RolloutHandle, num_rollouts: int) -> list[Rollout]:
        return _rollouts(rollouts)[:num_rollouts]

    def groups(self, most: int) -> Sequence["LocalSampler"]:
        return (self,)


class LocalTeacher:
    def __init__(self, engine: TeacherEngine, phase: Phase) -> None:
        self._engine = engine
        self._phase = phase
        self.lane = Lane()

    def score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> ScoredHandle:
        with self._phase("score"), self.lane.span("score"):
            scored = self._engine.score(_rollouts(rollouts), payload)
        return ScoredHandle(
            parts=((scored,),),
            summaries=with_sampled_reverse_kl(rollouts.summaries, scored),
            policy_version=rollouts.policy_version,
        )

    def begin_score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> Callable[[], ScoredHandle]:
        return partial(self.score, rollouts, payload)

    def score_reference(self, batch: ScoredHandle) -> ScoredHandle:
        with self._phase("score"), self.lane.span("score"):
            scored = self._engine.score_reference(to_train_on(_items(batch), None))
        return replace(batch, parts=((scored,),))


class LocalVerifier:
    def __init__(self, pool: VerifierPool) -> None:
        self._pool = pool
        self.lane = Lane()

    def rewards(self, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> list[float]:
        with self.lane.span("verify"):
            return self._pool.scores(items_of(_rollouts(rollouts), {prompt.prompt_id: prompt for prompt in prompts}))

    def begin_rewards(self, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> Callable[[], list[float]]:
        return partial(self.rewards, rollouts, prompts)

    def close(self) -> None:
        self._pool.close()


class LocalLearner:
    def __init__(self, rank: DeepSpeedLearner, phase: Phase) -> None:
        self._rank = rank
        self._phase = phase
        self.lane = Lane()

    def update(self, batches: Sequence[ScoredHandle]) -> UpdateReport:
        with self._phase("train"), self.lane.span("update"):
            items = [item for batch in batches for item in _items(batch)]
            return self._rank.update(to_train_on(items, rewards_of(batches)))

    def stage(self, version: PolicyVersion) -> Publication:
        with self.lane.span("publish"):
            publication = self._rank.stage(version)
        assert publication is not None, "the only rank is rank 0, which publishes"
        return publication

    def response_logprobs(self, rollouts: RolloutHandle) -> list[list[float]]:
        with self.lane.span("canary"):
            return self._rank.response_logprobs(_rollouts(rollouts))

    def reverse_kl(self, batch: ScoredHandle) -> list[KLSum]:
        with self.lane.span("reverse_kl"):
            return self._rank.reverse_kl(_scored(batch))

    def open_trigger(self) -> Displacement:
        with self.lane.span("trigger"):
            return self._rank.open_trigger()

    def write_candidate(self, step_size: float) -> None:
        with self.lane.span("trigger"):
            self._rank.write_candidate(step_size)

    def close_trigger(self, settlement: Settlement) -> None:
        with self.lane.span("trigger"):
            self._rank.close_trigger(settlement)

    def roll_back(self) -> None:
        with self.lane.span("trigger"):
            self._rank.roll_back()

    def save(self, directory: Path) -> tuple[FileRecord, ...]:
        with self._phase("save"), self.lane.span("save"):
            return save_learner(
                directory,
                fragments=[self._rank.fragments()],
                critic_fragments=[self._rank.critic_fragments()],
                progress=self._rank.progress(),
                read=lambda rank, kind, names: self._rank.read(kind, names),
            )

    def load(self, directory: Path) -> None:
        self._rank.load_state(directory)


def build_local(config: RunConfig, inputs: RunInputs, phase: Phase) -> Production:
    """Start every role in this process, and the verifier's workers beside it."""
    # First, for what it refuses should be known before the engines have started.
    verifiers = start_verifiers(config) if config.debug.mode != DebugMode.train_only else {}
    setup = learner_setup(config, inputs)
    is_replay = config.debug.mode == DebugMode.train_only
    teacher_engine: HFTeacher | None = None
    if inputs.teacher is not None and (not is_replay or needs_teacher_head(config)):
        teacher_engine = _frozen(config, inputs.teacher)
    teacher_head = teacher_engine.head() if teacher_engine is not None and needs_teacher_head(config) else None
    rank = build_learner(setup, teacher_head, rank=0, world_size=1, init_method=ALONE)
    learner = LocalLearner(rank, phase)
    if is_replay:
        return replay_production(
            config,
            learner,
            save_learner=learner.save,
            load_learner=learner.load,
            lanes=LanesHere({"learner 0": learner.lane}),
            close=rank.close,
        )
    needs = algorithm_needs(config)
    engine = build_sampler(
        config.rollout,
        str(inputs.student.folder),
        max_model_len=max_model_len(config),
        device=config.cluster.device,
        seed=0,  # requests carry their own
    )
    sampler = LocalSampler(engine, phase)
    teacher = None if teacher_engine is None else LocalTeacher(teacher_engine, phase)
    reference = LocalTeacher(_frozen(config, inputs.student), phase) if needs.reference else None
    publisher = CheckedPublisher(
        learner,
        sampler,
        inputs.canary_prompts,
        every=config.rollout.canary_every,
        tolerance=canary_tolerance(config.learner.dtype, config.rollout.dtype),
        phase=phase,
    )
    trigger_roles = TriggerRoles(
        learner=learner,
        sampler=sampler,
        teacher=teacher,
        publisher=publisher,
        verifier=None if config.data.verifier is None else verifiers[config.data.verifier],
    )
    accelerator = EffOPD(config.accelerate, trigger_setting(config, inputs), trigger_roles, phase)

    def close() -> None:
        rank.close()
        engine.close()
        for verifier in verifiers.values():
            verifier.close()

    return Production(
        sampler=sampler,
        teacher=teacher,
        reference=reference,
        learner=learner,
        publisher=publisher,
        verifiers=verifiers,
        accelerator=accelerator,
        save_learner=learner.save,
        load_learner=learner.load,
        fetch=_scored,
        lanes=LanesHere(
            {
                "learner 0": learner.lane,
                **({} if teacher is None else {"teacher 0": teacher.lane}),
                **({} if reference is None else {"reference 0": reference.lane}),
                "sampler 0": sampler.lane,
                **{f"verifier {name}": verifier.lane for name, verifier in verifiers.items()},
            }
        ),
        close=close,
    )


def _frozen(config: RunConfig, files: ModelFiles) -> HFTeacher:
    """Start a model that scores: the teacher, or the student as the reference it starts from."""
    engine = HFTeacher(
        config.teacher,
        str(files.folder),
        attn_implementation=config.model.attn_implementation,
        device=resolve_device(config.cluster.device),
    )
    engine.check_itself()
    return engine


def build_local_sampler(
    config: RunConfig, student: ModelFiles
) -> tuple[LocalSampler, Mapping[str, LocalVerifier], Callable[[], None]]:
    """Start a sampler with the student's own weights as version 0.0, and the verifiers."""
    verifiers = start_verifiers(config)
    engine = build_sampler(
        config.rollout,
        str(student.folder),
        max_model_len=max_model_len(config),
        device=config.cluster.device,
        seed=0,
    )
    sampler = LocalSampler(engine, uncharged)
    with static_publication(config, student) as publication:
        sampler.load(publication)

    def close() -> None:
        engine.close()
        for verifier in verifiers.values():
            verifier.close()

    return sampler, verifiers, close


def start_verifiers(config: RunConfig) -> dict[str, LocalVerifier]:
    """Start the workers of every verifier that training and evaluation need, by name of the verifier.

    Raises ConfigError when one cannot be imported.
    """
    verifiers = {}
    for name in verifier_names(config):
        pool = VerifierPool(name, config.data.verifier_workers, seconds_per_answer(config, name))
        pool.start()
        verifiers[name] = LocalVerifier(pool)
    return verifiers


def build_local_teacher(config: RunConfig, teacher: ModelFiles) -> LocalTeacher:
    """Start a teacher alone."""
    return LocalTeacher(_frozen(config, teacher), uncharged)


def _rollouts(handle: RolloutHandle) -> list[Rollout]:
    ((rollouts,),) = handle.parts
    return cast(list[Rollout], rollouts)


def _items(handle: ScoredHandle) -> list[Rollout | ScoredRollout]:
    ((items,),) = handle.parts
    return cast(list[Rollout | ScoredRollout], items)


def _scored(handle: ScoredHandle) -> list[ScoredRollout]:
    return to_train_on(_items(handle), handle.rewards)
