"""Folders in which a run must not start, and runs that have nothing left to do: one line, before anything loads."""

from pathlib import Path

import pytest

from effopd.actors.watchdog import REPORT_NAME
from effopd.checkpoints.manifest import checkpoint_root
from effopd.checkpoints.store import CheckpointStore
from effopd.config.schema import LearnerConfig, LRSchedule, RunConfig
from effopd.data.report import DATA_NAME
from effopd.errors import ConfigError
from effopd.launch import CONFIG_NAME, RECORDED_NAME
from effopd.provenance import VERSIONS_NAME
from effopd.start_checks import RUN_NAMES, require_folder, require_start
from effopd.study.folders import ERROR_NAME, FINISHED_NAME, LOG_NAME
from effopd.tracking import EVAL_NAME, EXTRAPOLATION_NAME, METRICS_NAME, ROLLOUTS_NAME
from effopd.types import RunState


def refusal(config: RunConfig) -> str:
    with pytest.raises(ConfigError) as error:
        require_start(config)
    return str(error.value)


# The folder.


@pytest.mark.parametrize("name", ["file", "file/below", "file/far/below"])
def test_a_file_in_the_place_of_the_folder_is_named(tmp_path: Path, name: str) -> None:
    (tmp_path / "file").write_text("mine")
    config = RunConfig(output_dir=str(tmp_path / name))
    assert f"output_dir={tmp_path / name}: {tmp_path / 'file'} is a file" in refusal(config)
    with pytest.raises(ConfigError, match="is a file"):
        require_folder(config)  # an evaluation's too


def test_a_folder_of_something_else_is_refused_and_what_it_holds_is_named(tmp_path: Path) -> None:
    for name in ("thesis.tex", "config.yaml"):
        (tmp_path / name).write_text("precious")
    assert f"output_dir={tmp_path}: holds thesis.tex, which is not of a run" in refusal(
        RunConfig(output_dir=str(tmp_path))
    )
    (tmp_path / "src").mkdir()
    assert "holds src and more" in refusal(RunConfig(output_dir=str(tmp_path)))


@pytest.mark.parametrize(
    "names",
    [
        [],
        [LOG_NAME, ERROR_NAME],
        ["train.log", "slurm-17.out"],
        ["checkpoints", VERSIONS_NAME, METRICS_NAME, EVAL_NAME, EXTRAPOLATION_NAME, f".{CONFIG_NAME}.tmp-17"],
    ],
)
def test_an_empty_folder_one_with_a_log_and_one_of_a_run_that_died_early_are_taken(
    tmp_path: Path, names: list[str]
) -> None:
    for name in names:
        (tmp_path / name).touch()
    require_start(RunConfig(output_dir=str(tmp_path)))


def test_the_known_names_are_those_that_a_run_writes(tmp_path: Path) -> None:
    rows = {METRICS_NAME, EVAL_NAME, EXTRAPOLATION_NAME, ROLLOUTS_NAME}
    written = {CONFIG_NAME, DATA_NAME, VERSIONS_NAME, RECORDED_NAME, checkpoint_root(tmp_path).name}
    # Beside them, what `effopd/sinks.py` has Weights & Biases and TensorBoard write.
    assert rows | written | {LOG_NAME, ERROR_NAME, FINISHED_NAME, REPORT_NAME} == RUN_NAMES - {
        "tensorboard",
        "wandb",
        "wandb_id.txt",
    }


# Runs to be resumed.


def resumed(run: Path, num_steps: int, schedule: LRSchedule) -> RunConfig:
    return RunConfig(
        resume=str(run), output_dir=str(run), num_steps=num_steps, learner=LearnerConfig(lr_schedule=schedule)
    )


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with checkpoints at steps 7 and 8, and a file that somebody put beside them."""
    store = CheckpointStore(tmp_path, keep_last=2, keep_best=False)
    for step in (7, 8):
        store.save(RunState(step=step), lambda folder: (folder / "weights").write_bytes(b"1") and None, {}, None)
    (tmp_path / "notes.md").write_text("a run may hold notes when it is resumed")
    return tmp_path


def test_a_finished_run_can_go_on_where_its_rate_is_constant(run: Path) -> None:
    message = refusal(resumed(run, 8, LRSchedule.constant))
    assert message == f"resume={run}: the run is finished at step 8; give num_steps above it to go on"
    require_start(resumed(run, 9, LRSchedule.constant))


def test_a_finished_run_whose_rate_has_fallen_is_not_told_to_go_on(run: Path) -> None:
    message = refusal(resumed(run, 8, LRSchedule.cosine))
    assert "the run is finished at step 8, where its learning rate ends (learner.lr_schedule=cosine)" in message
    assert "num_steps" not in message


def test_a_run_whose_last_checkpoint_is_damaged_is_not_finished(run: Path) -> None:
    (checkpoint_root(run) / "step_000008" / "weights").write_bytes(b"0")
    require_start(resumed(run, 8, LRSchedule.cosine))


def test_a_run_that_a_study_has_finished_has_no_checkpoint_to_go_on_from(tmp_path: Path) -> None:
    (tmp_path / FINISHED_NAME).touch()
    assert "which has removed its checkpoints" in refusal(resumed(tmp_path, 8, LRSchedule.constant))
