"""A study from beginning to end: what is left to do, doing it, and the report on what there is."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from effopd.config.schema import RunConfig
from effopd.config.study import Study
from effopd.errors import ConfigError
from effopd.study.folders import Progress, look_at, require_same_settings
from effopd.study.lock import locked
from effopd.study.orders import Order, Outcome
from effopd.study.progress import Eta, progress_line
from effopd.study.queue import run_orders, threads_per_worker
from effopd.study.report import Failure, write_report

RUNS_NAME = "runs"

Say = Callable[[str], None]


def run_study(study: Study, output: Path, num_workers: int, say: Say) -> list[Failure]:
    """Run what is not yet finished, and return what failed.

    Raises ConfigError before anything starts when the folder holds runs of other settings, or is in use.
    """
    output.mkdir(parents=True, exist_ok=True)
    with locked(output):
        require_same_settings(output / RUNS_NAME, list(study.runs))
        orders = _orders(study, output, num_workers)
        num_done = len(study.runs) - len(orders)
        say(f"{study.settings.name}: {len(study.runs)} cells, {num_done} of them finished already, in {output}")
        failures: list[Failure] = []
        eta = Eta(len(orders))
        num_ended = 0

        def on_outcome(outcome: Outcome) -> None:
            nonlocal num_ended
            num_ended += 1
            cell, _ = study.runs[outcome.number]
            if outcome.error is not None:
                failures.append(Failure(cell=cell, error=outcome.error))
            say(progress_line(num_ended, len(orders), cell.label, outcome, eta.seconds_left(num_ended)))

        if orders:
            run_orders(orders, num_workers, on_outcome)
    return failures


def report_study(study: Study, output: Path, failures: Sequence[Failure]) -> str:
    """Write the report on the runs that are finished, and return its tables. Raises ConfigError where no runs are."""
    if not (output / RUNS_NAME).is_dir():
        raise ConfigError(f"{output}: has no runs of a study; give their folder with --output, or leave out --report")
    return write_report(study, output, output / RUNS_NAME, failures)


def _orders(study: Study, output: Path, num_workers: int) -> list[Order]:
    orders = []
    for number, (cell, config) in enumerate(study.runs):
        folder = (output / RUNS_NAME / cell.folder).resolve()
        if look_at(folder, config).progress is not Progress.finished:
            config = with_threads(config, num_workers)
            orders.append(Order(number=number, folder=folder, config=config, num_workers=num_workers))
    return orders


def with_threads(config: RunConfig, num_workers: int) -> RunConfig:
    """Return `config` with at most a worker's share of the cores for every role; the roles take turns."""
    share = threads_per_worker(num_workers)
    return replace(
        config,
        learner=replace(config.learner, num_threads=min(share, config.learner.num_threads)),
        rollout=replace(config.rollout, num_threads=min(share, config.rollout.num_threads)),
        teacher=replace(config.teacher, num_threads=min(share, config.teacher.num_threads)),
    )
