"""The seams of the system: one Protocol per role.

`train.py` and `accelerate.py` know only these. `cluster.runtime=local` fills them with objects of this process,
`cluster.runtime=ray` with groups of actors; the code that uses them is the same. Handles stay opaque to the driver.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from effopd.types import (
    Displacement,
    EvalReport,
    Gathered,
    GenerateRequest,
    KLSum,
    PolicyVersion,
    Prompt,
    Publication,
    Rollout,
    RolloutHandle,
    RunState,
    ScoredHandle,
    Settlement,
    TeacherPayload,
    TriggerRecord,
    UpdateReport,
)


class PromptStream(Protocol):
    """Training prompts in an order that depends on the seed and the position alone."""

    def take(self, position: int, num_prompts: int) -> tuple[Prompt, ...]:
        """Return batch number `position` of an endless stream of batches of `num_prompts` different prompts."""
        ...


class Sampler(Protocol):
    """Samples responses with published weights."""

    def load(self, publication: Publication) -> None:
        """Make `publication` the weights in force. Raises WeightSyncError when its checksum does not hold."""
        ...

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        """Sample from the weights `version`. Raises WeightSyncError when other weights are loaded."""
        ...

    def stream(self, request: GenerateRequest, version: PolicyVersion) -> Iterator[tuple[int, RolloutHandle]]:
        """Sample the same, and yield it in pieces, each as soon as it is finished, with its number in the order of the prompts.

        Which prompts are one piece depends on the request and the settings alone. There may be one piece only.
        """
        ...

    def preview(self, rollouts: RolloutHandle, num_rollouts: int) -> list[Rollout]:
        """Fetch a few responses, for people to read."""
        ...

    def groups(self, most: int) -> Sequence["Sampler"]:
        """Return the engines that this sampler spreads prompts over in groups, as samplers of their own: `most` of
        them, or as many as there are engines, whose sizes differ by at most one.

        Each may hold other weights than the rest and sample at the same time, called from a thread of its own. The whole
        samples again after a `load` into the whole.
        """
        ...


class Teacher(Protocol):
    """Scores every response token."""

    def score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> ScoredHandle:
        """Attach the teacher's payload to every response."""
        ...

    def begin_score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> Callable[[], ScoredHandle]:
        """Return a function that returns the same. Where others do the work, they begin at once, and the function waits."""
        ...


class Reference(Protocol):
    """The student as it was before training."""

    def score_reference(self, batch: ScoredHandle) -> ScoredHandle:
        """Attach the reference's log-probability of every response token."""
        ...


class Verifier(Protocol):
    """Compares responses with answers."""

    def rewards(self, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> list[float]:
        """Return one score in [0, 1] per entry of `rollouts.summaries`, in that order."""
        ...

    def begin_rewards(self, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> Callable[[], list[float]]:
        """Return a function that returns the same; see `Teacher.begin_score`."""
        ...


class Learner(Protocol):
    """Owns the policy: its fp32 master weights, optimizer state and anchor, sharded over ranks.

    What the anchor is and how a direction is made of the displacement from it, `accelerate.anchor` and
    `accelerate.direction` say. During a trigger the calls come in this order: `open_trigger`, any number of `write_candidate`, `close_trigger`.
    Between `open_trigger` and `close_trigger` there is no `update`, and no snapshot is taken.
    """

    def update(self, batches: Sequence[ScoredHandle]) -> UpdateReport:
        """Take the optimizer steps of one update on all batches together; see `ScoredHandle.rewards`."""
        ...

    def stage(self, version: PolicyVersion) -> Publication:
        """Write the low-precision weights to the shared segment, overwriting the previous publication."""
        ...

    def response_logprobs(self, rollouts: RolloutHandle) -> list[list[float]]:
        """Return the current policy's own log-probabilities of the response tokens, per summary. For canaries."""
        ...

    def reverse_kl(self, batch: ScoredHandle) -> list[KLSum]:
        """Return the exact reverse KL to the teacher per response, under the weights held now."""
        ...

    def open_trigger(self) -> Displacement:
        """Keep the current weights aside, measure Δ = current − anchor and choose the direction."""
        ...

    def write_candidate(self, step_size: float) -> None:
        """Make the weights current + step_size · direction, computed from the fp32 originals, master and low precision
        together. A negative step size goes back towards the anchor."""
        ...

    def close_trigger(self, settlement: Settlement) -> None:
        """Settle, set the next anchor and forget the copy."""
        ...

    def roll_back(self) -> None:
        """Undo the last accepted jump and the update after it, which must be the only one.

        All weights are what they were before the jump, bit for bit, and so are the anchor that it was measured from and
        the learning rate; moments and step count stay. Needs `accelerate.max_kl_increase`, for which the copy is kept.
        """
        ...


class Publisher(Protocol):
    """Brings the learner's weights to the samplers."""

    def publish(self, version: PolicyVersion) -> None:
        """Load what the learner holds now into every sampler, stamped `version`. Raises WeightSyncError when a canary
        shows that samplers and learner disagree."""
        ...


class Evaluator(Protocol):
    """Scores the policy that the samplers hold on the evaluation set."""

    def evaluate(self, step: int, version: PolicyVersion) -> EvalReport: ...


class Accelerator(Protocol):
    """Decides when to extrapolate and does it."""

    def is_due(self, step: int) -> bool: ...

    def try_jump(self, state: RunState, gathered: Gathered) -> TriggerRecord:
        """Search along the direction, keep what the gate accepts, and leave the result published as (step, 0).

        `gathered` is what the update before trained on.
        """
        ...


class Tracker(Protocol):
    """Receives everything worth writing down."""

    def phase(self, name: str) -> AbstractContextManager[None]:
        """Charge the time inside to `name`: generate, verify, score, wait, train, publish, gate, eval or save.

        Charges nothing on another thread than the loop's.
        """
        ...

    def training_seconds(self) -> float:
        """Return the seconds trained so far, over all resumes: everything but start-up, evaluation, audits and saving."""
        ...

    def count_train_rewards(self, num_rewards: int) -> None:
        """Count verifier calls on training responses, before the row of their step is written."""
        ...

    def log_step(self, state: RunState, metrics: Mapping[str, float]) -> None: ...

    def log_trigger(self, record: TriggerRecord) -> None: ...

    def log_eval(self, state: RunState, report: EvalReport) -> None: ...

    def log_rollouts(self, step: int, rollouts: Sequence[Rollout]) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Roles:
    """The cast of a run.

    With `pipeline.max_staleness` one thread samples, and asks teacher and verifier about what it has, and another waits for what
    these say, and asks the reference, while the loop's trains.
    """

    prompts: PromptStream
    sampler: Sampler
    teacher: Teacher | None
    """None where nothing needs one."""
    reference: Reference | None
    verifier: Verifier | None
    learner: Learner
    publisher: Publisher
    evaluator: Evaluator | None
    accelerator: Accelerator
    tracker: Tracker
