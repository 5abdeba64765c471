"""Evaluation sets by name: composing, changing, adding, choosing, checking, writing them down."""

import pytest

import effopd.config.check as check
from effopd.config.evaluation import evaluation_sets, longest_sequence, verifier_names
from effopd.config.jobs import evaluation_jobs, training_jobs
from effopd.config.register import configs_folder, open_configs, read_config, write_config
from effopd.config.schema import DebugMode, EvalConfig, EvalSetConfig, RunConfig
from effopd.config.source_schema import RowSchema, SourceConfig

MATH = "effopd.rewards.math:verify"
CODE = "effopd.rewards.code:verify"
DATA_CHOICES = sorted(file.stem for file in (configs_folder() / "data").glob("*.yaml"))
BOXED = "\nPlease reason step by step, and put your final answer within \\boxed{}."


def train_config(*arguments: str) -> RunConfig:
    with open_configs() as configs:
        (job,) = training_jobs(configs, ["experiment=toy_opd", *arguments], is_multirun=False)
    return job.config


def eval_config(*arguments: str) -> RunConfig:
    with open_configs() as configs:
        (job,) = evaluation_jobs(configs, ["model.path=some/student", *arguments], is_multirun=False)
    return job.config


def test_the_mathematics_sets_are_sampled_as_the_paper_says():
    # method.md 2.3 and 2.4: avg@32 on AIME, avg@4 elsewhere, T = 1, top-p = 1, 16,384 tokens, the boxed suffix.
    sets = evaluation_sets(eval_config("eval=math"))
    assert {name: one.samples_per_prompt for name, one in sets.items()} == {
        "aime24": 32,
        "aime25": 32,
        "aime26": 32,
        "math500": 4,
        "amc23": 4,
        "minerva": 4,
        "olympiadbench": 4,
        "gpqa": 4,
    }
    for name, one in sets.items():
        assert (one.temperature, one.top_p, one.max_response_len, one.verifier) == (1.0, 1.0, 16384, MATH)
        assert one.apply_chat_template
        assert (one.source.prompt_suffix == BOXED) == (name != "gpqa")
    assert sets["gpqa"].source.schema is RowSchema.multiple_choice
    assert len(sets["gpqa"].source.choice_columns) == 3


def test_the_programming_sets_are_judged_by_their_tests():
    sets = evaluation_sets(eval_config("eval=code"))
    assert {name: one.source.schema for name, one in sets.items()} == {
        "humaneval_plus": RowSchema.humaneval,
        "mbpp_plus": RowSchema.mbpp,
        "livecodebench": RowSchema.stdio,
    }
    assert {one.verifier for one in sets.values()} == {CODE}


@pytest.mark.parametrize("name", DATA_CHOICES)
def test_every_data_choice_passes_the_checks_with_a_file_of_ones_own(name, tmp_path):
    (tmp_path / "mine.jsonl").write_text("{}")
    config = train_config(f"data={name}", f"data.path={tmp_path}/mine.jsonl", "eval=none")
    assert config.data.path == f"{tmp_path}/mine.jsonl"
    assert SourceConfig.__slots__  # a subclass of a slotted class must not grow a dictionary
    assert not hasattr(config.data, "__dict__")


def test_rows_are_counted_for_every_set_that_does_not_count_its_own():
    sets = evaluation_sets(eval_config("eval=math", "eval.num_rows=3", "eval.sets.math500.num_rows=7"))
    assert {name: one.source.num_rows for name, one in sets.items()} == {name: 3 for name in sets} | {"math500": 7}


def test_one_set_is_changed_and_another_added_by_an_argument(tmp_path):
    (tmp_path / "m.jsonl").write_text("{}")
    config = eval_config(
        "eval=math",
        f"eval.sets.math500.path={tmp_path}/m.jsonl",
        "eval.sets.math500.num_rows=7",
        "+eval.sets.own.path=toy:sums",
        "+eval.sets.own.verifier=effopd.toy.verify:sums",
    )
    sets = evaluation_sets(config)
    assert (sets["math500"].source.path, sets["math500"].source.num_rows) == (f"{tmp_path}/m.jsonl", 7)
    assert sets["math500"].source.prompt_suffix == BOXED
    assert list(sets)[-1] == "own"


def test_only_chooses_among_the_sets():
    assert list(evaluation_sets(eval_config("eval=math", "eval.only=[math500,aime24]"))) == ["aime24", "math500"]


