"""Every mistake on a command line is one line that names it, and exit code 2."""

import shlex

import pytest

from effopd.config.keys import SETTINGS, SYNONYMS, unknown_key

TOY = "train experiment=toy_opd"

# command line, words that the one line on standard error must contain
MISTAKES = [
    # Keys.
    (f"{TOY} learner.lrr=1", ["unknown key learner.lrr", "did you mean learner.lr?"]),
    (f"{TOY} lr=1", ["unknown key lr", "did you mean learner.lr?"]),
    (f"{TOY} rollout.lr=1", ["unknown key rollout.lr", "did you mean learner.lr?"]),
    (f"{TOY} learnr.lr=1", ["unknown key learnr.lr", "did you mean learner.lr?"]),
    (f"{TOY} num_step=1", ["unknown key num_step", "did you mean num_steps?"]),
    (f"{TOY} algo.kl_coeff=1", ["unknown key algo.kl_coeff", "did you mean algo.kl_coef?"]),
    (f"{TOY} algo.zzzz=1", ["unknown key algo.zzzz", "algo has name, clip_low"]),
    (f"{TOY} acelerate=none", ["unknown key acelerate", "did you mean accelerate?"]),
    (f"{TOY} checkpoint=5", ["checkpoint is a group of settings", "checkpoint.every"]),
    (f"{TOY} accelerate@other=paper", ["unknown key accelerate@other"]),
    (f"{TOY} accelerate.step_sizes.0=3", ["unknown key accelerate.step_sizes.0"]),
    # What other trainers call it.
    (f"{TOY} learner.learning_rate=1", ["unknown key learner.learning_rate", "did you mean learner.lr?"]),
    (f"{TOY} training.learning_rate=1", ["unknown key training.learning_rate", "did you mean learner.lr?"]),
    (f"{TOY} batch_size=1", ["unknown key batch_size", "did you mean rollout.prompts_per_step?"]),
    (f"{TOY} max_steps=1", ["unknown key max_steps", "did you mean num_steps?"]),
    (f"{TOY} learner.total_steps=1", ["unknown key learner.total_steps", "did you mean num_steps?"]),
    (f"{TOY} output=here", ["unknown key output", "did you mean output_dir?"]),
    (f"{TOY} temperature=1", ["unknown key temperature", "did you mean eval.temperature?"]),
    (f"{TOY} teacher.batch_size=1", ["unknown key teacher.batch_size"]),
    # Types and enums.
    (f"{TOY} learner.lr=abc", ["learner.lr=abc", "must be a number"]),
    (f"{TOY} learner.lr=null", ["learner.lr=null", "must be a number"]),
    (f"{TOY} learner.lr=nan", ["learner.lr=nan", "finite"]),
    (f"{TOY} num_steps=1.5", ["num_steps=1.5", "a whole number"]),
    (f"{TOY} num_steps=true", ["num_steps=true", "a whole number"]),
    (f"{TOY} data.num_rows=many", ["data.num_rows=many", "a whole number or null"]),
    (f"{TOY} learner.activation_checkpointing=maybe", ["maybe", "true or false"]),
    (f"{TOY} accelerate.step_sizes=2", ["accelerate.step_sizes=2", "a list such as [2,4,6]"]),
    (f"{TOY} accelerate.step_sizes=[2,x]", ["accelerate.step_sizes=[2,x]", "a list"]),
    (f"{TOY} rollout.engine=vlm", ["rollout.engine=vlm", "one of vllm, hf", "did you mean vllm?"]),
    (f"{TOY} accelerate.gate=reverse-kl", ["one of none, accuracy, reverse_kl", "did you mean reverse_kl?"]),
    (f"{TOY} accelerate.gate=null", ["accelerate.gate=null", "did you mean none?"]),
    # Groups.
    ("train experiment=toy_op", ["experiment=toy_op", "toy_effopd_paper", "did you mean toy_opd?"]),
    (f"{TOY} accelerate=kl", ["accelerate=kl", "kl_gated, kl_then_accuracy, lookahead", "did you mean kl_gated?"]),
    (f"{TOY} data=prompts.jsonl", ["data=prompts.jsonl", "gsm8k", "data.path=prompts.jsonl"]),
    (f"{TOY} data=null", ["data=null", "must be one of dapo_math_17k"]),
    (f"{TOY} learner=3", ["learner=3", "one_rank, zero2, zero3"]),
    # Additions and removals.
    ("train +experiment=foo", ["+experiment=foo", "write experiment=foo"]),
    (f"{TOY} +algo.clip_lo=1", ["unknown key algo.clip_lo", "did you mean algo.clip_low?"]),
    (f"{TOY} ++learner.lr=1", ["++learner.lr=1", "write learner.lr=1"]),
    (f"{TOY} +lr=1", ["unknown key lr", "did you mean learner.lr?"]),
    (f"{TOY} ~learner.lr", ["~learner.lr", "cannot be removed"]),
    # Syntax.
    (f"{TOY} learner.lr", ["learner.lr: not of the form key=value", "write learner.lr=<value>"]),
    (f"{TOY} toy_opd", ["toy_opd: not of the form key=value"]),
    (f"{TOY} data.answer_pattern=(.+", ["data.answer_pattern=(.+", "quote"]),
    (f"{TOY} =3", ["=3", "not of the form key=value"]),
    (f"{TOY} learner.lr=1e-3,1e-4", ["learner.lr=1e-3,1e-4", "-m"]),
    (f"{TOY} learner.lr=1 learner.lr=2", ["learner.lr is given twice", "learner.lr=1", "learner.lr=2", "keep one"]),
    (f"{TOY} learner.lr='${{nothing}}'", ["nothing"]),
    (f"{TOY} hydra.run.dir=x", ["hydra.run.dir=x", "output_dir"]),
    # Values that the schema refuses.
    (f"{TOY} learner.lr=-1", ["learner.lr=-1", "must be positive"]),
    (f"{TOY} rollout.prompts_per_step=0", ["rollout.prompts_per_step=0", "at least 1"]),
    (f"{TOY} num_steps=0", ["num_steps=0", "at least 1"]),
    (f"{TOY} algo.num_minibatches=0", ["algo.num_minibatches=0", "at least 1"]),
    (f"{TOY} algo.num_epochs=0", ["algo.num_epochs=0", "at least 1"]),
    (f"{TOY} algo.max_sampling_rounds=0", ["algo.max_sampling_rounds=0", "at least 1"]),
    (f"{TOY} algo.reward_coef=-1", ["algo.reward_coef=-1", "must not be negative"]),
    (f"{TOY} cluster.hang_seconds=-1", ["cluster.hang_seconds=-1", "must not be negative"]),
    (f"{TOY} algo.kl_coef=-1", ["algo.kl_coef=-1", "must not be negative"]),
    (f"{TOY} algo.overlong_buffer=-1", ["algo.overlong_buffer=-1", "must not be negative"]),
    (f"{TOY} algo.discount=1.5", ["algo.discount=1.5", "must lie in [0, 1]"]),
    (f"{TOY} algo.gae_lambda=-0.1", ["algo.gae_lambda=-0.1", "must lie in [0, 1]"]),
    (f"{TOY} algo.value_clip=0", ["algo.value_clip=0", "must be positive"]),
    (f"{TOY} algo.critic_lr=0", ["algo.critic_lr=0", "must be positive"]),
    (f"{TOY} eval.top_p=2", ["eval.top_p=2", "(0, 1]"]),
    (f"{TOY} learner.zero_stage=4", ["learner.zero_stage=4", "0, 1, 2 or 3"]),
    # What is missing.
    ("train", ["nothing to train", "toy_effopd, toy_effopd_paper, toy_grpo, toy_opd", "model.path="]),
    ("eval", ["nothing to evaluate", "toy_opd", "model.path=", "eval.path="]),
    ("train teacher.path=toy:sums_teacher data=toy_sums", ["model.path is required", "model.path="]),
    ("train model.path=toy:sums_base data=toy_sums", ["teacher.path is required"]),
    ("eval experiment=toy_opd eval=none", ["eval.path is required"]),
    # Rules across groups.
    (f"{TOY} data.path=missing.jsonl", ["data.path=missing.jsonl", "no such file"]),
    (f"{TOY} debug.recorded=x", ["debug.recorded=x", "no effect"]),
    ("eval experiment=toy_opd learner.lr=1", ["learner.lr=1", "no effect on effopd eval"]),
    ("eval experiment=toy_opd teacher.dtype=bfloat16", ["teacher.dtype=bfloat16", "add teacher.path="]),
    ("eval experiment=toy_opd teacher=toy_sums eval.top_p=0.9", ["eval.top_p=0.9", "teacher.path=toy:sums_teacher"]),
    ("eval experiment=toy_opd teacher.path=toy:sum", ["teacher.path=toy:sum", "no such toy model"]),
    # Options and commands.
    (f"{TOY} --multrun", ["--multrun", "did you mean --multirun?"]),
    (f"{TOY} --cfg all", ["--cfg", "all", "job"]),
    (f"{TOY} --resolve", ["--resolve", "--cfg job"]),
    (f"{TOY} --cfg job --package learnr", ["--package=learnr", "did you mean learner?"]),
    (f"{TOY} --config-dir nowhere", ["--config-dir=nowhere", "no such folder"]),
    ("tran", ["tran", "train, eval, plan, study, compare, export, doctor", "did you mean train?"]),
    ("compare", ["RUN", "effopd compare --help"]),
    ("compare nowhere --output out", ["nowhere", "no such folder"]),
    ("compare nowhere --output out --target high", ["high", "auto"]),
    ("export nowhere --output out", ["nowhere", "no such folder"]),
    ("export nowhere --output out --dtype float8", ["float8", "bfloat16"]),
    ("export nowhere --output out --checkpoint newest", ["newest", "last, best"]),
    ("train resume=nowhere", ["resume=nowhere", "no such folder"]),
]


