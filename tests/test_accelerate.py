"""A trigger's order of events, with fakes for the roles: what is written, published, sampled and settled, and when."""

from collections.abc import Sequence
from contextlib import nullcontext

import pytest

from effopd.accelerate import EffOPD, is_trigger
from effopd.candidates import TriggerRoles, TriggerSetting
from effopd.config.schema import AccelerateConfig, AcceptRule, GateKind, SeedRule
from effopd.config.search_schema import ScheduleKind, SearchKind
from effopd.errors import WeightsLostError
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
    TriggerKind,
    TriggerRecord,
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
    num_rewards=0,
    metrics={},
)


class FakeWorld:
    """All roles at once. The policy's quality is a function of the step size that the learner holds.

    Its reverse KL per token is 1 - quality, unless that is given by itself, on gate prompts or on what was trained on.
    """

    def __init__(
        self,
        accuracy_at: dict[float, float],
        response_len_at: dict[float, int] | None = None,
        reverse_kl_at: dict[float, float] | None = None,
        training_kl_at: dict[float, float] | None = None,
        entropy_at: dict[float, float] | None = None,
        slope: float = -0.1,
    ) -> None:
        self.accuracy_at = accuracy_at
        self.response_len_at = response_len_at or {}
        self.reverse_kl_at = reverse_kl_at or {size: 1 - quality for size, quality in accuracy_at.items()}
        self.training_kl_at = training_kl_at
        self.entropy_at = entropy_at or {}
        self.slope = slope
        self.held = 0.0
        self.events: list[str] = []
        self.requests: list[GenerateRequest] = []

    # Learner
    def open_trigger(self) -> Displacement:
        self.events.append("open")
        return Displacement(
            norm=1.0, relative_norm=0.1, cosine_to_previous=None, slope=self.slope, direction_norm=1.0, num_updates=4
        )

    def write_candidate(self, step_size: float) -> None:
        self.held = step_size
        self.events.append(f"write {step_size:g}")

    def close_trigger(self, settlement: Settlement) -> None:
        self.held = settlement.step_size
        scaled = "" if settlement.exp_avg_scale == 1 else f" moment x{settlement.exp_avg_scale:g}"
        scaled += "" if settlement.lr_factor == 1 else f" lr x{settlement.lr_factor:g}"
        self.events.append(f"close {settlement.step_size:g}{scaled}")

    def roll_back(self) -> None:
        raise AssertionError("nothing to undo")

    def reverse_kl(self, batch: ScoredHandle) -> list[KLSum]:
        is_trained_on = batch.summaries == STEP_ROLLOUTS.summaries
        if is_trained_on:
            self.events.append(f"reuse at {self.held:g}")
        own = self.training_kl_at if is_trained_on and self.training_kl_at is not None else self.reverse_kl_at
        return [
            KLSum(
                prompt_id=summary.prompt_id,
                sample_index=summary.sample_index,
                reverse_kl_sum=own[self.held] * summary.response_len,
                num_tokens=summary.response_len,
            )
            for summary in batch.summaries
        ]

    def update(self, batches: Sequence[ScoredHandle]) -> UpdateReport:
        raise AssertionError("a trigger does not train")

    def stage(self, version: PolicyVersion) -> Publication:
        self.events.append(f"stage {version} of {self.held:g}")
        return Publication(version=version, segment="", buckets=(), checksum="")

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

    def engines(self) -> list["FakeEngine"]:
        return [FakeEngine(self), FakeEngine(self)]

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        self.events.append(f"sample {version}")
        self.requests.append(request)
        return self.respond(request, version, self.held)

    def respond(self, request: GenerateRequest, version: PolicyVersion, held: float) -> RolloutHandle:
        summaries = tuple(
            RolloutSummary(
                prompt_id=prompt.prompt_id,
                sample_index=0,
                prompt_len=1,
                response_len=self.response_len_at.get(held, 10),
                is_truncated=False,
                sampled_entropy=10 * self.entropy_at.get(held, 1.0),
                sampled_reverse_kl=1.0,
            )
            for prompt in request.prompts
        )
        return RolloutHandle(parts=((),), summaries=summaries, policy_version=version)

    def score(self, rollouts: RolloutHandle, payload: TeacherPayload) -> ScoredHandle:
        return ScoredHandle(parts=((),), summaries=rollouts.summaries, policy_version=rollouts.policy_version)

    def rewards(self, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> list[float]:
        return [self.accuracy_at[self.held]] * len(rollouts.summaries)


class FakeEngine:
    """One of two engines: it samples from the weights that it has loaded, whatever the learner holds by then."""

    def __init__(self, world: FakeWorld) -> None:
        self.world = world
        self.held: float | None = None

    def load(self, publication: Publication) -> None:
        self.held = self.world.held

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        assert self.held is not None
        self.world.requests.append(request)
        return self.world.respond(request, version, self.held)

    def preview(self, rollouts: RolloutHandle, num_rollouts: int) -> list[Rollout]:
        raise AssertionError("nothing to look at")

    def engines(self) -> list["FakeEngine"]:
        return [self]


def effopd(
    world: FakeWorld,
    config: AccelerateConfig,
    gate_prompts: tuple[Prompt, ...] = PROMPTS,
    trained_payload: TeacherPayload = TeacherPayload.SAMPLED,
) -> EffOPD:
    setting = TriggerSetting(
        gate_prompts=gate_prompts,
        audit_prompts=PROMPTS * (config.audit_prompts // 2),
        max_response_len=16,
        num_steps=100,
        seed=3,
        trained_payload=trained_payload,
    )
    roles = TriggerRoles(learner=world, sampler=world, teacher=world, publisher=world, verifier=world)
    return EffOPD(config, setting, roles, lambda name: nullcontext())


@pytest.mark.parametrize(("cap", "longest"), [(None, 16), (5, 5)])
def test_gate_responses_have_a_cap_of_their_own_and_audits_have_not(cap: int | None, longest: int) -> None:
    world = FakeWorld({size: 0.5 for size in (0.0, 1.0, 2.0)})
    config = AccelerateConfig(gate=GateKind.accuracy, max_response_len=cap, audit_prompts=4, audit_grid=[1.0])
    effopd(world, config).try_jump(RunState(step=8), TRAINED_ON)
    # The current weights and the first candidate, which is refused; then the audit at 0 and at 1.
    assert [request.max_response_len for request in world.requests] == [longest, longest, 16, 16]


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


def jump(world: FakeWorld, config: AccelerateConfig, state: RunState | None = None) -> TriggerRecord:
    return effopd(world, config).try_jump(state or RunState(step=8), TRAINED_ON)


PARABOLA = {"search": SearchKind.parabola, "step_sizes": [2.0, 6.0]}


def test_the_parabola_publishes_its_probes_and_then_the_optimum() -> None:
    # -KL is 3x - x²/2 - 5 at the probes: 4 - 5 and 0 - 5; greatest at 3.
    world = FakeWorld(dict.fromkeys((0.0, 2.0, 3.0, 6.0), 0.5), reverse_kl_at={0.0: 5.0, 2.0: 1.0, 6.0: 5.0, 3.0: 0.5})
    record = jump(world, AccelerateConfig(gate=GateKind.reverse_kl, **PARABOLA))
    assert world.events == [
        "open", "sample 8.0",
        "write 2", "publish 8.1 of 2", "sample 8.1",
        "write 6", "publish 8.2 of 6", "sample 8.2",
        "write 3", "publish 8.3 of 3", "sample 8.3",
        "close 3", "publish 8.0 of 3",
    ]  # fmt: skip
    assert record.accepted_step_size == 3.0


def test_the_kl_on_what_was_trained_on_is_searched_without_sampling_and_confirmed_once_on_fresh_responses() -> None:
    world = FakeWorld({0.0: 0.4, 2.0: 0.5, 4.0: 0.6, 6.0: 0.5})
    record = jump(world, AccelerateConfig(gate=GateKind.reuse_kl))
    assert world.events == [
        "open", "reuse at 0",
        "write 2", "reuse at 2",
        "write 4", "reuse at 4",
        "write 6", "reuse at 6",
        "write 0", "sample 8.0",  # the samplers have held (8, 0) all the time
        "write 4", "publish 8.1 of 4", "sample 8.1",
        "close 4", "publish 8.0 of 4",
    ]  # fmt: skip
    assert record.accepted_step_size == 4.0
    assert record.num_generated_tokens == 2 * 2 * 10  # the two of the confirmation
    assert record.num_rescored_tokens == 60  # three responses of 20, for which there were no hidden states
    assert [candidate.step_size for candidate in record.confirmation] == [0.0, 4.0]


def test_hidden_states_that_the_step_has_already_are_not_asked_for_again() -> None:
    world = FakeWorld({0.0: 0.4, 2.0: 0.3})
    search = effopd(world, AccelerateConfig(gate=GateKind.reuse_kl), trained_payload=TeacherPayload.HIDDEN_STATES)
    record = search.try_jump(RunState(step=8), TRAINED_ON)
    assert (record.num_rescored_tokens, record.num_generated_tokens) == (0, 0)


def test_a_winner_that_fresh_responses_do_not_confirm_is_refused() -> None:
    # Better on what was trained on, worse on fresh responses.
    world = FakeWorld(
        dict.fromkeys((0.0, 2.0, 4.0), 0.5),
        reverse_kl_at={0.0: 0.4, 2.0: 0.5},
        training_kl_at={0.0: 0.4, 2.0: 0.3, 4.0: 0.35},
    )
    record = jump(world, AccelerateConfig(gate=GateKind.reuse_kl))
    assert world.events[-2:] == ["close 0", "publish 8.0 of 0"]
    assert record.accepted_step_size == 0.0
    assert [candidate.is_accepted for candidate in record.candidates] == [True, False, False]
    assert "not confirmed: not better" in record.candidates[1].reason


@pytest.mark.parametrize(("accuracy", "accepted"), [(0.6, 2.0), (0.5, 0.0)])
def test_a_lower_kl_is_confirmed_by_accuracy_on_the_same_responses(accuracy: float, accepted: float) -> None:
    world = FakeWorld({0.0: 0.5, 2.0: accuracy, 4.0: 0.9}, reverse_kl_at={0.0: 0.4, 2.0: 0.3, 4.0: 0.35})
    record = jump(world, AccelerateConfig(gate=GateKind.kl_then_accuracy))
    assert record.accepted_step_size == accepted
    assert len(world.requests) == 3
    assert record.num_generated_tokens == 3 * 2 * 10
    assert [candidate.score.value for candidate in record.confirmation] == [0.5, accuracy]


@pytest.mark.parametrize(("min_posterior", "accepted"), [(0.8, 2.0), (0.9, 0.0)])
def test_the_paired_gate_accepts_from_its_posterior_on(min_posterior: float, accepted: float) -> None:
    # Two prompts better and none worse: P(Bin(3, 1/2) <= 2) = 7/8.
    world = FakeWorld({0.0: 0.4, 2.0: 0.5, 4.0: 0.1})
    config = AccelerateConfig(gate=GateKind.accuracy, accept=AcceptRule.paired, min_posterior=min_posterior)
    record = jump(world, config)
    assert record.accepted_step_size == accepted
    assert "better with probability 0.875" in record.candidates[1].reason


def test_the_sequential_gate_samples_in_chunks_and_stops_when_it_has_seen_enough() -> None:
    prompts = tuple(Prompt(prompt_id=str(i), token_ids=(1,), text="", answer="") for i in range(20))
    config = AccelerateConfig(gate=GateKind.accuracy, accept=AcceptRule.sequential, chunk_prompts=6)
    # Five losses refuse: the first chunk of 6 is enough. Eight wins accept: but the rest is sampled too.
    worse, better = FakeWorld({0.0: 0.4, 2.0: 0.3}), FakeWorld({0.0: 0.4, 2.0: 0.5, 4.0: 0.3})
    refused = effopd(worse, config, prompts).try_jump(RunState(step=8), TRAINED_ON)
    accepted = effopd(better, config, prompts).try_jump(RunState(step=8), TRAINED_ON)
    assert [len(request.prompts) for request in worse.requests] == [20, 6]
    assert [len(request.prompts) for request in better.requests] == [20, 6, 6, 6, 2, 6]
    assert (refused.accepted_step_size, accepted.accepted_step_size) == (0.0, 2.0)
    assert refused.num_generated_tokens == 26 * 10
    # One publish a candidate, and one seed for all its chunks.
    assert [event for event in better.events if event.startswith("publish")] == [
        "publish 8.1 of 2", "publish 8.2 of 4", "publish 8.0 of 2",
    ]  # fmt: skip
    assert len({request.seed for request in better.requests}) == 1


@pytest.mark.parametrize("step_size", [0.5, -0.5])
def test_an_ungated_jump_samples_nothing_and_may_go_back(step_size: float) -> None:
    world = FakeWorld({})
    config = AccelerateConfig(gate=GateKind.ungated, search=SearchKind.fixed, step_sizes=[step_size])
    record = jump(world, config)
    assert world.events == ["open", f"close {step_size:g}", f"publish 8.0 of {step_size:g}"]
    assert (record.kind, record.candidates, record.accepted_step_size) == (TriggerKind.UNGATED, (), step_size)


def test_a_resting_schedule_looks_and_keeps_the_learning_rate() -> None:
    world = FakeWorld({}, slope=-1.0)
    config = AccelerateConfig(gate=GateKind.accuracy, schedule=ScheduleKind.adaptive, max_rejects=2, lr_on_reject=0.7)
    record = jump(world, config, RunState(step=8, num_rejects=2, rejected_steepness=1.0))
    assert world.events == ["open", "close 0"]  # the samplers have held nothing else
    assert (record.kind, record.candidates, record.num_generated_tokens) == (TriggerKind.LOOK, (), 0)


def test_the_learning_rate_rises_with_a_jump_and_falls_with_a_refusal() -> None:
    config = AccelerateConfig(gate=GateKind.accuracy, lr_on_accept=2.0, lr_on_reject=0.7)
    accepted, refused = FakeWorld({0.0: 0.4, 2.0: 0.5, 4.0: 0.1}), FakeWorld({0.0: 0.4, 2.0: 0.3})
    jump(accepted, config)
    jump(refused, config)
    assert "close 2 lr x2" in accepted.events
    assert "close 0 lr x0.7" in refused.events


def test_candidates_beyond_the_relative_bound_are_not_tried() -> None:
    # The direction is as long as the displacement, which is 0.1 of the weights: 0.5 of them is a step size of 5.
    world = FakeWorld({0.0: 0.4, 2.0: 0.5, 4.0: 0.6})
    record = jump(world, AccelerateConfig(gate=GateKind.accuracy, max_relative_jump=0.5))
    assert [candidate.step_size for candidate in record.candidates] == [0.0, 2.0, 4.0]
    ungated = AccelerateConfig(gate=GateKind.ungated, search=SearchKind.fixed, step_sizes=[6.0], max_relative_jump=0.5)
    assert jump(FakeWorld({}), ungated).accepted_step_size == 0.0


def test_the_entropy_bound_refuses_a_collapse() -> None:
    world = FakeWorld({0.0: 0.4, 2.0: 0.9}, entropy_at={0.0: 1.0, 2.0: 0.5})
    record = jump(world, AccelerateConfig(gate=GateKind.accuracy, max_entropy_change=0.3))
    assert record.accepted_step_size == 0.0
    assert "entropy per token changed by -50%" in record.candidates[1].reason
    assert record.candidates[1].score.entropy_per_token == 0.5


def test_an_audit_scores_the_outcome_and_an_oracle_and_changes_nothing() -> None:
    qualities = {0.0: 0.4, 2.0: 0.5, 3.0: 0.8, 4.0: 0.45}
    plain, audited = FakeWorld(qualities), FakeWorld(qualities)
    config = AccelerateConfig(gate=GateKind.reverse_kl, audit_prompts=2, audit_grid=[3.0, 4.0])
    expected = jump(plain, AccelerateConfig(gate=GateKind.reverse_kl))
    record = jump(audited, config)
    assert record.candidates == expected.candidates
    assert (record.accepted_step_size, record.num_generated_tokens) == (2.0, expected.num_generated_tokens)
    assert audited.events[: len(plain.events) - 2] == plain.events[:-2]
    assert audited.events[-2:] == plain.events[-2:] == ["close 2", "publish 8.0 of 2"]
    assert record.audit is not None
    assert [point.step_size for point in record.audit.points] == [0.0, 2.0, 3.0, 4.0]
    assert (record.audit.settled_step_size, record.audit.oracle_step_size) == (2.0, 3.0)
    # A KL of 0.5 where the oracle has 0.2; 0.6 before.
    assert record.audit.regret == pytest.approx(0.3)
    assert record.audit.points[1].reverse_kl_change == pytest.approx(-0.1)
    assert record.audit.points[1].accuracy_change == pytest.approx(0.1)


@pytest.mark.parametrize("seeds", list(SeedRule))
@pytest.mark.parametrize(
    "qualities",
    [
        [0.4, 0.3, 0.9, 0.9],  # refused at once
        [0.4, 0.5, 0.45, 0.9],  # one accepted, and a better one behind the refusal
        [0.4, 0.5, 0.6, 0.7],  # all accepted
    ],
)
def test_sampling_all_candidates_at_once_decides_as_the_ladder_does(qualities: list[float], seeds: SeedRule) -> None:
    table = dict(zip((0.0, 2.0, 4.0, 6.0), qualities, strict=True))
    one_by_one, at_once = FakeWorld(table), FakeWorld(table)
    common = {"gate": GateKind.reverse_kl, "step_sizes": [2.0, 4.0, 6.0], "seeds": seeds}
    ladder = jump(one_by_one, AccelerateConfig(**common))
    record = jump(at_once, AccelerateConfig(**common, search=SearchKind.parallel))
    assert at_once.events == [
        "open", "sample 8.0",
        "write 2", "stage 8.1 of 2", "write 4", "stage 8.2 of 4", "write 2", "write 4",  # sampled, then measured
        "write 6", "stage 8.3 of 6",
        f"close {ladder.accepted_step_size:g}", f"publish 8.0 of {ladder.accepted_step_size:g}",
    ]  # fmt: skip
    assert record.accepted_step_size == ladder.accepted_step_size
    assert record.candidates[: len(ladder.candidates)] == ladder.candidates
    assert [candidate.step_size for candidate in record.candidates] == [0.0, 2.0, 4.0, 6.0]
    assert record.num_generated_tokens == 4 * 2 * 10
    assert {request.seed for request in one_by_one.requests} <= {request.seed for request in at_once.requests}


class ForgetfulEngine(FakeEngine):
    """Replaced in the middle of its first request, when it has no weights of its own any more."""

    def __init__(self, world: FakeWorld) -> None:
        super().__init__(world)
        self.is_replaced = False

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        if not self.is_replaced:
            self.is_replaced = True
            raise WeightsLostError("replaced")
        return super().generate(request, version)


def test_an_engine_that_is_replaced_beside_others_gets_its_own_candidate_again(monkeypatch: pytest.MonkeyPatch) -> None:
    table = {0.0: 0.4, 2.0: 0.5, 4.0: 0.6}
    undisturbed, disturbed = FakeWorld(table), FakeWorld(table)
    monkeypatch.setattr(disturbed, "engines", lambda: [ForgetfulEngine(disturbed), FakeEngine(disturbed)])
    config = AccelerateConfig(gate=GateKind.reverse_kl, step_sizes=[2.0, 4.0], search=SearchKind.parallel)
    # What it samples depends on the weights that it holds: those of 4 lie where those of 2 were.
    for world in (undisturbed, disturbed):
        world.response_len_at = {2.0: 11, 4.0: 12}
    assert jump(disturbed, config).candidates == jump(undisturbed, config).candidates
    assert disturbed.events[2:8] == [
        "write 2", "stage 8.1 of 2", "write 4", "stage 8.2 of 4", "write 2", "stage 8.3 of 2",
    ]  # fmt: skip
