"""A step with sampling ahead, against its longest phase. Goal: at most 1.10 times.

The loop, the gathering and the pipeline are the real ones; samplers, teacher and learner sleep for fixed times, so the figure
is what the schedule costs and nothing else. Three divisions of a step: the samplers take longest, the learner takes longest,
and three equal phases, which need a second batch ahead. Publishing takes turns with sampling, so it is in every step time. The
same step with `pipeline.max_staleness=0` is run beside it, in the same process. A step time is the median over a run.

    python scripts/bench/overlap.py
"""

import threading
import time
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from statistics import median

from measure import Comparison, alternate, argument_parser, parse, report

from effopd.config.schema import RunConfig
from effopd.handles import as_scored
from effopd.ledger import Ledger
from effopd.roles import Roles
from effopd.termination import Termination
from effopd.train import train
from effopd.types import (
    AlgorithmNeeds,
    Gathered,
    GenerateRequest,
    PolicyVersion,
    Prompt,
    RolloutHandle,
    RolloutSummary,
    RunState,
    ScoredHandle,
    TeacherPayload,
    TriggerRecord,
    UpdateReport,
)

GOAL = 1.10


@dataclass(frozen=True, slots=True, kw_only=True)
class Division:
    """Where the time of a step goes, seconds."""

    name: str
    generate: float
    score: float
    update: float
    max_staleness: int
    publish: float = 0.005

    @property
    def longest(self) -> float:
        return max(self.generate, self.score, self.update)


DIVISIONS = (
    Division(name="samplers take longest", generate=0.3, score=0.1, update=0.15, max_staleness=1),
    Division(name="learner takes longest", generate=0.15, score=0.1, update=0.3, max_staleness=1),
    Division(name="equal phases", generate=0.2, score=0.2, update=0.2, max_staleness=2),
)


class Sleepers:
    """All roles of a run."""

    def __init__(self, division: Division) -> None:
        self._division = division
        self._thread = threading.get_ident()
        self.ledger = Ledger()
        self.ends: list[float] = []

    def take(self, position: int, num_prompts: int) -> tuple[Prompt, ...]:
        return (Prompt(prompt_id=str(position), token_ids=(1,), text="", answer=""),)

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        with self.phase("generate"):
            time.sleep(self._division.generate)
        summary = RolloutSummary(
            prompt_id=request.prompts[0].prompt_id, sample_index=0, prompt_len=1, response_len=1, is_truncated=False
        )
        return RolloutHandle(parts=((),), summaries=(summary,), policy_version=version)

    def score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> ScoredHandle:
        with self.phase("score"):
            time.sleep(self._division.score)
        return as_scored(rollouts)

    def update(self, batches: Sequence[ScoredHandle]) -> UpdateReport:
        with self.phase("train"):
            time.sleep(self._division.update)
        return UpdateReport(num_response_tokens=1, metrics={})

    def publish(self, version: PolicyVersion) -> None:
        with self.phase("publish"):
            time.sleep(self._division.publish)

    def is_due(self, step: int) -> bool:
        return False

    def try_jump(self, state: RunState, gathered: Gathered) -> TriggerRecord:
        raise AssertionError("never due")

    def phase(self, name: str) -> AbstractContextManager[None]:
        return self.ledger.phase(name) if threading.get_ident() == self._thread else nullcontext()

    def training_seconds(self) -> float:
        return self.ledger.training_seconds

    def count_train_rewards(self, num_rewards: int) -> None: ...

    def log_step(self, state: RunState, metrics: Mapping[str, float]) -> None:
        self.ends.append(time.perf_counter())

    def save(self, state: RunState, score: float | None) -> None: ...


def run(division: Division, max_staleness: int, num_steps: int) -> Sleepers:
    config = RunConfig(num_steps=num_steps)
    config.pipeline.max_staleness = max_staleness
    config.rollout.prompts_per_step, config.logger.rollouts_every = 1, 0
    sleepers = Sleepers(division)
    roles = Roles(
        prompts=sleepers, sampler=sleepers, teacher=sleepers, reference=None, verifier=None, learner=sleepers,
        publisher=sleepers, evaluator=None, accelerator=sleepers, tracker=sleepers,
    )  # fmt: skip
    train(config, roles, sleepers, RunState(), AlgorithmNeeds(teacher=TeacherPayload.SAMPLED), Termination())
    return sleepers


def step_seconds(sleepers: Sleepers) -> float:
    return median(after - before for before, after in zip(sleepers.ends, sleepers.ends[1:], strict=False))


def compared(division: Division, num_rounds: int, num_steps: int) -> Comparison:
    bubbles: dict[int, list[float]] = {0: [], division.max_staleness: []}

    def side(max_staleness: int) -> float:
        sleepers = run(division, max_staleness, num_steps)
        bubbles[max_staleness].append(sleepers.ledger.bubble_share)
        return step_seconds(sleepers)

    ahead, turns = alternate(num_rounds, lambda: side(division.max_staleness), lambda: side(0), num_warm_ups=0)
    return Comparison(
        what=f"step with pipeline.max_staleness={division.max_staleness}, {division.name}",
        baseline_name=f"the longest phase, {division.longest:g} s",
        unit="s",
        candidate=ahead,
        baseline=[division.longest] * num_rounds,
        is_speed=False,
        goal=GOAL,
        is_goal_a_minimum=False,
        notes={
            "phases (s)": f"generate {division.generate:g}, score {division.score:g}, update {division.update:g}, "
            f"publish {division.publish:g}",
            "step with max_staleness=0 (s)": median(turns),
            "of which ratio to the longest phase": median(turns) / division.longest,
            "bubble share": median(bubbles[division.max_staleness]),
            "bubble share with max_staleness=0": median(bubbles[0]),
        },
    )


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.set_defaults(rounds=3)
    arguments = parse(parser)
    report(arguments, [compared(division, arguments.rounds, arguments.steps) for division in DIVISIONS])


if __name__ == "__main__":
    main()
