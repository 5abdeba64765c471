"""What bookkeeping costs: toy runs with and without ledger and checksums, in turns.

One local run of `experiment=toy_opd`, transformers as sampler, is cut into blocks of five steps with a checkpoint at the end.
In every other block nobody keeps the ledger and writes its rows, and all checksums, of published weights and of checkpoint
files, are constants. Blocks take turns within a round, the order swapped from round to round. Goal: at most 3 % more time with
than without, as the median of the rounds' ratios; its 95 % interval comes from resampling them. Where other load makes that
interval wide, the note tells more: the share of a block that passes inside the tracker's calls and the hashes, by the clock.

    python scripts/bench/overhead.py
"""

import hashlib
import os
import random
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from types import SimpleNamespace
from unittest.mock import patch

from measure import Comparison, alternate, argument_parser, parse, report
from rich.console import Console

from effopd.checkpoints.store import CheckpointStore
from effopd.config.jobs import training_jobs
from effopd.config.register import open_configs
from effopd.config.schema import RunConfig
from effopd.console import RunConsole
from effopd.data.prompts import ShuffledPrompts
from effopd.inputs import read_inputs
from effopd.launch import CheckpointSaver
from effopd.local import build_local
from effopd.production import Production, algorithm_needs
from effopd.roles import Roles
from effopd.termination import Termination
from effopd.tracking import RunTracker
from effopd.train import train
from effopd.types import EvalReport, PolicyVersion, Rollout, RunState, TensorSlot, TriggerRecord
from effopd.weights import segment_checksum

GOAL = 1.03
NUM_RESAMPLES = 2000


class Stopwatch:
    """Adds up the time that passes inside it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self.seconds += time.perf_counter() - start


class TimedHash:
    """blake2b on a stopwatch."""

    def __init__(self, stopwatch: Stopwatch) -> None:
        self._stopwatch = stopwatch
        self._hash = hashlib.blake2b()

    def update(self, data: memoryview) -> None:
        with self._stopwatch.running():
            self._hash.update(data)

    def hexdigest(self) -> str:
        return self._hash.hexdigest()


class UnhashedBytes:
    """Takes the place of a hash and looks at nothing."""

    def update(self, data: object) -> None:
        """Do nothing."""

    def hexdigest(self) -> str:
        return ""


@contextmanager
def timed_checksums(stopwatch: Stopwatch) -> Iterator[None]:
    def timed(segment: memoryview, slots: Iterable[TensorSlot]) -> str:
        with stopwatch.running():
            return segment_checksum(segment, slots)

    with (
        patch("effopd.weights.segment_checksum", timed),
        patch("effopd.checkpoints.streaming.hashlib", SimpleNamespace(blake2b=lambda: TimedHash(stopwatch))),
    ):
        yield


@contextmanager
def no_checksums() -> Iterator[None]:
    with (
        patch("effopd.weights.segment_checksum", lambda segment, slots: ""),
        patch("effopd.checkpoints.streaming.hashlib", SimpleNamespace(blake2b=UnhashedBytes)),
    ):
        yield


class SwitchableTracker:
    """The run's tracker while it is on, and nobody while it is off."""

    def __init__(self, tracker: RunTracker, stopwatch: Stopwatch) -> None:
        self._tracker = tracker
        self._stopwatch = stopwatch
        self.is_on = True

    @property
    def ledger(self):
        return self._tracker.ledger

    def phase(self, name: str) -> AbstractContextManager[None]:
        return self._tracker.phase(name) if self.is_on else nullcontext()

    def training_seconds(self) -> float:
        return self._tracker.training_seconds() if self.is_on else 0.0

    def count_train_rewards(self, num_rewards: int) -> None:
        if self.is_on:
            self._tracker.count_train_rewards(num_rewards)

    def log_step(self, state: RunState, metrics: Mapping[str, float]) -> None:
        if self.is_on:
            with self._stopwatch.running():
                self._tracker.log_step(state, metrics)

    def log_rollouts(self, step: int, rollouts: Sequence[Rollout]) -> None:
        if self.is_on:
            with self._stopwatch.running():
                self._tracker.log_rollouts(step, rollouts)

    def log_trigger(self, record: TriggerRecord) -> None: ...

    def log_eval(self, state: RunState, report: EvalReport) -> None: ...


