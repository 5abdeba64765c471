"""Comparing runs: numbers worked out by hand from run folders written here."""

import json
from io import StringIO

import pytest
from PIL import Image
from rich.console import Console

from effopd.compare import compare_runs
from effopd.config.register import write_config
from effopd.config.schema import AccelerateConfig, EvalConfig, EvalSetConfig, GateKind, LearnerConfig, RunConfig
from effopd.curves import read_curve
from effopd.errors import ConfigError
from effopd.run_folders import find_runs


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_run(
    folder,
    scores,
    every=2,
    tokens_per_step=100,
    seconds_per_step=10.0,
    name=None,
    ema=3,
    jumps=(),
    per_prompt=None,
    seed=42,
    lr=1e-6,
    num_steps=100,
    zero_stage=0,
    costs=None,
    eval_sets=None,
    gate_kind=GateKind.none,
):
    """A run that evaluated `scores` at steps 0, every, 2 * every, ..."""
    folder.mkdir(parents=True)
    last_step = every * (len(scores) - 1)
    evals = [
        {
            "step": index * every,
            "score": score,
            "standard_error": 0.01,
            "tokens": {"total_generated": index * every * tokens_per_step},
            "seconds": {"total_training": index * every * seconds_per_step},
            "per_prompt": None if per_prompt is None else per_prompt[index],
        }
        for index, score in enumerate(scores)
    ]
    if costs is not None:
        for row, (teacher_tokens, train, gate, evaluation) in zip(evals, costs, strict=True):
            row["tokens"]["total_teacher"] = teacher_tokens
            row["calls"] = {"total_train": train, "total_gate": gate, "total_eval": evaluation}
    write_rows(folder / "eval.jsonl", evals)
    write_rows(
        folder / "metrics.jsonl",
        [{"step": step, "seconds": {"total_training": step * seconds_per_step}} for step in range(1, last_step + 1)],
    )
    write_rows(
        folder / "extrapolation.jsonl",
        [{"step": step, "accepted_step_size": size} for step, size in jumps],
    )
    if name is not None:
        config = RunConfig(
            name=name,
            seed=seed,
            output_dir=str(folder),
            eval=EvalConfig(ema=ema, sets=eval_sets or {}),
            num_steps=num_steps,
            learner=LearnerConfig(lr=lr, zero_stage=zero_stage),
            accelerate=AccelerateConfig(gate=gate_kind),
        )
        write_config(config, folder / "config.yaml")
    return folder


def compare(runs, target, output, baseline=None):
    text = StringIO()
    compare_runs(runs, target, output, baseline, Console(file=text, width=200))
    return json.loads((output / "comparison.json").read_text()), text.getvalue()


def test_the_numbers_are_those_of_the_first_evaluation_at_the_target(tmp_path):
    # alpha 1/2. slow: 0, .2, .4, .6 -> 0, .1, .25, .425; fast: 0, .6, .6, .6 -> 0, .3, .45, .525.
    slow = write_run(tmp_path / "slow", [0, 0.2, 0.4, 0.6])
    fast = write_run(tmp_path / "fast", [0, 0.6, 0.6, 0.6], tokens_per_step=150, seconds_per_step=12.5)
    found, _ = compare([slow, fast], None, tmp_path / "out")
    # The target is slow's last average: .425, which fast passes at its third evaluation, step 4.
    assert found["target"] == pytest.approx(0.425)
    assert found["runs"][0] == {
        "name": "slow",
        "steps_to_target": 6,
        "tokens_to_target": 600,
        "seconds_to_target": 60.0,
        "final_score": pytest.approx(0.425),
        "final_ci": [pytest.approx(0.425 - 1.96 * 0.01), pytest.approx(0.425 + 1.96 * 0.01)],
        "steps": 6,
        "seconds": 60.0,
        "teacher_tokens_to_target": None,
        "verifier_calls_to_target": None,
        # Steps 0 to 6, all of them common: (.1/2 + (.1 + .25)/2 + (.25 + .425)/2) / 3.
        "auc": {
            "steps": pytest.approx(0.1875),
            "tokens": pytest.approx(0.1875),
            "seconds": pytest.approx(0.1875),
            "teacher_tokens": None,
            "verifier_calls": None,
        },
        "difference": None,
        "difference_ci": None,
    }
    assert found["runs"][1] == {
        "name": "fast",
        "steps_to_target": 4,
        "tokens_to_target": 600,
        "seconds_to_target": 50.0,
        "final_score": pytest.approx(0.525),
        "final_ci": [pytest.approx(0.525 - 1.96 * 0.01), pytest.approx(0.525 + 1.96 * 0.01)],
        "steps": 6,
        "seconds": 75.0,
        "teacher_tokens_to_target": None,
        "verifier_calls_to_target": None,
        "auc": {
            # (.3/2 + (.3 + .45)/2 + (.45 + .525)/2) / 3.
            "steps": pytest.approx(0.3375),
            # Up to the 600 tokens of slow, where fast is at its third evaluation: (.3/2 + (.3 + .45)/2) / 2.
            "tokens": pytest.approx(0.2625),
            # Up to the 60 seconds of slow: evaluations at 0, 25, 50, 75 s, and .45 + .4 * .075 = .48 at 60 s:
            # (25 * .15 + 25 * .375 + 10 * .465) / 60.
            "seconds": pytest.approx(17.775 / 60),
            "teacher_tokens": None,
            "verifier_calls": None,
        },
        "difference": None,
        "difference_ci": None,
    }


