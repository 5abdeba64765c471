"""Memory of a learner rank: what DeepSpeed 0.19 holds at every ZeRO stage and precision, and the activations beside it.

Counted in its sources and measured at one rank; see `engines/deepspeed_setup.py` for the settings it gets and
`engines/zero_shards.py` for where things lie. N is the number of parameters, P that of ranks; bytes per parameter:

| stage, dtype | weights    | gradients             | fp32 masters | Adam moments |
|--------------|------------|-----------------------|--------------|--------------|
| 0, float32   | 4          | 4                     | the weights  | 8            |
| 0, bfloat16  | 2          | 2                     | 4            | 8            |
| 1, float32   | 4          | 4                     | 4 / P        | 8 / P        |
| 1, bfloat16  | 2          | 4 summed and 2 new    | 4 / P        | 8 / P        |
| 2, float32   | 4          | 4 / P                 | 4 / P        | 8 / P        |
| 2, bfloat16  | 2          | 4 / P                 | 4 / P        | 8 / P        |
| 3, float32   | 4 / P      | 4 / P                 | 4 / P        | 8 / P        |
| 3, bfloat16  | 2 / P      | 4 / P                 | 4 / P        | 8 / P        |
"""

from dataclasses import dataclass

from effopd.config.schema import AlgorithmName, Dtype, LearnerConfig, RunConfig
from effopd.extrapolation.copies import num_trigger_copies
from effopd.extrapolation.selection import moved_parameters
from effopd.plan.activations import MicroBatch, learner_moments
from effopd.plan.hardware import GIB, MIB, Gpu
from effopd.plan.layout import Layout
from effopd.plan.memory import Item, Moment, RoleMemory
from effopd.plan.shapes import ModelShape

RESERVED_BYTES = 2 * GIB
"""CUDA context, cuBLAS workspaces and NCCL buffers of a process; an assumption."""
FRAGMENTATION = 0.05
"""Share of what comes and goes that the allocator cannot use again; an assumption."""
_REDUCE_BUCKET = 200_000_000
"""Elements; `_MAX_REDUCE_BUCKET` of `engines/deepspeed_setup.py`."""
_LIVE_PARAMETERS = 1_000_000_000
"""Elements that ZeRO-3 keeps gathered at most: DeepSpeed's default `stage3_max_live_parameters`."""


def itemsize(dtype: Dtype) -> int:
    return 4 if dtype is Dtype.float32 else 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardedState:
    """Bytes that DeepSpeed holds for one model on one rank."""

    weights: int
    gradients: int
    masters: int
    moments: int
    reduce_bucket: int
    """Resident at stage 3, else alive during the backward."""
    reducing: int
    """Copies while a bucket is reduced."""
    gathered: int
    """Weights that ZeRO-3 has whole for a while."""
    stepping: int
    """Beyond the rest, during the optimizer step."""

    def __add__(self, other: "ShardedState") -> "ShardedState":
        return ShardedState(
            weights=self.weights + other.weights,
            gradients=self.gradients + other.gradients,
            masters=self.masters + other.masters,
            moments=self.moments + other.moments,
            reduce_bucket=self.reduce_bucket + other.reduce_bucket,
            # One model after the other.
            reducing=max(self.reducing, other.reducing),
            gathered=max(self.gathered, other.gathered),
            stepping=max(self.stepping, other.stepping),
        )


