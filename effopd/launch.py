"""From settings to a finished run: read inputs, start the roles, train, close."""

import logging
import sys
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import cast

from rich.console import Console

from effopd.checkpoints.fitting import require_fit
from effopd.checkpoints.manifest import STATE_NAME
from effopd.checkpoints.store import Checkpoint, CheckpointStore
from effopd.config.evaluation import evaluation_sets
from effopd.config.keys import MISSING
from effopd.config.register import write_config
from effopd.config.schema import DebugMode, RunConfig, Runtime
from effopd.data.given_responses import GivenResponses, read_responses
from effopd.data.prompts import ShuffledPrompts
from effopd.data.recorded import save_recorded
from effopd.data.report import check_unchanged, write_records
from effopd.doctor.examination import require_sound_machine
from effopd.errors import CheckpointError, ConfigError, EffOPDError
from effopd.gathering import gather
from effopd.inputs import EvalSetPrompts, RunInputs, read_eval_sets, read_eval_teacher, read_inputs, read_student
from effopd.ledger import Ledger
from effopd.preflight import ModelFiles
from effopd.production import Phase, Production, algorithm_needs, build_evaluator, evaluation_request
from effopd.provenance import git_source, installed_versions
from effopd.responses import SetInput, answer_extractor, sample_set, with_reverse_kl
from effopd.restarts import train_with_restarts
from effopd.result_files import RESPONSES_NAME, RESULT_NAME, results_table, write_results
from effopd.results import evaluate_sets
from effopd.roles import Roles, Sampler, Teacher, Verifier
from effopd.start_checks import finished_problem, run_folder
from effopd.termination import Terminated, Termination
from effopd.timeline import TIMELINE_NAME, written_timeline
from effopd.tracking import RunTracker, discard_records_after
from effopd.train import after_update
from effopd.train import train as run_training
from effopd.types import PolicyVersion, RolloutHandle, RunState

CONFIG_NAME = "config.yaml"
RECORDED_NAME = "recorded"

logger = logging.getLogger(__name__)


def train(config: RunConfig) -> None:
    """Run `effopd train`. Raises EffOPDError with one message for the person who typed it."""
    inputs = read_inputs(config)
    require_sound_machine(inputs.student, config)
    run_dir = run_folder(config)
    if config.resume is not None:
        check_unchanged(run_dir, inputs.data_records)
    store = CheckpointStore(run_dir, config.checkpoint.keep_last, config.checkpoint.keep_best)
    checkpoint = resume_point(config, store)
    if checkpoint is None and config.resume is not None:
        discard_records_after(run_dir, -1)
    termination = Termination()

    def attempt(checkpoint: Checkpoint | None, data_position: int) -> None:
        train_from(checkpoint, data_position, config, inputs, store, termination)

    try:
        train_with_restarts(
            attempt, checkpoint, config, run_dir, store, lambda: stop_irreplaceable(config), termination
        )
    except EffOPDError:
        stop_actors(config)
        raise
    except Terminated as ended:
        raise Terminated(ended.signal_number, f"; continue with effopd train resume={run_dir}") from None


def train_from(
    checkpoint: Checkpoint | None,
    data_position: int,
    config: RunConfig,
    inputs: RunInputs,
    store: CheckpointStore,
    termination: Termination,
) -> None:
    """Start all roles, train to the end from `checkpoint`, or from the beginning without one, and close.

    Prompts before `data_position` are left out. Raises ActorLostError when a process died that held what no other has.
    """
    run_dir = run_folder(config)
    ledger = Ledger()
    if checkpoint is not None:
        require_fit(checkpoint.directory, inputs.student.shapes, has_critic=algorithm_needs(config).critic)
        restore_ledger(ledger, checkpoint)
    tracker = RunTracker(run_dir, config, resumed=checkpoint and checkpoint.state, ledger=ledger)
    write_config(config, run_dir / CONFIG_NAME)
    write_records(run_dir, inputs.data_records)
    try:
        production = start(config, inputs, tracker.phase)
        try:
            with termination.listening():  # not before: Ray sets a handler of its own when it starts
                play(config, inputs, production, tracker, store, checkpoint, data_position, termination)
        finally:
            production.close()
    finally:
        tracker.close()


def evaluate(config: RunConfig) -> None:
    """Run `effopd eval`: score the model in `model.path` and write what `result_files` says into the run folder."""
    # Engines are sized for what is asked of them, which here is the evaluation alone.
    engine_config = sized_for_evaluation(config)
    student = read_student(engine_config)
    teacher = read_eval_teacher(engine_config, student)
    prompts = read_eval_sets(config, student)
    run_dir = run_folder(config)
    run_dir.mkdir(parents=True, exist_ok=True)
    sets = judge_sets(engine_config, student, teacher, prompts)
    results = evaluate_sets(sets)
    write_results(run_dir, evaluation_manifest(config), sets, results)
    # Soft-wrapped: a narrow terminal, or a log file, gets whole rows.
    console = Console()
    for line in (config.model.path, results_table(results), f"{run_dir / RESULT_NAME}, {RESPONSES_NAME}"):
        console.print(line, soft_wrap=True, markup=False, highlight=False)


