"""One rank of the learner: DeepSpeed ZeRO 0-3 around the policy, gradients from an algorithm, jumps on the shards.

All public methods but the accessors are collective: every rank calls them in the same order, with its own part of the
data, which may be empty. Between calls no rank waits for another.
"""

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional
from transformers import PreTrainedModel

from effopd.algorithms.build import Algorithm, TrainsCritic
from effopd.algorithms.opd_full import policy_reverse_kl
from effopd.algorithms.policy_output import PolicyOutput
from effopd.checkpoints.learner_state import CRITIC_KINDS, OPTIMIZER_KINDS, LearnerProgress, read_progress
from effopd.checkpoints.snapshot import OF_ALL_PARAMETERS, snapshot_path
from effopd.config.schema import AccelerateConfig, AlgoConfig, Device, Dtype, LearnerConfig
from effopd.data.collate import align, collate
from effopd.engines.collectives import names_of_all_ranks, sum_named_over_ranks, sum_over_ranks
from effopd.engines.deepspeed_setup import gathered, init_deepspeed, resolve_device
from effopd.engines.learning_rate import lr_at
from effopd.engines.microbatches import MicroBatch, plan_micro_batches, split_rows
from effopd.engines.nonfinite import NonfiniteSteps, culprits
from effopd.engines.packed_attention import check_packing, enable_packing
from effopd.engines.packing import plan_packed_micro_batches
from effopd.engines.policy_module import (
    CriticModule,
    PolicyModule,
    check_head,
    enable_activation_checkpointing,
    load_causal_lm,
    output_head,
)
from effopd.engines.shard_files import read_fragments
from effopd.engines.sharded_model import ShardedModel
from effopd.engines.trigger import Trigger
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
    Settlement,
    ShardKind,
    StepTotals,
    TrainBatch,
    UpdateReport,
)
from effopd.weights import SegmentWriter, assign_slots

_OF_CRITIC = dict(zip(CRITIC_KINDS, OPTIMIZER_KINDS, strict=True))
"""What the critic's files hold, as kinds of its own shards."""

