"""A trigger's order of events, with fakes for the roles: what is written, published, sampled and settled, and when."""

from collections.abc import Sequence
from contextlib import nullcontext

import pytest

from effopd.accelerate import EffOPD, TriggerSetting, is_trigger
from effopd.candidates import TriggerRoles
from effopd.config.schema import AccelerateConfig, AcceptRule, GateKind, SeedRule
from effopd.handles import as_scored
from effopd.types import (
    Displacement,
    Gathered,
    GenerateRequest,
    KLSum,
    PolicyVersion,
    Prompt,
    Publication,
    Rollout,
    RolloutHandle,
    RolloutSummary,
    RunState,
    ScoredHandle,
    Settlement,
    TeacherPayload,
    UpdateReport,
)

PROMPTS = tuple(Prompt(prompt_id=name, token_ids=(1,), text=name, answer="") for name in ("a", "b"))


STEP_ROLLOUTS = RolloutHandle(
    parts=((),),
    summaries=tuple(
        RolloutSummary(prompt_id=name, sample_index=0, prompt_len=1, response_len=20, is_truncated=False)
        for name in ("t", "u", "v")
    ),
    policy_version=PolicyVersion(step=0),
)
TRAINED_ON = Gathered(
    rollouts=STEP_ROLLOUTS,
    batches=(as_scored(STEP_ROLLOUTS),),
    num_prompt_batches=1,
    num_generated_tokens=60,
    metrics={},
)


