"""The shipped YAML files say what the design says they say."""

from dataclasses import asdict

import pytest

from effopd.config.build import build_config
from effopd.config.check import training_violations
from effopd.config.evaluation import evaluation_sets
from effopd.config.jobs import evaluation_jobs, training_jobs
from effopd.config.keys import SECTIONS
from effopd.config.register import STUDIES, configs_folder, open_configs
from effopd.config.schema import (
    AcceptRule,
    AnchorRule,
    GateKind,
    MovedParameters,
    RolloutEngine,
    RunConfig,
    Runtime,
    SeedRule,
)
from effopd.config.search_schema import ScheduleKind, SearchKind

EXPERIMENTS = sorted(
    file.stem
    for file in (configs_folder() / "experiment").glob("*.yaml")
    if file.stem.startswith(("demo_", "toy_"))  # the others are recipes: test_recipes.py
)
GROUP_CHOICES = sorted(
    f"{file.parent.name}={file.stem}"
    for file in configs_folder().glob("*/*.yaml")
    if file.parent.name not in ("experiment", STUDIES)
)


OWN = ("model.path=some/student", "data.path=some/prompts", "data.verifier=effopd.rewards.math:verify")


def train_config(*arguments: str) -> RunConfig:
    with open_configs() as configs:
        (job,) = training_jobs(configs, arguments, is_multirun=False)
    return job.config


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_composes_passes_the_checks_and_bears_its_own_name(name):
    assert train_config(f"experiment={name}").name == name


@pytest.mark.parametrize("name", EXPERIMENTS)
def test_every_experiment_can_be_evaluated(name):
    with open_configs() as configs:
        (job,) = evaluation_jobs(configs, [f"experiment={name}"], is_multirun=False)
    assert job.config.eval.path == job.config.data.path != "???"


@pytest.mark.parametrize("choice", GROUP_CHOICES)
def test_every_group_choice_composes_with_an_experiment(choice):
    with open_configs() as configs:
        tree = configs.compose("train", ["experiment=toy_opd", choice])
    build_config(tree, required=())


@pytest.mark.parametrize(
    "choice", [choice for choice in GROUP_CHOICES if choice.startswith(("accelerate=", "rollout="))]
)
def test_presets_pass_the_checks(choice):
    assert training_violations(train_config("experiment=toy_opd", choice)) == []


def test_every_group_is_a_section_of_the_schema():
    groups = {file.parent.name for file in configs_folder().glob("*/*.yaml")}
    assert groups - {"experiment", "scale", STUDIES} <= SECTIONS


@pytest.mark.parametrize("root", ["train", "eval"])
def test_a_root_alone_changes_no_default_but_the_acceleration(root):
    with open_configs() as configs:
        assert configs.compose(root, ["accelerate=none"]) == asdict(RunConfig())


@pytest.mark.parametrize(
    ("algo", "preset"),
    [
        ("opd", "effopd"),
        ("opd_full", "effopd"),
        # Their objectives are others than the reverse KL that effopd gates by.
        ("exopd", "none"),
        ("ppo", "none"),
        ("grpo", "none"),
        ("dapo", "none"),
    ],
)
def test_the_default_acceleration_is_effopd_where_the_algorithm_minimises_the_reverse_kl(algo, preset):
    with open_configs() as configs:
        default, named = (configs.compose("train", [f"algo={algo}", *more]) for more in ([], [f"accelerate={preset}"]))
    assert default == named


def test_effopd_doubles_the_rate_with_every_kept_jump_and_rests_when_jumps_are_refused():
    settings = train_config("experiment=toy_opd", "accelerate=effopd").accelerate
    assert (settings.gate, settings.accept) == (GateKind.reverse_kl, AcceptRule.paired)
    assert (settings.search, settings.step_sizes) == (SearchKind.parabola, [2.0, 6.0])
    assert (settings.schedule, settings.every, settings.max_rejects) == (ScheduleKind.adaptive, 2, 3)
    assert (settings.lr_on_accept, settings.lr_on_reject) == (2.0, 1.0)


def test_accelerate_none_is_read_as_a_name_and_not_as_null():
    assert train_config("experiment=toy_effopd", "accelerate=none").accelerate == RunConfig().accelerate


@pytest.mark.parametrize(
    ("preset", "gate", "accept", "moved", "seeds"),
    [
        # Design decision 12: as printed, as the authors' code, and ours.
        ("paper", GateKind.accuracy, AcceptRule.non_worse, MovedParameters.all, SeedRule.independent),
        ("released", GateKind.accuracy, AcceptRule.strict, MovedParameters.released, SeedRule.independent),
        ("kl_gated", GateKind.reverse_kl, AcceptRule.strict, MovedParameters.matrices, SeedRule.common),
    ],
)
def test_an_acceleration_preset_is_what_its_source_says(preset, gate, accept, moved, seeds):
    settings = train_config("experiment=toy_opd", f"accelerate={preset}").accelerate
    assert (settings.gate, settings.accept, settings.moved, settings.seeds) == (gate, accept, moved, seeds)
    assert settings.step_sizes == [2.0, 4.0, 6.0, 8.0, 10.0]
    assert (settings.num_prompts, settings.samples_per_prompt) == (50, 1)