def test_what_a_set_leaves_open_is_taken_from_eval_and_data():
    config = RunConfig(
        eval=EvalConfig(sets={"a": EvalSetConfig(path="x/y"), "b": EvalSetConfig(path="x/z", temperature=0.5)})
    )
    config.data.verifier, config.data.apply_chat_template = MATH, True
    config.eval.samples_per_prompt, config.eval.top_p = 3, 0.9
    sets = evaluation_sets(config)
    assert (sets["a"].verifier, sets["a"].samples_per_prompt, sets["a"].top_p) == (MATH, 3, 0.9)
    assert (sets["a"].temperature, sets["b"].temperature) == (1.0, 0.5)
    assert (sets["a"].max_response_len, sets["a"].apply_chat_template) == (config.rollout.max_response_len, True)
    config.eval.apply_chat_template = False
    assert not evaluation_sets(config)["a"].apply_chat_template


def test_a_path_is_a_single_set_with_the_columns_of_the_data():
    config = train_config("data.max_prompt_len=17", "eval.num_rows=5")
    (one,) = evaluation_sets(config).values()
    assert (one.name, one.source.path, one.source.num_rows) == ("toy:sums", "toy:sums", 5)
    assert (one.source.max_prompt_len, one.verifier) == (17, config.data.verifier)


def test_every_verifier_is_named_once_and_that_of_the_data_first():
    config = eval_config("eval=math", "data.verifier=effopd.toy.verify:sums", f"eval.sets.aime24.verifier={CODE}")
    assert verifier_names(config) == ["effopd.toy.verify:sums", CODE, MATH]


def test_engines_are_sized_for_the_longest_set():
    config = eval_config("eval=math", "eval.sets.amc23.max_response_len=20000", "eval.only=[amc23,aime24]")
    longest = longest_sequence(config)
    assert longest.num_tokens == 2048 + 20000
    assert longest.response_len_key == "eval.sets.amc23.max_response_len"


def test_named_sets_are_written_and_read_back_equal(tmp_path):
    config = train_config("eval=math", "eval.path=null", "eval.only=[gpqa]")
    write_config(config, tmp_path / "config.yaml")
    assert read_config(tmp_path / "config.yaml") == config


def test_cfg_job_shows_the_sets(effopd):
    assert "      samples_per_prompt: 32\n" in effopd("train", "--cfg", "job", "experiment=toy_opd", "eval=math").stdout


def test_a_file_of_ones_own_may_define_sets(effopd, tmp_path):
    (tmp_path / "eval").mkdir()
    (tmp_path / "eval" / "mine.yaml").write_text("sets: {mine: {path: 'toy:sums', num_rows: 3}}\n")
    outcome = effopd("train", "--config-dir", str(tmp_path), "experiment=toy_opd", "eval=mine")
    assert outcome.stderr == ""
    assert outcome.configs[0].eval.sets["mine"].num_rows == 3


# arguments after `experiment=toy_opd eval=math`, words that the one line must contain
MISTAKES = [
    (["eval.sets.math50.path=x/y"], ["no evaluation set math50", "+eval.sets.math50.path", "did you mean math500?"]),
    (["eval.sets.math500.pth=x/y"], ["unknown key eval.sets.math500.pth", "did you mean eval.sets.math500.path?"]),
    (["eval.sets.math500.zzz=1"], ["unknown key eval.sets.math500.zzz", "an evaluation set has path"]),
    (["eval.sets.math500=x/y"], ["eval.sets.math500 is a group of settings"]),
    (["eval.sets=x"], ["eval.sets is a group of settings"]),
    (["eval.sets.math500.temperature=hot"], ["eval.sets.math500.temperature=hot", "must be a number or null"]),
    (["eval.sets.math500.temperature=-1"], ["eval.sets.math500.temperature=-1", "must not be negative"]),
    (["eval.sets.math500.max_prompt_len=0"], ["eval.sets.math500.max_prompt_len=0", "at least 1"]),
    (["eval.sets.math500.schema=verll"], ["eval.sets.math500.schema=verll", "did you mean verl?"]),
    (["eval.sets.math500.path=./nowhere.jsonl"], ["eval.sets.math500.path=./nowhere.jsonl", "no such file"]),
    (["eval.sets.math500.verifier=verify"], ["eval.sets.math500.verifier=verify", "package.module:function"]),
    (["eval.sets.math500.answer_pattern=x"], ["eval.sets.math500.answer_pattern=x", "group"]),
    (
        ["eval.sets.math500.temperature=0"],
        ["eval.sets.math500.temperature=0", "eval.sets.math500.samples_per_prompt=4"],
    ),
    (["+eval.sets.own.num_rows=3"], ["eval.sets.own.path is required"]),
    (["+eval.sets.a-b.path=x/y"], ["eval.sets.a-b", "rename it"]),
    (["~eval.sets.gpqa"], ["~eval.sets.gpqa", "eval.only="]),
    (["eval.only=[gpq]"], ["eval.only=[gpq]", "did you mean gpqa?"]),
    (["eval.only=[]"], ["eval.only=[]", "eval=none"]),
    (["eval.only=gpqa"], ["eval.only=gpqa", "a list such as [a,b]"]),
    (["eval.path=toy:sums"], ["eval.path=toy:sums", "eval.sets=aime24", "one set or several"]),
]