def test_a_target_that_is_not_reached_is_null_and_said(tmp_path):
    run = write_run(tmp_path / "run", [0.1, 0.2])
    found, text = compare([run], 0.9, tmp_path / "out")
    assert found["target"] == 0.9
    assert [found["runs"][0][key] for key in ("steps_to_target", "tokens_to_target", "seconds_to_target")] == [None] * 3
    assert "not reached" in text
    assert "not reached" in (tmp_path / "out" / "comparison.md").read_text()


def test_a_target_met_exactly_is_reached_despite_rounding(tmp_path):
    # 0.1 + 0.5 * (0.3 - 0.1) is 0.2 up to the last bit.
    found, _ = compare([write_run(tmp_path / "run", [0.1, 0.3])], 0.2, tmp_path / "out")
    assert found["runs"][0]["steps_to_target"] == 2


def test_name_and_smoothing_come_from_the_settings_of_the_run(tmp_path):
    # ema 1: alpha = 1, no smoothing at all.
    found, _ = compare([write_run(tmp_path / "run", [0, 0.6], name="paper", ema=1)], None, tmp_path / "out")
    assert found["runs"][0]["name"] == "paper"
    assert found["target"] == 0.6


def test_runs_of_one_name_are_told_apart_by_their_folders(tmp_path):
    runs = [write_run(tmp_path / folder, [0, 0.5], name="paper") for folder in ("a", "b")]
    found, _ = compare(runs, None, tmp_path / "out")
    assert [run["name"] for run in found["runs"]] == ["paper/a", "paper/b"]


def test_runs_that_evaluate_at_different_steps_are_compared_with_a_warning(tmp_path):
    often = write_run(tmp_path / "often", [0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6], every=1)
    rarely = write_run(tmp_path / "rarely", [0, 0.6], every=6)
    once = write_run(tmp_path / "once", [0.3])
    found, text = compare([often, rarely, once], 0.3, tmp_path / "out")
    # often: 0, .05, .125, .2125, .30625 at step 4; rarely: 0, .3 at step 6; once: .3 at step 0.
    assert [run["steps_to_target"] for run in found["runs"]] == [4, 6, 0]
    assert "evaluate every so many steps: often 1, rarely 6, once once" in text.replace("\n", " ")


def test_the_interval_comes_from_the_prompts_own_averages(tmp_path):
    # alpha 1/2: prompt a has 0, 1 -> .5; prompt b has 1, 1 -> 1. Mean .75; variance (.25² + .25²) / 1 = .125;
    # standard error sqrt(.125 / 2) = .25; .75 + 1.96 * .25 is above 1 and is cut there.
    outcomes = [{"a": 0.0, "b": 1.0}, {"a": 1.0, "b": 1.0}]
    curve = read_curve(write_run(tmp_path / "run", [0.5, 1.0], per_prompt=outcomes))
    assert curve.final_score == 0.75
    assert curve.final_ci == (pytest.approx(0.75 - 1.96 * 0.25), 1.0)