@pytest.mark.parametrize(
    ("preset", "schedule", "every", "step_size", "anchor"),
    [
        ("rlvr_linearity", ScheduleKind.every, 10, 1.0, AnchorRule.post_jump),
        ("expo", ScheduleKind.last, 4, 0.5, AnchorRule.initial),
        ("lookahead", ScheduleKind.every, 5, -0.5, AnchorRule.post_jump),
        ("nesterov", ScheduleKind.every, 10, 1.0, AnchorRule.post_jump),
    ],
)
def test_an_ungated_baseline_is_what_its_source_says(preset, schedule, every, step_size, anchor):
    settings = train_config("experiment=toy_opd", f"accelerate={preset}").accelerate
    assert (settings.gate, settings.search) == (GateKind.ungated, SearchKind.fixed)
    assert (settings.schedule, settings.every, settings.step_sizes) == (schedule, every, [step_size])
    assert settings.anchor is anchor


@pytest.mark.parametrize("preset", ["ppo", "grpo", "dapo"])
def test_an_algorithm_preset_passes_the_checks_without_a_teacher(preset):
    config = train_config("model=toy_sums", "data=toy_sums", f"algo={preset}", "rollout.samples_per_prompt=8")
    assert training_violations(config) == []
    assert config.algo.name == preset


def test_algorithm_presets_have_the_published_values():
    # GRPO clips at 0.2 and 0.2 with a KL of 0.001; DAPO at 0.2 and 0.28 without, sampling dynamically.
    grpo, dapo = (train_config(*OWN, f"algo={name}", "rollout.samples_per_prompt=8").algo for name in ("grpo", "dapo"))
    assert (grpo.clip_low, grpo.clip_high, grpo.kl_coef, grpo.dynamic_sampling) == (0.2, 0.2, 0.001, False)
    assert (dapo.clip_low, dapo.clip_high, dapo.kl_coef, dapo.dynamic_sampling) == (0.2, 0.28, 0.0, True)


@pytest.mark.parametrize(
    ("plain_name", "others"),
    [
        ("toy_opd", ("toy_effopd", "toy_effopd_paper")),
        ("demo_opd", ("demo_effopd", "demo_paper")),
        ("demo_opd", ("demo_effopd", "demo_kl_gated")),
    ],
)
def test_runs_to_be_compared_differ_only_in_name_and_acceleration_and_ours_in_the_exactness_of_the_loss(
    plain_name, others
):
    plain, ours, printed = (asdict(train_config(f"experiment={name}")) for name in (plain_name, *others))
    assert {key for key in plain if plain[key] != printed[key]} == {"name", "accelerate"}
    assert {key for key in plain if plain[key] != ours[key]} == {"name", "accelerate", "algo"}
    assert ours["algo"] == plain["algo"] | {"name": "opd_full"}


@pytest.mark.parametrize("name", ["toy_ppo", "toy_grpo", "toy_dapo"])
def test_the_rl_experiments_differ_from_opd_only_in_what_makes_the_algorithm(name):
    opd, other = asdict(train_config("experiment=toy_opd")), asdict(train_config(f"experiment={name}"))
    assert {key for key in opd if opd[key] != other[key]} - {"rollout"} == {"name", "algo", "teacher"}
    group = {"prompts_per_step", "samples_per_prompt"}
    assert {key for key in opd["rollout"] if opd["rollout"][key] != other["rollout"][key]} <= group
    assert other["rollout"]["prompts_per_step"] * other["rollout"]["samples_per_prompt"] == 512
    # Into how many steps a batch is divided is the algorithm's own: a dense signal bears smaller ones.
    assert (opd["algo"]["num_minibatches"], other["algo"]["num_minibatches"]) == (4, 2)


def test_the_evaluation_follows_the_data_unless_it_is_chosen():
    assert train_config("experiment=toy_opd", "data=toy_programs").eval.path == "toy:programs"
    assert train_config("experiment=toy_opd", "eval=none").eval.path is None
    assert train_config("experiment=toy_opd", "eval=toy_programs").eval.path == "toy:programs"


def test_both_toy_tasks_can_be_evaluated_on_together():
    config = train_config("experiment=toy_opd", "eval=toy")
    assert training_violations(config) == []
    sets = evaluation_sets(config)
    assert {name: (one.source.path, one.verifier) for name, one in sets.items()} == {
        "sums": ("toy:sums", "effopd.toy.verify:sums"),
        "programs": ("toy:programs", "effopd.toy.verify:programs"),
    }


def test_own_models_and_prompts_replace_those_of_an_experiment(tmp_path):
    for name in ("student", "teacher"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "config.json").write_text("{}")
    (tmp_path / "gsm8k.jsonl").write_text("{}")
    config = train_config(
        "experiment=toy_opd",
        f"model.path={tmp_path}/student",
        f"teacher.path={tmp_path}/teacher",
        "data=gsm8k",
        f"data.path={tmp_path}/gsm8k.jsonl",
    )
    assert config.model.path == f"{tmp_path}/student"
    assert config.data.path == f"{tmp_path}/gsm8k.jsonl"
    assert config.data.verifier == "effopd.rewards.math:verify"
    assert config.eval.path is None  # no toy problems for a model that was taught mathematics


def test_own_models_need_no_experiment():
    config = train_config("model.path=some/student", "teacher.path=some/teacher", "data.path=some/prompts")
    assert (config.model.path, config.rollout.engine, config.cluster.runtime) == (
        "some/student",
        RolloutEngine.vllm,
        Runtime.ray,
    )


def test_a_tilde_is_the_home_folder(monkeypatch, tmp_path, effopd):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "mine.jsonl").write_text("{}")
    outcome = effopd("train", "experiment=toy_opd", "data.path=~/mine.jsonl")
    assert outcome.configs[0].data.path == f"{tmp_path}/mine.jsonl"
