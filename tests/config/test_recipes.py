"""The recipes of the paper: its numbers, the command lines in their headers, and their toy versions.

The numbers here are copied from the paper (arXiv 2605.11739, Table 2 and appendix C), not from the files.
"""

import re
import shlex
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path

import pytest

from effopd.config.check import needs_teacher
from effopd.config.jobs import evaluation_jobs, training_jobs
from effopd.config.register import configs_folder, open_configs
from effopd.config.schema import AlgorithmName, Device, Dtype, GateKind, LRSchedule, RunConfig, Runtime
from effopd.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """A row of Table 2: who learns, from whom, and at which ZeRO stage it fits."""

    student: str
    teacher: str | None
    """None where there is no file that a path could name."""
    zero_stage: int
    num_gpus: int = 8


R1_DISTILL = "deepseek-ai/DeepSeek-R1-Distill-Qwen-1.5B"
PRO_RL = "nvidia/Nemotron-Research-Reasoning-Qwen-1.5B"
G_OPD_TEACHER = "Keven16/Qwen3-4B-Non-Thinking-RL-Math-Step500"
ROWS = {
    "r1_distill_1p5b_justrl": Row(student=R1_DISTILL, teacher="hbx/JustRL-DeepSeek-1.5B", zero_stage=2),
    "r1_distill_1p5b_brorl": Row(student=R1_DISTILL, teacher=None, zero_stage=2),
    "r1_distill_1p5b_prorl": Row(student=R1_DISTILL, teacher=PRO_RL, zero_stage=2),
    "qwen3_4b_grpo": Row(student="Qwen/Qwen3-4B", teacher=G_OPD_TEACHER, zero_stage=2),
    "qwen2p5_7b_orz": Row(student="Qwen/Qwen2.5-7B", teacher="Open-Reasoner-Zero/Open-Reasoner-Zero-7B", zero_stage=2),
    "qwen3_8b_base_ppo": Row(student="Qwen/Qwen3-8B-Base", teacher=None, zero_stage=2),
    "qwen3_8b_base_dapo": Row(student="Qwen/Qwen3-8B-Base", teacher="caiyuchen/DAPO-step-27", zero_stage=2),
    "qwen3_14b_base_dapo": Row(student="Qwen/Qwen3-14B-Base", teacher=None, zero_stage=3),
    "qwen3_14b_grpo": Row(student="Qwen/Qwen3-14B", teacher=None, zero_stage=3),
    "qwen2p5_32b_dapo": Row(
        student="Qwen/Qwen2.5-32B", teacher="BytedTsinghua-SIA/DAPO-Qwen-32B", zero_stage=3, num_gpus=32
    ),
    # Below the table: Qwen3-8B-Base also learns from the 14B teacher.
    "qwen3_8b_base_from_14b_dapo": Row(student="Qwen/Qwen3-8B-Base", teacher=None, zero_stage=2),
}
TEACHER_RUNS = {
    "qwen3_4b_grpo_teacher": ("Qwen/Qwen3-4B", AlgorithmName.grpo),
    "qwen3_8b_base_ppo_teacher": ("Qwen/Qwen3-8B-Base", AlgorithmName.ppo),
    "qwen3_8b_base_dapo_teacher": ("Qwen/Qwen3-8B-Base", AlgorithmName.dapo),
    "qwen3_14b_base_dapo_teacher": ("Qwen/Qwen3-14B-Base", AlgorithmName.dapo),
    "qwen3_14b_grpo_teacher": ("Qwen/Qwen3-14B", AlgorithmName.grpo),
}
METHODS = ("", "accelerate=paper", "accelerate=effopd", "algo=exopd")
RECIPES = [*((name, method) for name in ROWS for method in METHODS), *((name, "") for name in TEACHER_RUNS)]
FILES = sorted(
    path for path in (configs_folder() / "experiment").rglob("*.yaml") if not path.stem.startswith(("demo_", "toy_"))
)