def test_prompts_that_changed_fall_back_to_the_standard_errors(tmp_path):
    outcomes = [{"a": 0.0, "b": 1.0}, {"a": 1.0, "c": 1.0}]
    curve = read_curve(write_run(tmp_path / "run", [0.5, 0.5], per_prompt=outcomes))
    # Fully dependent errors: 1/2 * .01 + 1/2 * .01.
    assert curve.final_ci == (pytest.approx(0.5 - 1.96 * 0.01), pytest.approx(0.5 + 1.96 * 0.01))


def test_the_figure_is_drawn_with_jumps_even_between_and_outside_evaluations(tmp_path):
    run = write_run(tmp_path / "run", [0, 0.5, 0.6], every=4, jumps=[(1, 2.0), (2, 0.0), (3, 4.0), (99, 2.0)])
    assert read_curve(run).jump_steps == (1, 3, 99)
    compare([run], None, tmp_path / "out")
    with Image.open(tmp_path / "out" / "comparison.png") as image:
        assert image.width > 1000


def test_the_markdown_is_a_table_with_a_row_per_run(tmp_path):
    compare([write_run(tmp_path / name, [0, 0.5]) for name in ("x", "y|z")], None, tmp_path / "out")
    lines = (tmp_path / "out" / "comparison.md").read_text().splitlines()
    cells = [[cell.strip() for cell in line.replace(r"\|", "/").strip("|").split("|")] for line in lines[:4]]
    assert cells[0][:3] == ["run", "steps to target", "tokens to target"]
    assert [set(cell) for cell in cells[1]] == [{"-"}] + [{"-", ":"}] * 10
    assert cells[2][:5] == ["x", "2", "200", "20", "0.2500"]
    assert cells[3][0] == "y/z"
    assert len({len(line) for line in lines[:4]}) == 1


def test_a_narrow_console_gets_whole_rows(tmp_path):
    run = write_run(tmp_path / "run", [0, 0.5], name="a name of more than forty characters, spelt out")
    text = StringIO()
    compare_runs([run], None, tmp_path / "out", console=Console(file=text, width=40))
    row = text.getvalue().splitlines()[2]
    assert "spelt out" in row and row.count("|") == 12


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("eval.jsonl", "", "no evaluation yet"),
        ("eval.jsonl", "nonsense\n", "line 1: not valid JSON"),
        ("eval.jsonl", '{"step": 1, "score": 0.5}\n', "lacks a field .*tokens"),
        ("metrics.jsonl", '{"step": 1}\n', "lacks a field .*seconds"),
        ("config.yaml", "eval: {ema: many}\n", r"config\.yaml"),
    ],
)
def test_a_bad_folder_is_named_with_the_reason(tmp_path, name, content, reason):
    run = write_run(tmp_path / "run", [0, 0.5])
    (run / name).write_text(content)
    with pytest.raises(ConfigError, match=f"{run}.*{reason}"):
        compare_runs([run], None, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_folder_that_is_missing_or_no_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"nothing: no such folder"):
        compare_runs([tmp_path / "nothing"], None, tmp_path / "out")
    with pytest.raises(ConfigError, match=r"no config\.yaml in this folder or below; give a run folder"):
        compare_runs([tmp_path], None, tmp_path / "out")
    (tmp_path / "config.yaml").write_text("{}")
    with pytest.raises(ConfigError, match=r"not a readable run folder: .*eval\.jsonl: no such file"):
        compare_runs([tmp_path], None, tmp_path / "out")
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare_runs([], None, tmp_path / "out")


# Costs.


def test_what_the_teacher_and_the_verifier_did_is_read_from_the_rows(tmp_path):
    # ema 1. The target is met at the second evaluation: 5 + 7 + 20 calls.
    run = write_run(
        tmp_path / "run", [0, 0.6, 0.7], name="x", ema=1, costs=[(0, 0, 0, 10), (80, 5, 7, 20), (160, 10, 7, 30)]
    )
    found, text = compare([run], 0.5, tmp_path / "out")
    (row,) = found["runs"]
    assert (row["teacher_tokens_to_target"], row["verifier_calls_to_target"]) == (80, 32)
    # Over 10 to 47 calls: 22 at mean height .3, 15 at .65.
    assert row["auc"]["verifier_calls"] == pytest.approx((22 * 0.3 + 15 * 0.65) / 37)
    assert "not known" not in text