def sharded_state(num_parameters: int, learner: LearnerConfig) -> ShardedState:
    """Return what a rank holds for a model of `num_parameters`."""
    stage, size, is_low = learner.zero_stage, itemsize(learner.dtype), learner.dtype is Dtype.bfloat16
    part = -(-num_parameters // learner.num_ranks)
    bucket = min(num_parameters, _REDUCE_BUCKET)
    if stage == 0:
        return ShardedState(
            weights=size * num_parameters,
            gradients=size * num_parameters,
            masters=4 * num_parameters if is_low else 0,
            moments=8 * num_parameters,
            reduce_bucket=0,
            reducing=0,
            gathered=0,
            stepping=4 * num_parameters if is_low else 0,  # float32 gradients
        )
    gradients = (4 + 2 if is_low else 4) * num_parameters if stage == 1 else 4 * part
    has_bucket = not (stage == 1 and is_low)  # that one is a class of its own, which sums in place
    return ShardedState(
        weights=size * (part if stage == 3 else num_parameters),
        gradients=gradients,
        masters=4 * part,
        moments=8 * part,
        reduce_bucket=(4 if stage == 3 else size) * bucket if has_bucket else 0,
        reducing=(6 if is_low and stage == 2 else 4 if stage == 3 else 0) * bucket,
        gathered=size * min(num_parameters, _LIVE_PARAMETERS) if stage == 3 and learner.num_ranks > 1 else 0,
        stepping=0 if is_low and stage < 3 else 4 * part,
    )


def largest_micro_batches(config: RunConfig) -> tuple[MicroBatch, ...]:
    """Return the largest micro-batches there can be: one row alone, which may exceed the budget, and two that differ in
    length, which have the largest masks; with packing a full one.
    """
    num_tokens = config.data.max_prompt_len + config.rollout.max_response_len
    budget = config.learner.max_tokens_per_microbatch
    if config.learner.packing:
        full = max(budget, num_tokens)
        return (MicroBatch(num_tokens=full, row_length=full, is_masked=False, is_packed=True),)
    alone = MicroBatch(num_tokens=num_tokens, row_length=num_tokens, is_masked=False)
    half = min(budget // 2, num_tokens)
    pair = MicroBatch(num_tokens=max(2 * half, 1), row_length=max(half, 1), is_masked=True)
    many = MicroBatch(num_tokens=max(budget, 1), row_length=max(half, 1), is_masked=True)
    return (alone, pair, many) if budget >= 2 * num_tokens else (alone, pair)


def learner_memory(
    config: RunConfig,
    layout: Layout,
    student: ModelShape,
    teacher: ModelShape | None,
    gpu: Gpu,
    batches: tuple[MicroBatch, ...],
) -> RoleMemory:
    """Return the memory of one learner rank, the critic's included, when it meets micro-batches like `batches`."""
    learner = config.learner
    size = itemsize(learner.dtype)
    policy = sharded_state(student.num_parameters, learner)
    critic = sharded_state(_critic_parameters(student), learner) if layout.has_critic else None
    state = policy if critic is None else policy + critic
    teacher_head = 0
    if layout.has_teacher_head and teacher is not None:
        teacher_head = teacher.vocabulary_size * teacher.hidden_size * itemsize(config.teacher.dtype)
    is_resident = learner.zero_stage == 3
    resident = (
        Item("weights", state.weights),
        Item("gradients", state.gradients),
        Item("fp32 masters", state.masters),
        Item("optimizer state", state.moments),
        Item("reduce bucket", state.reduce_bucket if is_resident else 0),
        Item("teacher head", teacher_head),
        Item("CUDA and NCCL", RESERVED_BYTES),
    )
    passing = () if is_resident else (Item("reduce bucket", max(policy.reduce_bucket, state.reduce_bucket)),)
    moments = [
        moment
        for batch in batches
        for moment in learner_moments(
            student,
            batch,
            itemsize=size,
            chunk_tokens=learner.logit_chunk_tokens,
            is_checkpointed=learner.activation_checkpointing,
            is_exact=config.algo.name is AlgorithmName.opd_full,
            teacher_hidden_size=teacher.hidden_size if teacher is not None and layout.has_teacher_head else 0,
        )
    ]
    # Buckets fill up in the middle of a backward, if the model has several.
    is_reduced_midway = student.num_parameters > _REDUCE_BUCKET
    reducing = (Item("bucket being reduced", state.reducing),) if is_reduced_midway else ()
    gathered = (Item("weights gathered", state.gathered),)
    largest = student.vocabulary_size * student.hidden_size * size
    publish = min(max(learner.bucket_mib * MIB, largest), size * student.num_parameters)
    return RoleMemory(
        role="learner rank",
        num_gpus=layout.num_ranks,
        resident=resident,
        moments=(
            *(_with_fragmentation(moment.name, (*moment.items, *passing, *reducing, *gathered)) for moment in moments),
            _with_fragmentation("reduction", (*passing, Item("bucket being reduced", state.reducing), *gathered)),
            _with_fragmentation("optimizer step", (Item("gradients of the step", state.stepping),)),
            # Weights of other stages are whole already.
            _with_fragmentation("publish", (Item("publish bucket", publish if is_resident else 0),)),
        ),
        budget_bytes=gpu.memory_bytes,
    )


def _with_fragmentation(name: str, items: tuple[Item, ...]) -> Moment:
    lost = int(FRAGMENTATION * sum(item.num_bytes for item in items))
    return Moment(name=name, items=(*items, Item("fragmentation", lost)))


def _critic_parameters(student: ModelShape) -> int:
    """The decoder without the output head, and a head of one row."""
    head = 0 if student.has_tied_embeddings else student.vocabulary_size * student.hidden_size
    return student.num_parameters - head + student.hidden_size + 1


def trigger_bytes(config: RunConfig, student: ModelShape) -> tuple[Item, ...]:
    """Return the host bytes of what extrapolation keeps on one rank, anchor and previous displacement first: float32 copies
    of what the rank holds and moves."""
    copies = num_trigger_copies(config.accelerate)
    moved = 4 * _held(student.count(moved_parameters(config.accelerate.moved)), config.learner)
    whole = 4 * _held(student.num_parameters, config.learner)
    further = (
        Item("history of directions", copies.history * moved),
        Item("weights before a jump", copies.pre_jump_anchor * moved + copies.pre_jump_masters * whole),
        Item("open trigger", copies.passing * moved),
    )
    return (
        Item("anchor", copies.anchor * moved),
        Item("previous displacement", copies.previous * moved),
        *(item for item in further if item.num_bytes > 0),
    )


def _held(num_parameters: int, learner: LearnerConfig) -> int:
    return num_parameters if learner.zero_stage == 0 else -(-num_parameters // learner.num_ranks)
