"""One rank of the learner: DeepSpeed ZeRO 0-3 around the policy, gradients from an algorithm, jumps on the shards.

All public methods but the accessors are collective: every rank calls them in the same order, with its own part of the
data, which may be empty. Between calls no rank waits for another.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TypeVar

import torch
from torch import Tensor
from torch.nn import functional

from effopd.algorithms.build import Algorithm
from effopd.algorithms.opd_full import policy_reverse_kl
from effopd.algorithms.policy_output import PolicyOutput
from effopd.checkpoints.learner_state import LearnerProgress
from effopd.checkpoints.snapshot import snapshot_path
from effopd.config.schema import Device, Dtype, LearnerConfig
from effopd.data.collate import collate
from effopd.engines.collectives import max_over_ranks, sum_named_over_ranks, sum_over_ranks
from effopd.engines.deepspeed_setup import build_engine, gathered, init_deepspeed, resolve_device
from effopd.engines.learning_rate import lr_at
from effopd.engines.microbatches import idle_micro_batch, plan_micro_batches, take_rows
from effopd.engines.policy_module import (
    PolicyModule,
    check_head,
    enable_activation_checkpointing,
    load_causal_lm,
    output_head,
)
from effopd.engines.shard_files import read_fragments, read_progress
from effopd.engines.trigger import Trigger, cosine
from effopd.engines.zero_shards import ZeroShards
from effopd.errors import ConfigError, GradientError
from effopd.types import (
    Displacement,
    Fragment,
    KLSum,
    PolicyVersion,
    Publication,
    Rollout,
    ScoredBatch,
    ScoredRollout,
    ShardKind,
    TrainBatch,
    UpdateReport,
)
from effopd.weights import SegmentWriter, assign_slots

R = TypeVar("R")

_PADDING_ID = 0  # any id will do: padding is to the right, where causal attention never looks


class DeepSpeedLearner:
    """Rank `rank` of `world_size`; all ranks are built at the same time.

    Masters start from the weights in `model_path` rounded to `config.dtype`.
    """

    def __init__(
        self,
        config: LearnerConfig,
        *,
        model_path: str,
        attn_implementation: str,
        algorithm: Algorithm,
        teacher_head: Tensor | None,
        moved: Callable[[str, tuple[int, ...]], bool],
        num_steps: int,
        rank: int,
        world_size: int,
        init_method: str,
        device: Device,
        segment_folder: Path | None,
    ) -> None:
        """Join the process group and take the model in `model_path` apart.

        Args:
            teacher_head: [V, D] of the teacher, where hidden states are its payload.
            moved: which parameters, by name and shape, a jump moves.
            num_steps: of the whole run, for the learning rate schedule.
            segment_folder: where rank 0 publishes; None on ranks and in runs that do not.

        Raises:
            ConfigError: when the model's head cannot be used, or the teacher's vocabulary is another.

        """
        self._config = config
        self._algorithm = algorithm
        self._num_steps = num_steps
        self._rank, self._world_size = rank, world_size
        self._device = resolve_device(device)
        if self._device.type == "cpu":
            torch.set_num_threads(config.num_threads)
        init_deepspeed(self._device, init_method, rank, world_size)

        self._dtype = torch.bfloat16 if config.dtype is Dtype.bfloat16 else torch.float32
        model = load_causal_lm(model_path, self._dtype, attn_implementation)
        if config.activation_checkpointing:
            enable_activation_checkpointing(model)
        self._teacher_weight = teacher_head
        vocabulary_size = output_head(model).out_features
        if teacher_head is not None:
            if teacher_head.shape[0] != vocabulary_size:
                raise ConfigError(
                    f"teacher.path: the teacher has {teacher_head.shape[0]} logits and the student {vocabulary_size}; "
                    "exact divergences need one vocabulary; choose models of one family or algo.name=opd"
                )
            self._teacher_weight = teacher_head.to(self._device)
        self._engine = build_engine(PolicyModule(model, config.logit_chunk_tokens), config, self._device)
        check_head(model)
        if config.zero_stage == 3:
            self._engine.empty_partition_cache()

        # Tied weights come once, under the name of the embedding.
        self._parameters = dict(model.named_parameters())
        self._shards = ZeroShards(self._engine, self._parameters, moved, rank)
        self._trigger = Trigger(self._shards)
        self.num_moved_parameters = sum(moved(name, shape) for name, shape in self._shards.shapes.items())
        self._segment = SegmentWriter(segment_folder) if segment_folder is not None and rank == 0 else None

    # Training

    def update(self, rollouts: Sequence[ScoredRollout]) -> UpdateReport:
        """Take one optimizer step on the rollouts of all ranks.

        The gradient is that of the mean over all response tokens, whatever the number of ranks and micro-batches.

        Raises:
            GradientError: when it is not finite; weights and optimizer are then as before.

        """
        assert not self._trigger.is_open, "update inside a trigger"
        batch = self._algorithm.prepare(collate(rollouts, _PADDING_ID)) if rollouts else None
        lengths = [_length(scored.rollout) for scored in rollouts]
        plan = plan_micro_batches(lengths, self._config.max_tokens_per_microbatch)
        num_response_tokens, num_tokens, num_padded_tokens = (
            int(total)
            for total in sum_over_ranks(
                sum(scored.rollout.response_len for scored in rollouts),
                sum(lengths),
                sum(micro_batch.num_padded_tokens for micro_batch in plan),
                device=self._device,
            )
        )
        assert num_response_tokens > 0, "an update needs at least one response token on some rank"
        step = self._shards.optimizer_step
        lr = lr_at(self._config, step, self._num_steps)

        def compute(batch: TrainBatch, output: PolicyOutput) -> tuple[Tensor, dict[str, Tensor]]:
            result = self._algorithm.loss(batch, output, self._teacher_logits, num_response_tokens)
            return result.loss, {"loss": result.loss.detach(), **result.metrics}

        sums: defaultdict[str, float] = defaultdict(float)
        num_rounds = max_over_ranks(len(plan), self._device)
        for index in range(num_rounds):
            self._engine.set_gradient_accumulation_boundary(index == num_rounds - 1)
            if index < len(plan):
                assert batch is not None
                loss, metrics = self._forward(take_rows(batch, plan[index], self._device), compute)
                for name, value in metrics.items():
                    sums[name] += float(value)
            else:
                loss, _ = self._forward(idle_micro_batch(self._device), lambda _, output: (output.logprobs.sum(), {}))
            # The loss is a share of the global mean, so gradients must be summed over micro-batches and ranks. DeepSpeed
            # divides by gradient_accumulation_steps, which is set to 1, and averages over ranks, which this undoes.
            self._engine.backward(loss * self._world_size)

        grad_norm = self._optimizer_step(step, lr)
        return UpdateReport(
            num_response_tokens=num_response_tokens,
            metrics={
                **sum_named_over_ranks(sums),
                "grad_norm": grad_norm,
                "lr": lr,
                "padding_fraction": 1 - num_tokens / num_padded_tokens,
            },
        )

    def _optimizer_step(self, step: int, lr: float) -> float:
        """Clip, step and return the norm of the gradient before clipping."""
        for group in self._engine.basic_optimizer.param_groups:
            group["lr"] = lr
        if self._config.zero_stage == 0 and self._config.dtype is Dtype.float32:
            # Here DeepSpeed clips without telling the norm and steps whatever it is, so look before it does.
            gradients = [parameter.grad for parameter in self._parameters.values() if parameter.grad is not None]
            grad_norm = float(torch.nn.utils.get_total_norm(gradients))
            if not math.isfinite(grad_norm):
                self._engine.zero_grad()
                raise GradientError(_not_finite(step))
            self._engine.step()
            return grad_norm
        self._engine.step()
        if not self._engine.was_step_applied():
            raise GradientError(_not_finite(step))
        return float(self._engine.get_global_grad_norm())

    # Measuring

    def response_logprobs(self, rollouts: Sequence[Rollout]) -> list[list[float]]:
        """Return the log-probability of every response token under the weights held now, nats, per rollout."""
        values = self._per_token([ScoredRollout(rollout=rollout) for rollout in rollouts], lambda _, out: out.logprobs)
        return [tokens.tolist() for tokens in values]

    def reverse_kl(self, rollouts: Sequence[ScoredRollout]) -> list[KLSum]:
        """Return the exact KL(student || teacher), summed over the tokens of each response, under the weights held now.

        Rollouts must carry the teacher's hidden states.
        """

        def compute(batch: TrainBatch, output: PolicyOutput) -> Tensor:
            assert batch.teacher_hidden_states is not None, "the exact reverse KL needs the teacher's hidden states"
            return policy_reverse_kl(output, self._teacher_logits, batch.teacher_hidden_states)

        return [
            KLSum(
                prompt_id=scored.rollout.prompt_id,
                sample_index=scored.rollout.sample_index,
                reverse_kl_sum=float(tokens.double().sum()),
                num_tokens=tokens.numel(),
            )
            for scored, tokens in zip(rollouts, self._per_token(rollouts, compute), strict=True)
        ]

    @torch.no_grad()
    def _per_token(
        self, rollouts: Sequence[ScoredRollout], compute: Callable[[TrainBatch, PolicyOutput], Tensor]
    ) -> list[Tensor]:
        """Return [R] values per rollout from a `compute` that gives [B, T]."""
        batch = _without_preparation(collate(rollouts, _PADDING_ID)) if rollouts else None
        plan = plan_micro_batches(
            [_length(scored.rollout) for scored in rollouts], self._config.max_tokens_per_microbatch
        )
        results: dict[int, Tensor] = {}
        for index in range(max_over_ranks(len(plan), self._device)):
            if index < len(plan):
                assert batch is not None
                micro_batch = take_rows(batch, plan[index], self._device)
                values = self._forward(micro_batch, compute)
                for row, tokens, mask in zip(plan[index].rows, values, micro_batch.response_mask, strict=True):
                    results[row] = tokens[mask].cpu()
            else:
                self._forward(idle_micro_batch(self._device), lambda _, output: output.logprobs)
        return [results[row] for row in range(len(rollouts))]

    # Publishing

    @torch.no_grad()
    def stage(self, version: PolicyVersion) -> Publication | None:
        """Write the weights to the segment, in `config.dtype` and under the model's own names; None except on rank 0."""
        layout = [(name, self._dtype, self._shards.shapes[name]) for name in self._parameters]
        bucket_bytes = self._config.bucket_mib << 20
        buckets = [[slot.name for slot in bucket] for bucket in assign_slots(layout, bucket_bytes)]
        if self._rank == 0:
            assert self._segment is not None, "nothing can be published without a segment path"
            return self._segment.write(version, self._whole_tensors(buckets), layout=layout, bucket_bytes=bucket_bytes)
        for _ in self._whole_tensors(buckets):
            pass  # takes part in the gathering
        return None

    def _whole_tensors(self, buckets: Sequence[Sequence[str]]) -> Iterator[tuple[str, Tensor]]:
        for bucket in buckets:
            parameters = [self._parameters[name] for name in bucket]
            if self._config.zero_stage == 3:
                with gathered(parameters):
                    yield from zip(bucket, (parameter.detach() for parameter in parameters), strict=True)
            else:
                yield from zip(bucket, (parameter.detach() for parameter in parameters), strict=True)

    # Extrapolation

    def open_trigger(self) -> Displacement:
        """Keep the current weights aside and measure Δ = current - anchor over the moved parameters of all ranks."""
        has_previous = self._trigger.previous_displacement is not None
        displacement, current, dot, previous = sum_over_ranks(*self._trigger.open().tolist(), device=self._device)
        return Displacement(
            norm=math.sqrt(displacement),
            relative_norm=math.sqrt(displacement / current) if current > 0 else 0.0,
            cosine_to_previous=cosine(dot, displacement, previous) if has_previous else None,
        )

    def write_candidate(self, step_size: float) -> None:
        """Make the weights current + step_size * Δ, from the float32 originals; 0 restores the bits of current."""
        self._trigger.write(step_size)

    def close_trigger(self, step_size: float, zero_exp_avg: bool) -> None:
        """Settle on `step_size` and set the anchor to the result.

        `zero_exp_avg` zeroes Adam's first moment of the moved parameters if there was a jump, i.e. `step_size` is not 0.
        """
        self._trigger.close(step_size, zero_exp_avg)

    # Snapshots

    def fragments(self) -> list[Fragment]:
        """Return the fragments that this rank answers for. Over all ranks they tile every parameter exactly once."""
        return list(self._shards.owned)

    def read(self, kind: ShardKind, names: Sequence[str]) -> dict[str, Tensor]:
        """Return copies of this rank's fragments of `names`, 1-D, float32, CPU; only what exists. Not collective."""
        match kind:
            case ShardKind.ANCHOR:
                tensors = self._trigger.anchor
            case ShardKind.PREVIOUS_DISPLACEMENT:
                tensors = self._trigger.previous_displacement or {}
            case _:
                tensors = {fragment.name: self._shards.view(kind, fragment.name) for fragment in self._shards.owned}
        owned = {fragment.name for fragment in self._shards.owned}
        return {name: tensors[name].to("cpu", copy=True) for name in names if name in tensors and name in owned}

    def progress(self) -> LearnerProgress:
        """Return optimizer steps taken and whether there was a trigger since the beginning of the run."""
        return LearnerProgress(
            optimizer_step=self._shards.optimizer_step,
            has_previous_displacement=self._trigger.previous_displacement is not None,
        )

    @torch.no_grad()
    def load_state(self, directory: Path) -> None:
        """Take over what `checkpoints.learner_state.save_learner` wrote, on any number of ranks and at any stage.

        Without an anchor file the loaded weights are the anchor. Raises CheckpointError naming file and tensor; the state
        is then undefined.
        """
        progress = read_progress(directory)
        moved = [fragment for fragment in self._shards.held if fragment.is_moved]
        for kind in (ShardKind.MASTER, ShardKind.EXP_AVG, ShardKind.EXP_AVG_SQ):
            for name, tensor in read_fragments(directory, kind, self._shards.held):
                self._shards.view(kind, name).copy_(tensor)
        self._shards.optimizer_step = progress.optimizer_step
        self._shards.finish_writes()
        has_anchor = snapshot_path(directory, ShardKind.ANCHOR).is_file()
        has_previous = progress.has_previous_displacement
        self._trigger.restore(
            read_fragments(directory, ShardKind.ANCHOR, moved) if has_anchor else None,
            read_fragments(directory, ShardKind.PREVIOUS_DISPLACEMENT, moved) if has_previous else None,
        )

    def close(self) -> None:
        """Let go of the engine and remove the segment. The process group stays: others may use it."""
        self._engine.destroy()
        if self._segment is not None:
            self._segment.close()

    # Helpers

    def _forward(self, batch: TrainBatch, compute: Callable[[TrainBatch, PolicyOutput], R]) -> R:
        return self._engine(
            batch.token_ids, batch.attention_mask, batch.response_mask, lambda output: compute(batch, output)
        )

    def _teacher_logits(self, hidden_states: Tensor) -> Tensor:
        """Return [N, V] teacher logits of [N, D] teacher hidden states."""
        assert self._teacher_weight is not None, "the teacher's head was not given to the learner"
        return functional.linear(hidden_states.to(self._teacher_weight.dtype), self._teacher_weight)


def _length(rollout: Rollout) -> int:
    return len(rollout.prompt_token_ids) + rollout.response_len


def _not_finite(step: int) -> str:
    return f"optimizer step {step}: the gradient is not finite; nothing was changed"


def _without_preparation(batch: ScoredBatch) -> TrainBatch:
    """Return the parts of `batch` that measuring needs, without asking the algorithm."""
    return TrainBatch(
        token_ids=batch.token_ids,
        attention_mask=batch.attention_mask,
        response_mask=batch.response_mask,
        rollout_logprobs=batch.rollout_logprobs,
        teacher_hidden_states=batch.teacher_hidden_states,
    )
