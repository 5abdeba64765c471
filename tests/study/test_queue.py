"""The queue: real runs of two steps, and workers that train nothing."""

import json
import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import toy_workers
import yaml

from effopd.cli import main
from effopd.config.schema import RunConfig
from effopd.errors import ConfigError
from effopd.study.execute import with_threads
from effopd.study.lock import locked
from effopd.study.orders import Order, Outcome
from effopd.study.progress import Eta, progress_line, spoken_time
from effopd.study.queue import run_orders, threads_per_worker

STUDY = {
    "name": "two_steps",
    "base": [
        *("experiment=toy_opd", "cluster=local", "rollout=hf", "rollout.prompts_per_step=16", "data.num_rows=200"),
        *(
            "algo.num_minibatches=1",
            "eval.num_rows=16",
            "eval.every=1",
            "checkpoint.every=1",
            "data.verifier_workers=1",
        ),
    ],
    "tasks": {"sums": []},
    "methods": {"vanilla": [], "broken": ["data.verifier=nowhere:verify"]},
    "learning_rates": [1e-3],
    "seeds": [0],
    "num_steps": 2,
}


def orders(num_cells: int, folder: Path) -> list[Order]:
    return [Order(number=number, folder=folder, config=RunConfig(), num_workers=2) for number in range(num_cells)]


def kill_a_worker_once(mark: Path) -> None:
    """Kill the only worker as soon as its run has written its first checkpoint."""
    for _ in range(3000):
        if mark.exists():
            (worker,) = multiprocessing.active_children()
            assert worker.pid is not None
            os.kill(worker.pid, signal.SIGKILL)
            return
        time.sleep(0.02)


def test_a_study_survives_a_killed_worker_and_a_failing_cell_and_then_has_nothing_to_do(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file, output = tmp_path / "study.yaml", tmp_path / "out"
    file.write_text(yaml.safe_dump(STUDY, sort_keys=False))
    run = output / "runs/sums/vanilla/lr=1e-3/seed=0"
    killer = threading.Thread(target=kill_a_worker_once, args=(run / "checkpoints/step_000001",))
    killer.start()
    code = main(["study", str(file), "--output", str(output)])
    killer.join()
    said = capfd.readouterr().err.splitlines()

    # The broken cell failed, in one line, and did not stop the other, which was resumed after its first step.
    assert code == 1
    assert "two_steps: 2 cells, 0 of them finished already" in said[0]
    assert "[1/2] sums vanilla lr=1e-3 seed=0: score 0." in said[1] and "left" in said[1]
    assert "[2/2] sums broken lr=1e-3 seed=0: failed: " in said[2] and "nowhere" in said[2]
    assert len(json.loads((run / "versions.json").read_text())["starts"]) == 2
    steps = [json.loads(line)["step"] for line in (run / "eval.jsonl").read_text().splitlines()]
    assert steps == [0, 1, 2]
    assert sorted(path.name for path in run.iterdir() if path.suffix in (".json", ".txt", ".yaml")) == [
        *("config.yaml", "data.json", "finished.json", "log.txt", "versions.json")
    ]
    assert not (run / "checkpoints").exists()
    (failure,) = json.loads((output / "study.json").read_text())["failures"]
    assert failure["cell"]["method"] == "broken" and "nowhere" in failure["error"]
    assert (output / "runs/sums/broken/lr=1e-3/seed=0/error.txt").read_text().strip() == failure["error"]

    # Without the broken method everything is done: no worker starts.
    file.write_text(yaml.safe_dump(STUDY | {"methods": {"vanilla": []}}))
    before = (run / "eval.jsonl").read_bytes()
    assert main(["study", str(file), "--output", str(output)]) == 0
    assert capfd.readouterr().err.splitlines() == [
        f"effopd: two_steps: 1 cells, 1 of them finished already, in {output}",
        f"effopd: report, runs and their logs are in {output}",
    ]
    assert (run / "eval.jsonl").read_bytes() == before

    # Runs of other settings are not taken for the study's.
    assert main(["study", str(file), "--output", str(output), "rollout.prompts_per_step=32"]) == 2
    assert capfd.readouterr().err.endswith(
        "was run with rollout.prompts_per_step=16, not 32; remove this run, or give another --output\n"
    )


def test_a_report_needs_a_folder_with_runs(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(STUDY | {"methods": {"vanilla": []}}))
    missing = tmp_path / "out"
    assert main(["study", str(file), "--output", str(missing), "--report"]) == 2
    assert capfd.readouterr().err == (
        f"effopd: {missing}: has no runs of a study; give their folder with --output, or leave out --report\n"
    )
    assert not missing.exists()


def test_every_order_is_carried_out_once_by_however_many_workers(tmp_path: Path) -> None:
    outcomes: list[Outcome] = []
    run_orders(orders(5, tmp_path), 2, outcomes.append, toy_workers.obedient)
    assert sorted(outcome.number for outcome in outcomes) == [0, 1, 2, 3, 4]
    assert multiprocessing.active_children() == []


def test_an_order_whose_worker_died_is_given_out_again_and_given_up_after_the_second_death(tmp_path: Path) -> None:
    outcomes: list[Outcome] = []
    run_orders(orders(4, tmp_path), 2, outcomes.append, toy_workers.dies_of_cell_one)
    errors = {outcome.number: outcome.error for outcome in outcomes}
    assert errors == {0: None, 1: None, 2: "its worker died 2 times, the last time with signal SIGKILL", 3: None}


def test_workers_share_the_cores() -> None:
    cores = len(os.sched_getaffinity(0))
    assert threads_per_worker(1) == cores
    assert threads_per_worker(2 * cores) == 1
    config = with_threads(RunConfig(), 2 * cores)
    assert (config.learner.num_threads, config.rollout.num_threads, config.teacher.num_threads) == (1, 1, 1)


def test_a_folder_has_one_driver(tmp_path: Path) -> None:
    with locked(tmp_path), pytest.raises(ConfigError, match="another effopd study is at work there"), locked(tmp_path):
        pass
    with locked(tmp_path):
        pass


def test_the_time_left_follows_from_the_rate_so_far() -> None:
    times = iter([100.0, 160.0])
    # 60 seconds for 2 of 8: 180 for the other 6.
    assert Eta(8, clock=lambda: next(times)).seconds_left(2) == 180.0
    line = progress_line(2, 8, "sums paper", Outcome(number=0, score=0.7125, seconds=41.2), 180.0)
    assert line == "[2/8] sums paper: score 0.713 (41 s); about 3 min left"
    assert spoken_time(3 * 3600 + 290) == "3 h 5 min"
