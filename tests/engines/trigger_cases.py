"""What the ranks of `test_trigger.py` do."""

import math
from pathlib import Path
from typing import Any

import torch
from learner_cases import LR, fingerprint, make_learner, make_rollouts, share, state_of, weights_of

from effopd.checkpoints.learner_state import OPTIMIZER_KINDS, POLICY_KINDS
from effopd.config.schema import AccelerateConfig, AnchorRule, DirectionKind
from effopd.engines.deepspeed_learner import DeepSpeedLearner
from effopd.engines.trigger import Trigger
from effopd.types import Settlement, ShardKind

RULES = {
    "difference": AccelerateConfig(),
    "pre_jump": AccelerateConfig(anchor=AnchorRule.pre_jump),
    "initial": AccelerateConfig(anchor=AnchorRule.initial),
    "previous_step": AccelerateConfig(anchor=AnchorRule.previous_step),
    "pre_jump, undoable": AccelerateConfig(anchor=AnchorRule.pre_jump, max_kl_increase=0.1),
    "ema": AccelerateConfig(direction=DirectionKind.ema, direction_ema=0.3),
    "gram_pca": AccelerateConfig(direction=DirectionKind.gram_pca, anchor=AnchorRule.initial, history_size=2),
    "grouped": AccelerateConfig(direction=DirectionKind.grouped),
    "nesterov": AccelerateConfig(direction=DirectionKind.nesterov),
}
ROUNDS = ((2, 2.0), (1, 0.0), (2, -0.5))
"""Updates, and the step size that the trigger after them settles on."""


def rounds(rank: int, world_size: int, *, model: str, stage: int, dtype: str) -> dict[str, Any]:
    """Triggers of every rule side by side on the same masters, which each of them finds as training has left them."""
    learner = make_learner(rank, world_size, model=model, stage=stage, dtype=dtype)
    device = torch.device("cpu")
    triggers = {
        name: Trigger(learner._shards, config, max_lr_scale=math.inf, device=device) for name, config in RULES.items()
    }
    mine = share(make_rollouts(13), rank, world_size)
    path = [state_of(learner, ShardKind.MASTER, ShardKind.EXP_AVG)]
    seen: dict[str, Any] = {"fragments": learner.fragments(), "path": path, "rounds": []}
    for num_updates, step_size in ROUNDS:
        for _ in range(num_updates):
            for trigger in triggers.values():
                trigger.before_update()
            learner.update(mine)
            for trigger in triggers.values():
                trigger.after_update()
            path.append(state_of(learner, ShardKind.MASTER, ShardKind.EXP_AVG))
        seen["rounds"].append(
            {name: _jump_and_return(learner, trigger, step_size) for name, trigger in triggers.items()}
        )
        learner._shards.finish_writes()
    learner.close()
    return seen


def _jump_and_return(learner: DeepSpeedLearner, trigger: Trigger, step_size: float) -> dict[str, Any]:
    """What a trigger measures and where it settles; the masters are put back."""
    names = [fragment.name for fragment in learner._shards.held]
    before = {name: learner._shards.view(ShardKind.MASTER, name).clone() for name in names}
    displacement = trigger.open()
    trigger.close(Settlement(step_size=step_size))
    settled = state_of(learner, ShardKind.MASTER)["master"]
    direction = {name: d.numpy().copy() for name, d in trigger.buffers()[ShardKind.PREVIOUS_DISPLACEMENT].items()}
    for name, master in before.items():
        learner._shards.view(ShardKind.MASTER, name).copy_(master)
    return {"displacement": displacement, "direction": direction, "settled": settled}


def undone(rank: int, world_size: int, *, model: str, stage: int, dtype: str, segment: str) -> dict[str, Any]:
    """Jump, train and roll back; then jump and train until it is too late."""
    accelerate = AccelerateConfig(max_kl_increase=0.1, lr_max=1.5 * LR)
    learner = make_learner(
        rank, world_size, model=model, stage=stage, dtype=dtype, segment=segment, accelerate=accelerate
    )
    mine = share(make_rollouts(13), rank, world_size)
    seen: dict[str, Any] = {"fragments": learner.fragments(), "refusals": [], "kinds": []}

    def bits() -> str:
        return fingerprint(state_of(learner, ShardKind.MASTER)["master"], weights_of(learner, rank))

    def jump() -> None:
        learner.open_trigger()
        learner.write_candidate(4.0)
        learner.close_trigger(Settlement(step_size=2.0, lr_factor=2.0))

    def try_roll_back() -> None:
        try:
            learner.roll_back()
        except AssertionError as error:
            seen["refusals"].append(str(error))

    for _ in range(2):
        learner.update(mine)
    before, logprobs = bits(), learner.response_logprobs([scored.rollout for scored in mine])
    anchor = fingerprint(state_of(learner, ShardKind.ANCHOR)["anchor"])
    jump()
    try_roll_back()  # too early
    seen["raised_lr"] = learner.update(mine).metrics["lr"]
    seen["is_moved"] = bits() != before
    moments = fingerprint(*state_of(learner, ShardKind.EXP_AVG, ShardKind.EXP_AVG_SQ).values())
    learner.roll_back()
    seen["is_undone"] = (
        bits() == before
        and learner.response_logprobs([scored.rollout for scored in mine]) == logprobs
        and fingerprint(state_of(learner, ShardKind.ANCHOR)["anchor"]) == anchor
    )
    seen["keeps_moments"] = (
        fingerprint(*state_of(learner, ShardKind.EXP_AVG, ShardKind.EXP_AVG_SQ).values()) == moments
        and learner.progress().optimizer_step == 3
    )
    try_roll_back()  # twice
    seen["lr"] = learner.update(mine).metrics["lr"]
    seen["cosine"] = learner.open_trigger().cosine_to_previous
    learner.close_trigger(Settlement(step_size=2.0))
    for _ in range(2):
        seen["kinds"].append(learner.progress().kinds)
        learner.update(mine)
    seen["kinds"].append(learner.progress().kinds)
    try_roll_back()  # too late
    learner.close()
    return seen


def interrupted(
    rank: int, world_size: int, *, model: str, accelerate: AccelerateConfig, directory: str | None, **settings: Any
) -> dict[str, Any]:
    """Train, refuse, train, jump; what is saved then; and what comes of it. With `directory` begin from what was saved."""
    learner = make_learner(rank, world_size, model=model, accelerate=accelerate, **settings)
    mine = share(make_rollouts(13), rank, world_size)
    if directory is None:
        for num_updates, settlement in ((2, Settlement(step_size=0.0)), (2, Settlement(step_size=2.0, lr_factor=0.7))):
            for _ in range(num_updates):
                learner.update(mine)
            learner.open_trigger()
            learner.close_trigger(settlement)
        if accelerate.max_kl_increase is None:
            learner.update(mine)  # so that there is a path
    else:
        learner.load_state(Path(directory))
    seen: dict[str, Any] = {"fragments": learner.fragments(), "saved": state_of(learner, *POLICY_KINDS)}
    seen["progress"] = learner.progress()
    seen["lr"] = learner.update(mine).metrics["lr"]
    if accelerate.max_kl_increase is not None:
        learner.roll_back()
    learner.update(mine)
    seen["displacement"] = learner.open_trigger()
    learner.close_trigger(Settlement(step_size=2.0))
    learner.update(mine)
    seen["end"] = state_of(learner, *OPTIMIZER_KINDS, ShardKind.ANCHOR, ShardKind.PREVIOUS_DISPLACEMENT)
    learner.close()
    return seen
