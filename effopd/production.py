"""The running parts of a run, whichever runtime they live in, and the shape in which `launch.py` wants them."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path

import torch

from effopd.accelerate import NoAcceleration
from effopd.algorithms.build import build_algorithm
from effopd.candidates import TriggerSetting
from effopd.checkpoints.manifest import FileRecord
from effopd.config.schema import GateKind, RunConfig
from effopd.data.recorded import NothingToPublish, ReplayedRollouts
from effopd.engines.build import LearnerSetup
from effopd.engines.static_weights import stage_folder
from effopd.evaluate import EvaluationSet, SamplingEvaluator
from effopd.inputs import EvalSetPrompts, RunInputs
from effopd.preflight import ModelFiles
from effopd.roles import Accelerator, Learner, Publisher, Reference, Sampler, Teacher, Verifier
from effopd.seeds import derive_seed
from effopd.timeline import Lanes
from effopd.types import AlgorithmNeeds, GenerateRequest, Publication, ScoredHandle, ScoredRollout
from effopd.weights import shared_memory_folder

Phase = Callable[[str], AbstractContextManager[None]]


def uncharged(name: str) -> AbstractContextManager[None]:
    """A phase that charges nobody."""
    return nullcontext()


@dataclass(frozen=True, slots=True, kw_only=True)
class Production:
    """Roles that are up and running."""

    sampler: Sampler
    teacher: Teacher | None
    reference: Reference | None
    learner: Learner
    publisher: Publisher
    verifiers: Mapping[str, Verifier]
    """By the name that the settings give them."""
    accelerator: Accelerator
    save_learner: Callable[[Path], Iterable[FileRecord]]
    load_learner: Callable[[Path], None]
    fetch: Callable[[ScoredHandle], Sequence[ScoredRollout]]
    """Bring scored rollouts to the driver; for recordings only."""
    lanes: Lanes
    """Of its roles, for a timeline."""
    close: Callable[[], None]


def algorithm_needs(config: RunConfig) -> AlgorithmNeeds:
    """Return what the algorithm of this run wants attached to rollouts."""
    return build_algorithm(config.algo, config.rollout.max_response_len).needs


def learner_setup(config: RunConfig, inputs: RunInputs) -> LearnerSetup:
    return LearnerSetup(
        config=config.learner,
        algo=config.algo,
        accelerate=config.accelerate if config.accelerate.gate != GateKind.none else None,
        model_path=str(inputs.student.folder),
        attn_implementation=config.model.attn_implementation,
        max_response_len=config.rollout.max_response_len,
        num_steps=config.num_steps,
        device=config.cluster.device,
        segment_folder=shared_memory_folder(),
    )


def trigger_setting(config: RunConfig, inputs: RunInputs) -> TriggerSetting:
    return TriggerSetting(
        gate_prompts=inputs.gate_prompts,
        audit_prompts=inputs.audit_prompts,
        max_response_len=config.rollout.max_response_len,
        num_steps=config.num_steps,
        seed=config.seed,
        trained_payload=algorithm_needs(config).teacher,
    )


def replay_production(
    config: RunConfig,
    learner: Learner,
    *,
    save_learner: Callable[[Path], Iterable[FileRecord]],
    load_learner: Callable[[Path], None],
    lanes: Lanes,
    close: Callable[[], None],
) -> Production:
    """Return a production whose sampler and teacher are the recording `debug.recorded`."""
    assert config.debug.recorded is not None, "config.check sees to it"
    recording = ReplayedRollouts(Path(config.debug.recorded), config.learner.num_ranks, algorithm_needs(config))
    return Production(
        sampler=recording,
        teacher=recording,
        reference=None,
        learner=learner,
        publisher=NothingToPublish(),
        verifiers={},
        accelerator=NoAcceleration(),
        save_learner=save_learner,
        load_learner=load_learner,
        fetch=recording.fetch,
        lanes=lanes,
        close=close,
    )


@contextmanager
def static_publication(config: RunConfig, student: ModelFiles) -> Iterator[Publication]:
    """Stage the student's own weights as version 0.0, for samplers that no learner feeds, until they have loaded them."""
    dtype = getattr(torch, config.rollout.dtype.value)
    writer, publication = stage_folder(student.folder, dtype, shared_memory_folder())
    try:
        yield publication
    finally:
        writer.close()


def build_evaluator(
    config: RunConfig, sampler: Sampler, verifiers: Mapping[str, Verifier], sets: Mapping[str, EvalSetPrompts]
) -> SamplingEvaluator | None:
    """Return the evaluator of `sets`, None when there are none or when nothing is there to score them."""
    if not verifiers or not sets:
        return None
    evaluation_sets = []
    for name, one in sets.items():
        assert one.settings.verifier is not None, "config.check sees to it"
        evaluation_sets.append(
            EvaluationSet(
                name=name,
                prompts=one.prompts,
                verifier=verifiers[one.settings.verifier],
                samples_per_prompt=one.settings.samples_per_prompt,
                temperature=one.settings.temperature,
                top_p=one.settings.top_p,
                max_response_len=one.settings.max_response_len,
            )
        )
    return SamplingEvaluator(sampler, evaluation_sets, seed=config.seed)


def evaluation_request(one: EvalSetPrompts, seed: int) -> GenerateRequest:
    """Return what `effopd eval` samples: the very responses that a run of the same seed is scored on at step 0."""
    return GenerateRequest(
        prompts=one.prompts,
        num_samples=one.settings.samples_per_prompt,
        max_response_len=one.settings.max_response_len,
        temperature=one.settings.temperature,
        top_p=one.settings.top_p,
        seed=derive_seed(seed, "evaluate", 0),
    )