def judge_sets(
    config: RunConfig, student: ModelFiles, teacher: ModelFiles | None, sets: Mapping[str, EvalSetPrompts]
) -> dict[str, SetInput]:
    """Sample and judge every set, the samplers first and the teacher after they have stopped, so that one GPU is enough."""
    if config.eval.responses is not None:
        return judge_given_responses(config, config.eval.responses, student, sets)
    sampler, verifiers, close = start_sampler(config, student)
    try:
        judged = {}
        for name, one in sets.items():
            judged[name] = judge_set(sampler, verifiers, one, config.seed)
    finally:
        close()
    if teacher is None:
        return {name: answers for name, (answers, _) in judged.items()}
    scorer = start_teacher(config, teacher)
    return {name: with_reverse_kl(answers, handle, scorer) for name, (answers, handle) in judged.items()}


def judge_given_responses(
    config: RunConfig, path: str, student: ModelFiles, sets: Mapping[str, EvalSetPrompts]
) -> dict[str, SetInput]:
    """Judge the responses of a file; no engine starts."""
    from effopd.local import start_verifiers  # noqa: PLC0415

    responses = read_responses(path, list(sets))
    verifiers = start_verifiers(config)
    try:
        judged = {}
        for name, one in sets.items():
            given = GivenResponses(path, name, student.tokenizer, responses[name])
            judged[name], handle = judge_set(given, verifiers, one, config.seed)
            num_unused = sum(map(len, responses[name].values())) - len(handle.summaries)
            if num_unused:
                logger.warning(
                    "%s: %d responses to the set %s were not asked for and are left out", path, num_unused, name
                )
        return judged
    finally:
        for verifier in verifiers.values():
            verifier.close()


def judge_set(
    sampler: Sampler, verifiers: Mapping[str, Verifier], one: EvalSetPrompts, seed: int
) -> tuple[SetInput, RolloutHandle]:
    """Sample and judge one set with the weights of version 0.0."""
    verifier = one.settings.verifier
    assert verifier is not None, "config.check sees to a verifier"
    request = evaluation_request(one, seed)
    return sample_set(sampler, verifiers[verifier], request, PolicyVersion(step=0), answer_extractor(verifier))


def evaluation_manifest(config: RunConfig) -> dict[str, object]:
    """Return what an evaluation ran with: models, settings, versions."""
    return {
        "model": config.model.path,
        "teacher": None if config.teacher.path == MISSING else config.teacher.path,
        "settings": {"model": config.model, "data": config.data, "eval": config.eval, "rollout": config.rollout},
        "versions": installed_versions(),
        "git": git_source(Path(__file__).parent),
        "command": sys.argv,
    }


def sized_for_evaluation(config: RunConfig) -> RunConfig:
    """Return `config` with the longest prompt and response of its evaluation sets in the place of those of training."""
    sets = evaluation_sets(config).values()
    return replace(
        config,
        data=replace(config.data, max_prompt_len=max(one.source.max_prompt_len for one in sets)),
        rollout=replace(config.rollout, max_response_len=max(one.max_response_len for one in sets)),
    )


def play(
    config: RunConfig,
    inputs: RunInputs,
    production: Production,
    tracker: RunTracker,
    store: CheckpointStore,
    checkpoint: Checkpoint | None,
    data_position: int,
    termination: Termination,
) -> None:
    """Train, or in debug mode do half of it, with roles that are up and running."""
    state = RunState()
    if checkpoint is not None:
        production.load_learner(checkpoint.directory)
        state = checkpoint.state
    state = replace(state, data_position=max(state.data_position, data_position))
    production.publisher.publish(PolicyVersion(step=state.step))
    roles = Roles(
        prompts=ShuffledPrompts(inputs.train_prompts, config.seed),
        sampler=production.sampler,
        teacher=production.teacher,
        reference=production.reference,
        verifier=None if config.data.verifier is None else production.verifiers.get(config.data.verifier),
        learner=production.learner,
        publisher=production.publisher,
        evaluator=build_evaluator(config, production.sampler, production.verifiers, inputs.eval_sets),
        accelerator=production.accelerator,
        tracker=tracker,
    )
    run_dir = run_folder(config)
    timeline = written_timeline(run_dir / TIMELINE_NAME, tracker.lane, production.lanes)
    with timeline if config.logger.timeline else nullcontext():
        if config.debug.mode == DebugMode.rollout_only:
            record_rollouts(config, roles, production, run_dir / RECORDED_NAME, termination)
            return
        saver = CheckpointSaver(store, production, tracker)
        run_training(config, roles, saver, state, algorithm_needs(config), termination)