@pytest.mark.parametrize(("line", "words"), MISTAKES, ids=[line for line, _ in MISTAKES])
def test_a_mistake_is_one_line_that_names_it(effopd, line, words):
    outcome = effopd(*shlex.split(line))
    assert outcome.code == 2
    assert outcome.stderr.startswith("effopd: ")
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    assert not [word for word in words if word not in outcome.stderr], outcome.stderr
    assert outcome.configs == []


@pytest.mark.parametrize(
    "line", ["train experiment=toy_op", f"{TOY} rollout.engine=vlm", f"{TOY} accelerate=kl", "tran"]
)
def test_a_suggestion_stands_before_the_list_of_choices(effopd, line):
    message = effopd(*shlex.split(line)).stderr
    assert 0 < message.index("did you mean") < message.index("must be one of")


def test_another_number_format_is_no_misspelling(effopd):
    message = effopd("train", "experiment=toy_opd", "learner.dtype=float16").stderr
    assert message == "effopd: learner.dtype=float16: must be one of float32, bfloat16\n"


@pytest.mark.parametrize("key", SYNONYMS)
def test_a_synonym_names_a_setting_and_is_none_itself(key):
    assert SYNONYMS[key] in SETTINGS and key not in SETTINGS
    assert unknown_key(key) == f"unknown key {key} (did you mean {SYNONYMS[key]}?)"


