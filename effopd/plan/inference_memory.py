"""Memory of samplers, of the models that score, and of a machine's main memory."""

from dataclasses import dataclass

from effopd.config.evaluation import longest_sequence
from effopd.config.schema import RolloutEngine, RunConfig
from effopd.plan.activations import scoring_moment
from effopd.plan.hardware import Cluster, Gpu
from effopd.plan.layout import Layout
from effopd.plan.learner_memory import RESERVED_BYTES, itemsize, trigger_bytes
from effopd.plan.memory import Item, Moment, RoleMemory
from effopd.plan.shapes import ModelShape

VLLM_BATCHED_TOKENS = 16_384
"""Tokens of one forward of vLLM 0.32 on a GPU of at least 70 GiB, `max_num_batched_tokens` for its class LLM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplerPlan:
    """One GPU of a sampler, and what its KV cache is good for."""

    memory: RoleMemory
    kv_bytes_per_token: int
    """On one GPU."""
    kv_tokens: int
    """That the cache holds."""
    max_model_len: int

    @property
    def num_full_sequences(self) -> float:
        """Sequences of the greatest length that fit at once."""
        return self.kv_tokens / self.max_model_len


def kv_bytes_per_token(shape: ModelShape, item_bytes: int, tensor_parallel_size: int = 1) -> int:
    """Return the bytes of keys and values of one token on one GPU of a sampler.

    With more GPUs than key-value heads vLLM repeats heads.
    """
    heads = max(1, shape.num_kv_heads // tensor_parallel_size)
    return 2 * shape.num_layers * heads * shape.head_dim * item_bytes


def sampler_plan(config: RunConfig, layout: Layout, student: ModelShape, gpu: Gpu) -> SamplerPlan:
    """Return the memory of one GPU of a sampler.

    vLLM takes `gpu_memory_utilization` of the GPU and gives the KV cache what is left of that; to fit, one sequence of the
    greatest length must be held. transformers' sampler grows its cache as it goes: here for `max_num_seqs` sequences.
    """
    rollout, ways = config.rollout, config.rollout.tensor_parallel_size
    size = itemsize(rollout.dtype)
    max_model_len = rollout.max_model_len or longest_sequence(config).num_tokens
    per_token = kv_bytes_per_token(student, size, ways)
    tokens = min(VLLM_BATCHED_TOKENS, max_model_len * rollout.max_num_seqs)
    in_flight = tokens * (3 * student.intermediate_size // ways + 4 * student.hidden_size) * size
    logits = rollout.max_num_seqs * student.vocabulary_size * (size + 2 * 4)
    resident = (
        Item("weights", size * student.num_parameters // ways),
        Item("CUDA and NCCL", RESERVED_BYTES),
        Item("activations", in_flight),
        Item("logits", logits),
    )
    is_vllm = rollout.engine is RolloutEngine.vllm
    budget = int(gpu.memory_bytes * rollout.gpu_memory_utilization) if is_vllm else gpu.memory_bytes
    needed_tokens = max_model_len * (1 if is_vllm else rollout.max_num_seqs)
    left = budget - sum(item.num_bytes for item in resident)
    kv_tokens = max(left // per_token, 0) if is_vllm else needed_tokens
    cache = Item("KV cache", max(kv_tokens, needed_tokens) * per_token)
    memory = RoleMemory(
        role="sampler",
        num_gpus=layout.num_samplers * ways,
        resident=resident,
        moments=(Moment(name="sampling", items=(cache,)),),
        budget_bytes=budget,
    )
    return SamplerPlan(memory=memory, kv_bytes_per_token=per_token, kv_tokens=kv_tokens, max_model_len=max_model_len)


def scorer_memory(config: RunConfig, role: str, num_gpus: int, shape: ModelShape, gpu: Gpu) -> RoleMemory:
    """Return the memory of the teacher or the reference: a frozen model in `teacher.dtype` on one GPU."""
    size = itemsize(config.teacher.dtype)
    longest = config.data.max_prompt_len + config.rollout.max_response_len
    forward = scoring_moment(
        shape,
        # A row longer than the budget is a batch of its own.
        num_tokens=max(config.teacher.max_tokens_per_batch, longest),
        chunk_tokens=config.teacher.logit_chunk_tokens,
        itemsize=size,
    )
    return RoleMemory(
        role=role,
        num_gpus=num_gpus,
        resident=(Item("weights", size * shape.num_parameters), Item("CUDA and NCCL", RESERVED_BYTES)),
        moments=(forward,),
        budget_bytes=gpu.memory_bytes,
    )


def host_memory(config: RunConfig, layout: Layout, student: ModelShape, cluster: Cluster) -> RoleMemory:
    """Return the main memory of the fullest machine: the trigger's copies, the published weights, and loading.

    Every rank reads the whole model into main memory before DeepSpeed takes it apart.
    """
    size = itemsize(config.learner.dtype)
    ranks = min(layout.num_ranks, cluster.gpus_per_node)
    models = 2 if layout.has_critic else 1
    copies = [Item(item.name, ranks * item.num_bytes) for item in trigger_bytes(config, student)]
    return RoleMemory(
        role="main memory",
        num_gpus=0,
        resident=(),
        moments=(
            Moment(name="loading", items=(Item("models being read", ranks * size * student.num_parameters * models),)),
            Moment(
                name="training",
                items=(*copies, Item("published weights", size * student.num_parameters)),
            ),
        ),
        budget_bytes=cluster.host_bytes,
    )
