"""Seconds of a step: a roofline per phase, with every assumption named.

Phases follow one another as in `train.py`: nothing overlaps. A figure is good for comparing settings and for booking a
machine, not for promising an hour of arrival: most of it hangs on how long responses are.
"""

from dataclasses import dataclass

from effopd.config.schema import GateKind, RunConfig
from effopd.extrapolation.schedule import is_scheduled
from effopd.extrapolation.step_sizes import num_candidates
from effopd.plan.hardware import Cluster
from effopd.plan.inference_memory import SamplerPlan
from effopd.plan.layout import Layout
from effopd.plan.learner_memory import itemsize
from effopd.plan.shapes import ModelShape

MEAN_RESPONSE_SHARE = 0.25
"""Mean response length, as a share of the greatest; --mean-response gives another."""
LEARNER_MFU = 0.35
"""Share of the GPU's dense bfloat16 rate that forward and backward reach."""
SCORING_MFU = 0.45
"""Likewise of a forward alone, and of vLLM's prefill."""
DECODE_BANDWIDTH_SHARE = 0.60
"""Share of memory bandwidth that vLLM's decoding reaches."""
EAGER_LAYER_SECONDS = 150e-6
"""Least time of a layer in one decoding step with rollout.enforce_eager=true: launching its kernels."""
GRAPH_LAYER_SECONDS = 25e-6
"""Likewise with CUDA graphs."""
LINK_SHARE = 0.70
"""Share of a link's one-way bandwidth that NCCL reaches."""
PUBLISH_BANDWIDTH = 3e9
"""Bytes per second from rank 0 through shared memory, checksums included, into the samplers' GPUs."""


