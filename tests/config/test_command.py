"""The commands that go well, and what becomes of errors that are raised behind them."""

import shlex
import subprocess

import pytest
import yaml

from effopd.config.help import EXAMPLES, explained
from effopd.config.jobs import training_jobs
from effopd.config.keys import SECTIONS, SETTINGS
from effopd.config.register import open_configs
from effopd.errors import CheckpointError, ConfigError, DataError, RolloutError


def test_train_starts_one_run_with_the_given_settings(effopd):
    outcome = effopd("train", "experiment=toy_effopd", "learner.lr=3e-4", "accelerate.step_sizes=[1,2]")
    (config,) = outcome.configs
    assert (outcome.code, outcome.stderr) == (0, "")
    assert (config.name, config.learner.lr, config.accelerate.step_sizes) == ("toy_effopd", 3e-4, [1.0, 2.0])
    assert config.output_dir.startswith("runs/toy_effopd/")


def test_options_may_stand_anywhere(effopd):
    assert len(effopd("train", "experiment=toy_opd", "-m", "seed=1,2").configs) == 2


def test_eval_takes_the_model_and_the_evaluation_of_an_experiment(effopd):
    (config,) = effopd("eval", "experiment=toy_opd", "eval.temperature=0.5").configs
    assert (config.model.path, config.eval.path, config.eval.temperature) == ("toy:sums_base", "toy:sums", 0.5)


def test_eval_needs_no_teacher(effopd):
    outcome = effopd("eval", "model.path=toy:sums_base", "eval=toy_sums", "data.verifier=effopd.toy.verify:sums")
    assert outcome.code == 0


def test_eval_has_a_teacher_only_where_an_argument_names_it(effopd):
    paths = []
    for arguments in ([], ["teacher.path=toy:sums_teacher"], ["teacher=toy_sums", "teacher.dtype=bfloat16"]):
        (config,) = effopd("eval", "experiment=toy_opd", *arguments).configs
        paths.append(config.teacher.path)
    assert paths == ["???", "toy:sums_teacher", "toy:sums_teacher"]


def test_hydra_writes_nothing_and_stays_in_the_folder(effopd, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    effopd("train", "experiment=toy_opd")
    effopd("train", "-m", "experiment=toy_opd", "seed=1,2")
    assert list(tmp_path.iterdir()) == []


# Sweeps.


def test_a_sweep_runs_every_combination_in_order_through_one_entry(effopd):
    outcome = effopd("train", "-m", "experiment=toy_opd,toy_effopd", "learner.lr=1e-4,3e-4")
    assert [(config.name, config.learner.lr) for config in outcome.configs] == [
        ("toy_opd", 1e-4),
        ("toy_opd", 3e-4),
        ("toy_effopd", 1e-4),
        ("toy_effopd", 3e-4),
    ]


def test_the_jobs_of_a_sweep_are_announced_as_they_were_typed(effopd):
    outcome = effopd(
        "train", "-m", "experiment=toy_opd", "seed=1,2", "output_dir=runs/${name}/${seed}", "eval.only=null"
    )
    assert outcome.stderr.splitlines()[1] == (
        "effopd: job 2 of 2: experiment=toy_opd seed=2 output_dir=runs/${name}/${seed} eval.only=null"
    )


def test_a_sweep_with_one_bad_job_runs_none(effopd):
    outcome = effopd("train", "-m", "experiment=toy_opd", "learner.lr=1e-4,-1")
    assert (outcome.code, outcome.configs) == (2, [])
    assert "learner.lr=-1" in outcome.stderr


def test_a_sweep_with_a_folder_that_cannot_be_runs_none(effopd, tmp_path):
    (tmp_path / "2").write_text("a file")
    outcome = effopd("train", "-m", "experiment=toy_opd", "seed=1,2", f"output_dir={tmp_path}/${{seed}}")
    assert (outcome.code, outcome.configs, outcome.stderr.count("\n")) == (2, [], 1)
    assert f"output_dir={tmp_path}/2: {tmp_path}/2 is a file" in outcome.stderr


def test_a_sweep_ends_with_the_job_that_fails(effopd, launch):
    launch.error = DataError("prompts.jsonl line 3: answer is empty")
    outcome = effopd("train", "-m", "experiment=toy_opd", "seed=1,2,3")
    assert outcome.code == 1
    assert len(outcome.configs) == 1
    assert "effopd: prompts.jsonl line 3: answer is empty\n" in outcome.stderr


def test_jobs_of_a_sweep_must_not_share_a_folder(effopd):
    outcome = effopd("train", "-m", "experiment=toy_opd", "seed=1,2", "output_dir=here")
    assert (outcome.code, outcome.configs) == (2, [])
    assert "here" in outcome.stderr


# Errors.


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (ConfigError("wrong"), 2),
        (DataError("wrong"), 2),
        (RolloutError("wrong"), 1),
        (CheckpointError("wrong"), 1),
    ],
)
def test_an_error_of_ours_is_one_line(effopd, launch, error, code):
    launch.error = error
    outcome = effopd("train", "experiment=toy_opd")
    assert (outcome.code, outcome.stderr) == (code, "effopd: wrong\n")


