"""The cast of a run on Ray: which actors there are, and the production they make."""

from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import ray
from ray.actor import ActorHandle
from torch import Tensor

from effopd.actors.calls import wait_for
from effopd.actors.cast import ActorCast
from effopd.actors.controller import ControllerActor, RayController, TriggerSetup
from effopd.actors.footprint import ENGINE_GIB, sampler_gib
from effopd.actors.lanes import ActorLanes
from effopd.actors.learner import LearnerActor
from effopd.actors.placement import Place
from effopd.actors.sampler import RaySampler, SamplerActor
from effopd.actors.session import ActorSpec, RaySession, wait_until_ready
from effopd.actors.several_nodes import (
    Machine,
    machines_of,
    node_specs,
    require_authentication,
    require_folders,
    require_shared_folder,
    weight_routes,
)
from effopd.actors.supervision import Member
from effopd.actors.teacher import RayTeacher, TeacherActor
from effopd.actors.verifier import RayVerifier, VerifierActor
from effopd.actors.watchdog import watchdog
from effopd.actors.watched import watch
from effopd.config.check import needs_teacher_head
from effopd.config.evaluation import verifier_names
from effopd.config.schema import DebugMode, Device, RunConfig
from effopd.config.verifier_time import seconds_per_answer
from effopd.handles import to_train_on
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
from effopd.start_checks import run_folder
from effopd.types import Publication, ScoredHandle, ScoredRollout


def build_ray(config: RunConfig, inputs: RunInputs, run_dir: Path, session: RaySession, phase: Phase) -> Production:
    """Start the actors that are missing, let the rest begin anew, and return when all are ready."""
    session.begin_run(run_dir)
    is_replay = config.debug.mode == DebugMode.train_only
    gpus = 1 if _uses_gpus(config) else 0
    needs_reference = algorithm_needs(config).reference and not is_replay
    teacher: list[ActorSpec] = []
    if inputs.teacher is not None and (not is_replay or needs_teacher_head(config)):
        teacher = _frozen_specs("teacher", config, inputs.teacher, gpus)
    specs = session.placed(
        [
            *learner_specs(config, gpus),
            controller_spec(),
            *teacher,
            *(_frozen_specs("reference", config, inputs.student, gpus) if needs_reference else []),
            *(sampler_specs(config, inputs.student, gpus) if not is_replay else []),
            *(verifier_specs(config) if not is_replay else []),
        ]
    )
    learners = [spec for spec in specs if spec.actor_class is LearnerActor]
    samplers = [spec for spec in specs if spec.actor_class is SamplerActor]
    learner_nodes = {_node_of(spec) for spec in learners}
    actors, machines = _started(session, specs, inputs.student.folder, run_dir)
    if machines:
        require_shared_folder(run_dir, [machines[node_id] for node_id in learner_nodes])
    members = _members(specs, actors)
    verifiers = {name: members[verifier_actor_name(name)] for name in verifier_names(config) if not is_replay}
    cast = ActorCast(
        samplers=tuple(members[spec.name] for spec in samplers),
        routes=weight_routes(samplers, _node_of(learners[0]), machines),
        teachers=tuple(members[spec.name] for spec in specs if spec.name.startswith("teacher")),
        references=tuple(members[spec.name] for spec in specs if spec.name.startswith("reference")),
        learners=tuple(actors[spec.name] for spec in learners),
        verifier=None if config.data.verifier is None else verifiers.get(config.data.verifier),
        num_pieces=config.pipeline.num_pieces,
    )
    # Small processes first: what they refuse is known before the engines have started.
    wait_until_ready(verifiers.values())
    wait_until_ready(cast.teachers)
    wait_until_ready(cast.references)
    begin_learners(config, inputs, cast, learner_nodes)
    wait_until_ready(cast.samplers)

    controller = actors[controller_spec().name]
    setup = TriggerSetup(
        accelerate=config.accelerate,
        setting=trigger_setting(config, inputs),
        canary_prompts=inputs.canary_prompts,
        canary_every=config.rollout.canary_every,
        canary_tolerance=canary_tolerance(config.learner.dtype, config.rollout.dtype),
    )
    wait_for([controller.begin.remote(cast, setup, watchdog())], "the controller", "starting")
    accelerator = RayController(controller, config.accelerate, config.num_steps, phase)
    learner, sampler = cast.learner(phase), cast.sampler(phase)
    lanes = ActorLanes({spec.name: actors[spec.name] for spec in specs})
    if is_replay:
        return replay_production(
            config,
            learner,
            save_learner=accelerator.save,
            load_learner=learner.load,
            lanes=lanes,
            close=lambda: None,
        )
    return Production(
        sampler=sampler,
        teacher=cast.teacher(phase),
        reference=cast.reference(phase),
        learner=learner,
        publisher=CheckedPublisher(
            learner,
            sampler,
            inputs.canary_prompts,
            every=config.rollout.canary_every,
            tolerance=canary_tolerance(config.learner.dtype, config.rollout.dtype),
            phase=phase,
        ),
        verifiers={name: RayVerifier(member) for name, member in verifiers.items()},
        accelerator=accelerator,
        save_learner=accelerator.save,
        load_learner=learner.load,
        fetch=_fetch,
        lanes=lanes,
        close=lambda: None,  # actors are the session's, which keeps them for the next run
    )