_SKIPPED = "skipped_steps"
_POLICY_NORM, _CRITIC_NORM = "grad_norm", "critic_grad_norm"

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
        algo: AlgoConfig,
        teacher_head: Tensor | None,
        accelerate: AccelerateConfig,
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
            algo: how rollouts are divided into optimizer steps, and the critic's learning rate.
            teacher_head: [V, D] of the teacher, where hidden states are its payload.
            accelerate: anchor, direction and bounds of a jump.
            moved: which parameters, by name and shape, it moves.
            num_steps: of the whole run, for the learning rate schedule.
            segment_folder: where rank 0 publishes; None on ranks and in runs that do not.

        Raises:
            ConfigError: when the model's head cannot be used, its samples cannot be packed, or the teacher's vocabulary is
                another.

        """
        self._config = config
        self._nonfinite = {name: NonfiniteSteps(config.on_nonfinite) for name in (_POLICY_NORM, _CRITIC_NORM)}
        self._algorithm = algorithm
        self._algo = algo
        self._num_steps = num_steps
        self._rank, self._world_size = rank, world_size
        self._device = resolve_device(device)
        if self._device.type == "cpu":
            torch.set_num_threads(config.num_threads)
        init_deepspeed(self._device, init_method, rank, world_size)

        self._dtype = torch.bfloat16 if config.dtype is Dtype.bfloat16 else torch.float32
        model = self._load(model_path, attn_implementation)
        self._teacher_weight = teacher_head
        vocabulary_size = output_head(model).out_features
        if teacher_head is not None:
            if teacher_head.shape[0] != vocabulary_size:
                raise ConfigError(
                    f"teacher.path: the teacher has {teacher_head.shape[0]} logits and the student {vocabulary_size}; "
                    "exact divergences need one vocabulary; choose models of one family or algo.name=opd"
                )
            self._teacher_weight = teacher_head.to(self._device)
        self._policy = ShardedModel(
            PolicyModule(model, config.logit_chunk_tokens),
            config,
            named=model,
            # Applied functionally, for every module call may gather, and ranks differ in their number of chunks.
            external=list(output_head(model).parameters()),
            moved=moved,
            rank=rank,
            world_size=world_size,
            device=self._device,
        )
        check_head(model)
        if config.packing:
            check_packing(model)
        if config.zero_stage == 3:
            self._policy.engine.empty_partition_cache()
        self._shards = self._policy.shards
        max_lr_scale = math.inf if accelerate.lr_max is None else accelerate.lr_max / config.lr
        self._trigger = Trigger(self._shards, accelerate, max_lr_scale=max_lr_scale, device=self._device)
        self._critic: ShardedModel | None = None
        if algorithm.needs.critic:
            # The masters as they are written to `model_path`: the critic begins where the policy began.
            critic = CriticModule(self._load(model_path, attn_implementation))
            self._critic = ShardedModel(
                critic,
                config,
                named=critic,
                moved=lambda name, shape: False,
                rank=rank,
                world_size=world_size,
                device=self._device,
            )
        self.num_moved_parameters = sum(moved(name, shape) for name, shape in self._shards.shapes.items())
        self._segment = SegmentWriter(segment_folder) if segment_folder is not None and rank == 0 else None

    # Training

    def update(self, rollouts: Sequence[ScoredRollout]) -> UpdateReport:
        """Take the optimizer steps of one update on the rollouts of all ranks: `num_minibatches` times `num_epochs`.

        A gradient is that of the mean over all tokens (or sequences) of its mini-batch, whatever the number of ranks and
        micro-batches; which prompts a mini-batch has depends on their names alone. All responses to a prompt must be on one
        rank.

        A step whose gradient is not finite is skipped, if `on_nonfinite` says so: metrics are then means over the other
        steps, and `skipped_steps` counts it.

        Raises:
            GradientError: when one is not finite; what it was to change, the policy or the critic, is then as before.

        """
        self._trigger.before_update()
        batch = self._prepared(rollouts)
        prompt_ids = [scored.rollout.prompt_id for scored in rollouts]
        minibatches = split_rows(prompt_ids, self._algo.num_minibatches, names_of_all_ranks(prompt_ids))
        measured: defaultdict[str, list[float]] = defaultdict(list)
        for rows in minibatches * self._algo.num_epochs:
            plan = self._cut(rollouts, rows)
            for name, value in self._train_on(batch, plan, [rollouts[row].rollout for row in rows]).items():
                measured[name].append(value)
        metrics = {
            name: float(len(values)) if name == _SKIPPED else sum(value / len(values) for value in values)
            for name, values in measured.items()
        }
        self._trigger.after_update()
        (num_response_tokens,) = sum_over_ranks(
            sum(scored.rollout.response_len for scored in rollouts), device=self._device
        )
        return UpdateReport(
            num_response_tokens=int(num_response_tokens),
            metrics=metrics,
            skipped=tuple(line for steps in self._nonfinite.values() for line in steps.take_skipped()),
        )

    def _prepared(self, rollouts: Sequence[ScoredRollout]) -> TrainBatch | None:
        """Return this rank's rollouts with everything measured that has to be measured before the first step."""
        needs = self._algorithm.needs
        scored = collate(rollouts, _PADDING_ID) if rollouts else None
        if self._algo.num_minibatches * self._algo.num_epochs > 1:
            logprobs = self._per_token(rollouts, lambda _, output: output.logprobs)
            scored = scored and replace(scored, old_logprobs=align(logprobs, scored.response_mask))
        if self._critic is not None:
            measurable = scored and _without_preparation(scored)
            values = self._critic.per_token(measurable, self._cut(rollouts), lambda _, values: values)
            scored = scored and replace(scored, values=align(values, scored.response_mask))
        batch = scored and self._algorithm.prepare(scored)
        return self._whitened(batch) if needs.critic else batch

    def _whitened(self, batch: TrainBatch | None) -> TrainBatch | None:
        """Return the batch with advantages of mean 0 and variance 1 over the response tokens of all ranks."""
        own = torch.zeros(0) if batch is None or batch.advantages is None else batch.advantages[batch.response_mask]
        own = own.double()
        count, total, squares = sum_over_ranks(
            own.numel(), float(own.sum()), float(own.square().sum()), device=self._device
        )
        if batch is None or batch.advantages is None:
            return batch
        mean = total / count
        deviation = math.sqrt(max(0.0, squares / count - mean**2))
        whitened = (batch.advantages - mean) / (deviation + 1e-8)
        return replace(batch, advantages=whitened * batch.response_mask)

    def _train_on(
        self, batch: TrainBatch | None, plan: Sequence[MicroBatch], rollouts: Sequence[Rollout]
    ) -> dict[str, float]:
        """Take one optimizer step of the policy, and one of the critic, on the rows of `plan`; return its metrics."""
        num_tokens, num_sequences, num_read_tokens, num_computed_tokens = (
            int(total)
            for total in sum_over_ranks(
                sum(rollout.response_len for rollout in rollouts),
                len(rollouts),
                sum(rollout.num_tokens for rollout in rollouts),
                sum(micro_batch.num_computed_tokens for micro_batch in plan),
                device=self._device,
            )
        )
        assert num_tokens > 0, "an optimizer step needs at least one response token on some rank"
        totals = StepTotals(num_tokens=num_tokens, num_sequences=num_sequences)

        def policy_loss(batch: TrainBatch, output: PolicyOutput) -> tuple[Tensor, dict[str, Tensor]]:
            result = self._algorithm.loss(batch, output, self._teacher_logits, totals)
            return result.loss, {"loss": result.loss.detach(), **result.metrics}

        def value_loss(batch: TrainBatch, values: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
            assert isinstance(self._algorithm, TrainsCritic)
            result = self._algorithm.value_loss(batch, values, totals)
            return result.loss, {"value_loss": result.loss.detach(), **result.metrics}

        updates_per_step = self._algo.num_minibatches * self._algo.num_epochs
        scheduled_lr = lr_at(self._config, self._shards.optimizer_step // updates_per_step, self._num_steps)
        lr = scheduled_lr * self._trigger.lr_scale
        sums = self._policy.accumulate(batch, plan, policy_loss)
        norms = self._step(self._policy, _POLICY_NORM, lr, batch, rollouts, plan, lambda *row: policy_loss(*row)[0])
        if _SKIPPED in norms:
            return norms
        norms["lr"] = lr
        if self._critic is not None:
            sums |= self._critic.accumulate(batch, plan, value_loss)
            critic_lr = scheduled_lr / self._config.lr * self._algo.critic_lr
            norms |= self._step(
                self._critic, _CRITIC_NORM, critic_lr, batch, rollouts, plan, lambda *row: value_loss(*row)[0]
            )
        return {
            **sum_named_over_ranks(sums),
            **norms,
            "padding_fraction": 1 - num_read_tokens / num_computed_tokens,
        }

    def _step(
        self,
        model: ShardedModel,
        name: str,
        lr: float,
        batch: TrainBatch | None,
        rollouts: Sequence[Rollout],
        plan: Sequence[MicroBatch],
        loss: Callable[[TrainBatch, Any], Tensor],
    ) -> dict[str, float]:
        """Step on what was accumulated; return the norm of the gradient as `name`, or that the step was skipped."""
        try:
            norm = model.step(lr)
        except GradientError as error:
            alone = [one for micro_batch in plan for one in micro_batch.alone()]
            losses = model.per_token(batch, alone, lambda *row: loss(*row).expand(row[0].response_mask.shape))
            own = [
                f"{rollout.prompt_id}/{rollout.sample_index}"
                for rollout, values in zip(rollouts, losses, strict=True)
                if not values.isfinite().all()
            ]
            (num_responses,) = sum_over_ranks(len(rollouts), device=self._device)
            said = culprits(names_of_all_ranks(own), int(num_responses))
            self._nonfinite[name].met(GradientError(f"{error}; {said}"))
            return {_SKIPPED: 1.0}
        self._nonfinite[name].taken()
        return {name: norm}

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

    def _per_token(
        self, rollouts: Sequence[ScoredRollout], compute: Callable[[TrainBatch, PolicyOutput], Tensor]
    ) -> list[Tensor]:
        """Return [R] values per rollout from a `compute` that gives [B, T]."""
        batch = _without_preparation(collate(rollouts, _PADDING_ID)) if rollouts else None
        return self._policy.per_token(batch, self._cut(rollouts), compute)

    # Publishing

    @torch.no_grad()
    def stage(self, version: PolicyVersion) -> Publication | None:
        """Write the weights to the segment, in `config.dtype` and under the model's own names; None except on rank 0."""
        layout = [(name, self._dtype, self._shards.shapes[name]) for name in self._policy.parameters]
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
            parameters = [self._policy.parameters[name] for name in bucket]
            if self._config.zero_stage == 3:
                with gathered(parameters):
                    yield from zip(bucket, (parameter.detach() for parameter in parameters), strict=True)
            else:
                yield from zip(bucket, (parameter.detach() for parameter in parameters), strict=True)

    # Extrapolation

    def open_trigger(self) -> Displacement:
        """Keep the current weights aside, measure Δ = current - anchor and choose the direction."""
        return self._trigger.open()

    def write_candidate(self, step_size: float) -> None:
        """Make the weights current + step_size * direction, from the float32 originals; 0 restores the bits of current."""
        self._trigger.write(step_size)

    def close_trigger(self, settlement: Settlement) -> None:
        """Settle and set the next anchor."""
        self._trigger.close(settlement)

    def roll_back(self) -> None:
        """Undo the last jump and the one update after it, moments and step count excepted."""
        self._trigger.roll_back()

    # Snapshots

    def fragments(self) -> list[Fragment]:
        """Return the fragments that this rank answers for. Over all ranks they tile every parameter exactly once."""
        return list(self._shards.owned)

    def critic_fragments(self) -> list[Fragment]:
        """Likewise of the critic; empty without one."""
        return [] if self._critic is None else list(self._critic.shards.owned)

    def read(self, kind: ShardKind, names: Sequence[str]) -> dict[str, Tensor]:
        """Return copies of this rank's fragments of `names`, 1-D, float32, CPU; only what exists. Not collective."""
        if kind in CRITIC_KINDS:
            assert self._critic is not None, "there is no critic"
            tensors = {name: self._critic.shards.view(_OF_CRITIC[kind], name) for name in names}
            return {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
        if kind in OPTIMIZER_KINDS:
            tensors = {fragment.name: self._shards.view(kind, fragment.name) for fragment in self._shards.owned}
        else:
            tensors = self._trigger.buffers().get(kind, {})
        owned = {fragment.name for fragment in self._shards.owned}
        return {name: tensors[name].to("cpu", copy=True) for name in names if name in tensors and name in owned}

    def progress(self) -> LearnerProgress:
        """Return optimizer steps taken and where the trigger stands."""
        progress = self._trigger.progress(self._shards.optimizer_step)
        return (
            progress
            if self._critic is None
            else replace(progress, critic_optimizer_step=self._critic.shards.optimizer_step)
        )

    @torch.no_grad()
    def load_state(self, directory: Path) -> None:
        """Take over what `checkpoints.learner_state.save_learner` wrote, on any number of ranks and at any stage.

        Without an anchor file the loaded weights are the anchor. Raises CheckpointError naming file and tensor; the state
        is then undefined.
        """
        progress = read_progress(directory)
        self._policy.load(directory, OPTIMIZER_KINDS, progress.optimizer_step)
        if self._critic is not None:
            own = progress.critic_optimizer_step
            self._critic.load(directory, CRITIC_KINDS, progress.optimizer_step if own is None else own)
        moved = [fragment for fragment in self._shards.held if fragment.is_moved]
        stored = {
            kind: read_fragments(directory, kind, self._shards.held if kind in OF_ALL_PARAMETERS else moved)
            for kind in progress.kinds
            if kind is not ShardKind.ANCHOR or snapshot_path(directory, kind).is_file()
        }
        self._trigger.restore(progress, stored)

    def close(self) -> None:
        """Let go of the engine and remove the segment. The process group stays: others may use it."""
        self._policy.engine.destroy()
        if self._critic is not None:
            self._critic.engine.destroy()
        if self._segment is not None:
            self._segment.close()

    # Helpers

    def _load(self, model_path: str, attn_implementation: str) -> PreTrainedModel:
        """Return the model on the CPU, ready to be trained."""
        model = load_causal_lm(model_path, self._dtype, attn_implementation)
        if self._config.activation_checkpointing:
            enable_activation_checkpointing(model)
        if self._config.packing:
            enable_packing(model)
        return model

    def _cut(self, rollouts: Sequence[ScoredRollout], chosen: Sequence[int] | None = None) -> Sequence[MicroBatch]:
        """Return micro-batches of all rollouts of this rank, or of the `chosen` ones."""
        lengths = [item.rollout.num_tokens for item in rollouts]
        plan = plan_packed_micro_batches if self._config.packing else plan_micro_batches
        return plan(lengths, self._config.max_tokens_per_microbatch, chosen)

    def _teacher_logits(self, hidden_states: Tensor) -> Tensor:
        """Return [N, V] teacher logits of [N, D] teacher hidden states."""
        assert self._teacher_weight is not None, "the teacher's head was not given to the learner"
        return functional.linear(hidden_states.to(self._teacher_weight.dtype), self._teacher_weight)


def _without_preparation(batch: ScoredBatch) -> TrainBatch:
    """Return the parts of `batch` that measuring needs, without asking the algorithm."""
    return TrainBatch(
        token_ids=batch.token_ids,
        attention_mask=batch.attention_mask,
        response_mask=batch.response_mask,
        rollout_logprobs=batch.rollout_logprobs,
        teacher_hidden_states=batch.teacher_hidden_states,
    )
