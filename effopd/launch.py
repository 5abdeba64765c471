"""From settings to a finished run: read inputs, start the roles, train, close."""

import json
import logging
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from datetime import datetime
from pathlib import Path
from typing import cast

from rich.console import Console

from effopd.algorithms.build import build_algorithm
from effopd.checkpoints.store import Checkpoint, CheckpointStore
from effopd.config.register import write_config
from effopd.config.schema import DebugMode, RunConfig, Runtime
from effopd.data.prompts import ShuffledPrompts
from effopd.data.recorded import save_recorded
from effopd.errors import CheckpointError
from effopd.inputs import RunInputs, read_eval_prompts, read_inputs, read_student
from effopd.ledger import Ledger
from effopd.preflight import ModelFiles
from effopd.production import Phase, Production, build_evaluator
from effopd.roles import Roles, Sampler, Verifier
from effopd.tracking import RunTracker, discard_records_after
from effopd.train import train as run_training
from effopd.train import training_request
from effopd.types import PolicyVersion, RunState

CONFIG_NAME = "config.yaml"
RECORDED_NAME = "recorded"
EVAL_NAME = "eval.json"

logger = logging.getLogger(__name__)


def train(config: RunConfig) -> None:
    """Run `effopd train`. Raises EffOPDError with one message for the person who typed it."""
    inputs = read_inputs(config)
    run_dir = run_folder(config)
    store = CheckpointStore(run_dir, config.checkpoint.keep_last, config.checkpoint.keep_best)
    checkpoint = resume_point(config, store)
    ledger = Ledger()
    if checkpoint is not None:
        ledger.restore(cast(Mapping[str, Mapping[str, float]], checkpoint.extra["ledger"]))
    elif config.resume is not None:
        discard_records_after(run_dir, -1)
    tracker = RunTracker(run_dir, config, resumed=checkpoint and checkpoint.state, ledger=ledger)
    write_config(config, run_dir / CONFIG_NAME)
    try:
        production = start(config, inputs, tracker.phase)
        try:
            play(config, inputs, production, tracker, store, checkpoint)
        finally:
            production.close()
    finally:
        tracker.close()


def evaluate(config: RunConfig) -> None:
    """Run `effopd eval`: score the model in `model.path` and write `eval.json` into the run folder."""
    # Engines are sized for what is asked of them, which here is the evaluation alone.
    response_len = config.eval.max_response_len or config.rollout.max_response_len
    config = replace(config, rollout=replace(config.rollout, max_response_len=response_len))
    student = read_student(config)
    prompts = read_eval_prompts(config, student)
    run_dir = run_folder(config)
    run_dir.mkdir(parents=True, exist_ok=True)
    sampler, verifier, close = start_sampler(config, student)
    try:
        evaluator = build_evaluator(config, sampler, verifier, prompts)
        assert evaluator is not None, "config.check sees to a verifier and an evaluation set"
        report = evaluator.evaluate(0, PolicyVersion(step=0))
    finally:
        close()
    (run_dir / EVAL_NAME).write_text(json.dumps({"model": config.model.path, **asdict(report)}, indent=2) + "\n")
    Console().print(
        f"{config.model.path}: score {report.score:.3f} ± {report.standard_error:.3f}, {len(prompts)} prompts, "
        f"mean length {report.mean_response_len:.1f}, truncated {report.truncation_rate:.1%}; {run_dir / EVAL_NAME}"
    )


def play(
    config: RunConfig,
    inputs: RunInputs,
    production: Production,
    tracker: RunTracker,
    store: CheckpointStore,
    checkpoint: Checkpoint | None,
) -> None:
    """Train, or in debug mode do half of it, with roles that are up and running."""
    state = RunState()
    if checkpoint is not None:
        production.load_learner(checkpoint.directory)
        state = checkpoint.state
    production.publisher.publish(PolicyVersion(step=state.step))
    roles = Roles(
        prompts=ShuffledPrompts(inputs.train_prompts, config.seed),
        sampler=production.sampler,
        teacher=production.teacher,
        learner=production.learner,
        publisher=production.publisher,
        evaluator=build_evaluator(config, production.sampler, production.verifier, inputs.eval_prompts),
        accelerator=production.accelerator,
        tracker=tracker,
    )
    if config.debug.mode == DebugMode.rollout_only:
        record_rollouts(config, roles, production, run_folder(config) / RECORDED_NAME)
        return
    saver = CheckpointSaver(store, production, tracker)
    run_training(config, roles, saver, state, build_algorithm(config.algo).teacher_payload)


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


def run_folder(config: RunConfig) -> Path:
    """Return the folder of the run, deciding it once: `resume`, `output_dir`, or `runs/<name>/<time>`."""
    if config.output_dir is None:
        config.output_dir = config.resume or str(
            Path("runs", config.name, datetime.now().strftime("%Y-%m-%d_%H-%M-%S-%f"))
        )
    return Path(config.output_dir).expanduser().resolve()  # actors may have another working folder


def resume_point(config: RunConfig, store: CheckpointStore) -> Checkpoint | None:
    """Return the newest sound checkpoint of the run to resume; None for a new run, or one killed before its first."""
    if config.resume is None:
        return None
    checkpoint = store.latest()
    if checkpoint is None:
        logger.warning("%s has no checkpoint yet; starting it from the beginning", config.resume)
    elif checkpoint.state.step >= config.num_steps:
        raise CheckpointError(
            f"resume={config.resume}: the run is finished at step {checkpoint.state.step}; give num_steps above it to go on"
        )
    return checkpoint


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

            return build_ray(config, inputs, session_for(config.cluster), phase)


def start_sampler(config: RunConfig, student: ModelFiles) -> tuple[Sampler, Verifier | None, Callable[[], None]]:
    """Start samplers and verifier alone, holding the student's own weights as version 0.0; also return how to stop."""
    match config.cluster.runtime:
        case Runtime.local:
            from effopd.local import build_local_sampler  # noqa: PLC0415

            return build_local_sampler(config, student)
        case Runtime.ray:
            from effopd.actors.build import build_ray_sampler  # noqa: PLC0415
            from effopd.actors.session import session_for  # noqa: PLC0415

            return build_ray_sampler(config, student, session_for(config.cluster))


def record_rollouts(config: RunConfig, roles: Roles, production: Production, folder: Path) -> None:
    """Sample and score `num_steps` batches with the weights as they are, and write them down."""
    payload = build_algorithm(config.algo).teacher_payload
    for step in range(config.num_steps):
        prompts = roles.prompts.take(step, config.rollout.prompts_per_step)
        rollouts = roles.sampler.generate(training_request(config, prompts, step), PolicyVersion(step=0))
        save_recorded(folder, step, production.fetch(roles.teacher.score(rollouts, payload)))
    logger.warning("recorded %d steps of scored rollouts in %s", config.num_steps, folder)