@dataclass(frozen=True, slots=True)
class Phase:
    """A part of a step."""

    name: str
    seconds: float
    because: str
    """The arithmetic, in words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """A step, and what a trigger adds to the steps that have one."""

    phases: tuple[Phase, ...]
    trigger: Phase | None
    num_triggers: int
    num_steps: int
    assumptions: tuple[str, ...]

    @property
    def step_seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)

    @property
    def run_seconds(self) -> float:
        """All steps and triggers; without evaluation and saving."""
        trigger = 0.0 if self.trigger is None else self.trigger.seconds
        return self.num_steps * self.step_seconds + self.num_triggers * trigger


def timing(
    config: RunConfig,
    layout: Layout,
    student: ModelShape,
    teacher: ModelShape | None,
    sampler: SamplerPlan,
    cluster: Cluster,
    mean_response: int | None,
) -> Timing:
    """Return what a step takes. `mean_response`: tokens of the mean response; None assumes a share of the greatest."""
    rollout = config.rollout
    response = min(
        mean_response or max(1, round(MEAN_RESPONSE_SHARE * rollout.max_response_len)), rollout.max_response_len
    )
    prompt = config.data.max_prompt_len // 4
    num_responses = rollout.prompts_per_step * rollout.samples_per_prompt
    num_tokens = num_responses * (prompt + response)
    phases: list[Phase] = []
    if layout.num_samplers > 0:
        longest = rollout.max_response_len
        phases.append(_rollout(config, layout, student, sampler, cluster, num_responses, prompt, response, longest))
    if layout.num_teachers > 0 and teacher is not None:
        phases.append(_scoring("teacher", teacher, num_tokens, prompt + response, cluster))
    if layout.num_references > 0:
        phases.append(_scoring("reference", student, num_tokens, prompt + response, cluster))
    phases.append(_update(config, layout, student, num_tokens, prompt + response, cluster))
    publish = _publish(config, student)
    if layout.num_samplers > 0:
        phases.append(publish)
    trigger, num_triggers = _trigger(config, layout, student, sampler, cluster, prompt, response, publish)
    return Timing(
        phases=tuple(phases),
        trigger=trigger,
        num_triggers=num_triggers,
        num_steps=config.num_steps,
        assumptions=_assumptions(config, prompt, response, mean_response),
    )


def _rollout(
    config: RunConfig,
    layout: Layout,
    student: ModelShape,
    sampler: SamplerPlan,
    cluster: Cluster,
    num_responses: int,
    prompt: int,
    response: int,
    longest: int,
) -> Phase:
    """Decoding: every step reads the weights and the cached tokens once; there are as many steps as the slowest needs, whose
    response has `longest` tokens."""
    rollout, gpu = config.rollout, cluster.gpu
    own = -(-num_responses // layout.num_samplers)
    context = prompt + response // 2
    at_once = max(1, min(own, rollout.max_num_seqs, sampler.kv_tokens // max(context, 1)))
    num_steps = max(longest if own > 1 else response, -(-own * response // at_once))
    # Few sequences remain for the longest ones, and the mean is what a step carries.
    carried = min(at_once, own * response / num_steps)
    weights = itemsize(rollout.dtype) * student.num_parameters / rollout.tensor_parallel_size
    bandwidth = gpu.memory_bandwidth * DECODE_BANDWIDTH_SHARE
    floor = student.num_layers * (EAGER_LAYER_SECONDS if rollout.enforce_eager else GRAPH_LAYER_SECONDS)
    per_step = max((weights + carried * context * sampler.kv_bytes_per_token) / bandwidth, floor)
    prefill = own * prompt * _forward_flops(student, prompt)
    prefill /= rollout.tensor_parallel_size * gpu.bf16_flops * SCORING_MFU
    return Phase(
        "rollout",
        num_steps * per_step + prefill,
        f"{own} responses per sampler, {at_once} at once, {num_steps} decoding steps of {1e3 * per_step:.1f} ms",
    )


def _scoring(role: str, shape: ModelShape, num_tokens: int, length: int, cluster: Cluster) -> Phase:
    flops = num_tokens * _forward_flops(shape, length)
    return Phase(
        role, flops / (cluster.gpu.bf16_flops * SCORING_MFU), f"{flops / 1e15:.1f} PFLOP of {num_tokens:,} tokens"
    )


def _update(
    config: RunConfig, layout: Layout, student: ModelShape, num_tokens: int, length: int, cluster: Cluster
) -> Phase:
    """Forward and twice that backward, once more with activation checkpointing; other passes as the algorithm asks."""
    learner, algo = config.learner, config.algo
    forward = _forward_flops(student, length)
    passes = algo.num_epochs * (4 if learner.activation_checkpointing else 3)
    if algo.num_epochs * algo.num_minibatches > 1:
        passes += 1  # old log-probabilities
    models = 2 if layout.has_critic else 1
    flops = models * passes * num_tokens * forward
    compute = flops / (layout.num_ranks * cluster.gpu.bf16_flops * LEARNER_MFU)
    communication = _communication(config, layout, student, num_tokens, cluster) * models * algo.num_epochs
    # ZeRO-3 gathers while it computes; the others reduce afterwards.
    seconds = max(compute, communication) if learner.zero_stage == 3 else compute + communication
    return Phase(
        "update",
        seconds,
        f"{flops / 1e15:.1f} PFLOP on {layout.num_ranks} GPUs: {compute:.0f} s; communication {communication:.0f} s",
    )


def _communication(config: RunConfig, layout: Layout, student: ModelShape, num_tokens: int, cluster: Cluster) -> float:
    """Seconds on the slowest link that all ranks share, for one pass over the tokens."""
    if layout.num_ranks == 1:
        return 0.0
    learner, gpu = config.learner, cluster.gpu
    is_local = layout.num_ranks <= cluster.gpus_per_node
    bandwidth = LINK_SHARE * (gpu.nvlink_bandwidth / 2 if is_local else gpu.network_bandwidth)
    num_batches = max(1, -(-num_tokens // (layout.num_ranks * learner.max_tokens_per_microbatch)))
    size, count = itemsize(learner.dtype), student.num_parameters
    match learner.zero_stage:
        case 3:
            gathers = 3 if learner.activation_checkpointing else 2
            num_bytes = num_batches * (gathers * size + 4) * count
        case 2:
            num_bytes = (num_batches * 4 + size) * count
        case _:
            num_bytes = (2 * 4 + size) * count
    return num_bytes / bandwidth


def _publish(config: RunConfig, student: ModelShape) -> Phase:
    num_bytes = itemsize(config.learner.dtype) * student.num_parameters
    return Phase("publish", num_bytes / PUBLISH_BANDWIDTH, f"{num_bytes / 1e9:.1f} GB through shared memory")


def _trigger(
    config: RunConfig,
    layout: Layout,
    student: ModelShape,
    sampler: SamplerPlan,
    cluster: Cluster,
    prompt: int,
    response: int,
    publish: Phase,
) -> tuple[Phase | None, int]:
    """Return a trigger in which every candidate is tried, and how many triggers the run has. What is counted is sampling and
    publishing; a trigger ends with the publish of what it settles on."""
    gate = config.accelerate
    if gate.gate is GateKind.none or layout.num_samplers == 0:
        return None, 0
    num_triggers = sum(is_scheduled(gate, step, config.num_steps) for step in range(1, config.num_steps + 1))
    if gate.gate is GateKind.ungated:
        return Phase("trigger", publish.seconds, "nothing is sampled; the jump is published"), num_triggers
    responses = gate.num_prompts * gate.samples_per_prompt
    longest = gate.max_response_len or config.rollout.max_response_len
    one = _rollout(config, layout, student, sampler, cluster, responses, prompt, min(response, longest), longest)
    if gate.gate is GateKind.reuse_kl:
        candidates, sampled = 1, "the winner, to confirm it"
    else:
        candidates = num_candidates(gate)
        sampled = f"{candidates} candidates"
    seconds = (candidates + 1) * (one.seconds + publish.seconds)
    because = f"at most: current weights and {sampled}, {responses} responses each"
    return Phase("trigger", seconds, because), num_triggers


def _forward_flops(shape: ModelShape, length: int) -> float:
    """Floating-point operations of a forward per token, in rows of `length`: matrices, and causal attention."""
    attention = 2 * shape.num_layers * shape.query_width * length  # two products, half of the square
    return 2 * shape.num_matrix_parameters + attention


def _assumptions(config: RunConfig, prompt: int, response: int, mean_response: int | None) -> tuple[str, ...]:
    layer = EAGER_LAYER_SECONDS if config.rollout.enforce_eager else GRAPH_LAYER_SECONDS
    origin = "--mean-response" if mean_response else f"{MEAN_RESPONSE_SHARE:g} of rollout.max_response_len"
    staleness = config.pipeline.max_staleness
    overlap = f", though pipeline.max_staleness={staleness} lets them overlap" if staleness else ""
    return (
        f"responses of {response:,} tokens on average ({origin}), the longest as long as allowed",
        f"prompts of {prompt:,} tokens on average (a quarter of data.max_prompt_len)",
        f"learner at {LEARNER_MFU:.0%} of the dense bfloat16 rate, scoring and prefill at {SCORING_MFU:.0%}",
        f"decoding at {DECODE_BANDWIDTH_SHARE:.0%} of memory bandwidth, at least {1e6 * layer:.0f} us a layer and step "
        f"(rollout.enforce_eager={str(config.rollout.enforce_eager).lower()})",
        f"links at {LINK_SHARE:.0%}; publishing at {PUBLISH_BANDWIDTH / 1e9:.0f} GB/s",
        f"phases one after the other{overlap}; no evaluation, no saving, no verifiers",
    )
