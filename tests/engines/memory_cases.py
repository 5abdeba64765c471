"""Bytes that a learner rank really allocates: of its state by walking the tensors, of an update by watching every operator."""

import gc
import weakref
from collections.abc import Iterable
from typing import Any

import learner_cases
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from effopd.engines.deepspeed_learner import DeepSpeedLearner
from effopd.types import FinishReason, PolicyVersion, Rollout, ScoredRollout, Settlement, TeacherScores

PROMPT_LEN = 4


class AllocationMeter(TorchDispatchMode):
    """Counts the bytes of storages that operators allocate while it is on, and forgets those that are gone."""

    def __init__(self) -> None:
        super().__init__()
        self.num_bytes = 0
        self.peak = 0
        self._alive: dict[int, int] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        # A result that lies in the memory of an argument is a view or was written in place.
        given = {_storage(leaf)._cdata for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)}
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor) and leaf.device.type == "cpu":
                storage = _storage(leaf)
                address = storage._cdata
                if address not in given and address not in self._alive:
                    self._alive[address] = storage.nbytes()
                    self.num_bytes += storage.nbytes()
                    self.peak = max(self.peak, self.num_bytes)
                    weakref.finalize(storage, self._forget, address)
        return result

    def _forget(self, address: int) -> None:
        self.num_bytes -= self._alive.pop(address, 0)


def state(rank: int, world_size: int, **settings: Any) -> dict[str, int]:
    """Bytes of every part of the state, gradients just before the step, the trigger's copies after one trigger."""
    learner = learner_cases.make_learner(rank, world_size, **settings)
    shards, policy = learner._shards, learner._policy
    measured: dict[str, int] = {}

    def step(lr: float) -> float:
        measured["gradients"] = _bytes(_gradients(policy.engine, shards._parameters.values()))
        return own_step(lr)

    own_step, policy.step = policy.step, step
    learner.update(rollouts([24, 24]))
    is_partitioned = shards._stage == 3
    weights = [
        getattr(parameter, "ds_tensor" if is_partitioned else "data") for parameter in shards._parameters.values()
    ]
    measured["weights"] = _bytes(weights)
    measured["masters"] = _bytes(shards._masters) if shards._has_separate_masters else 0
    states = [shards._adam.state[master] for master in shards._masters]
    measured["moments"] = _bytes(entry[key] for entry in states for key in ("exp_avg", "exp_avg_sq"))
    learner.open_trigger()
    learner.close_trigger(Settlement(step_size=0.0))
    for kind, buffer in learner._trigger.buffers().items():
        measured[kind.value] = _bytes(buffer.values())
    _finish(learner)
    return measured


def update(rank: int, world_size: int, *, lengths: list[int], **settings: Any) -> int:
    """The most bytes that were allocated during an update of rows of `lengths`, its gradients included."""
    learner = learner_cases.make_learner(rank, world_size, **settings)
    with AllocationMeter() as meter:
        learner.update(rollouts(lengths))
    _finish(learner)
    return meter.peak


def rollouts(lengths: list[int]) -> list[ScoredRollout]:
    """One response per length, that of prompt and response together."""
    scored = []
    for index, length in enumerate(lengths):
        zeros = torch.zeros(length - PROMPT_LEN)
        rollout = Rollout(
            prompt_id=str(index),
            sample_index=0,
            prompt_token_ids=(1,) * PROMPT_LEN,
            response_token_ids=zeros.long(),
            rollout_logprobs=zeros - 3,
            text="",
            finish_reason=FinishReason.LENGTH,
            seed=0,
            policy_version=PolicyVersion(step=0),
        )
        scored.append(ScoredRollout(rollout=rollout, teacher=TeacherScores(sampled=zeros - 2)))
    return scored


def _gradients(engine: Any, parameters: Iterable[Any]) -> list[Tensor]:
    """Wherever DeepSpeed keeps them: the parameters' own, summed whole ones, and this rank's part."""
    optimizer = engine.optimizer
    found = [parameter.grad for parameter in parameters if parameter.grad is not None]
    found += getattr(optimizer, "fp32_groups_gradients_flat", [])
    for group in getattr(optimizer, "averaged_gradients", {}).values():
        if isinstance(group, Tensor):
            found.append(group)
        elif group is not None:
            found += [tensor for tensor in group if isinstance(tensor, Tensor)]
    flat = getattr(optimizer, "grad_partitions_flat_buffer", None)
    return found if flat is None else [*found, flat]


def _bytes(tensors: Iterable[Tensor]) -> int:
    """Of their storages, each once."""
    storages = [_storage(tensor) for tensor in tensors]
    return sum({storage._cdata: storage.nbytes() for storage in storages}.values())


def _storage(tensor: Tensor) -> Any:
    return tensor.untyped_storage()


def _finish(learner: DeepSpeedLearner) -> None:
    learner.close()
    gc.collect()
