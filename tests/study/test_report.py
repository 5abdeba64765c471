"""The tables and the figure of a study of runs made by hand."""

import math
from dataclasses import replace
from pathlib import Path

from curves_by_hand import run
from matplotlib.axes import Axes
from PIL import Image

from effopd.config.study_schema import StudyConfig
from effopd.figures import COLOURS
from effopd.provenance import Hardware, Source
from effopd.study.plot import plot_study, study_figure
from effopd.study.report import Origin, SourceCount, StudyResult, study_markdown
from effopd.study.statistics import task_result

SETTINGS = StudyConfig(
    name="by_hand",
    tasks={"sums": [], "programs": []},
    methods={"vanilla": [], "paper": []},
    learning_rates=[1e-4, 1e-3],
    seeds=[0, 1],
    target_share=0.5,
)
ORIGIN = Origin(
    command=("effopd", "study", "by_hand"),
    date="2026-01-01",
    hardware=Hardware(processor="a processor", num_cores=2, memory_gib=24, gpus=()),
    versions={"torch": "2"},
    git=None,
    run_sources=(
        SourceCount(source=Source(commit="0123456789abcdef", is_dirty=False), num_runs=4),
        SourceCount(source=Source(commit="", is_dirty=False), num_runs=2),
    ),
    num_workers=(2,),
    num_threads=(1,),
    run_seconds=600.0,
)
RUNS = [
    *(run("vanilla", 1e-3, seed) for seed in range(2)),
    *(run("vanilla", 1e-4, seed, (0.4, 0.45, 0.5)) for seed in range(2)),
    *(run("paper", 1e-4, seed, (0.4, 0.55, 0.7), jumps=(2.0, 0.0)) for seed in range(2)),
]


def result() -> StudyResult:
    tasks = [task_result(task, RUNS, SETTINGS) for task in SETTINGS.tasks]
    return StudyResult(
        settings=SETTINGS,
        num_cells=9,
        num_finished=6,
        failures=(),
        tasks=tuple(task for task in tasks if task is not None),
        origin=ORIGIN,
    )


def cells(text: str, *beginning: str) -> list[str]:
    """The first table row with these first cells."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return next(row for row in rows if tuple(row[: len(beginning)]) == beginning)


def test_the_tables_say_what_was_reached_and_what_was_not() -> None:
    text = study_markdown(result())
    # Half of the gain from 0.4 to 0.8.
    assert (
        "Target 0.6000: 0.4000 before training plus 0.5 of the gain of vanilla at its best learning rate 1e-3" in text
    )
    assert cells(text, "vanilla", "1e-3")[2:] == ["2", "0", "10", "1,000", "800", "20", "0.8000"]
    assert cells(text, "vanilla", "1e-4")[2:] == ["2", "2", *["not reached"] * 4, "0.5000"]
    # At 0.5, which both reached: 10 steps of 20.
    assert cells(text, "paper", "1e-4", "1e-4")[3:] == ["2", "2", "0.50", "0.50", "0.50", "0.50", "+0.2000"]
    # At 0.6: 20 steps of 10.
    assert cells(text, "paper", "1e-4", "1e-3 (its best)")[3:] == ["2", "0", "2.00", "2.00", "2.00", "2.00", "-0.1000"]
    assert cells(text, "paper", "1e-4", "5.0%", "4")[4:7] == [
        "2 (50 %)",
        "0",
        "0",
    ]  # two triggers of 1 s in 20 steps of 2 s
    assert "6 of 9 cells finished, in 10 min of run time" in text
    assert "No target: vanilla has no finished run, or gained nothing." in text  # programs


def test_runs_without_a_score_and_other_distances_between_evaluations_are_said() -> None:
    rare = [run("paper", 1e-4, seed, (0.4, 0.9), jumps=(2.0,)) for seed in range(2)]
    task = task_result("sums", [*RUNS[:4], *rare], SETTINGS)
    assert task is not None
    text = study_markdown(replace(result(), tasks=(task,)))
    assert "Without a score, and so without costs and ratios: paper at 1e-4." in text
    assert cells(text, "paper", "1e-4")[2:] == ["2", "", *["none"] * 4, "none"]
    assert cells(text, "paper", "1e-4", "5.0%")[3:5] == ["2", "2 (100 %)"]  # triggers of 1 s in 10 steps of 2 s
    assert "Steps from one evaluation to the next" not in text  # all that have a score are evaluated every 10 steps

    paper = run("paper")
    rarely = replace(paper, points=tuple(replace(point, steps=2 * point.steps) for point in paper.points))
    task = task_result("sums", [run(), rarely], SETTINGS)
    assert task is not None
    assert "next: vanilla 10, paper 20." in study_markdown(replace(result(), tasks=(task,)))


def test_the_report_says_which_code_the_runs_ran() -> None:
    assert "The code of the runs, by commit (runs): 0123456789 (4), unknown (2)." in study_markdown(result())


def curves(panel: Axes) -> dict[str, list[float]]:
    """Colour to heights of every line with several points."""
    lines = [(str(line.get_color()), line.get_ydata()) for line in panel.lines]
    return {colour: [round(float(y), 6) for y in heights] for colour, heights in lines if len(heights) > 2}


def test_the_figure_has_two_rows_of_panels_a_task_with_every_method_in_them(tmp_path: Path) -> None:
    (sums,) = result().tasks
    figure = study_figure([sums], RUNS, SETTINGS)
    panels = [panel for block in figure.subfigs for panel in block.axes]
    assert [panel.get_xlabel() for panel in panels] == [
        *("optimizer steps", "training seconds", "learning rate"),
        *("optimizer steps", "training seconds", "learning rate"),
    ]
    vanilla, paper = COLOURS[:2]
    # Above at the best learning rates, 1e-3 and 1e-4, below at 1e-4, a tenth of vanilla's.
    for panel in panels[:2]:
        assert curves(panel) == {vanilla: [0.4, 0.6, 0.8], paper: [0.4, 0.55, 0.7]}
    for panel in panels[3:5]:
        assert curves(panel) == {vanilla: [0.4, 0.45, 0.5], paper: [0.4, 0.55, 0.7]}
    # The target, 0.6: vanilla is there after 10 steps of 2 s with 1e-3, paper after 20 with 1e-4; with 1e-4 vanilla
    # ends below, which is a hollow marker at its budget of 20 steps.
    for panel, scale in ((panels[2], 1.0), (panels[5], 2.0)):
        points = {
            (str(line.get_color()), str(line.get_markerfacecolor()) == "white"): list(line.get_ydata())
            for line in panel.lines
            if len(line.get_ydata()) == 1
        }
        assert points == {
            (vanilla, False): [10 * scale],
            (vanilla, True): [20 * scale],
            (paper, False): [20 * scale],
        }
    plot_study([sums], RUNS, SETTINGS, tmp_path / "study.png")
    with Image.open(tmp_path / "study.png") as image:
        width, height = image.size
    assert math.isclose(width, 14.5 * 130, abs_tol=2) and math.isclose(height, 8.2 * 130, abs_tol=2)