def test_an_unforeseen_error_keeps_its_traceback(effopd, launch):
    launch.error = KeyError("unforeseen")
    with pytest.raises(KeyError):
        effopd("train", "experiment=toy_opd")


def test_an_interrupt_is_silent(effopd, launch):
    launch.error = KeyboardInterrupt()
    outcome = effopd("train", "experiment=toy_opd")
    assert (outcome.code, outcome.stderr) == (130, "")


# What shows without running.


@pytest.mark.parametrize("arguments", [(), ("--help",), ("-h",)])
def test_effopd_alone_lists_the_commands(effopd, arguments):
    outcome = effopd(*arguments)
    assert outcome.code == 0
    assert not [
        name
        for name in ("train", "eval", "doctor", "plan", "study", "compare", "export", "completion")
        if name not in outcome.stdout
    ]


@pytest.mark.parametrize("command", ["train", "eval"])
def test_help_is_a_page_with_options_groups_sections_and_examples(effopd, command):
    outcome = effopd(command, "--help")
    assert outcome.code == 0
    words = (
        "--multirun",
        "--config-dir",
        "toy_effopd_paper, toy_grpo",
        "model, teacher",
        "--cfg job",
        f"effopd {command}",
    )
    assert not [word for word in words if word not in outcome.stdout]
    assert len(outcome.stdout.splitlines()) < 80


@pytest.mark.parametrize(
    "line", [line for lines in EXAMPLES.values() for line in lines if "/" not in line and "-m" not in line]
)
def test_an_example_of_the_help_starts_a_run(effopd, line):
    outcome = effopd(*shlex.split(line)[1:])
    assert outcome.code == 0 and outcome.configs


@pytest.mark.parametrize(
    ("arguments", "lines"),
    [
        (
            ["train", "--help", "learner"],
            ["learner.lr: a number; default 1e-06", "    0 turns clipping off."],
        ),
        (["train", "--help", "model"], ["model.path: text; required", "model.attn_implementation: text; default sdpa"]),
        # Explained in the class that it is inherited from.
        (
            ["eval", "--help", "data"],
            ["data.split: text; default train", "    Of hub data sets, and of MBPP's own file."],
        ),
        (
            ["eval", "--help", "eval"],
            ["eval.temperature: a number; default 1.0", "eval.sets.<name>.top_p: a number or null"],
        ),
        (["train", "--help", "seed"], ["seed: a whole number; default 42"]),
    ],
)
def test_help_explains_the_settings_of_a_section(effopd, arguments, lines):
    outcome = effopd(*arguments)
    assert outcome.code == 0
    assert not [line for line in lines if line not in outcome.stdout.splitlines()]


def test_help_explains_every_setting_of_the_schema():
    with open_configs() as configs:
        tree = configs.compose("train", [])
    shown = "\n".join(explained("train", section, tree) for section in sorted(SECTIONS))
    assert not [key for key in SETTINGS if "." in key and f"{key}: " not in shown]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["train", "--help", "lerner"], "--help lerner (did you mean learner?): must be a section"),
        (["eval", "--help", "learner"], "--help learner: must be a section or a setting of effopd eval"),
    ],
)
def test_help_of_what_is_not_read_names_the_sections(effopd, arguments, words):
    outcome = effopd(*arguments)
    assert (outcome.code, outcome.stderr.count("\n")) == (2, 1)
    assert words in outcome.stderr


def test_a_timeline_is_a_setting_with_a_flag(effopd):
    (config,) = effopd("train", "experiment=toy_opd", "--timeline").configs
    assert config.logger.timeline
    assert "unknown option --timeline" in effopd("eval", "experiment=toy_opd", "--timeline").stderr


def test_cfg_job_shows_what_would_run(effopd):
    outcome = effopd("train", "--cfg", "job", "experiment=toy_opd", "learner.lr=3e-4")
    shown = yaml.safe_load(outcome.stdout)
    assert (shown["name"], shown["learner"]["lr"], shown["model"]["path"]) == ("toy_opd", 3e-4, "toy:sums_base")
    assert outcome.configs == []


def test_cfg_job_can_show_one_section(effopd):
    outcome = effopd("train", "--cfg", "job", "--package", "algo")
    assert yaml.safe_load(outcome.stdout)["clip_low"] == 0.2


