"""A toy run as a person has it: started, looked at, resumed when its driver is gone. What it prints is kept."""

import signal
import subprocess
import time
from dataclasses import dataclass, field
from pathlib import Path

from course import num_rows
from fault_plan import NUM_STEPS, Shape
from processes import Process, descendants, kill_all, wait_until

from effopd.config.schema import NonfiniteRule
from effopd.launch import CONFIG_NAME

PROMPTS_PER_STEP = 32
CHECKPOINT_EVERY = 2
LONGEST_WAIT = 600.0
"""Seconds for anything that a run is waited for: start, step, end."""

_SETTINGS = (
    "experiment=toy_effopd",
    f"num_steps={NUM_STEPS}",
    f"rollout.prompts_per_step={PROMPTS_PER_STEP}",
    "data.num_rows=1200",  # so many that no prompt comes twice
    "eval.num_rows=16",
    "eval.every=2",
    "accelerate.num_prompts=16",
    "learner.lr=1e-4",
    "learner.lr_schedule=constant",
    f"checkpoint.every={CHECKPOINT_EVERY}",
    "logger.rollouts_every=1",  # all of them: what samples are counted by
    f"logger.rollouts_per_sample={PROMPTS_PER_STEP}",
    "cluster.max_restarts=100",
    "learner.num_threads=1",
    "rollout.num_threads=1",
    "teacher.num_threads=1",
)
_SHAPES = {
    Shape.SMALL: ("rollout=hf",),
    Shape.SHARDED: ("rollout=hf", "rollout.num_samplers=2", "learner.num_ranks=2", "learner.zero_stage=3"),
    Shape.VLLM: ("pipeline.num_pieces=2",),
}


class RunFailedError(Exception):
    """A run did something that it must not: ended, or did not go on."""


@dataclass(frozen=True, slots=True)
class Pace:
    """How long an undisturbed run takes, in seconds."""

    start: float
    """Until the first step is written down."""
    step: float
    """Mean of the others."""


@dataclass(slots=True)
class ToyRun:
    """One run and the processes that it has had. Start it with `start`, and end it with `stop`, whatever happened."""

    folder: Path
    log: Path
    """What it prints. Not on a disk that will be full."""
    program: tuple[str, ...]
    """What `effopd` is."""
    shape: Shape
    nonfinite: NonfiniteRule
    poison_folder: Path | None = None
    seen: dict[int, Process] = field(default_factory=dict)
    """Every process that was found below a driver, by number."""
    _driver: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        return self._running.pid

    def start(self) -> str:
        """Start it, or resume it, if it has got so far that it can be. Return which."""
        arguments = [
            *_SETTINGS,
            *_SHAPES[self.shape],
            f"learner.on_nonfinite={self.nonfinite}",
            f"output_dir={self.folder}",
        ]
        deed = "started anew"
        if (self.folder / CONFIG_NAME).is_file():
            arguments, deed = [f"resume={self.folder}"], "resumed"
        with self.log.open("ab") as log:
            # In a group of its own: Ctrl-C here must not reach it before this process decides.
            self._driver = subprocess.Popen(
                [*self.program, "train", *arguments],
                stdout=log,
                stderr=log,
                process_group=0,
            )
        return deed

    def processes(self) -> list[Process]:
        """Return all that live below the driver."""
        found = descendants(self.pid)
        self.seen |= {process.pid: process for process in found}
        return found

    def has_replaced(self, victim: Process, moment: int) -> bool:
        """Return whether a process like `victim` has started after a moment."""
        return any(process.is_like(victim) and process.started > moment for process in self.seen.values())

    def has_ended(self) -> bool:
        return self._running.poll() is not None

    def num_rows(self) -> int:
        return num_rows(self.folder)

    def wait_for_row(self, row: int) -> None:
        """Return when `row` steps are written down. Raises RunFailedError when the run ends before, or does not get there."""
        if not wait_until(lambda: self.num_rows() >= row or self.has_ended(), LONGEST_WAIT):
            raise RunFailedError(f"no row {row} in {LONGEST_WAIT:.0f} s")
        self.processes()
        if self.num_rows() < row:
            self.require_running()

    def require_running(self) -> None:
        if self.has_ended():
            raise RunFailedError(f"the driver ended by itself with {self._running.returncode}:\n{self.last_lines()}")

    def wait_for_end(self) -> int:
        """Return the exit code of the driver."""
        if not wait_until(self.has_ended, LONGEST_WAIT):
            raise RunFailedError(f"not at its end after {LONGEST_WAIT:.0f} s")
        return self._running.returncode

    def send(self, number: int) -> None:
        """Send a signal to the driver alone."""
        self.processes()  # which cannot be found below it once it is gone
        self._running.send_signal(number)

    def stop(self) -> None:
        """End whatever is left of it."""
        if self._driver is not None and not self.has_ended():
            self.send(signal.SIGKILL)
            self._driver.wait()
        kill_all(list(self.seen.values()), signal.SIGKILL)

    def leftovers(self, seconds: float) -> list[str]:
        """Return the titles of processes that outlive the run by so many seconds."""
        wait_until(lambda: not any(process.is_alive() for process in self.seen.values()), seconds)
        return sorted(process.title for process in self.seen.values() if process.is_alive())

    def printed(self) -> str:
        return self.log.read_text(errors="replace") if self.log.is_file() else ""

    def last_lines(self) -> str:
        return "\n".join(self.printed().splitlines()[-15:])

    @property
    def _running(self) -> subprocess.Popen[bytes]:
        assert self._driver is not None, "start() comes first"
        return self._driver


def undisturbed(run: ToyRun) -> Pace:
    """Let a run train to its end, and return how long it took."""
    began = time.monotonic()
    run.start()
    run.wait_for_row(1)
    first = time.monotonic()
    run.wait_for_row(NUM_STEPS)
    last = time.monotonic()
    if run.wait_for_end() != 0:
        raise RunFailedError(f"the undisturbed run failed:\n{run.last_lines()}")
    return Pace(start=first - began, step=(last - first) / (NUM_STEPS - 1))
