"""Comparing runs: numbers worked out by hand from run folders written here."""

import json
from io import StringIO

import pytest
from PIL import Image
from rich.console import Console

from effopd.compare import compare_runs
from effopd.config.register import write_config
from effopd.config.schema import EvalConfig, RunConfig
from effopd.curves import read_curve
from effopd.errors import ConfigError


def write_rows(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_run(
    folder, scores, every=2, tokens_per_step=100, seconds_per_step=10.0, name=None, ema=3, jumps=(), per_prompt=None
):
    """A run that evaluated `scores` at steps 0, every, 2 * every, ..."""
    folder.mkdir()
    num_steps = every * (len(scores) - 1)
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
    write_rows(folder / "eval.jsonl", evals)
    write_rows(
        folder / "metrics.jsonl",
        [{"step": step, "seconds": {"total_training": step * seconds_per_step}} for step in range(1, num_steps + 1)],
    )
    write_rows(
        folder / "extrapolation.jsonl",
        [{"step": step, "accepted_step_size": size} for step, size in jumps],
    )
    if name is not None:
        write_config(RunConfig(name=name, eval=EvalConfig(ema=ema)), folder / "config.yaml")
    return folder


def compare(runs, target, output):
    text = StringIO()
    compare_runs(runs, target, output, Console(file=text, width=200))
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
    assert [set(cell) for cell in cells[1]] == [{"-"}] + [{"-", ":"}] * 7
    assert cells[2][:5] == ["x", "2", "200", "20", "0.2500"]
    assert cells[3][0] == "y/z"
    assert len({len(line) for line in lines[:4]}) == 1


def test_a_narrow_console_gets_whole_rows(tmp_path):
    run = write_run(tmp_path / "run", [0, 0.5], name="a name of more than forty characters, spelt out")
    text = StringIO()
    compare_runs([run], None, tmp_path / "out", Console(file=text, width=40))
    row = text.getvalue().splitlines()[2]
    assert "spelt out" in row and row.count("|") == 9


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
    with pytest.raises(ConfigError, match=r"not a readable run folder: .*eval\.jsonl: no such file"):
        compare_runs([tmp_path], None, tmp_path / "out")
    with pytest.raises(ConfigError, match="nothing to compare"):
        compare_runs([], None, tmp_path / "out")
