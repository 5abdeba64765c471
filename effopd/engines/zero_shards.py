"""Where DeepSpeed keeps float32 weights and Adam moments, for every ZeRO stage and precision.

The only module that knows DeepSpeed's internal attributes; written against 0.19.8 and held to it by the conformance tests.
`safe_set_full_fp32_param` and its relatives are not enough: they leave the low-precision weights as they were until the
next optimizer step, so a forward or a publish right after a jump would still see the old policy.

| stage, dtype | master weights                                    | forward weights |
|--------------|---------------------------------------------------|-----------------|
| 0, float32   | the parameters themselves, on every rank          | the same        |
| 0, bfloat16  | one tensor per parameter, on every rank           | the parameters  |
| 1, 2         | one flat tensor per rank, cut anywhere            | the parameters, gathered after a write |
| 3            | flat tensors per rank, each parameter padded      | `ds_tensor`, one slice per parameter   |
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from effopd.types import Fragment, ShardKind

_ADAM_KEYS = {ShardKind.EXP_AVG: "exp_avg", ShardKind.EXP_AVG_SQ: "exp_avg_sq"}


@dataclass(frozen=True, slots=True)
class _Place:
    """Where one fragment lies: `flat[offset : offset + fragment.num_elements]`, flat being a tensor that Adam steps."""

    fragment: Fragment
    flat: Tensor
    offset: int


class ZeroShards:
    """Reads and writes this rank's part of the master weights and of Adam's state.

    A rank *holds* the fragments that it stores and *owns* those that it answers for. They differ at stage 0 only, where
    every rank holds everything and rank 0 owns it: whoever writes must write on every rank that holds.
    """

    def __init__(
        self,
        engine: Any,
        parameters: dict[str, nn.Parameter],
        moved: Callable[[str, tuple[int, ...]], bool],
        rank: int,
    ) -> None:
        self._engine = engine
        self._stage: int = engine.zero_optimization_stage()
        self._optimizer = engine.optimizer
        self._adam: torch.optim.Optimizer = engine.basic_optimizer
        self._parameters = parameters
        locate = {0: self._locate_whole, 1: self._locate_flat, 2: self._locate_flat, 3: self._locate_padded}[
            self._stage
        ]
        self._masters = self._master_tensors()
        self._places: dict[str, _Place] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        for name, parameter in parameters.items():
            # Under ZeRO-3 the parameter itself is empty while nobody uses it.
            shape = tuple(parameter.ds_shape if self._stage == 3 else parameter.shape)  # pyright: ignore
            self.shapes[name] = shape
            found = locate(parameter, rank)
            if found is not None:
                flat, offset, start, num_elements = found
                fragment = Fragment(
                    name=name,
                    shape=shape,
                    start=start,
                    num_elements=num_elements,
                    is_moved=moved(name, shape),
                )
                self._places[name] = _Place(fragment, flat, offset)
        self.held: tuple[Fragment, ...] = tuple(place.fragment for place in self._places.values())
        self.owned: tuple[Fragment, ...] = self.held if self._stage > 0 or rank == 0 else ()
        self._create_adam_state()

    def view(self, kind: ShardKind, name: str) -> Tensor:
        """Return the 1-D float32 tensor of a held fragment itself, of kind MASTER, EXP_AVG or EXP_AVG_SQ.

        After writing to masters call `finish_writes` before anything reads the weights.
        """
        place = self._places[name]
        tensor = place.flat if kind is ShardKind.MASTER else self._adam.state[place.flat][_ADAM_KEYS[kind]]
        return tensor.detach().view(-1).narrow(0, place.offset, place.fragment.num_elements)

    def rounded(self, name: str) -> Tensor | None:
        """Return the 1-D low-precision weights of a held fragment, where they follow their masters element by element.

        That is so at stage 0; elsewhere `finish_writes` has to spread them over the ranks.
        """
        is_separate = self._stage == 0 and self._has_separate_masters
        return self._parameters[name].detach().view(-1) if is_separate else None

    @torch.no_grad()
    def finish_writes(self, *, are_rounded: bool = False) -> None:
        """Round the masters into the weights of the forward pass. Collective.

        `are_rounded`: whoever wrote to masters has also written to their `rounded` views, where there are such.
        """
        if self._stage == 3:
            for low, master in zip(self._optimizer.fp16_partitioned_groups_flat, self._masters, strict=True):
                low.data.copy_(master.data)
            # Small parameters, and all of them after a forward without backward, linger as gathered copies that would
            # shadow what was just written.
            self._engine.empty_partition_cache()
        elif self._stage > 0:
            self._optimizer.update_lp_params()
        elif not are_rounded:
            for name in self._places:
                low = self.rounded(name)
                if low is not None:
                    low.copy_(self.view(ShardKind.MASTER, name))

    @property
    def optimizer_step(self) -> int:
        """Optimizer steps taken, which Adam's bias correction counts."""
        return int(self._adam.state[self._masters[0]]["step"].item())

    @optimizer_step.setter
    def optimizer_step(self, value: int) -> None:
        for master in self._masters:
            self._adam.state[master]["step"].fill_(value)

    @property
    def _is_bf16_optimizer(self) -> bool:
        # By name: importing the class would import DeepSpeed, which picks its accelerator at that moment.
        return type(self._optimizer).__name__ == "BF16_Optimizer"

    @property
    def _has_separate_masters(self) -> bool:
        return self._optimizer is not self._adam

    def _create_adam_state(self) -> None:
        """Give every tensor that Adam steps its state, as Adam itself would on its first step, and count from zero.

        With moments that always exist a checkpoint taken or read before the first step needs no special case. At stage 0
        in bfloat16 DeepSpeed has already made the state, by a step with zero gradients that must not be counted.
        """
        for master in self._masters:
            state = self._adam.state[master]
            if not state:
                state["step"] = torch.zeros((), dtype=torch.float32, device=master.device)
                state["exp_avg"] = torch.zeros_like(master)
                state["exp_avg_sq"] = torch.zeros_like(master)
            state["step"].zero_()

    def _master_tensors(self) -> list[Tensor]:
        """Return the tensors that Adam steps."""
        if self._stage == 3:
            return list(self._optimizer.fp32_partitioned_groups_flat)
        if self._stage > 0:
            # Stage 1 in bfloat16 is a class of its own, with another name for the same list.
            if self._is_bf16_optimizer:
                return list(self._optimizer.fp32_groups_flat_partition)
            return list(self._optimizer.single_partition_of_fp32_groups)
        groups = (
            self._optimizer.fp32_groups
            if self._has_separate_masters
            else [group["params"] for group in self._adam.param_groups]
        )
        return [master for group in groups for master in group]

    def _locate_whole(self, parameter: Any, rank: int) -> tuple[Tensor, int, int, int]:
        if not self._has_separate_masters:
            return parameter, 0, 0, parameter.numel()
        low_precision = [low for group in self._optimizer.fp16_groups for low in group]
        index = next(index for index, low in enumerate(low_precision) if low is parameter)
        return self._masters[index], 0, 0, parameter.numel()

    def _locate_flat(self, parameter: Any, rank: int) -> tuple[Tensor, int, int, int] | None:
        mapping = parameter._hp_mapping
        if mapping is None:
            return None
        low, high = mapping.lp_fragment_address, mapping.hp_fragment_address
        return self._masters[mapping.param_group_index], high.start, low.start, low.numel

    def _locate_padded(self, parameter: Any, rank: int) -> tuple[Tensor, int, int, int] | None:
        group, offset, partition_size = self._optimizer.grad_position[self._optimizer.get_param_id(parameter)]
        start = rank * partition_size
        num_elements = min(partition_size, parameter.ds_numel - start)
        if num_elements <= 0:
            return None  # all padding
        return self._masters[group], offset, start, num_elements
