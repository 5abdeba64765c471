"""Fakes for the roles of a trigger, whose weights are a step size: every measure of them is looked up."""

from collections.abc import Sequence
from contextlib import nullcontext

from effopd.accelerate import EffOPD
from effopd.candidates import TriggerRoles, TriggerSetting
from effopd.config.schema import AccelerateConfig
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
        num_engines: int = 2,
    ) -> None:
        self.accuracy_at = accuracy_at
        self.response_len_at = response_len_at or {}
        self.reverse_kl_at = reverse_kl_at or {size: 1 - quality for size, quality in accuracy_at.items()}
        self.training_kl_at = training_kl_at
        self.entropy_at = entropy_at or {}
        self.slope = slope
        self.num_engines = num_engines
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

    def groups(self, most: int) -> list["FakeEngine"]:
        return [FakeEngine(self) for _ in range(min(most, self.num_engines))]

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
    """One of several engines: it samples from the weights that it has loaded, whatever the learner holds by then."""

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

    def groups(self, most: int) -> list["FakeEngine"]:
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


def jump(world: FakeWorld, config: AccelerateConfig, state: RunState | None = None) -> TriggerRecord:
    return effopd(world, config).try_jump(state or RunState(step=8), TRAINED_ON)
