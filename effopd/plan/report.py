"""A plan, computed from settings, and how it is shown: tables for people, JSON for programs."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass

from effopd.config.schema import RunConfig
from effopd.markdown import markdown_table
from effopd.plan.hardware import GIB, Cluster
from effopd.plan.inference_memory import SamplerPlan, host_memory, sampler_plan, scorer_memory
from effopd.plan.layout import Layout, layout_of
from effopd.plan.learner_memory import FRAGMENTATION, RESERVED_BYTES, largest_micro_batches, learner_memory
from effopd.plan.memory import RoleMemory
from effopd.plan.seconds import Timing, timing
from effopd.plan.shapes import ModelShape, shape_of


@dataclass(frozen=True, slots=True, kw_only=True)
class Models:
    """Shapes of the models of a run."""

    student: ModelShape
    teacher: ModelShape | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run takes on a cluster."""

    cluster: Cluster
    layout: Layout
    models: Models
    roles: tuple[RoleMemory, ...]
    sampler: SamplerPlan
    problems: tuple[str, ...]
    """Why it does not fit, a line each; empty when it fits."""

    @property
    def fits(self) -> bool:
        return not self.problems


def models_of(config: RunConfig, shapes: Mapping[str, str]) -> Models:
    """Return the shapes of student and teacher. Raises ConfigError when one cannot be known."""
    student = shape_of("model.path", config.model.path, shapes)
    has_teacher = layout_of(config).num_teachers > 0
    teacher = shape_of("teacher.path", config.teacher.path, shapes) if has_teacher else None
    return Models(student=student, teacher=teacher)


def make_plan(config: RunConfig, cluster: Cluster, models: Models) -> Plan:
    """Return layout, memory and verdict."""
    layout = layout_of(config)
    gpu, student = cluster.gpu, models.student
    sampler = sampler_plan(config, layout, student, gpu)
    roles = [learner_memory(config, layout, student, models.teacher, gpu, largest_micro_batches(config))]
    if layout.num_samplers > 0:
        roles.append(sampler.memory)
    if models.teacher is not None:
        roles.append(scorer_memory(config, "teacher", layout.num_teachers, models.teacher, gpu))
    if layout.num_references > 0:
        roles.append(scorer_memory(config, "reference", layout.num_references, student, gpu))
    roles.append(host_memory(config, layout, student, cluster))
    return Plan(
        cluster=cluster,
        layout=layout,
        models=models,
        roles=tuple(roles),
        sampler=sampler,
        problems=(*_layout_problems(layout, cluster, student), *_memory_problems(roles, cluster)),
    )


def _layout_problems(layout: Layout, cluster: Cluster, student: ModelShape) -> list[str]:
    problems = []
    if layout.num_gpus > cluster.num_gpus:
        problems.append(f"{layout}, and {cluster} are {cluster.num_gpus}")
    ways = layout.tensor_parallel_size
    if ways > cluster.gpus_per_node:
        problems.append(f"a sampler on {ways} GPUs spans machines of {cluster.gpus_per_node}")
    if student.num_heads % ways:
        problems.append(f"{student.num_heads} attention heads cannot be shared by rollout.tensor_parallel_size={ways}")
    return problems


def _memory_problems(roles: list[RoleMemory], cluster: Cluster) -> list[str]:
    problems = []
    for role in roles:
        if not role.fits:
            largest = sorted(role.items(), key=lambda item: item.num_bytes, reverse=True)[:3]
            parts = " + ".join(f"{item.name} {_gib(item.num_bytes)}" for item in largest)
            where = "a machine" if role.num_gpus == 0 else f"its share of one {cluster.gpu.name}"
            problems.append(
                f"{role.role} needs {_gib(role.num_bytes)} GiB ({parts} + ... at the {role.worst.name}) "
                f"and {where} has {_gib(role.budget_bytes)}"
            )
    return problems


def text_report(config: RunConfig, plan: Plan, mean_response: int | None) -> str:
    """Return tables of bytes and seconds, the assumptions, and a verdict."""
    gpu = plan.cluster.gpu
    student = plan.models.student
    lines = [
        f"{config.name} on {plan.cluster} ({_gib(gpu.memory_bytes)} GiB, {gpu.bf16_flops / 1e12:.0f} TFLOP/s, "
        f"{gpu.memory_bandwidth / 1e12:.2f} TB/s each)",
        f"GPUs: {plan.layout} of {plan.cluster.num_gpus}",
        f"student: {config.model.path}, {student.num_parameters / 1e9:.2f}B parameters ({student.source})",
    ]
    if plan.models.teacher is not None:
        teacher = plan.models.teacher
        lines.append(
            f"teacher: {config.teacher.path}, {teacher.num_parameters / 1e9:.2f}B parameters ({teacher.source})"
        )
    lines += ["", "memory, GiB per GPU at the worst moment; main memory per machine:", "", _memory_table(plan)]
    if plan.layout.num_samplers > 0:
        lines += ["", _kv_line(plan.sampler)]
    lines += ["", "seconds per step:", "", _time_table(timing_of(config, plan, mean_response))]
    lines += ["", "assumed:", *(f"- {line}" for line in _all_assumptions(config, plan, mean_response))]
    return "\n".join(lines)