@pytest.mark.parametrize(("arguments", "words"), MISTAKES, ids=[arguments[0] for arguments, _ in MISTAKES])
def test_a_mistake_in_a_set_is_one_line(effopd, arguments, words):
    outcome = effopd("train", "experiment=toy_opd", "eval=math", *arguments)
    assert (outcome.code, outcome.stderr.count("\n"), outcome.configs) == (2, 1, []), outcome.stderr
    assert not [word for word in words if word not in outcome.stderr], outcome.stderr


def test_sets_do_not_change_when_a_run_resumes(effopd, tmp_path):
    write_config(train_config("eval=math"), tmp_path / "config.yaml")
    (config,) = effopd("train", f"resume={tmp_path}").configs
    assert len(config.eval.sets) == 8
    outcome = effopd("train", f"resume={tmp_path}", "eval.sets.math500.num_rows=3")
    assert outcome.stderr.startswith("effopd: eval.sets.math500.num_rows=3: a resumed run keeps its own settings")


def valid_config() -> RunConfig:
    config = RunConfig()
    config.model.path, config.teacher.path, config.data.path = "some/student", "some/teacher", "some/prompts"
    config.data.verifier = MATH
    return config


# changes to `data`, words that the one violation must contain
DATA_VIOLATIONS = [
    ({"where": "ability"}, ["data.where=ability", "column=value"]),
    ({"strip_suffix": "("}, ["data.strip_suffix=(", "not a regular expression"]),
    ({"strip_prefix": "["}, ["data.strip_prefix=[", "not a regular expression"]),
    ({"schema": RowSchema.verl, "prompt_column": "q"}, ["data.prompt_column=q", "no effect", "data.schema=verl"]),
    ({"schema": RowSchema.mbpp, "answer_pattern": "(x)"}, ["data.answer_pattern=(x)", "data.schema=mbpp"]),
    ({"schema": RowSchema.multiple_choice}, ["data.schema=multiple_choice", "data.choice_columns=[]"]),
    ({"choice_columns": ["a"]}, ["data.schema=columns", "data.choice_columns=[a]"]),
    ({"path": "/nowhere/at/all/*.jsonl"}, ["data.path=/nowhere/at/all/*.jsonl", "no folder /nowhere/at/all"]),
    ({"path": "./a.json"}, ["data.path=./a.json", "no such file"]),
]


@pytest.mark.parametrize(("changes", "words"), DATA_VIOLATIONS, ids=[words[0] for _, words in DATA_VIOLATIONS])
def test_a_violated_rule_of_a_source_names_its_keys(changes, words):
    config = valid_config()
    for name, value in changes.items():
        setattr(config.data, name, value)
    (violation,) = check.training_violations(config)
    assert not [word for word in words if word not in violation], violation


def test_nothing_can_be_evaluated_while_a_recording_is_replayed():
    config = valid_config()
    config.debug.mode, config.debug.recorded = DebugMode.train_only, "/"
    config.eval.sets = {"a": EvalSetConfig(path="x/y")}
    (violation,) = check.training_violations(config)
    assert "eval.sets.a.path=x/y" in violation
    assert "eval=none" in violation


def test_a_set_without_any_verifier_is_refused_by_name():
    config = valid_config()
    config.data.verifier = None
    config.eval.sets = {"a": EvalSetConfig(path="x/y"), "b": EvalSetConfig(path="x/z", verifier=MATH)}
    (violation,) = check.training_violations(config)
    assert "eval.sets.a.verifier" in violation


def test_contamination_is_of_no_concern_to_an_evaluation(effopd):
    outcome = effopd("eval", "model.path=toy:sums_base", "eval=math", "data.contamination=error")
    assert "data.contamination=error: has no effect on effopd eval" in outcome.stderr
