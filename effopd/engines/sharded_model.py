"""One module under DeepSpeed ZeRO: forwards and backwards in micro-batches that stay in step over ranks, one optimizer.

The policy and the critic are such. All methods but the properties are collective.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from effopd.config.schema import Dtype, LearnerConfig
from effopd.engines.collectives import max_over_ranks
from effopd.engines.deepspeed_setup import build_engine
from effopd.engines.microbatches import MicroBatch, idle_micro_batch
from effopd.engines.shard_files import read_fragments
from effopd.engines.zero_shards import ZeroShards
from effopd.errors import GradientError
from effopd.types import ShardKind, TrainBatch

R = TypeVar("R")

Forward = Callable[[TrainBatch, Any], R]
"""What to compute from a micro-batch and the module's output for it."""


class ShardedModel:
    """`module(token_ids, attention_mask, response_mask, compute, packed_lengths)` returns `compute(output)`; `named` names its
    parameters."""

    def __init__(
        self,
        module: nn.Module,
        config: LearnerConfig,
        *,
        named: nn.Module,
        external: Sequence[nn.Parameter] = (),
        moved: Callable[[str, tuple[int, ...]], bool],
        rank: int,
        world_size: int,
        device: torch.device,
    ) -> None:
        self._config = config
        self._world_size = world_size
        self._device = device
        self.engine = build_engine(module, config, device, external)
        self.parameters = dict(named.named_parameters())  # tied weights come once
        self.shards = ZeroShards(self.engine, self.parameters, moved, rank)

    def accumulate(
        self, batch: TrainBatch | None, plan: Sequence[MicroBatch], compute: Forward[tuple[Tensor, dict[str, Tensor]]]
    ) -> dict[str, float]:
        """Add the gradients of all micro-batches and return their metrics, summed over those of this rank.

        `compute` returns a loss that is a share of a mean over all ranks, and metrics that are such shares.
        """
        sums: defaultdict[str, float] = defaultdict(float)
        num_rounds = max_over_ranks(len(plan), self._device)
        for index in range(num_rounds):
            self.engine.set_gradient_accumulation_boundary(index == num_rounds - 1)
            if index < len(plan):
                assert batch is not None
                loss, metrics = self._forward(plan[index].take(batch, self._device), compute)
                for name, value in metrics.items():
                    sums[name] += float(value)
                if not math.isfinite(loss.item()):
                    # Its gradient may be finite all the same; whoever steps looks at the gradient alone.
                    loss = loss * math.nan
            else:
                (loss,) = self._forward(idle_micro_batch(self._device), _nothing)
            # Shares must be summed over micro-batches and ranks. DeepSpeed divides by gradient_accumulation_steps, which
            # is set to 1, and averages over ranks, which this undoes.
            self.engine.backward(loss * self._world_size)
        return dict(sums)

    def step(self, lr: float) -> float:
        """Clip, step and return the norm of the gradient before clipping.

        Raises GradientError when it is not finite; weights and optimizer are then as before.
        """
        step = self.shards.optimizer_step
        for group in self.engine.basic_optimizer.param_groups:
            group["lr"] = lr
        if self._config.zero_stage == 0 and self._config.dtype is Dtype.float32:
            # Here DeepSpeed clips without telling the norm and steps whatever it is, so look before it does.
            gradients = [parameter.grad for parameter in self.parameters.values() if parameter.grad is not None]
            grad_norm = float(torch.nn.utils.get_total_norm(gradients))
            if not math.isfinite(grad_norm):
                self.engine.zero_grad()
                raise GradientError(_not_finite(step))
            self.engine.step()
            return grad_norm
        self.engine.step()
        if not self.engine.was_step_applied():
            raise GradientError(_not_finite(step))
        return float(self.engine.get_global_grad_norm())

    @torch.no_grad()
    def per_token(self, batch: TrainBatch | None, plan: Sequence[MicroBatch], compute: Forward[Tensor]) -> list[Tensor]:
        """Return [R] values for every row that `plan` covers, in order of rows, from a `compute` that gives [B, T]."""
        results: dict[int, Tensor] = {}
        for index in range(max_over_ranks(len(plan), self._device)):
            if index < len(plan):
                assert batch is not None
                taken = plan[index].take(batch, self._device)
                values = plan[index].split(self._forward(taken, compute))
                masks = plan[index].split(taken.response_mask)
                for row, tokens, mask in zip(plan[index].rows, values, masks, strict=True):
                    results[row] = tokens[mask].cpu()
            else:
                self._forward(idle_micro_batch(self._device), _nothing)
        return [results[row] for row in sorted(results)]

    @torch.no_grad()
    def load(self, directory: Path, kinds: Sequence[ShardKind], optimizer_step: int) -> None:
        """Take over masters and moments from the files of `kinds`, which are in the order of `_STATE`."""
        for own, stored in zip(_STATE, kinds, strict=True):
            for name, tensor in read_fragments(directory, stored, self.shards.held):
                self.shards.view(own, name).copy_(tensor)
        self.shards.optimizer_step = optimizer_step
        self.shards.finish_writes()

    def _forward(self, batch: TrainBatch, compute: Forward[R]) -> R:
        return self.engine(
            batch.token_ids,
            batch.attention_mask,
            batch.response_mask,
            lambda output: compute(batch, output),
            batch.packed_lengths,
        )


_STATE = (ShardKind.MASTER, ShardKind.EXP_AVG, ShardKind.EXP_AVG_SQ)


def _nothing(batch: TrainBatch, output: Any) -> tuple[Tensor]:
    """A loss of 0 that has run the same modules as any other."""
    values = output if isinstance(output, Tensor) else output.logprobs
    return (values[batch.response_mask].sum(),)  # of nothing; a critic has values at prompts and padding, too


def _not_finite(step: int) -> str:
    return f"optimizer step {step}: the gradient is not finite; nothing was changed"
