"""Studies: what their files mean, and what is wrong with them, said before anything starts."""

from pathlib import Path

import pytest

from effopd.config.check_data import TOY_TASKS
from effopd.config.register import open_configs
from effopd.config.study import read_study, study_names, written_lr
from effopd.errors import ConfigError

SMALL = """
name: small
base: [experiment=toy_opd, rollout=hf, cluster=local]
tasks: {sums: [], programs: [model=toy_programs, teacher=toy_programs, data=toy_programs, eval=toy_programs]}
methods: {vanilla: [], paper: [accelerate=paper]}
learning_rates: [1e-4, 1e-3]
seeds: [0, 1]
num_steps: 7
"""


@pytest.fixture
def read(tmp_path):
    """Reads a study of the given text under the given arguments."""

    def read(text, *arguments):
        (tmp_path / "study.yaml").write_text(text)
        with open_configs() as configs:
            return read_study(configs, str(tmp_path / "study.yaml"), arguments)

    return read


GATE_SETS = [f"runs/gate_sets/toy:{task}/{name}.jsonl" for task in TOY_TASKS for name in ("easy", "medium", "hard")]
"""What the study of ablations asks to be made first."""


@pytest.mark.parametrize("name", study_names())
def test_every_shipped_study_composes_and_passes_the_checks(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for file in map(Path, GATE_SETS):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    with open_configs() as configs:
        study = read_study(configs, name, [])
    assert study.settings.name == name
    assert study.runs


def test_a_study_is_every_combination_with_the_seeds_varying_slowest(read):
    study = read(SMALL)
    assert len(study.runs) == 16
    assert [cell.label for cell, _ in study.runs[:5]] == [
        "sums vanilla lr=1e-4 seed=0",
        "sums paper lr=1e-4 seed=0",
        "sums vanilla lr=1e-3 seed=0",
        "sums paper lr=1e-3 seed=0",
        "programs vanilla lr=1e-4 seed=0",
    ]
    assert [str(cell.folder) for cell, _ in study.runs[-1:]] == ["programs/paper/lr=1e-3/seed=1"]
    _, last = study.runs[-1]
    assert (last.model.path, last.accelerate.gate, last.learner.lr, last.seed) == (
        *("toy:programs_base", "accuracy", 1e-3, 1),
    )
    assert (last.num_steps, last.name) == (7, "programs_paper")


def test_extra_cells_come_after_the_grid(read):
    extra = "extra: [{methods: [vanilla], tasks: [sums], learning_rates: [3e-5]}, {seeds: [2], learning_rates: [1e-3]}]"
    labels = [cell.label for cell, _ in read(SMALL + extra).runs]
    assert labels[16:] == [
        *("sums vanilla lr=3e-5 seed=0", "sums vanilla lr=3e-5 seed=1", "sums vanilla lr=1e-3 seed=2"),
        *("sums paper lr=1e-3 seed=2", "programs vanilla lr=1e-3 seed=2", "programs paper lr=1e-3 seed=2"),
    ]


def test_extra_cells_may_be_all_there_are(read):
    text = SMALL.replace("learning_rates: [1e-4, 1e-3]", "extra: [{tasks: [sums], learning_rates: [3e-5]}]")
    labels = [cell.label for cell, _ in read(text, "seeds=[4]").runs]
    assert labels == ["sums vanilla lr=3e-5 seed=4", "sums paper lr=3e-5 seed=4"]


def test_an_argument_changes_the_study_or_all_of_its_runs(read):
    study = read(SMALL, "seeds=[5]", "num_steps=3", "rollout.prompts_per_step=8")
    assert {cell.seed for cell, _ in study.runs} == {5}
    assert {(config.num_steps, config.rollout.prompts_per_step) for _, config in study.runs} == {(3, 8)}


def test_a_method_has_the_last_word_then_its_task_then_the_argument_then_the_base(read):
    text = SMALL.replace("vanilla: []", "vanilla: [num_steps=9]").replace("sums: []", "sums: [num_steps=8, eval.ema=2]")
    of_cell = {(cell.task, cell.method): config for cell, config in read(text, "eval.every=1").runs}
    assert [of_cell[key].num_steps for key in (("sums", "vanilla"), ("sums", "paper"), ("programs", "paper"))] == [
        9,
        8,
        7,
    ]
    assert of_cell["sums", "paper"].eval.every == 1


def test_a_learning_rate_is_written_as_people_write_it():
    assert [written_lr(lr) for lr in (1e-4, 3e-05, 0.00015, 1.0)] == ["1e-4", "3e-5", "1.5e-4", "1e0"]


@pytest.mark.parametrize(
    ("change", "arguments", "problem"),
    [
        (("seeds:", "seedz:"), [], "unknown key seedz (did you mean seeds?)"),
        (("seeds: [0, 1]", "seeds: [0, 0]"), [], "seeds=[0, 0]: names a cell twice"),
        (("seeds: [0, 1]", "seeds: []"), [], "seeds=[]: must not be empty"),
        (("learning_rates: [1e-4, 1e-3]", "extra: []"), [], "learning_rates=[]: must not be empty"),
        (("seeds: [0, 1]", "seeds: [a]"), [], "seeds"),
        (("paper: [", "a/b: ["), [], "methods=a/b: names a folder"),
        (("name:", "vanilla: plain\nname:"), [], "vanilla=plain: must be one of the methods vanilla, paper"),
        (("name:", "extra: [{seeds: [1]}]\nname:"), [], "sums vanilla lr=1e-4 seed=1: the study names this cell twice"),
        (("name:", "extra: [{methods: [papr]}]\nname:"), [], "extra: no method papr (did you mean paper?)"),
        (("=paper]", "=papr]"), [], "task sums, method paper: accelerate=papr (did you mean paper?): must be one of"),
        (("=paper]", "=paper, learner.lr=1e-3]"), [], "methods.paper: learner.lr=1e-3: is decided by learning_rates"),
        (("=paper]", "=paper, accelerate.max_length_change=0.5]"), [], "has no effect with accelerate.gate=accuracy"),
        (("toy_opd", "toy_opd, eval=none"), [], "nothing is evaluated"),
        (("", ""), ["learner.lrr=1"], "unknown key learner.lrr (did you mean learner.lr?)"),
        (("", ""), ["seed=3"], "seed=3: is decided by seeds; leave it out"),
        (("", ""), ["accelerate=none"], "accelerate=none: has no effect where methods.paper sets it"),
        (("", ""), ["target_share=0"], "target_share=0.0: must lie in (0, 1]; use 0.97"),
    ],
)
def test_a_wrong_study_is_refused_by_lines_that_name_the_mistake(read, change, arguments, problem):
    with pytest.raises(ConfigError) as caught:
        read(SMALL.replace(*change, 1), *arguments)
    assert problem in str(caught.value)


def test_a_mistake_in_all_runs_is_said_once(read):
    with pytest.raises(ConfigError) as caught:
        read(SMALL, "rollout.num_samplers=0")
    assert str(caught.value) == "rollout.num_samplers=0: must be at least 1; give a positive whole number"


def test_a_wrong_command_line_ends_with_code_2_before_anything_loads(effopd, tmp_path):
    for arguments in (["redu"], [str(tmp_path / "no.yaml")], ["reduced", "--workers", "0"], ["reduced", "seed=1"]):
        outcome = effopd("study", *arguments, "--output", str(tmp_path / "out"))
        assert (outcome.code, outcome.stderr.count("\n")) == (2, 1), outcome.stderr
    assert not (tmp_path / "out").exists()


def test_a_study_is_no_group_of_settings(effopd):
    assert "unknown key study" in effopd("train", "study=reduced").stderr


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("effopd st", "study"),
        ("effopd study red", "reduced"),
        ("effopd study reduced learner.warm", "learner.warmup_steps="),
    ],
)
def test_a_word_of_a_study_is_completed(effopd, line, expected):
    assert effopd("completion", "query", line).stdout == f"{expected}\n"
