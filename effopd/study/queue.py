"""The queue of a study: cells that wait, workers that take the next one, and what became of each.

A worker that dies takes at most the run that it had in hand, which another one resumes. A cell that kills its worker twice
has failed.
"""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess

from effopd.study.orders import Order, Outcome
from effopd.study.worker import work

_MAX_DEATHS = 2
"""Workers that a cell may kill before it is given up."""
_THREAD_VARIABLES = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    pipe: Connection
    order: Order | None = None


@dataclass(slots=True)
class _Queue:
    waiting: deque[Order]
    deaths: dict[int, int] = field(default_factory=dict)
    """Cell number to workers that died with it."""


def threads_per_worker(num_workers: int) -> int:
    """Return how many threads each worker may use so that all of them together use every core once."""
    return max(1, len(os.sched_getaffinity(0)) // num_workers)


def run_orders(
    orders: Sequence[Order],
    num_workers: int,
    on_outcome: Callable[[Outcome], None],
    target: Callable[[Connection], None] = work,
) -> None:
    """Carry out all orders, calling `on_outcome` for each as it ends, in whatever order that is.

    `target` is what a worker process runs.
    """
    queue = _Queue(waiting=deque(orders))
    workers = [_start_worker(target, num_workers) for _ in range(min(num_workers, len(orders)))]
    try:
        for worker in workers:
            _give_next(worker, queue)
        while any(worker.order is not None for worker in workers):
            # A pipe that has an answer, or a process that has ended; both may be of one worker, whose answer comes first.
            ready = wait([thing for worker in workers for thing in (worker.pipe, worker.process.sentinel)])
            for position, worker in enumerate(workers):
                outcome = _answer(worker) if worker.pipe in ready else None
                if worker.process.sentinel in ready:
                    outcome = _bury(worker, queue) or outcome
                    workers[position] = worker = _start_worker(target, num_workers)
                if worker.order is None:
                    _give_next(worker, queue)
                if outcome is not None:
                    on_outcome(outcome)
    finally:
        for worker in workers:
            _end(worker)
        for worker in workers:
            worker.process.join()


def _start_worker(target: Callable[[Connection], None], num_workers: int) -> _Worker:
    # Spawned: a forked copy of a process that has loaded torch is not safe. Thread pools are sized when torch loads.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    for name in _THREAD_VARIABLES:
        os.environ[name] = str(threads_per_worker(num_workers))
    process = context.Process(target=target, args=(theirs,), name="effopd-study-worker")
    process.start()
    theirs.close()
    return _Worker(process=process, pipe=ours)


def _give_next(worker: _Worker, queue: _Queue) -> None:
    worker.order = queue.waiting.popleft() if queue.waiting else None
    if worker.order is not None:
        with suppress(BrokenPipeError):  # it has just died, which its sentinel will say
            worker.pipe.send(worker.order)


def _answer(worker: _Worker) -> Outcome | None:
    """Take what a worker says, so that it has nothing in hand; None if it is gone."""
    try:
        outcome = worker.pipe.recv()
    except (EOFError, ConnectionResetError):
        return None
    worker.order = None
    return outcome


def _bury(worker: _Worker, queue: _Queue) -> Outcome | None:
    """Put the run of a dead worker back in front of the queue; return that it failed where that is no use."""
    worker.process.join()
    worker.pipe.close()
    order, code = worker.order, worker.process.exitcode or 0
    if order is None:
        return None
    deaths = queue.deaths[order.number] = queue.deaths.get(order.number, 0) + 1
    if deaths < _MAX_DEATHS:
        queue.waiting.appendleft(order)
        return None
    end = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
    return Outcome(number=order.number, error=f"its worker died {deaths} times, the last time with {end}", seconds=0.0)


def _end(worker: _Worker) -> None:
    worker.pipe.close()  # one that waits for an order ends by itself
    if worker.order is not None:
        worker.process.terminate()