def timing_of(config: RunConfig, plan: Plan, mean_response: int | None) -> Timing:
    models = plan.models
    return timing(config, plan.layout, models.student, models.teacher, plan.sampler, plan.cluster, mean_response)


def json_report(config: RunConfig, plan: Plan, mean_response: int | None, change: str | None) -> str:
    """Return the plan as one JSON document; bytes and seconds."""
    timed = timing_of(config, plan, mean_response)
    document = {
        "name": config.name,
        "device": plan.cluster.gpu.name,
        "num_nodes": plan.cluster.num_nodes,
        "gpus_per_node": plan.cluster.gpus_per_node,
        "layout": {**asdict(plan.layout), "num_gpus": plan.layout.num_gpus},
        "models": asdict(plan.models),
        "roles": [
            {
                "role": role.role,
                "num_gpus": role.num_gpus,
                "worst_moment": role.worst.name,
                "items": {item.name: item.num_bytes for item in role.items()},
                "num_bytes": role.num_bytes,
                "budget_bytes": role.budget_bytes,
                "fits": role.fits,
            }
            for role in plan.roles
        ],
        "kv_bytes_per_token": plan.sampler.kv_bytes_per_token,
        "kv_tokens": plan.sampler.kv_tokens,
        "phases": [asdict(phase) for phase in timed.phases],
        "trigger": None if timed.trigger is None else asdict(timed.trigger),
        "num_triggers": timed.num_triggers,
        "step_seconds": timed.step_seconds,
        "run_seconds": timed.run_seconds,
        "assumptions": _all_assumptions(config, plan, mean_response),
        "fits": plan.fits,
        "problems": plan.problems,
        "smallest_change": change,
    }
    return json.dumps(document, indent=2)


def _memory_table(plan: Plan) -> str:
    names = list(dict.fromkeys(item.name for role in plan.roles for item in role.items() if item.num_bytes > 0))
    by_role = [{item.name: item.num_bytes for item in role.items()} for role in plan.roles]
    rows = [[name, *(_cell(items.get(name, 0)) for items in by_role)] for name in names]
    rows += [
        ["needed", *(_gib(role.num_bytes) for role in plan.roles)],
        ["there", *(_gib(role.budget_bytes) for role in plan.roles)],
        ["worst moment", *(role.worst.name for role in plan.roles)],
    ]
    headings = ["", *(f"{role.role} x {role.num_gpus}" if role.num_gpus else role.role for role in plan.roles)]
    return markdown_table(headings, rows)


def _time_table(timed: Timing) -> str:
    rows = [[phase.name, f"{phase.seconds:.0f}", phase.because] for phase in timed.phases]
    rows.append(["step", f"{timed.step_seconds:.0f}", f"run of {timed.num_steps}: {timed.run_seconds / 3600:.1f} h"])
    if timed.trigger is not None:
        trigger = timed.trigger
        rows.append([f"trigger x {timed.num_triggers}", f"{trigger.seconds:.0f}", trigger.because])
    return markdown_table(["phase", "s", "why"], rows)


def _kv_line(sampler: SamplerPlan) -> str:
    return (
        f"KV cache: {sampler.kv_bytes_per_token:,} bytes a token and GPU (2 x layers x KV heads x head size x bytes), "
        f"{sampler.kv_tokens:,} tokens: {sampler.num_full_sequences:.1f} sequences of {sampler.max_model_len:,}"
    )


def _all_assumptions(config: RunConfig, plan: Plan, mean_response: int | None) -> list[str]:
    return [
        *timing_of(config, plan, mean_response).assumptions,
        f"{_gib(RESERVED_BYTES)} GiB per process for CUDA, cuBLAS and NCCL; {FRAGMENTATION:.0%} of what comes and goes lost "
        "to fragmentation",
        f"{plan.cluster.host_bytes / 1e12:g} TB of main memory in a machine",
    ]


def _gib(num_bytes: int) -> str:
    return f"{num_bytes / GIB:.1f}"


def _cell(num_bytes: int) -> str:
    return _gib(num_bytes) if num_bytes >= GIB / 20 else ("-" if num_bytes == 0 else "<0.1")
