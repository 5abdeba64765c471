"""Worker processes that run a verifier, so that no answer can hang, crash or slow down the run."""

import json
import logging
import select
import time
from collections.abc import Mapping, Sequence
from typing import Self

from effopd.errors import ConfigError, EffOPDError
from effopd.rewards.batch import MAX_DEATHS, Batch, Item
from effopd.rewards.process import WorkerProcess
from effopd.types import Prompt, Rollout

SECONDS_TO_START = 300.0
MAX_FAILED_STARTS = 5
"""Workers that may die in a row before they are ready."""

_MAX_WINDOW = 32
_QUICK_SECONDS = 0.005
_LONGEST_WAIT = 0.5  # seconds between two looks at whether a worker has died

logger = logging.getLogger(__name__)


class VerifierPool:
    """`num_workers` processes that call one verifier, named as `package.module:function`.

    Scores do not depend on the number of workers, nor on when one of them dies: an answer that a dead worker left
    unjudged is judged again by another, and what was judged is kept. Only the answer's own doing costs it its score:
    overrunning `seconds_per_answer`, or crashing `MAX_DEATHS` workers. Workers killed from outside cost it nothing.

    Workers start at `start` or at the first use, are replaced when they die and end with this process, even if that is
    killed. Use it from one thread, which must outlive it: the kernel ends a worker with the thread that started it.
    """

    def __init__(self, name: str, num_workers: int, seconds_per_answer: float) -> None:
        self._name = name
        self._num_workers = num_workers
        self._seconds_per_answer = seconds_per_answer
        self._workers: list[WorkerProcess] = []
        self._failed_starts = 0
        self.num_overruns = 0
        """Answers that overran and so scored 0."""
        self.num_given_up = 0
        """Answers that scored 0 because a worker crashed in each of `MAX_DEATHS` attempts."""
        self.num_deaths = 0
        """Workers that died and were replaced, overruns not counted."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    @property
    def worker_pids(self) -> list[int]:
        return [worker.pid for worker in self._workers]

    def start(self) -> None:
        """Return when all workers are ready. Raises ConfigError when the verifier cannot be imported."""
        self._run(Batch([]), wait_for_all=True)

    def scores(self, items: Sequence[Item]) -> list[float]:
        """Return one score per item, in order.

        Raises DataError naming the first prompt whose verifier raised an exception or returned something outside [0, 1],
        and for metadata that JSON cannot express; EffOPDError when one prompt's answer has `MAX_KILLS` workers killed. numpy values arrive as plain numbers and lists, dates as ISO 8601
        text, tuples as lists, anything else JSON does not know as its `str`.
        """
        batch = Batch(items)
        self._run(batch, wait_for_all=False)
        return batch.result()

    def close(self) -> None:
        """End the workers. The pool starts new ones if it is used again."""
        for worker in self._workers:
            worker.kill()
        self._workers.clear()

    def _run(self, batch: Batch, *, wait_for_all: bool) -> None:
        try:
            while batch.is_open or (wait_for_all and not self._all_ready()):
                self._replace_the_dead(batch)
                for worker in self._workers:
                    self._hand_out(worker, batch)
                self._wait()
                for worker in self._workers:
                    self._collect(worker, batch)
                self._end_overruns(batch)
        except BaseException:
            self.close()  # their answers would come in the midst of the next batch
            raise

    def _all_ready(self) -> bool:
        return len(self._workers) == self._num_workers and all(worker.is_ready for worker in self._workers)

    def _replace_the_dead(self, batch: Batch) -> None:
        """Bring the pool to its full number of workers, all of them alive."""
        for worker in [worker for worker in self._workers if worker.has_ended()]:
            self._collect(worker, batch)  # what it said before it died
            self._bury(worker, batch)
        while len(self._workers) < self._num_workers:
            self._workers.append(WorkerProcess(self._name))

    def _bury(self, worker: WorkerProcess, batch: Batch) -> None:
        self._workers.remove(worker)
        last_words = worker.kill()
        self.num_deaths += 1
        if not worker.is_ready:
            self._failed_starts += 1
            if self._failed_starts >= MAX_FAILED_STARTS:
                raise ConfigError(
                    f"data.verifier={self._name}: {self._failed_starts} workers in a row died while importing it; "
                    f"the last: {last_words}"
                )
        elif worker.held and batch.give_back(worker.held, worker.exit_code):
            self.num_given_up += 1
            logger.warning(
                "%s scores 0: %d verifier workers died of it; the last: %s",
                batch.label(worker.held[0]),
                MAX_DEATHS,
                last_words,
            )

    def _hand_out(self, worker: WorkerProcess, batch: Batch) -> None:
        if not worker.is_ready or not batch.waiting or 2 * len(worker.held) > worker.window:
            return
        # Towards the end small shares, so that no worker sits on a heap while others are idle.
        share = min(worker.window - len(worker.held), max(1, len(batch.waiting) // (2 * self._num_workers)))
        if not worker.held:
            worker.since = time.monotonic()
        taken = [batch.waiting.popleft() for _ in range(share)]
        worker.held.extend(taken)
        worker.send(b"".join(batch.lines[index] for index in taken))

    def _wait(self) -> None:
        """Sleep until a worker has something to say, can take more, has overrun or might have died."""
        poll = select.poll()
        for worker in self._workers:
            poll.register(worker.replies, select.POLLIN)
            poll.register(worker.prints, select.POLLIN)
            if worker.has_unsent:
                poll.register(worker.requests, select.POLLOUT)
        deadlines = [worker.since + self._limit(worker) for worker in self._workers if self._is_timed(worker)]
        seconds = min([_LONGEST_WAIT, *(deadline - time.monotonic() for deadline in deadlines)])
        poll.poll(max(seconds, 0.0) * 1000)

    def _collect(self, worker: WorkerProcess, batch: Batch) -> None:
        worker.flush()
        for line in worker.receive():
            match json.loads(line):
                case ["ready"]:
                    worker.is_ready = True
                    self._failed_starts = 0
                    continue
                case ["refused", str(message)]:
                    raise ConfigError(message)
                case ["score", float(score)]:
                    batch.settle(worker.held.popleft(), score)
                case ["error", str(message)]:
                    batch.fail(worker.held.popleft(), message)
                case _:
                    raise EffOPDError(f"a worker of the verifier {self._name} sent {line!r}")
            now = time.monotonic()
            is_quick = now - worker.since < _QUICK_SECONDS
            worker.window = min(2 * worker.window, _MAX_WINDOW) if is_quick else 1
            worker.since = now

    def _end_overruns(self, batch: Batch) -> None:
        now = time.monotonic()
        for worker in list(self._workers):
            if not self._is_timed(worker) or now < worker.since + self._limit(worker):
                continue
            self._workers.remove(worker)
            last_words = worker.kill()
            if not worker.is_ready:
                raise ConfigError(
                    f"data.verifier={self._name}: a worker was not ready after {SECONDS_TO_START:.0f} s ({last_words})"
                )
            if self.num_overruns == 0:
                logger.warning(
                    "%s: the verifier took more than data.verifier_seconds=%s and so scores 0; "
                    "further such answers are only counted",
                    batch.label(worker.held[0]),
                    self._seconds_per_answer,
                )
            self.num_overruns += 1
            batch.settle(worker.held.popleft(), 0.0)
            batch.waiting.extendleft(reversed(worker.held))

    def _is_timed(self, worker: WorkerProcess) -> bool:
        return bool(worker.held) or not worker.is_ready

    def _limit(self, worker: WorkerProcess) -> float:
        return self._seconds_per_answer if worker.is_ready else SECONDS_TO_START


def items_of(rollouts: Sequence[Rollout], prompts: Mapping[str, Prompt]) -> list[Item]:
    """Return what a verifier is asked for each of `rollouts`, in order."""
    return [
        (rollout.text, prompt.answer, {**prompt.metadata, "prompt_id": prompt.prompt_id})
        for rollout in rollouts
        for prompt in [prompts[rollout.prompt_id]]
    ]
