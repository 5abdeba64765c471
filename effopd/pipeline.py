"""Where the learner's batches come from: sampled when it asks, or ahead of it while it trains on the one before.

Batch number s is what the update after step s trains on. With `pipeline.max_staleness=k` the samplers go on to batches up to
s + k while the learner updates on batch s, from weights that are then up to k updates old. Their own log-probabilities travel
with the samples, and the update weighs every token by min(exp(old_logprobs - rollout_logprobs), cap), where `old_logprobs` are
the learner's at its start: so what is corrected is the age of the weights together with the sampler's numerics.

What holds for every k:

1. Weights change only while nothing is sampled, so all responses of a batch are of one version: a publish that finds samplers at
   work is put off until they have finished, at the latest before they are asked for anything else.
2. Which version that is follows from the settings, not from who was faster: two equal runs are equal.
3. Nothing is sampled across a trigger. Before one the pipeline has run dry, all that was sampled is trained on, and what comes
   after it is sampled from the weights that the trigger settled on: a jump leads as far as many updates.
4. `RunState` knows of trained batches alone. A run that ends or dies forgets what was sampled ahead, and continues with the
   first prompt that was not trained on, so none is lost and none is trained on twice.
"""

from collections import deque
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

from effopd.background import Background
from effopd.config.schema import RunConfig
from effopd.gathering import Sampled, gather, sample, score
from effopd.roles import Roles
from effopd.types import AlgorithmNeeds, Gathered, PolicyVersion, RunState


class Batches(Protocol):
    """Gives the learner one batch after the other, and the samplers its weights. Called between updates."""

    def next(self, state: RunState) -> Gathered:
        """Return what the update after `state.step` trains on. May be interrupted."""
        ...

    def publish(self, version: PolicyVersion) -> None:
        """Bring the weights that the learner holds now to the samplers: at once, or when they are free."""
        ...

    def run_ahead(self, state: RunState) -> None:
        """Begin to sample from the weights after `state.step`, if samplers are free; return at once."""
        ...

    def settle(self) -> None:
        """Return when nothing is being sampled and samplers hold what was published last."""
        ...

    def close(self) -> None:
        """Give up what was begun. Does not wait for it."""
        ...


def open_batches(config: RunConfig, roles: Roles, needs: AlgorithmNeeds, state: RunState) -> Batches:
    """Return the batches from `state` on, sampled as `pipeline.max_staleness` says."""
    if config.pipeline.max_staleness == 0:
        return OnDemand(config, roles, needs)
    return Ahead(config, roles, needs, state)


class OnDemand:
    """Every batch is sampled from the weights that it trains."""

    def __init__(self, config: RunConfig, roles: Roles, needs: AlgorithmNeeds) -> None:
        self._config = config
        self._roles = roles
        self._needs = needs

    def next(self, state: RunState) -> Gathered:
        return gather(self._config, self._roles, self._needs, state, PolicyVersion(step=state.step))

    def publish(self, version: PolicyVersion) -> None:
        self._roles.publisher.publish(version)

    def run_ahead(self, state: RunState) -> None:
        pass

    def settle(self) -> None:
        pass

    def close(self) -> None:
        pass


@dataclass(frozen=True, slots=True)
class _Batch:
    version: PolicyVersion
    sampled: Future[Sampled]
    gathered: Future[Gathered]


class Ahead:
    """Samples up to `pipeline.max_staleness` batches ahead.

    One thread waits for samplers, and asks teacher and verifier about what they have finished; another waits for what these say.
    Each goes from batch to batch, so that samplers are at the next one while teacher and verifier are at the last. They do no work
    themselves.
    """

    def __init__(self, config: RunConfig, roles: Roles, needs: AlgorithmNeeds, state: RunState) -> None:
        self._config = config
        self._roles = roles
        self._needs = needs
        self._sampling: Background[Sampled] = Background("sampling ahead")
        self._scoring: Background[Gathered] = Background("scoring ahead")
        self._batches: deque[_Batch] = deque()
        """Those begun and not yet trained on: the first is number `state.step`."""
        self._refilled_at = state.step
        self._put_off: PolicyVersion | None = None
        """What samplers were too busy to be given."""
        # Of the next batch to be sampled; how far a batch leads is known when it has been sampled. The sampling thread's.
        self._data_position = state.data_position

    def next(self, state: RunState) -> Gathered:
        self.settle()
        self.run_ahead(state)
        batch = self._batches[0]
        with self._roles.tracker.phase("wait"):
            gathered = batch.gathered.result()
        assert batch.sampled.result().data_position == state.data_position, "every batch of prompts is trained on once"
        self._batches.popleft()
        self._roles.tracker.count_train_rewards(gathered.num_rewards)
        staleness = float(state.step - batch.version.step)
        return replace(gathered, metrics={**gathered.metrics, "staleness": staleness})

    def publish(self, version: PolicyVersion) -> None:
        self._put_off = version
        if not self._is_sampling():
            self.settle()

    def run_ahead(self, state: RunState) -> None:
        if self._is_sampling():
            return
        if not self._batches:
            self._refilled_at = state.step
        version = PolicyVersion(step=state.step)
        for number in range(state.step + len(self._batches), self._horizon(state.step)):
            sampled = self._sampling.submit(partial(self._sample, number, version))
            gathered = self._scoring.submit(partial(self._score, sampled))
            self._batches.append(_Batch(version, sampled, gathered))

    def settle(self) -> None:
        with self._roles.tracker.phase("wait"):
            # An error is the learner's to hear when it asks for that batch: what comes before is done first.
            wait([batch.sampled for batch in self._batches])
        if self._put_off is not None:
            self._roles.publisher.publish(self._put_off)
            self._put_off = None

    def close(self) -> None:
        for batch in self._batches:
            batch.sampled.cancel()
            batch.gathered.cancel()
        self._sampling.close()
        self._scoring.close()

    def _is_sampling(self) -> bool:
        return not all(batch.sampled.done() for batch in self._batches)

    def _horizon(self, step: int) -> int:
        """Return the number of the first batch that must not be sampled from the weights after `step`."""
        # After a trigger the lead grows by one a step: all at once, the first update would wait for all the samples.
        lead = min(self._config.pipeline.max_staleness, step - self._refilled_at + 1)
        last = min(step + lead, self._config.num_steps - 1)
        return next((number for number in range(step + 1, last + 1) if self._is_after_change(number)), last + 1)

    def _is_after_change(self, number: int) -> bool:
        """Return whether a trigger, or the undoing of a jump, may change the weights just before batch `number`."""
        is_due = self._roles.accelerator.is_due
        return is_due(number) or (self._config.accelerate.max_kl_increase is not None and is_due(number - 1))

    def _sample(self, number: int, version: PolicyVersion) -> Sampled:
        sampled = sample(self._config, self._roles, self._needs, number, self._data_position, version)
        self._data_position += sampled.num_prompt_batches
        return sampled

    def _score(self, sampled: Future[Sampled]) -> Gathered:
        return score(self._roles, self._needs, sampled.result())