class FakeWorld:
    """All roles at once. The policy's quality is a function of the step size that the learner holds."""

    def __init__(self, accuracy_at: dict[float, float], response_len_at: dict[float, int] | None = None) -> None:
        self.accuracy_at = accuracy_at
        self.response_len_at = response_len_at or {}
        self.held = 0.0
        self.events: list[str] = []
        self.requests: list[GenerateRequest] = []

    # Learner
    def open_trigger(self) -> Displacement:
        self.events.append("open")
        return Displacement(norm=1.0, relative_norm=0.1, cosine_to_previous=None, slope=-0.1, direction_norm=1.0)

    def write_candidate(self, step_size: float) -> None:
        self.held = step_size
        self.events.append(f"write {step_size:g}")

    def close_trigger(self, settlement: Settlement) -> None:
        self.held = settlement.step_size
        scaled = "" if settlement.exp_avg_scale == 1 else f" moment x{settlement.exp_avg_scale:g}"
        self.events.append(f"close {settlement.step_size:g}{scaled}")

    def roll_back(self) -> None:
        raise AssertionError("nothing to undo")

    def reverse_kl(self, batch: ScoredHandle) -> list[KLSum]:
        return [
            KLSum(
                prompt_id=summary.prompt_id,
                sample_index=summary.sample_index,
                reverse_kl_sum=(1 - self.accuracy_at[self.held]) * summary.response_len,
                num_tokens=summary.response_len,
            )
            for summary in batch.summaries
        ]

    def update(self, batches: Sequence[ScoredHandle]) -> UpdateReport:
        raise AssertionError("a trigger does not train")

    def stage(self, version: PolicyVersion) -> Publication:
        raise AssertionError("the publisher does that")

    def response_logprobs(self, rollouts: RolloutHandle) -> list[list[float]]:
        raise AssertionError("the publisher does that")

    # Publisher
    def publish(self, version: PolicyVersion) -> None:
        self.events.append(f"publish {version} of {self.held:g}")

    # Sampler, teacher, verifier
    def load(self, publication: Publication) -> None:
        raise AssertionError("the publisher does that")

    def preview(self, rollouts: RolloutHandle, num_rollouts: int) -> list[Rollout]:
        raise AssertionError("nothing to look at")

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        self.events.append(f"sample {version}")
        self.requests.append(request)
        summaries = tuple(
            RolloutSummary(
                prompt_id=prompt.prompt_id,
                sample_index=0,
                prompt_len=1,
                response_len=self.response_len_at.get(self.held, 10),
                is_truncated=False,
                sampled_reverse_kl=1.0,
            )
            for prompt in request.prompts
        )
        return RolloutHandle(parts=((),), summaries=summaries, policy_version=version)

    def score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> ScoredHandle:
        return ScoredHandle(parts=((),), summaries=rollouts.summaries, policy_version=rollouts.policy_version)

    def rewards(self, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> list[float]:
        return [self.accuracy_at[self.held]] * len(rollouts.summaries)


def effopd(world: FakeWorld, config: AccelerateConfig) -> EffOPD:
    setting = TriggerSetting(
        gate_prompts=PROMPTS,
        audit_prompts=(),
        max_response_len=16,
        num_steps=100,
        seed=3,
        trained_payload=TeacherPayload.SAMPLED,
    )
    roles = TriggerRoles(learner=world, sampler=world, teacher=world, publisher=world, verifier=world)
    return EffOPD(config, setting, roles, lambda name: nullcontext())


@pytest.mark.parametrize("gate", [GateKind.accuracy, GateKind.reverse_kl])
def test_an_accepted_search_settles_on_the_last_accepted_candidate_and_publishes_it_as_the_step(gate: GateKind) -> None:
    world = FakeWorld({0.0: 0.4, 2.0: 0.5, 4.0: 0.6, 6.0: 0.5})
    record = effopd(world, AccelerateConfig(gate=gate, accept=AcceptRule.strict)).try_jump(RunState(step=8), TRAINED_ON)
    assert world.events == [
        "open", "sample 8.0",
        "write 2", "publish 8.1 of 2", "sample 8.1",
        "write 4", "publish 8.2 of 4", "sample 8.2",
        "write 6", "publish 8.3 of 6", "sample 8.3",
        "close 4", "publish 8.0 of 4",
    ]  # fmt: skip
    assert record.accepted_step_size == 4.0
    assert record.num_generated_tokens == 4 * 2 * 10  # four evaluations of two prompts, ten tokens each


def test_a_refused_search_settles_on_the_current_weights_and_publishes_them_again() -> None:
    world = FakeWorld({0.0: 0.4, 2.0: 0.3})
    record = effopd(world, AccelerateConfig(gate=GateKind.accuracy)).try_jump(RunState(step=4), TRAINED_ON)
    assert world.events[-2:] == ["close 0", "publish 4.0 of 0"]
    assert record.accepted_step_size == 0.0
    assert [candidate.is_accepted for candidate in record.candidates] == [True, False]


def test_the_kl_gate_refuses_a_candidate_that_buys_a_lower_kl_with_length() -> None:
    world = FakeWorld({0.0: 0.4, 2.0: 0.9}, response_len_at={2.0: 13})
    record = effopd(world, AccelerateConfig(gate=GateKind.reverse_kl)).try_jump(RunState(step=4), TRAINED_ON)
    assert record.accepted_step_size == 0.0
    assert "length changed by +30%" in record.candidates[1].reason


@pytest.mark.parametrize(("rule", "num_distinct"), [(SeedRule.common, 1), (SeedRule.independent, 3)])
def test_candidates_of_one_trigger_share_seeds_or_not_as_asked(rule: SeedRule, num_distinct: int) -> None:
    world = FakeWorld({0.0: 0.4, 2.0: 0.5, 4.0: 0.3})
    effopd(world, AccelerateConfig(gate=GateKind.accuracy, seeds=rule)).try_jump(RunState(step=4), TRAINED_ON)
    assert len({request.seed for request in world.requests}) == num_distinct


def test_the_next_trigger_has_fresh_seeds() -> None:
    world = FakeWorld({0.0: 0.4, 2.0: 0.3})
    search = effopd(world, AccelerateConfig(gate=GateKind.accuracy, seeds=SeedRule.common))
    search.try_jump(RunState(step=4), TRAINED_ON)
    search.try_jump(RunState(step=8), TRAINED_ON)
    assert world.requests[0].seed != world.requests[-1].seed


def test_the_first_moment_is_scaled_only_after_an_accepted_jump() -> None:
    config = AccelerateConfig(gate=GateKind.accuracy, exp_avg_scale=0.5)
    accepted, refused = FakeWorld({0.0: 0.4, 2.0: 0.5, 4.0: 0.1}), FakeWorld({0.0: 0.4, 2.0: 0.3})
    effopd(accepted, config).try_jump(RunState(step=1), TRAINED_ON)
    effopd(refused, config).try_jump(RunState(step=1), TRAINED_ON)
    assert "close 2 moment x0.5" in accepted.events
    assert "close 0" in refused.events


def test_triggers_stop_at_the_limit_and_never_come_in_plain_opd() -> None:
    limited = AccelerateConfig(gate=GateKind.accuracy, max_triggers=2)
    assert [step for step in range(1, 20) if is_trigger(limited, step, 100)] == [1, 2]
    assert not any(is_trigger(AccelerateConfig(), step, 100) for step in range(20))