def build_ray_sampler(
    config: RunConfig, student: ModelFiles, session: RaySession
) -> tuple[RaySampler, Mapping[str, RayVerifier], Callable[[], None]]:
    """Start samplers with the student's own weights as version 0.0, and the verifiers."""
    session.begin_run(run_folder(config))
    gpus = 1 if _uses_gpus(config) else 0
    samplers = session.placed(sampler_specs(config, student, gpus))
    verifiers = session.placed(verifier_specs(config))
    specs = [*samplers, *verifiers]
    actors, machines = _started(session, specs, student.folder, run_folder(config))
    members = _members(specs, actors)
    wait_until_ready(members.values())

    def staged() -> AbstractContextManager[Publication]:
        return static_publication(config, student)

    # The driver itself stages the weights.
    routes = weight_routes(samplers, session.driver_node(), machines)
    sampler = RaySampler([members[spec.name] for spec in samplers], routes, 1, uncharged, staged)
    with staged() as publication:
        sampler.load(publication)
    roles = {name: RayVerifier(members[verifier_actor_name(name)]) for name in verifier_names(config)}
    return sampler, roles, lambda: None


def build_ray_teacher(config: RunConfig, teacher: ModelFiles, session: RaySession) -> RayTeacher:
    """Start the teacher alone; the session's other actors stop."""
    specs = session.placed(_frozen_specs("teacher", config, teacher, 1 if _uses_gpus(config) else 0))
    actors = session.have(specs)
    watch(session, specs, actors, {}, run_folder(config))
    members = list(_members(specs, actors).values())
    wait_until_ready(members)
    return RayTeacher(members, uncharged)


def sampler_specs(config: RunConfig, student: ModelFiles, gpus: int) -> list[ActorSpec]:
    keywords = (
        ("max_model_len", max_model_len(config)),
        ("device", config.cluster.device),
        ("seed", 0),  # requests carry their own seeds; a constant lets runs with other seeds keep the engine
    )
    return [
        ActorSpec(
            name=f"sampler {index}",
            actor_class=SamplerActor,
            arguments=(config.rollout, str(student.folder)),
            keywords=keywords,
            num_gpus=gpus * config.rollout.tensor_parallel_size,
            num_threads=config.rollout.num_threads,
            memory_gib=sampler_gib(config.rollout, gpus),
            max_restarts=config.cluster.max_restarts,
            # A call waits for each piece, and one more must find a thread, such as a look at who was replaced.
            max_concurrency=config.pipeline.num_pieces + 1 if config.pipeline.num_pieces > 1 else 1,
        )
        for index in range(config.rollout.num_samplers)
    ]


def _frozen_specs(role: str, config: RunConfig, files: ModelFiles, gpus: int) -> list[ActorSpec]:
    """Models that score: the teacher, or the student as the reference it starts from."""
    return [
        ActorSpec(
            name=f"{role} 0",
            actor_class=TeacherActor,
            arguments=(config.teacher, str(files.folder)),
            keywords=(("attn_implementation", config.model.attn_implementation), ("device", config.cluster.device)),
            num_gpus=gpus,
            num_threads=config.teacher.num_threads,
            memory_gib=ENGINE_GIB,
            max_restarts=config.cluster.max_restarts,
        )
    ]