def test_a_run_of_an_earlier_version_is_charged_what_its_rows_imply(tmp_path):
    run = write_run(tmp_path / "run", [0, 0.6, 0.7], name="x", ema=1)
    evals = [json.loads(line) for line in (run / "eval.jsonl").read_text().splitlines()]
    for row in evals:
        row["mean_response_len"] = 5.0
        row["tokens"]["evaluation"] = 40  # 8 responses an evaluation
    write_rows(run / "eval.jsonl", evals)
    score = {"num_generated_tokens": 30, "mean_response_len": 10.0, "accuracy": 0.5}  # 3 responses a candidate
    unjudged = {**score, "accuracy": None}
    write_rows(
        run / "extrapolation.jsonl",
        [
            {"step": 1, "accepted_step_size": 0, "candidates": [{"score": score}, {"score": score}]},
            {"step": 2, "accepted_step_size": 0, "candidates": [{"score": unjudged}]},
            {"step": 4, "accepted_step_size": 0, "candidates": [{"score": score}]},
        ],
    )
    points = read_curve(run).points
    # All that is generated, gate included, is scored.
    assert [point.num_teacher_tokens for point in points] == [0, 200, 400]
    assert [point.num_verifier_calls for point in points] == [8, 16 + 6, 24 + 9]


# Seeds and sweeps.


@pytest.fixture
def sweep(tmp_path):
    """Two experiments of the name "opd" with two learning rates, two and one seeds, and one of another name; ema 1."""
    folder = tmp_path / "sweep"
    write_run(folder / "a1", [0, 0.4, 0.6], name="opd", ema=1, seed=1, seconds_per_step=10.0)
    write_run(folder / "a2", [0, 0.2, 0.4], name="opd", ema=1, seed=2, seconds_per_step=20.0)
    write_run(folder / "b" / "b1", [0, 0.5, 0.7], name="opd", ema=1, seed=1, lr=1e-4)
    write_run(folder / "c", [0, 0.1, 0.2], name="grpo", ema=1, seed=1)
    return folder


def test_runs_that_differ_in_the_seed_alone_are_one_experiment(sweep, tmp_path):
    found, text = compare([sweep], 0.4, tmp_path / "out")
    assert [run["name"] for run in found["runs"]] == ["opd/a1", "opd/a2", "opd/b1", "grpo/c"]
    assert [group["runs"] for group in found["groups"]] == [["opd/a1", "opd/a2"], ["opd/b1"], ["grpo/c"]]
    first = found["groups"][0]
    assert (first["name"], first["seeds"]) == ("opd learner.lr=1e-06", [1, 2])
    # The mean over seeds is 0, .3, .5: it reaches .4 at step 4, after (40 + 80) / 2 seconds.
    assert [first[f"{axis}_to_target"] for axis in ("steps", "tokens", "seconds")] == [4, 400, 60.0]
    assert first["steps_to_target_by_seed"] == [2, 4]
    # Student: s = .1414, 12.706 * .1414 / sqrt(2) = 1.2706.
    final = first["final_score"]
    assert (final["mean"], final["min"], final["max"]) == (pytest.approx(0.5), 0.4, 0.6)
    assert final["interval"] == [pytest.approx(0.5 - 1.2706), pytest.approx(0.5 + 1.2706)]
    # Areas: (.2 + .5) / 2 and (.1 + .3) / 2.
    assert first["auc"]["steps"]["mean"] == pytest.approx((0.35 + 0.2) / 2)
    assert found["groups"][1]["final_score"]["interval"] is None
    assert text.splitlines()[0].startswith("| experiment ")
    assert "2 of 2" in text and "one seed" in text


def test_experiments_of_one_name_are_told_apart_by_what_was_set(tmp_path):
    def name_of_first(**changes):
        folder = tmp_path / str(len(changes))
        for experiment, settings in (("a", {}), ("b", changes)):
            for seed in (1, 2):
                write_run(folder / f"{experiment}{seed}", [0, 0.5], name="opd", seed=seed, **settings)
        return compare([folder], None, tmp_path / "out")[0]["groups"][0]["name"]

    assert name_of_first(lr=1e-4) == "opd learner.lr=1e-06"
    assert name_of_first(lr=1e-4, ema=1) == "opd eval.ema=3 learner.lr=1e-06"
    assert name_of_first(lr=1e-4, ema=1, num_steps=7, zero_stage=1) == "opd/a1"


