"""The canary, with a sampler whose log-probabilities can be made stale."""

from collections.abc import Sequence
from contextlib import nullcontext

import pytest
import torch

from effopd.config.schema import Dtype
from effopd.errors import WeightSyncError
from effopd.publishing import CheckedPublisher, canary_tolerance
from effopd.types import (
    Displacement,
    FinishReason,
    GenerateRequest,
    KLSum,
    PolicyVersion,
    Prompt,
    Publication,
    Rollout,
    RolloutHandle,
    ScoredHandle,
    Settlement,
    UpdateReport,
)

PROMPTS = tuple(Prompt(prompt_id=str(index), token_ids=(1,), text="", answer="") for index in range(2))


class FakePair:
    """A learner and a sampler that disagree by `gap` nats, on the last prompt alone."""

    def __init__(self, gap: float = 0.0) -> None:
        self.gap = gap
        self.loaded: list[PolicyVersion] = []
        self.num_canaries = 0

    def stage(self, version: PolicyVersion) -> Publication:
        return Publication(version=version, segment="", buckets=(), checksum="")

    def load(self, publication: Publication) -> None:
        self.loaded.append(publication.version)

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        self.num_canaries += 1
        return RolloutHandle(parts=((),), summaries=(), policy_version=version)

    def preview(self, rollouts: RolloutHandle, num_rollouts: int) -> list[Rollout]:
        return [
            Rollout(
                prompt_id=prompt.prompt_id,
                sample_index=0,
                prompt_token_ids=prompt.token_ids,
                response_token_ids=torch.tensor([2, 3]),
                rollout_logprobs=torch.tensor([-1.0, -2.0]) + self.gap * (prompt is PROMPTS[-1]),
                text="",
                finish_reason=FinishReason.STOP,
                seed=0,
                policy_version=rollouts.policy_version,
            )
            for prompt in PROMPTS
        ]

    def response_logprobs(self, rollouts: RolloutHandle) -> list[list[float]]:
        return [[-1.0, -2.0] for _ in PROMPTS]

    def update(self, batches: Sequence[ScoredHandle]) -> UpdateReport:
        raise AssertionError

    def reverse_kl(self, batch: ScoredHandle) -> list[KLSum]:
        raise AssertionError

    def open_trigger(self) -> Displacement:
        raise AssertionError

    def write_candidate(self, step_size: float) -> None:
        raise AssertionError

    def close_trigger(self, settlement: Settlement) -> None:
        raise AssertionError


def publisher(pair: FakePair, every: int = 3, dtype: Dtype = Dtype.float32) -> CheckedPublisher:
    return CheckedPublisher(
        pair,
        pair,
        PROMPTS,
        every=every,
        tolerance=canary_tolerance(dtype, Dtype.float32),
        phase=lambda name: nullcontext(),
    )


def test_the_canary_runs_at_the_first_publish_and_then_every_n() -> None:
    pair = FakePair()
    checked = publisher(pair, every=3)
    counts = []
    for step in range(7):
        checked.publish(PolicyVersion(step=step))
        counts.append(pair.num_canaries)
    assert counts == [1, 1, 1, 2, 2, 2, 3]
    assert pair.loaded == [PolicyVersion(step=step) for step in range(7)]


def test_every_0_means_only_the_first() -> None:
    pair = FakePair()
    checked = publisher(pair, every=0)
    for step in range(5):
        checked.publish(PolicyVersion(step=step))
    assert pair.num_canaries == 1


@pytest.mark.parametrize("gap", [0.4, float("nan")])
def test_a_sampler_with_stale_weights_kills_the_canary(gap: float) -> None:
    with pytest.raises(WeightSyncError, match="stale or different weights"):
        publisher(FakePair(gap)).publish(PolicyVersion(step=1))


def test_rounding_of_bfloat16_does_not() -> None:
    publisher(FakePair(0.02), dtype=Dtype.bfloat16).publish(PolicyVersion(step=1))
