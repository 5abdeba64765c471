"""What the ranks of `test_trigger.py` do for presets: whole triggers on a real learner, with scores from a list."""

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

from learner_cases import make_learner, make_rollouts, share, state_of

from effopd.accelerate import EffOPD
from effopd.candidates import TriggerRoles, TriggerSetting
from effopd.config.schema import AccelerateConfig
from effopd.extrapolation.selection import moved_parameters
from effopd.types import (
    Gathered,
    GenerateRequest,
    PolicyVersion,
    Prompt,
    Publication,
    Rollout,
    RolloutHandle,
    RolloutSummary,
    RunState,
    ShardKind,
)

PROMPTS = tuple(Prompt(prompt_id=str(number), token_ids=(1,), text="", answer="") for number in range(50))
NOTHING = RolloutHandle(parts=((),), summaries=(), policy_version=PolicyVersion(step=0))
TRAINED_ON = Gathered(
    rollouts=NOTHING, batches=(), num_prompt_batches=1, num_generated_tokens=0, num_rewards=0, metrics={}
)


class ScriptedGate:
    """Sampler, publisher and verifier: every request answers as many prompts rightly as the next number says."""

    def __init__(self, numbers_right: Sequence[int]) -> None:
        self._numbers = iter(numbers_right)

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> RolloutHandle:
        summaries = tuple(
            RolloutSummary(prompt_id=prompt.prompt_id, sample_index=0, prompt_len=1, response_len=1, is_truncated=False)
            for prompt in request.prompts
        )
        return RolloutHandle(parts=((),), summaries=summaries, policy_version=version)

    def rewards(self, rollouts: RolloutHandle, prompts: Sequence[Prompt]) -> list[float]:
        num_right = next(self._numbers)
        return [float(index < num_right) for index in range(len(prompts))]

    def publish(self, version: PolicyVersion) -> None:
        pass

    def load(self, publication: Publication) -> None:
        raise AssertionError("the publisher does that")

    def preview(self, rollouts: RolloutHandle, num_rollouts: int) -> list[Rollout]:
        raise AssertionError("nothing to look at")

    def groups(self, most: int) -> list["ScriptedGate"]:
        return [self]


def replayed(
    rank: int, world_size: int, *, model: str, stage: int, dtype: str, accelerate: AccelerateConfig, traces: Any
) -> dict[str, Any]:
    """An update and a trigger for every trace, one after the other."""
    moved = moved_parameters(accelerate.moved)
    learner = make_learner(rank, world_size, model=model, stage=stage, dtype=dtype, accelerate=accelerate, moved=moved)
    mine = share(make_rollouts(13), rank, world_size)
    setting = TriggerSetting(
        gate_prompts=PROMPTS, audit_prompts=(), max_response_len=1, num_steps=100, seed=0, trained_payload=None
    )
    seen: dict[str, Any] = {"fragments": learner.fragments(), "triggers": []}
    for trace in traces:
        learner.update(mine)
        before = state_of(learner, ShardKind.MASTER, ShardKind.ANCHOR)
        gate = ScriptedGate(trace)
        roles = TriggerRoles(learner=learner, sampler=gate, teacher=None, publisher=gate, verifier=gate)
        record = EffOPD(accelerate, setting, roles, lambda name: nullcontext()).try_jump(RunState(step=8), TRAINED_ON)
        seen["triggers"].append(
            {
                "tried": [candidate.step_size for candidate in record.candidates],
                "accepted": record.accepted_step_size,
                "before": before,
                "after": state_of(learner, ShardKind.MASTER)["master"],
            }
        )
    learner.close()
    return seen