def test_runs_on_other_evaluation_sets_are_no_seeds_of_one_experiment(tmp_path):
    for seed, path in ((1, "a"), (2, "a"), (3, "b")):
        sets = {"own": EvalSetConfig(path=path)}
        write_run(tmp_path / f"run{seed}", [0, 0.5], name="opd", seed=seed, eval_sets=sets)
    groups = compare([tmp_path], None, tmp_path / "out")[0]["groups"]
    assert [group["seeds"] for group in groups] == [[1, 2], [3]]


def test_without_a_target_it_is_where_the_mean_of_the_first_experiment_ended(sweep, tmp_path):
    found, text = compare([sweep], None, tmp_path / "out")
    assert found["target"] == pytest.approx(0.5)
    assert found["groups"][0]["steps_to_target"] == 4
    assert "1 of 2" in text


def test_runs_keep_the_order_in_which_they_are_given(sweep, tmp_path):
    found, _ = compare([sweep / "a1", sweep / "c", sweep / "a2"], 0.4, tmp_path / "out")
    assert [run["name"] for run in found["runs"]] == ["opd/a1", "grpo/c", "opd/a2"]
    assert [group["name"] for group in found["groups"]] == ["opd", "grpo/c"]


# The baseline.


@pytest.fixture
def methods(tmp_path):
    """A folder with two seeds of plain OPD and one of EffOPD, whose names come before; ema 1."""
    folder = tmp_path / "methods"
    write_run(folder / "a_effopd", [0, 0.6], name="effopd", ema=1, gate_kind=GateKind.accuracy)
    write_run(folder / "b_gated", [0, 0.7], name="gated", ema=1, gate_kind=GateKind.reverse_kl)
    for seed, score in ((1, 0.2), (2, 0.4)):
        write_run(folder / f"opd{seed}", [0, score], name="opd", ema=1, seed=seed)
    return folder


def test_in_a_folder_of_runs_the_one_without_extrapolation_is_the_baseline(methods, tmp_path):
    found, text = compare([methods], None, tmp_path / "out")
    # The target is the mean over the baseline's seeds: (.2 + .4) / 2.
    assert (found["baseline"], found["target"]) == ("opd", pytest.approx(0.3))
    assert [group["name"] for group in found["groups"]] == ["opd", "effopd/a_effopd", "gated/b_gated"]
    assert [run["name"] for run in found["runs"]] == ["opd/opd1", "opd/opd2", "effopd/a_effopd", "gated/b_gated"]
    assert "Baseline: opd.\n" in text


def test_with_two_plain_methods_in_a_folder_the_first_run_is_the_baseline(methods, tmp_path):
    write_run(methods / "zero", [0, 0.1], name="grpo", ema=1)
    assert compare([methods], None, tmp_path / "out")[0]["baseline"] == "effopd/a_effopd"


def test_the_order_of_folders_that_are_runs_decides_on_the_baseline(methods, tmp_path):
    found, text = compare([methods / "b_gated", methods / "opd1"], None, tmp_path / "out")
    assert (found["baseline"], found["target"]) == ("gated", 0.7)
    assert "Baseline: gated.\n" in text


@pytest.mark.parametrize("by_folder", [False, True])
def test_the_baseline_can_be_named_by_experiment_or_folder(methods, tmp_path, by_folder):
    named = str(methods / "b_gated") if by_folder else "gated"
    found, _ = compare([methods], None, tmp_path / "out", named)
    assert (found["baseline"], found["target"]) == ("gated/b_gated", 0.7)
    assert [group["name"] for group in found["groups"]] == ["gated/b_gated", "effopd/a_effopd", "opd"]


def test_a_baseline_that_is_no_run_or_several_is_refused(methods, sweep, tmp_path):
    with pytest.raises(ConfigError, match=r"baseline=vanilla: names none of .*effopd/a_effopd, gated/b_gated, opd"):
        compare([methods], None, tmp_path / "out", "vanilla")
    with pytest.raises(ConfigError, match=r"baseline=opd: names several .* opd learner.lr=1e-06, opd/b1"):
        compare([sweep], None, tmp_path / "out", "opd")