class CheckpointSaver:
    """Saves learner, state and ledger together."""

    def __init__(self, store: CheckpointStore, production: Production, tracker: RunTracker) -> None:
        self._store = store
        self._production = production
        self._tracker = tracker

    def save(self, state: RunState, score: float | None) -> None:
        with self._tracker.phase("save"):
            extra = {"ledger": self._tracker.ledger.state()}
            self._store.save(state, self._production.save_learner, extra, score)


def resume_point(config: RunConfig, store: CheckpointStore) -> Checkpoint | None:
    """Return the newest sound checkpoint of the run to resume; None for a new run, or one killed before its first."""
    if config.resume is None:
        return None
    checkpoint = store.latest()
    if checkpoint is None:
        logger.warning("%s has no checkpoint yet; starting it from the beginning", config.resume)
    elif checkpoint.state.step >= config.num_steps:
        raise ConfigError(finished_problem(config, checkpoint.state.step))
    return checkpoint


def restore_ledger(ledger: Ledger, checkpoint: Checkpoint) -> None:
    """Let the ledger go on from where it stood. Raises CheckpointError when the checkpoint has no such account."""
    try:
        ledger.restore(cast(Mapping[str, Mapping[str, float]], checkpoint.extra["ledger"]))
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{checkpoint.directory / STATE_NAME}: has no ledger of this version of effopd ({type(error).__name__}: "
            f"{error}); resume it with the version that wrote it"
        ) from error


def start(config: RunConfig, inputs: RunInputs, phase: Phase) -> Production:
    """Start the roles in the runtime that `cluster.runtime` names.

    The imports are here so that `local` runs where Ray is not installed.
    """
    match config.cluster.runtime:
        case Runtime.local:
            from effopd.local import build_local  # noqa: PLC0415

            return build_local(config, inputs, phase)
        case Runtime.ray:
            from effopd.actors.build import build_ray  # noqa: PLC0415
            from effopd.actors.session import session_for  # noqa: PLC0415

            return build_ray(config, inputs, run_folder(config), session_for(config.cluster), phase)


def stop_actors(config: RunConfig) -> None:
    """Stop all actors of a run that has failed, if it has some."""
    if config.cluster.runtime is Runtime.ray:
        from effopd.actors.session import stop_actors_of_session  # noqa: PLC0415

        stop_actors_of_session()


def stop_irreplaceable(config: RunConfig) -> None:
    """Stop what is left of the learner and the controller, so that they begin anew."""
    if config.cluster.runtime is Runtime.ray:
        from effopd.actors.session import session_for  # noqa: PLC0415

        session_for(config.cluster).stop_irreplaceable()


def start_sampler(config: RunConfig, student: ModelFiles) -> tuple[Sampler, Mapping[str, Verifier], Callable[[], None]]:
    """Start samplers and verifiers alone, holding the student's own weights as version 0.0; also return how to stop."""
    match config.cluster.runtime:
        case Runtime.local:
            from effopd.local import build_local_sampler  # noqa: PLC0415

            return build_local_sampler(config, student)
        case Runtime.ray:
            from effopd.actors.build import build_ray_sampler  # noqa: PLC0415
            from effopd.actors.session import session_for  # noqa: PLC0415

            return build_ray_sampler(config, student, session_for(config.cluster))


def start_teacher(config: RunConfig, teacher: ModelFiles) -> Teacher:
    """Start the teacher alone."""
    match config.cluster.runtime:
        case Runtime.local:
            from effopd.local import build_local_teacher  # noqa: PLC0415

            return build_local_teacher(config, teacher)
        case Runtime.ray:
            from effopd.actors.build import build_ray_teacher  # noqa: PLC0415
            from effopd.actors.session import session_for  # noqa: PLC0415

            return build_ray_teacher(config, teacher, session_for(config.cluster))


def record_rollouts(
    config: RunConfig, roles: Roles, production: Production, folder: Path, termination: Termination
) -> None:
    """Sample and score `num_steps` batches with the weights as they are, and write them down.

    Raises Terminated when the process was asked to end; the batches before are on the disk.
    """
    if folder.exists():
        raise ConfigError(
            f"output_dir={folder.parent}: holds a recording already; give another folder, or remove {folder.name}/"
        )
    needs, state = algorithm_needs(config), RunState()
    for step in range(config.num_steps):
        with termination.interruptible():
            gathered = gather(config, roles, needs, state, PolicyVersion(step=0))
        save_recorded(folder, step, [item for batch in gathered.batches for item in production.fetch(batch)])
        state = after_update(state, gathered)
    logger.warning("recorded %d steps of scored rollouts in %s", config.num_steps, folder)
