"""The tables and the figure of a study of runs made by hand."""

import math

from curves_by_hand import run
from PIL import Image

from effopd.config.study_schema import StudyConfig
from effopd.provenance import Hardware, Source
from effopd.study.plot import plot_study
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


def result():
    tasks = [task_result(task, RUNS, SETTINGS) for task in SETTINGS.tasks]
    return StudyResult(
        settings=SETTINGS,
        num_cells=9,
        num_finished=6,
        failures=(),
        tasks=tuple(task for task in tasks if task is not None),
        origin=ORIGIN,
    )


def cells(text, *beginning):
    """The first table row with these first cells."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in text.splitlines() if line.startswith("|")]
    return next(row for row in rows if tuple(row[: len(beginning)]) == beginning)


def test_the_tables_say_what_was_reached_and_what_was_not():
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


def test_the_figure_has_two_rows_of_panels_a_task(tmp_path):
    plot_study(result().tasks, RUNS, SETTINGS, tmp_path / "study.png")
    with Image.open(tmp_path / "study.png") as image:
        width, height = image.size
    assert math.isclose(width, 14.5 * 130, abs_tol=2) and math.isclose(height, 8.2 * 130, abs_tol=2)