def test_seeds_are_averaged_as_far_as_all_have_come(tmp_path):
    long = write_run(tmp_path / "long", [0, 0.4, 0.6], name="opd", ema=1, seed=1)
    short = write_run(tmp_path / "short", [0, 0.2], name="opd", ema=1, seed=2)
    found, text = compare([long, short], None, tmp_path / "out")
    assert (found["groups"][0]["final_step"], found["target"]) == (2, pytest.approx(0.3))
    assert "last evaluated at different steps: opd/long 4, opd/short 2" in text


def test_a_seed_that_ran_twice_is_pointed_out(tmp_path):
    runs = [write_run(tmp_path / folder, [0, 0.5], name="opd", seed=7) for folder in ("a", "b")]
    _, text = compare(runs, None, tmp_path / "out")
    assert "several runs of seed 7" in text


def test_the_difference_to_the_first_run_is_paired_over_prompts(tmp_path):
    # ema 1: the last outcomes are those of the last evaluation. Every prompt is better by 1/4.
    hard = [{"a": 0.0, "b": 0.5, "c": 0.25}] * 2
    easier = [{"a": 0.25, "b": 0.75, "c": 0.5}] * 2
    first = write_run(tmp_path / "first", [0, 0.25], name="one", ema=1, per_prompt=hard)
    second = write_run(tmp_path / "second", [0, 0.5], name="two", ema=1, per_prompt=easier)
    found, _ = compare([first, second], None, tmp_path / "out")
    assert (found["runs"][0]["difference"], found["runs"][0]["difference_ci"]) == (0.0, [0.0, 0.0])
    assert (found["runs"][1]["difference"], found["runs"][1]["difference_ci"]) == (0.25, pytest.approx([0.25, 0.25]))


def test_a_folder_of_runs_stands_for_the_runs_in_it(sweep):
    assert [run.name for run in find_runs([sweep])] == ["a1", "a2", "b1", "c"]
    assert [run.name for run in find_runs([sweep / "c", sweep, sweep / "a1"])] == ["c", "a1", "a2", "b1"]


def test_what_lies_inside_a_run_is_not_searched(sweep):
    write_run(sweep / "a1" / "checkpoints" / "step_1", [0, 1], name="not a run")
    assert [run.name for run in find_runs([sweep])] == ["a1", "a2", "b1", "c"]


def test_a_run_of_a_sweep_that_has_no_evaluation_yet_is_left_out_and_named(sweep, tmp_path):
    (sweep / "a2" / "eval.jsonl").write_text("")
    found, text = compare([sweep], 0.4, tmp_path / "out")
    assert [run["name"] for run in found["runs"]] == ["opd/a1", "opd/b1", "grpo/c"]
    assert f"no evaluation yet: {sweep / 'a2'}." in text
    with pytest.raises(ConfigError, match="no evaluation yet"):
        compare([sweep / "a1", sweep / "a2"], 0.4, tmp_path / "out")


def test_a_run_that_died_before_its_settings_were_written_is_named_too(sweep, tmp_path):
    (sweep / "died").mkdir()
    (sweep / "died" / "versions.json").write_text("{}")
    _, text = compare([sweep], 0.4, tmp_path / "out")
    assert f"no evaluation yet: {sweep / 'died'}." in text


def test_a_run_that_is_named_is_not_left_out_in_whatever_words(sweep, tmp_path):
    (sweep / "a2" / "eval.jsonl").write_text("")
    with pytest.raises(ConfigError, match=r"a2: eval\.jsonl has no evaluation yet"):
        compare([sweep, sweep / ".." / sweep.name / "a2"], 0.4, tmp_path / "out")


def test_the_figure_has_a_panel_for_everything_that_was_spent(sweep, tmp_path):
    compare([sweep], 0.4, tmp_path / "three")
    costs = [(0, 0, 0, 10), (80, 5, 7, 20)]
    run = write_run(tmp_path / "run", [0, 0.6], name="x", costs=costs)
    compare([run, sweep / "c"], 0.4, tmp_path / "five")
    sizes = []
    for folder in ("three", "five"):
        with Image.open(tmp_path / folder / "comparison.png") as image:
            sizes.append(image.size)
    # Three panels in one row, five in two.
    assert sizes[0][0] == sizes[1][0] and sizes[1][1] > 1.5 * sizes[0][1]
