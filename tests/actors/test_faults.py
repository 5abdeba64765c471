"""Runs whose actors die for real end as the undisturbed run does: real Ray, the toy models, plain transformers."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))
from mortal import FOLDER, MORTALS, plant

from effopd.actors import build
from effopd.actors.session import session_for
from effopd.checkpoints.reading import latest_checkpoint, weights_hash
from effopd.config.jobs import training_jobs
from effopd.config.register import open_configs
from effopd.config.schema import RunConfig
from effopd.launch import train

SETTINGS = [
    "experiment=toy_effopd",
    "rollout=hf",
    "rollout.prompts_per_step=8",
    "rollout.samples_per_prompt=1",
    "data.num_rows=200",
    "eval.num_rows=8",
    "eval.every=1",
    "accelerate.num_prompts=4",
    "learner.lr=1e-3",
    "learner.lr_schedule=constant",
    "checkpoint.every=1",
    "learner.num_threads=1",
    "rollout.num_threads=1",
    "teacher.num_threads=1",
    "num_steps=3",
]


def config_of(*overrides: str) -> RunConfig:
    with open_configs() as configs:
        (job,) = training_jobs(configs, [*SETTINGS, *overrides], is_multirun=False)
    return job.config


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run in one process, which has nothing that could die alone."""
    run = tmp_path_factory.mktemp("runs") / "undisturbed"
    train(config_of("cluster=local", f"output_dir={run}"))
    return run


@pytest.fixture(scope="module")
def faults(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("faults")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv(FOLDER, str(folder))
        for name, mortal in MORTALS.items():
            patch.setattr(build, name, mortal)
        yield folder
        session_for(config_of().cluster).stop_actors()


def course(run: Path) -> list[object]:
    """The final weights, and every row of the run but for time."""
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    names = ("metrics.jsonl", "eval.jsonl", "extrapolation.jsonl")
    rows = [[json.loads(line) for line in (run / name).read_text().splitlines()] for name in names]
    return [weights_hash(checkpoint.directory), *(without_seconds(row) for row in rows)]


def without_seconds(value: object) -> object:
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if key != "seconds"}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def test_samplers_teacher_and_verifier_that_die_are_replaced_and_change_nothing(
    undisturbed: Path, faults: Path, tmp_path: Path
) -> None:
    plant(faults, "sampler.generate", 3)
    plant(faults, "sampler.load", 4)
    plant(faults, "teacher.score", 1)
    plant(faults, "verifier.rewards", 1)
    train(config_of(f"output_dir={tmp_path / 'run'}"))
    assert not list(faults.iterdir()), "a planted fault was not met"
    assert course(tmp_path / "run") == course(undisturbed)