def test_a_folder_of_ones_own_adds_choices(effopd, tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(
        "# @package _global_\ndefaults:\n  - toy_opd\n  - override /accelerate: paper\nname: mine\n"
    )
    (config,) = effopd("train", "--config-dir", str(tmp_path), "experiment=mine").configs
    assert (config.name, config.accelerate.gate, config.rollout.max_response_len) == ("mine", "accuracy", 16)


def test_a_folder_of_ones_own_may_have_an_awkward_name(tmp_path):
    folder = tmp_path / 'it\'s, "mine" = ${x}'
    (folder / "algo").mkdir(parents=True)
    (folder / "algo" / "mine.yaml").write_text("clip_low: 0.1\n")
    with open_configs(folder) as configs:
        (job,) = training_jobs(configs, ["experiment=toy_opd", "algo=mine"], is_multirun=False)
    assert job.config.algo.clip_low == 0.1


def test_choices_may_lie_in_folders_of_a_group(effopd, tmp_path):
    (tmp_path / "experiment" / "mine").mkdir(parents=True)
    (tmp_path / "experiment" / "mine" / "a.yaml").write_text(
        "# @package _global_\ndefaults: [/experiment/toy_opd]\nname: a\n"
    )
    (config,) = effopd("train", "--config-dir", str(tmp_path), "experiment=mine/a").configs
    assert config.name == "a"


@pytest.mark.parametrize("text", [r"####\s*(.+)", "(a,b)", r'(")', "(\\\\)", "(=)"])
def test_the_quoting_that_an_error_proposes_gives_the_text_itself(effopd, text):
    refused = effopd("train", "experiment=toy_opd", f"data.answer_pattern={text}=(")
    proposed = refused.stderr.partition("for Hydra: '")[2].removesuffix("'\n")
    (config,) = effopd("train", "experiment=toy_opd", proposed.replace('=("', '=()"')).configs
    assert config.data.answer_pattern == f"{text}=()"


# compare and export.


@pytest.fixture
def run(tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("{}")
    return tmp_path / "run"


def test_compare_passes_runs_target_output_and_baseline_on(effopd, run, monkeypatch):
    calls = []
    monkeypatch.setattr("effopd.compare.compare_runs", lambda *arguments: calls.append(arguments))
    assert effopd("compare", str(run), str(run), "--output", "out", "--target", "0.5").code == 0
    assert effopd("compare", str(run), "--output", "out", "--baseline", "opd").code == 0
    assert [(len(runs), target, str(output), baseline) for runs, target, output, baseline in calls] == [
        (2, 0.5, "out", None),
        (1, None, "out", "opd"),
    ]


def test_compare_takes_a_folder_of_runs(effopd, run, monkeypatch):
    calls = []
    monkeypatch.setattr("effopd.compare.compare_runs", lambda *arguments: calls.append(arguments))
    assert effopd("compare", str(run.parent), "--output", "out").code == 0
    assert calls[0][0] == [run.parent]


def test_export_names_a_checkpoint_that_is_not_there(effopd, run):
    outcome = effopd("export", str(run), "--output", "out")
    assert (outcome.code, outcome.stderr.count("\n")) == (2, 1)
    assert "the run has no checkpoint" in outcome.stderr
    for step in (10, 20):
        (run / "checkpoints" / f"step_{step:06d}").mkdir(parents=True)
    outcome = effopd("export", str(run), "--output", "out", "--checkpoint", "9999")
    assert (outcome.code, outcome.stderr.count("\n")) == (2, 1)
    assert "checkpoint=9999" in outcome.stderr and "one of 10, 20" in outcome.stderr
    outcome = effopd("export", str(run), "--output", "out", "--checkpoint", "best")
    assert (outcome.code, outcome.stderr.count("\n")) == (2, 1)
    assert "has an evaluation score" in outcome.stderr


def test_export_passes_run_checkpoint_and_dtype_on(effopd, run, monkeypatch):
    calls = []
    monkeypatch.setattr("effopd.export.export_run", lambda *arguments: calls.append(arguments))
    (run / "checkpoints" / "step_000020").mkdir(parents=True)
    assert effopd("export", str(run), "--output", "out", "--checkpoint", "20", "--dtype", "float32").code == 0
    assert [(source, str(output), *rest) for source, output, *rest in calls] == [(run, "out", "20", "float32")]


# Completion.


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("effopd tr", "train"),
        ("effopd train accelerate=kl_g", "accelerate=kl_gated"),
        ("effopd train learner.warm", "learner.warmup_steps="),
        ("effopd train check", "checkpoint."),
        ("effopd eval rollout.engine=h", "rollout.engine=hf"),
        ("effopd train checkpoint.keep_best=f", "checkpoint.keep_best=false"),
    ],
)
def test_a_word_is_completed(effopd, line, expected):
    assert effopd("completion", "query", line).stdout == f"{expected}\n"


def test_a_path_is_left_to_the_shell(effopd):
    assert effopd("completion", "query", "effopd train model.path=/us").stdout == ""


def test_the_completion_script_is_bash_and_leaves_only_what_bash_replaces(effopd):
    script = effopd("completion", "bash").stdout
    # The function `effopd` stands in for the program: the test is of the script alone.
    check = (
        "effopd() { echo accelerate=kl_gated; }; compopt() { :; }\n" + script + "\n"
        'COMP_LINE="effopd train accelerate=k"; COMP_POINT=${#COMP_LINE}; COMP_WORDS=(effopd)\n'
        '_effopd_complete; echo "${COMPREPLY[@]}"'
    )
    finished = subprocess.run(["bash", "-c", check], capture_output=True, text=True, check=True)
    assert finished.stdout == "kl_gated\n"