def learner_specs(config: RunConfig, gpus: int) -> list[ActorSpec]:
    num_ranks = config.learner.num_ranks
    return [
        ActorSpec(
            name=f"learner {rank}",
            actor_class=LearnerActor,
            arguments=(rank, num_ranks),
            num_gpus=gpus,
            num_threads=config.learner.num_threads,
            memory_gib=ENGINE_GIB,
            place=Place.TOGETHER,
            max_task_retries=0,
        )
        for rank in range(num_ranks)
    ]


def verifier_specs(config: RunConfig) -> list[ActorSpec]:
    return [
        ActorSpec(
            name=verifier_actor_name(name),
            actor_class=VerifierActor,
            arguments=(name, config.data.verifier_workers, seconds_per_answer(config, name)),
            place=Place.DRIVER,
            max_restarts=config.cluster.max_restarts,
        )
        for name in verifier_names(config)
    ]


def verifier_actor_name(verifier: str) -> str:
    return f"verifier {verifier}"


def controller_spec() -> ActorSpec:
    # It writes the checkpoints, into the driver's run folder.
    return ActorSpec(name="controller", actor_class=ControllerActor, place=Place.DRIVER, max_task_retries=0)


def begin_learners(config: RunConfig, inputs: RunInputs, cast: ActorCast, nodes: Collection[str]) -> None:
    """Build every rank's engine, all together; `nodes` are the machines that have ranks."""
    first = cast.learners[0]
    meeting = first.file_to_meet.remote() if len(nodes) == 1 else first.port_to_meet.remote()
    (meeting_place,) = wait_for([meeting], "a learner rank", "starting")
    teacher_head: ray.ObjectRef[Tensor] | None = None
    if needs_teacher_head(config):
        teacher_head = cast.teachers[0].actor.head.remote()  # goes from actor to actor
    setup = learner_setup(config, inputs)
    calls = [actor.begin.remote(setup, teacher_head, meeting_place) for actor in cast.learners]
    wait_for(calls, "a learner rank", "starting")


def _started(
    session: RaySession, specs: Sequence[ActorSpec], student: Path, run_dir: Path
) -> tuple[Mapping[str, ActorHandle], Mapping[str, Machine]]:
    """Have actors on the machines that they are placed on; return them by name, and the machines, the driver's among them,
    where there are several. Raises ConfigError when one of those lacks what it needs."""
    looking_after = node_specs({session.driver_node(), *(_node_of(spec) for spec in specs)})
    actors = session.have([*specs, *looking_after])
    machines = machines_of(looking_after, actors, session.nodes())
    watch(session, [*specs, *looking_after], actors, machines, run_dir)
    if machines:
        require_authentication(machines.values())
        require_folders([(machines[_node_of(spec)], folder) for spec, folder in _folders(specs, student)])
    return actors, machines


def _members(specs: Sequence[ActorSpec], actors: Mapping[str, ActorHandle]) -> dict[str, Member]:
    return {spec.name: Member(spec.name, actors[spec.name], spec.node_id) for spec in specs}


def _node_of(spec: ActorSpec) -> str:
    assert spec.node_id is not None, "RaySession.placed() comes first"
    return spec.node_id


def _folders(specs: Sequence[ActorSpec], student: Path) -> list[tuple[ActorSpec, Path]]:
    """Return which actor loads a model from which folder."""
    engines = [
        (spec, Path(str(spec.arguments[1]))) for spec in specs if spec.actor_class in (SamplerActor, TeacherActor)
    ]
    return [*engines, *((spec, student) for spec in specs if spec.actor_class is LearnerActor)]


def _uses_gpus(config: RunConfig) -> bool:
    match config.cluster.device:
        case Device.cpu:
            return False
        case Device.cuda:
            return True
        case Device.auto:
            return ray.cluster_resources().get("GPU", 0) > 0


def _fetch(batch: ScoredHandle) -> list[ScoredRollout]:
    references = [reference for part in batch.parts for reference in part]
    items = (item for part in wait_for(references, "a sampler or the teacher", "recording") for item in part)
    return to_train_on(items, batch.rewards)
