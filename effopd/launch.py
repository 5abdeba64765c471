"""From settings to a trained student: read inputs, start the roles, train, close."""

import errno
import logging
from collections.abc import Mapping
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import cast

from effopd.checkpoints.fitting import require_fit
from effopd.checkpoints.manifest import STATE_NAME
from effopd.checkpoints.store import Checkpoint, CheckpointStore
from effopd.config.register import write_config
from effopd.config.schema import DebugMode, RunConfig, Runtime
from effopd.data.prompts import ShuffledPrompts
from effopd.data.recorded import save_recorded
from effopd.data.report import check_unchanged, write_records
from effopd.doctor.examination import require_sound_machine
from effopd.errors import CheckpointError, ConfigError, EffOPDError
from effopd.gathering import gather
from effopd.inputs import RunInputs, read_inputs
from effopd.ledger import Ledger
from effopd.production import Phase, Production, algorithm_needs, build_evaluator
from effopd.restarts import train_with_restarts
from effopd.roles import Roles
from effopd.start_checks import finished_problem, run_folder
from effopd.termination import Terminated, Termination
from effopd.timeline import TIMELINE_NAME, written_timeline
from effopd.tracking import RunTracker, discard_records_after
from effopd.train import after_update, make_up_evaluation
from effopd.train import train as run_training
from effopd.types import PolicyVersion, RunState

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
        with termination.listening():
            train_with_restarts(
                attempt, checkpoint, config, run_dir, store, lambda: stop_irreplaceable(config), termination
            )
    except EffOPDError:
        stop_actors(config)
        raise
    except OSError as error:
        stop_actors(config)
        if error.errno != errno.ENOSPC:
            raise
        raise EffOPDError(
            f"{run_dir}: the disk is full ({error}); free some of it, and go on with resume={run_dir}"
        ) from error
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
        with termination.interruptible():
            production = start(config, inputs, tracker.phase)
        try:
            play(config, inputs, production, tracker, store, checkpoint, data_position, termination)
        finally:
            production.close()
    finally:
        tracker.close()


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
        if checkpoint is not None:
            make_up_evaluation(config, roles, saver, state, checkpoint.score, termination)
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
    """Stop what is left of the learner and the controller, so that they begin anew, on the machines that there are by then."""
    if config.cluster.runtime is Runtime.ray:
        from effopd.actors.session import session_for  # noqa: PLC0415

        session = session_for(config.cluster)
        session.stop_irreplaceable()
        session.wait_for_machines()


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
