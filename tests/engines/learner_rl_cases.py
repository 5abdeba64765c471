"""What the ranks of `test_learner_rl.py` do, beside the cases of `learner_cases.py`."""

from pathlib import Path
from typing import Any

import torch
from learner_cases import (
    ALGOS,
    LR,
    MAX_RESPONSE_LEN,
    critic_of,
    make_learner,
    make_rollouts,
    share,
    state_of,
)
from plain_learner import PlainLearner
from transformers import AutoModelForCausalLM

from effopd.checkpoints.learner_state import OPTIMIZER_KINDS, POLICY_KINDS
from effopd.config.schema import LearnerConfig
from effopd.errors import EffOPDError


def critic_life(rank: int, world_size: int, *, model: str, **settings: Any) -> Any:
    """Two updates with a critic, the state, and one more update."""
    learner = make_learner(rank, world_size, model=model, **settings)
    mine = share(make_rollouts(13), rank, world_size)
    result: dict[str, Any] = {
        "fragments": learner.fragments(),
        "critic_fragments": learner.critic_fragments(),
        "initial": critic_of(learner),
    }
    for _ in range(2):
        learner.update(mine)
    result["state"] = state_of(learner, *POLICY_KINDS) | critic_of(learner)
    result["optimizer_step"] = learner.progress().optimizer_step
    learner.update(mine)
    result["after_step"] = state_of(learner, *OPTIMIZER_KINDS) | critic_of(learner)
    learner.close()
    return result


def critic_resume(rank: int, world_size: int, *, model: str, directory: str, **settings: Any) -> Any:
    """Load a state with a critic and take one more update."""
    learner = make_learner(rank, world_size, model=model, **settings)
    error = ""
    try:
        learner.load_state(Path(directory))
    except EffOPDError as raised:
        error = f"{type(raised).__name__}: {raised}"
    result: dict[str, Any] = {"error": error}
    if not error:
        result |= {
            "fragments": learner.fragments(),
            "critic_fragments": learner.critic_fragments(),
            "state": state_of(learner, *OPTIMIZER_KINDS) | critic_of(learner),
            "optimizer_step": learner.progress().optimizer_step,
        }
        learner.update(share(make_rollouts(13), rank, world_size))
        result["after_step"] = state_of(learner, *OPTIMIZER_KINDS) | critic_of(learner)
    learner.close()
    return result


def rates(rank: int, world_size: int, *, model: str, num_updates: int, **settings: Any) -> list[float]:
    """The learning rate of every update."""
    learner = make_learner(rank, world_size, model=model, **settings)
    mine = share(make_rollouts(13), rank, world_size)
    found = [learner.update(mine).metrics["lr"] for _ in range(num_updates)]
    learner.close()
    return found


def against_plain(rank: int, world_size: int, *, model: str, algo: str, minibatches: Any, **settings: Any) -> Any:
    """Two updates by the learner, and the same by a plain loop that is told which rows make which step."""
    learner = make_learner(rank, world_size, model=model, algo=algo, **settings)
    updates = [make_rollouts(13, seed) for seed in (0, 1)]
    reports = [learner.update(rollouts) for rollouts in updates]
    learned = {kind: held for kind, held in (state_of(learner, *OPTIMIZER_KINDS) | critic_of(learner)).items() if held}
    initial = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).state_dict()
    learner.close()
    plain = PlainLearner(model, LearnerConfig(lr=LR), ALGOS[algo], MAX_RESPONSE_LEN)
    norms = [plain.update(rollouts, minibatches) for rollouts in updates]
    return {
        "learned": learned,
        "plain": plain.state(),
        "initial": {name: tensor.numpy() for name, tensor in initial.items()},
        "metrics": [dict(report.metrics) for report in reports],
        "plain_norms": norms,
    }