@cache
def train_config(*arguments: str, folder: Path | None = None) -> RunConfig:
    """What `effopd train` would run; no test changes it."""
    with open_configs(folder) as configs:
        (job,) = training_jobs(configs, arguments, is_multirun=False)
    return job.config


def recipe_config(name: str, *arguments: str) -> RunConfig:
    """The recipe, with a teacher in the place of one that no path names."""
    missing = ["teacher.path=some/model"] if name in ROWS and ROWS[name].teacher is None else []
    return train_config(f"experiment={name}", *missing, *(argument for argument in arguments if argument))


def num_gpus(config: RunConfig) -> int:
    """What `actors/build.py` asks Ray for: one GPU for every rank and every model that scores."""
    has_reference = config.algo.kl_coef > 0 or config.algo.teacher_scale != 1
    samplers = config.rollout.num_samplers * config.rollout.tensor_parallel_size
    return config.learner.num_ranks + samplers + needs_teacher(config) + has_reference


def test_every_recipe_is_in_the_tables_of_this_test():
    assert {path.stem for path in FILES if path.parent.name == "experiment"} == {*ROWS, *TEACHER_RUNS}


@pytest.mark.parametrize("name", ROWS)
def test_a_distillation_has_the_numbers_of_the_paper(name):
    config, row = recipe_config(name), ROWS[name]
    assert (config.name, config.model.path) == (name, row.student)
    assert config.teacher.path == (row.teacher or "some/model")
    assert (config.algo.name, config.algo.teacher_scale, config.algo.num_minibatches) == (AlgorithmName.opd, 1, 1)
    assert (config.algo.clip_low, config.algo.clip_high, config.algo.dual_clip) == (0.2, 0.2, 3.0)
    assert config.algo.importance_cap == 5.0
    assert (config.data.max_prompt_len, config.rollout.max_response_len) == (2048, 16_384)
    assert (config.rollout.prompts_per_step, config.rollout.samples_per_prompt) == (1024, 1)
    # 57,046 problems, three epochs of whole batches.
    assert (config.num_steps, config.seed) == (3 * (57_046 // 1024), 42)
    check_optimizer(config)
    assert (config.learner.warmup_steps, config.learner.zero_stage) == (0, row.zero_stage)
    assert (config.eval.every, config.checkpoint.every) == (2, 2)
    assert num_gpus(config) in (row.num_gpus - 1, row.num_gpus)
    assert config.data.path == "Keven16/G-OPD-Training-Data"
    check_data_and_evaluation(config)


def check_optimizer(config: RunConfig) -> None:
    learner = config.learner
    assert (learner.lr, learner.lr_schedule) == (1e-6, LRSchedule.constant)
    assert (learner.beta1, learner.beta2, learner.weight_decay, learner.max_grad_norm) == (0.9, 0.999, 0.01, 1.0)
    assert (learner.dtype, config.rollout.dtype, config.teacher.dtype) == (Dtype.bfloat16,) * 3
    assert learner.activation_checkpointing


def check_data_and_evaluation(config: RunConfig) -> None:
    assert config.data.apply_chat_template and not config.data.enable_thinking
    assert config.data.prompt_suffix.strip() == (
        "Please reason step by step, and put your final answer within \\boxed{}."
    )
    assert config.data.verifier == "effopd.rewards.math:verify"
    # Of Figure 6, what is not code.
    assert config.eval.only == ["aime24", "aime25", "aime26", "minerva", "gpqa"]
    assert (config.eval.temperature, config.eval.top_p, config.eval.max_response_len) == (1.0, 1.0, 16_384)


@pytest.mark.parametrize("name", TEACHER_RUNS)
def test_a_teacher_run_has_the_numbers_of_the_paper(name):
    config, (base, algorithm) = recipe_config(name), TEACHER_RUNS[name]
    assert (config.name, config.model.path, config.algo.name) == (name, base, algorithm)
    assert config.data.path == "zwhe99/DeepMath-103K"
    assert (config.data.max_prompt_len, config.rollout.max_response_len) == (2048, 20_480)
    # 32 x 16 = 512 responses to an optimizer step.
    assert (config.rollout.prompts_per_step, config.rollout.samples_per_prompt) == (32, 16)
    assert (config.algo.num_minibatches, config.algo.num_epochs) == (1, 1)
    assert config.seed == 42
    assert 0 < config.learner.warmup_steps < config.num_steps
    check_optimizer(config)
    check_data_and_evaluation(config)
    clipping = (config.algo.clip_low, config.algo.clip_high, config.algo.kl_coef)
    if algorithm is AlgorithmName.dapo:
        assert clipping == (0.2, 0.28, 0.0)
        # DAPO's own: 16,384 tokens are free, the last 4,096 of 20,480 are punished more and more.
        assert config.algo.dynamic_sampling and config.algo.overlong_buffer == 20_480 - 16_384
    else:
        assert clipping == (0.2, 0.2, 0.001)
        assert not config.algo.dynamic_sampling


@pytest.mark.parametrize(("method", "gate"), [("paper", GateKind.accuracy), ("effopd", GateKind.reverse_kl)])
def test_an_acceleration_changes_nothing_else_of_a_recipe(method, gate):
    plain = asdict(recipe_config("qwen3_4b_grpo"))
    accelerated = asdict(recipe_config("qwen3_4b_grpo", f"accelerate={method}"))
    assert {key for key in plain if plain[key] != accelerated[key]} == {"accelerate"}
    assert accelerated["accelerate"]["gate"] is gate


def test_exopd_changes_nothing_but_how_far_the_teacher_is_followed():
    plain = asdict(recipe_config("qwen3_4b_grpo"))
    beyond = asdict(recipe_config("qwen3_4b_grpo", "algo=exopd"))
    assert beyond.pop("algo") == plain.pop("algo") | {"teacher_scale": 1.25}
    assert beyond == plain


def header_commands(path: Path) -> list[list[str]]:
    """The arguments of every `effopd train` in the header, a placeholder like <folder> being some model."""
    comments = [line[1:].strip() for line in path.read_text().splitlines() if line.startswith("#")]
    text = "\n".join(comments).replace("\\\n", " ")
    found = re.findall(r"^effopd train (.+)$", text, re.MULTILINE)
    return [shlex.split(re.sub(r"<[^>]+>", "some/model", arguments)) for arguments in found]


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_the_command_lines_of_a_header_compose_pass_the_checks_and_fit_their_cluster(path):
    commands = header_commands(path)
    assert commands
    for arguments in commands:
        config = train_config(*arguments)
        available = 32 if config.cluster.address == "auto" else 8
        assert available - 1 <= num_gpus(config) <= available, arguments


@pytest.mark.parametrize("name", ROWS)
def test_the_header_of_a_distillation_has_all_four_methods(name):
    commands = header_commands(configs_folder() / "experiment" / f"{name}.yaml")
    chosen = {argument for command in commands for argument in command if argument in METHODS}
    assert chosen == set(METHODS[1:])
    assert any(not chosen.intersection(command) for command in commands)


@pytest.mark.parametrize("name", [*ROWS, *TEACHER_RUNS])
def test_a_recipe_composes_for_four_nodes(name):
    config = recipe_config(name, "cluster=four_nodes")
    assert (config.cluster.runtime, config.cluster.device, config.cluster.address) == (Runtime.ray, Device.cuda, "auto")
    assert num_gpus(config) in (31, 32)


@pytest.mark.parametrize("name", [name for name, row in ROWS.items() if row.teacher is None])
def test_a_recipe_whose_teacher_no_path_names_says_that_it_is_required(name):
    with pytest.raises(ConfigError, match=r"^teacher\.path is required with algo\.name=opd"):
        train_config(f"experiment={name}")


@pytest.mark.parametrize("name", ["qwen3_4b_grpo", "qwen3_14b_grpo_teacher"])
def test_a_recipe_can_be_evaluated_on_all_sets(name):
    with open_configs() as configs:
        (job,) = evaluation_jobs(configs, [f"experiment={name}", "eval.only=null"], is_multirun=False)
    assert job.config.eval.only is None


@pytest.mark.parametrize(("name", "method"), RECIPES)
def test_a_tiny_recipe_keeps_its_method_and_is_otherwise_a_toy(name, method):
    full = recipe_config(name, method)
    # No teacher has to be given: the toy has one.
    tiny = train_config(f"experiment={name}", "scale=tiny", *([method] if method else []))
    assert (tiny.model.path, tiny.teacher.path) == ("toy:sums_base", "toy:sums_teacher")
    assert (tiny.data.path, tiny.eval.path, tiny.eval.only) == ("toy:sums", "toy:sums", None)
    assert (tiny.num_steps, tiny.cluster.device, num_gpus(tiny) - num_scoring(tiny)) == (1, Device.cpu, 2)
    assert tiny.accelerate == full.accelerate
    assert asdict(tiny.algo) | {"overlong_buffer": full.algo.overlong_buffer} == asdict(full.algo)
    assert (tiny.algo.overlong_buffer > 0) == (full.algo.overlong_buffer > 0)
    toy_learner = {"dtype": Dtype.float32, "num_ranks": 1, "warmup_steps": 0}
    assert asdict(tiny.learner) == asdict(full.learner) | toy_learner
    assert (tiny.rollout.engine, tiny.rollout.samples_per_prompt, tiny.eval.every, tiny.name) == (
        full.rollout.engine,
        full.rollout.samples_per_prompt,
        full.eval.every,
        full.name,
    )


def num_scoring(config: RunConfig) -> int:
    return num_gpus(config) - config.learner.num_ranks - config.rollout.num_samplers


@pytest.mark.parametrize("name", ["qwen2p5_32b_dapo", "qwen3_14b_base_dapo_teacher"])
def test_a_tiny_recipe_runs_in_one_process_too(name):
    config = train_config("cluster=local", "rollout=hf", "scale=tiny", f"experiment={name}")
    assert config.cluster.runtime is Runtime.local


GREEDY_EXPERIMENT = """\
# @package _global_
defaults:
  - override /data: deepmath
  - override /eval: math
  - override /cluster: four_nodes
model:
  path: mine/student
teacher:
  path: mine/teacher
data:
  path: mine/prompts
  split: validation
  prompt_column: question
  answer_pattern: '(.*)'
  apply_chat_template: true
  enable_thinking: true
  verifier: mine.verifier:verify
rollout:
  num_samplers: 24
  tensor_parallel_size: 4
  max_model_len: 40000
learner:
  num_ranks: 8
  warmup_steps: 50
"""


def test_tiny_wins_over_whatever_an_experiment_sets_in_either_order(tmp_path):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(GREEDY_EXPERIMENT)
    first = train_config("scale=tiny", "experiment=mine", folder=tmp_path)
    last = train_config("experiment=mine", "scale=tiny", folder=tmp_path)
    toy = train_config("experiment=toy_opd", "scale=tiny")
    assert first == last
    assert (last.data, last.model, last.teacher, last.cluster) == (toy.data, toy.model, toy.teacher, toy.cluster)
    assert (last.rollout, last.learner.num_ranks, last.learner.warmup_steps) == (toy.rollout, 1, 0)


def test_an_argument_wins_over_tiny():
    config = train_config("experiment=qwen3_4b_grpo", "scale=tiny", "num_steps=3", "eval=none")
    assert (config.num_steps, config.eval.path) == (3, None)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("+scale=tiny", r"^\+scale=tiny: scale exists, so nothing can be added; write scale=tiny$"),
        ("scale=tin", r"^scale=tin \(did you mean tiny\?\): must be one of full, tiny$"),
    ],
)
def test_a_scale_that_cannot_be_is_refused_in_one_line(argument, message):
    with pytest.raises(ConfigError, match=message):
        train_config("experiment=toy_opd", argument)
