"""A process that runs cells one after the other: Python, torch and what they have loaded stay from one to the next.

It reads cells from a pipe and answers each with an `Outcome`. What a run prints goes to a log in the run's folder. The
process dies with its driver, so that a rerun never meets a run that is still being written.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from multiprocessing.connection import Connection
from pathlib import Path

from effopd.curves import read_curve
from effopd.durable import replace_file
from effopd.errors import EffOPDError
from effopd.launch import train
from effopd.study.folders import ERROR_NAME, LOG_NAME, Finish, Progress, clear, is_trained, look_at, mark_finished
from effopd.study.orders import Order, Outcome
from effopd.termination import Terminated


def work(orders: Connection) -> None:
    """Carry out orders until there are no more."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C at the terminal is the driver's affair
    threading.Thread(target=_die_with_driver, daemon=True).start()
    while True:
        try:
            order = orders.recv()
        except EOFError:
            return
        try:
            orders.send(carry_out(order))
        except Terminated:  # the driver ends the study; what is finished of the run is saved
            return


def carry_out(order: Order) -> Outcome:
    """Make, or continue, one run. Whatever goes wrong with it is written into its folder and into the outcome."""
    started = time.monotonic()
    try:
        if look_at(order.folder, order.config).progress is Progress.broken:
            clear(order.folder)
        order.folder.mkdir(parents=True, exist_ok=True)
        with _output_to(order.folder / LOG_NAME):
            _run(order)
        seconds = time.monotonic() - started
        finish = Finish(seconds=seconds, num_workers=order.num_workers, num_threads=order.config.learner.num_threads)
        mark_finished(order.folder, finish)
        score = read_curve(order.folder).final_score
        return Outcome(number=order.number, score=score, seconds=seconds)
    except Exception as error:  # a cell that fails, in whatever way, must not stop the others
        line = _one_line(error)
        replace_file(order.folder / ERROR_NAME, (line + "\n").encode())
        return Outcome(number=order.number, error=line, seconds=time.monotonic() - started)


def _run(order: Order) -> None:
    """Train. Where the rest of an earlier try cannot be continued, begin again."""
    fresh = replace(order.config, output_dir=str(order.folder), resume=None)
    if look_at(order.folder, order.config).progress is Progress.unfinished:
        try:
            if not is_trained(order.folder, order.config.num_steps):
                train(replace(fresh, resume=str(order.folder)))
            return
        except EffOPDError as error:
            sys.stderr.write(f"cannot be resumed, so it begins again: {error}\n")
            for path in order.folder.iterdir():
                if path.name != LOG_NAME:
                    clear(path) if path.is_dir() else path.unlink()
    try:
        train(fresh)
    except Exception:
        traceback.print_exc()
        raise


@contextmanager
def _output_to(path: Path) -> Iterator[None]:
    """Send all that this process and what it starts print to the end of a file. By descriptor, for libraries print too."""
    saved = os.dup(1), os.dup(2)
    with path.open("ab") as log:
        for descriptor in (1, 2):
            os.dup2(log.fileno(), descriptor)
    try:
        yield
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        for kept, descriptor in zip(saved, (1, 2), strict=True):
            os.dup2(kept, descriptor)
            os.close(kept)


def _one_line(error: Exception) -> str:
    """What to say of an error: our own texts as they are, of others also the type."""
    text = " ".join(str(error).split())
    return text if isinstance(error, EffOPDError) else f"{type(error).__name__}: {text}"


def _die_with_driver() -> None:
    driver = multiprocessing.parent_process()
    assert driver is not None, "a worker is started by its driver"
    driver.join()
    os._exit(1)