class Run:
    """One run that goes on from block to block."""

    def __init__(
        self,
        config: RunConfig,
        production: Production,
        tracker: SwitchableTracker,
        roles: Roles,
        folder: Path,
        stopwatch: Stopwatch,
    ) -> None:
        self._config = config
        self._tracker = tracker
        self._roles = roles
        store = CheckpointStore(folder, config.checkpoint.keep_last, config.checkpoint.keep_best)
        self._saver = CheckpointSaver(store, production, tracker)
        self._stopwatch = stopwatch
        self._state = RunState()
        self.shares: list[float] = []
        """Of every block with all, what passed on the stopwatch."""

    def seconds_of_block(self, num_steps: int) -> float:
        """Train `num_steps` steps and save; return how long that took."""
        config = replace(self._config, num_steps=self._state.step + num_steps)
        start = time.perf_counter()
        self._state = train(config, self._roles, self._saver, self._state, algorithm_needs(config), Termination())
        return time.perf_counter() - start

    def with_all(self, num_steps: int) -> float:
        before = self._stopwatch.seconds
        with timed_checksums(self._stopwatch):
            seconds = self.seconds_of_block(num_steps)
        self.shares.append((self._stopwatch.seconds - before) / seconds)
        return seconds

    def without(self, num_steps: int) -> float:
        self._tracker.is_on = False
        with no_checksums():
            seconds = self.seconds_of_block(num_steps)
        self._tracker.is_on = True
        return seconds


def interval(values: Sequence[float], seed: int) -> tuple[float, float]:
    """Return the bounds between which 95 % of the medians of resampled `values` lie."""
    draw = random.Random(seed)
    medians = sorted(median(draw.choices(values, k=len(values))) for _ in range(NUM_RESAMPLES))
    return medians[NUM_RESAMPLES // 40], medians[-1 - NUM_RESAMPLES // 40]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--steps", type=int, default=5, help="in a block (default: 5)")
    parser.add_argument("--prompts", type=int, default=512, help="a step (default: 512)")
    parser.set_defaults(rounds=11)
    arguments = parse(parser)
    with TemporaryDirectory() as name, open(os.devnull, "w") as nowhere:
        settings = [
            *(
                "experiment=toy_opd",
                "cluster=local",
                "rollout=hf",
                "eval=none",
                "checkpoint.every=0",
                "learner.lr_schedule=constant",
            ),
            *(f"rollout.prompts_per_step={arguments.prompts}", f"seed={arguments.seed}", f"output_dir={name}"),
            *(f"{role}.num_threads={arguments.threads}" for role in ("learner", "rollout", "teacher")),
        ]
        with open_configs() as configs:
            (job,) = training_jobs(configs, settings, is_multirun=False)
        config = job.config
        inputs = read_inputs(config)
        kept = RunTracker(Path(name), config, console=RunConsole(Console(file=nowhere)))
        stopwatch = Stopwatch()
        tracker = SwitchableTracker(kept, stopwatch)
        production = build_local(config, inputs, tracker.phase)
        roles = Roles(
            prompts=ShuffledPrompts(inputs.train_prompts, config.seed),
            sampler=production.sampler,
            teacher=production.teacher,
            reference=production.reference,
            verifier=None,
            learner=production.learner,
            publisher=production.publisher,
            evaluator=None,
            accelerator=production.accelerator,
            tracker=tracker,
        )
        roles.publisher.publish(PolicyVersion(step=0))
        run = Run(config, production, tracker, roles, Path(name), stopwatch)
        candidate, baseline = alternate(
            arguments.rounds, lambda: run.with_all(arguments.steps), lambda: run.without(arguments.steps)
        )
        production.close()
        kept.close()
    comparison = Comparison(
        what=f"{arguments.steps} toy steps and a checkpoint, with ledger and checksums",
        baseline_name="the same without",
        unit="s",
        candidate=candidate,
        baseline=baseline,
        is_speed=False,
        goal=GOAL,
        is_goal_a_minimum=False,
    )
    low, high = interval(comparison.ratios, arguments.seed)
    shares = run.shares[1:]  # without the warm-up's
    notes: dict[str, object] = {
        "95 % interval of the median ratio": f"{low:.4f} to {high:.4f}",
        "ratio of the fastest blocks": min(candidate) / min(baseline),
        "share of a block inside tracker and hashes, median": median(shares),
        "the same, the worst block": max(shares),
    }
    report(arguments, [replace(comparison, notes=notes)])


if __name__ == "__main__":
    main()
