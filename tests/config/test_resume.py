"""A resumed run keeps its own settings; what a run writes of them reads back equal."""

import pytest

from effopd.config.jobs import training_jobs
from effopd.config.register import open_configs, read_config, write_config
from effopd.config.schema import GateKind, RunConfig, WandbMode
from effopd.errors import ConfigError

CONSTANT = "learner.lr_schedule=constant"


@pytest.fixture
def run(tmp_path):
    """The folder of a run that was started as `experiment=toy_effopd num_steps=8`, at a constant rate."""
    with open_configs() as configs:
        (job,) = training_jobs(configs, ["experiment=toy_effopd", "num_steps=8", CONSTANT], is_multirun=False)
    job.config.output_dir = "runs/where/it/was/written"
    folder = tmp_path / "2026-01-01_10-00-00"
    folder.mkdir()
    write_config(job.config, folder / "config.yaml")
    return folder


def test_the_runs_own_settings_win(effopd, run):
    (config,) = effopd("train", f"resume={run}").configs
    assert (config.name, config.num_steps, config.accelerate.gate) == ("toy_effopd", 8, GateKind.reverse_kl)


def test_the_run_is_found_where_it_lies_now(effopd, run):
    (config,) = effopd("train", f"resume={run}").configs
    assert (config.resume, config.output_dir) == (str(run), str(run))


def test_how_far_and_where_may_change(effopd, run):
    outcome = effopd(
        "train",
        f"resume={run}",
        "num_steps=16",
        "checkpoint.keep_last=5",
        "eval.every=4",
        "logger.wandb=offline",
        "cluster.address=auto",
        "learner.num_ranks=2",
        "learner.zero_stage=2",
        "rollout.num_samplers=2",
        "teacher.num_threads=1",
        "learner.num_threads=1",
        "rollout.num_threads=1",
    )
    (config,) = outcome.configs
    assert (config.num_steps, config.checkpoint.keep_last, config.eval.every) == (16, 5, 4)
    assert (config.logger.wandb, config.cluster.address) == (WandbMode.offline, "auto")
    assert (config.learner.num_ranks, config.learner.zero_stage, config.rollout.num_samplers) == (2, 2, 2)


@pytest.mark.parametrize(
    "argument",
    [
        "learner.lr=1",
        "experiment=toy_opd",
        "accelerate=paper",
        "output_dir=elsewhere",
        "seed=1",
        "cluster=local",
        "eval.num_rows=8",
        "debug=rollout_only",
    ],
)
def test_anything_else_is_refused_by_name(effopd, run, argument):
    outcome = effopd("train", f"resume={run}", argument)
    assert (outcome.code, outcome.configs) == (2, [])
    assert outcome.stderr.startswith(f"effopd: {argument}: a resumed run keeps its own settings; only num_steps, ")
    assert outcome.stderr.count("\n") == 1


def test_a_change_is_checked_like_any_setting(effopd, run):
    outcome = effopd("train", f"resume={run}", "num_steps=0")
    assert (outcome.code, outcome.stderr.count("\n")) == (2, 1)
    assert "num_steps=0" in outcome.stderr


def test_cfg_job_shows_the_resumed_settings(effopd, run):
    assert "name: toy_effopd\n" in effopd("train", "--cfg", "job", f"resume={run}").stdout


def test_eval_does_not_resume(effopd, run):
    outcome = effopd("eval", f"resume={run}")
    assert outcome.code == 2
    assert "no effect on effopd eval" in outcome.stderr


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("learner: {lrr: 1}\n", ["unknown key learner.lrr", "did you mean learner.lr?"]),
        ("learner: {lr: abc}\n", ["learner.lr=abc", "must be a number"]),
        ("learner: [\n", ["line"]),
        ("just text\n", []),
        ("- a\n", []),
    ],
)
def test_a_damaged_config_is_one_line_that_names_the_file(effopd, run, text, words):
    (run / "config.yaml").write_text(text)
    outcome = effopd("train", f"resume={run}")
    assert (outcome.code, outcome.stderr.count("\n")) == (2, 1), outcome.stderr
    assert not [word for word in ["config.yaml", *words] if word not in outcome.stderr], outcome.stderr


def test_a_folder_without_a_config_is_no_run(effopd, tmp_path):
    outcome = effopd("train", f"resume={tmp_path}")
    assert outcome.code == 2
    assert "no config.yaml in this folder" in outcome.stderr


def test_a_folder_that_is_missing_is_said_before_what_must_not_change(effopd, tmp_path):
    outcome = effopd("train", "experiment=toy_opd", f"resume={tmp_path}/nothing")
    assert (outcome.code, outcome.configs) == (2, [])
    assert outcome.stderr.startswith(f"effopd: resume={tmp_path}/nothing: no such folder")


def test_what_is_written_reads_back_equal(tmp_path):
    config = RunConfig()
    config.model.path = "toy:sums_base"
    config.learner.lr = 1e-7
    config.accelerate.gate = GateKind.none
    config.accelerate.step_sizes = [0.5, 2.0]
    config.data.prompt_suffix = "\nPut it in \\boxed{}: 'a', \"b\" # ü ${not.a.key}"
    config.data.answer_pattern = r"####\s*(.+)"
    config.name = "123"
    config.output_dir = "null"
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config


def test_reading_a_missing_file_names_it(tmp_path):
    with pytest.raises(ConfigError, match=r"config\.yaml"):
        read_config(tmp_path / "config.yaml")


def test_a_rate_that_falls_over_the_run_fixes_its_length(effopd, tmp_path):
    with open_configs() as configs:
        (job,) = training_jobs(configs, ["experiment=toy_effopd", "learner.lr_schedule=cosine"], is_multirun=False)
    write_config(job.config, tmp_path / "config.yaml")
    outcome = effopd("train", f"resume={tmp_path}", "num_steps=200")
    assert outcome.code == 2
    assert "num_steps=200: the learning rate of this run falls over num_steps=100" in outcome.stderr
    assert effopd("train", f"resume={tmp_path}", "num_steps=100").code == 0