def test_all_mistakes_are_reported_at_once(effopd):
    outcome = effopd("train", "experiment=toy_op", "learner.lrr=1", "rollout.engine=vlm")
    assert [line.split(": ")[1].split(" (")[0] for line in outcome.stderr.splitlines()] == [
        "experiment=toy_op",
        "unknown key learner.lrr",
        "rollout.engine=vlm",
    ]


def test_values_out_of_range_are_reported_at_once(effopd):
    outcome = effopd("train", "experiment=toy_opd", "learner.lr=-1", "rollout.max_response_len=0", "num_steps=0")
    assert len(outcome.stderr.splitlines()) == 3


# contents of experiment/mine.yaml, words that the line must contain
BAD_FILES = [
    ("learner: {lrr: 1}", ["experiment/mine", "unknown key learner.lrr", "did you mean learner.lr?"]),
    ("num_stepsx: 1", ["experiment/mine", "unknown key num_stepsx", "did you mean num_steps?"]),
    ("learner: {lr: abc}", ["experiment/mine", "learner.lr=abc", "must be a number"]),
    ("rollout: {engine: vlm}", ["experiment/mine", "rollout.engine=vlm", "did you mean vllm?"]),
    ("accelerate: {step_sizes: [a]}", ["experiment/mine", "accelerate.step_sizes", "a list"]),
    ("defaults:\n  - override /accelerate: papper", ["accelerate/papper", "paper"]),
    ("learner: [", ["mine.yaml", "line"]),
    ("name: ${oc.env:NO_SUCH_VARIABLE}", ["NO_SUCH_VARIABLE"]),
    ("learner: 3", ["experiment/mine"]),
]


@pytest.mark.parametrize(("text", "words"), BAD_FILES, ids=[text for text, _ in BAD_FILES])
def test_a_mistake_in_a_file_is_one_line_that_names_the_file(effopd, tmp_path, text, words):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{text}\n")
    outcome = effopd("train", "--config-dir", str(tmp_path), "experiment=mine")
    assert outcome.code == 2
    assert outcome.stderr.count("\n") == 1, outcome.stderr
    assert not [word for word in words if word not in outcome.stderr], outcome.stderr
