"""The divergence itself, on random tokens: zero from a model to itself, not zero to another, and at temperature 1.

The teacher is the engine that will score, the student the forward that will train, and between them the very path of a
run: hidden states, the teacher's head, chunks of logits.
"""

import gc
from collections.abc import Iterator
from pathlib import Path

import torch
from torch import Tensor

from effopd.algorithms.opd_full import policy_reverse_kl
from effopd.config.schema import Dtype, RunConfig
from effopd.data.collate import collate
from effopd.doctor.finding import Finding, failed, guarded, passed, skipped
from effopd.doctor.sizes import available_memory, shown_bytes, teacher_bytes
from effopd.engines.deepspeed_setup import resolve_device
from effopd.engines.hf_teacher import HFTeacher
from effopd.engines.policy_module import PolicyModule, load_causal_lm, output_head
from effopd.preflight import ModelFiles
from effopd.types import FinishReason, PolicyVersion, Rollout, TeacherPayload

NUM_ROWS, PROMPT_LEN, RESPONSE_LEN = 4, 4, 12
MAX_SELF_KL = {Dtype.float32: 1e-5, Dtype.bfloat16: 1e-3}
"""Nats a token that rounding may leave between a model and itself."""
PERTURBATION = 0.1
"""Of every weight, as a fraction of the standard deviation of its tensor."""
MAX_SCALE_ERROR = 0.01

MODELS_AT_ONCE = 2


def check_teacher_memory(teacher: ModelFiles, config: RunConfig, available: int) -> Finding:
    """`available` is what the device has, in bytes."""
    name = "teacher memory"
    weights, chunk = teacher_bytes(teacher, config.teacher)
    said = (
        f"weights {shown_bytes(weights)}, logits of {config.teacher.logit_chunk_tokens} tokens x "
        f"{teacher.vocabulary_size:,} words {shown_bytes(chunk)}; {shown_bytes(available)} available"
    )
    if weights + chunk <= available:
        return passed(name, said)
    if weights <= available:
        fitting = max(1, config.teacher.logit_chunk_tokens * (available - weights) // chunk)
        return failed(name, said, f"type teacher.logit_chunk_tokens={fitting}")
    return failed(name, said, "type teacher.dtype=bfloat16, or choose a smaller teacher or a larger machine")


def device_memory(config: RunConfig) -> int:
    """Return the bytes that are free where the teacher will live."""
    device = resolve_device(config.cluster.device)
    return torch.cuda.mem_get_info(device)[0] if device.type == "cuda" else available_memory()


def distillation_findings(student: ModelFiles, teacher: ModelFiles, config: RunConfig) -> Iterator[Finding]:
    """What needs the weights of both models, one after the other; skipped where they do not fit into memory."""
    checks = {
        "teacher = student": lambda: check_self_divergence(student.folder, config),
        "perturbed student": lambda: check_perturbed_divergence(student.folder, config),
        "teacher temperature": lambda: check_temperature(teacher.folder, config),
        "teacher divergence": lambda: check_teacher_divergence(student, teacher, config),
    }
    needed = MODELS_AT_ONCE * max(teacher_bytes(files, config.teacher)[0] for files in (student, teacher))
    available = min(device_memory(config), available_memory())
    for name, check in checks.items():
        if needed > available:
            yield skipped(name, f"two models take {shown_bytes(needed)}, and {shown_bytes(available)} are available")
        else:
            yield guarded(name, check)
            gc.collect()  # models hold cycles, and the next check loads its own


def check_self_divergence(student: Path, config: RunConfig) -> Finding:
    """The student scored by itself as the teacher."""
    name = "teacher = student"
    divergence = mean_reverse_kl(student, student, config, perturbation=0.0)
    if not abs(divergence) <= MAX_SELF_KL[config.teacher.dtype]:
        return failed(
            name,
            f"KL(student || student) is {divergence:.3g} nats a token, not 0: the path from hidden states to logits is wrong "
            "for this architecture",
            "type another model.attn_implementation, teacher.dtype=float32, or choose another model",
        )
    return passed(name, f"KL is {abs(divergence):.1e} nats a token")


def check_perturbed_divergence(student: Path, config: RunConfig) -> Finding:
    """The same with noise in the student's weights, which must be seen."""
    name = "perturbed student"
    divergence = mean_reverse_kl(student, student, config, perturbation=PERTURBATION)
    if not divergence > MAX_SELF_KL[config.teacher.dtype]:
        return failed(
            name,
            f"KL to a student with noise in its weights is {divergence:.3g} nats a token: the measure is blind",
            "report this as a bug, with the name of the model",
        )
    return passed(name, f"KL is {divergence:.2g} nats a token, as it should not be 0")


def check_teacher_divergence(student: ModelFiles, teacher: ModelFiles, config: RunConfig) -> Finding:
    """The two models themselves: a number, and not zero, for then there is nothing to learn."""
    name = "teacher divergence"
    if student.vocabulary_size != teacher.vocabulary_size:
        return skipped(name, "the vocabularies differ")
    divergence = mean_reverse_kl(student.folder, teacher.folder, config, perturbation=0.0)
    if divergence != divergence:
        return failed(
            name,
            f"{teacher.key}={teacher.folder.name} or the student gives NaN: weights are not finite in {config.teacher.dtype}",
            "copy the folders again, or type teacher.dtype=float32 learner.dtype=float32",
        )
    if abs(divergence) <= MAX_SELF_KL[config.teacher.dtype]:
        return failed(
            name, "the teacher is the student: KL is 0 and there is nothing to learn", "type another teacher.path"
        )
    return passed(name, f"KL to the teacher is {divergence:.2g} nats a token, on random tokens")


@torch.no_grad()
def check_temperature(teacher: Path, config: RunConfig) -> Finding:
    """A teacher that scales its logits has another temperature than 1, and the path of a run would not see it."""
    name = "teacher temperature"
    device = resolve_device(config.cluster.device)
    model = load_causal_lm(str(teacher), getattr(torch, config.teacher.dtype.value), config.model.attn_implementation)
    torch.nn.Module.to(model, device)
    head = output_head(model)
    generator = torch.Generator().manual_seed(0)
    token_ids = torch.randint(head.out_features, (NUM_ROWS, PROMPT_LEN + RESPONSE_LEN), generator=generator).to(device)
    logits = model(input_ids=token_ids, use_cache=False).logits.float()
    plain = head(model.get_decoder()(input_ids=token_ids, use_cache=False).last_hidden_state).float()
    if not bool(logits.isfinite().all()):
        return failed(
            name,
            f"the logits of teacher.path={config.teacher.path} are not finite: weights are NaN or overflow "
            f"{config.teacher.dtype}",
            "copy the folder again, or type teacher.dtype=float32",
        )
    scale = _least_squares(plain, logits)
    if abs(scale - 1) > MAX_SCALE_ERROR:
        return failed(
            name,
            f"the teacher's logits are {scale:.3g} times its head's, a temperature of {1 / scale:.3g}; it would be scored at 1",
            "fold the factor into lm_head and take it out of its config.json (logits_scaling, logit_scale), "
            "or choose another teacher",
        )
    rest = (logits - plain).abs().max().item() / max(logits.abs().max().item(), 1e-9)
    if rest > MAX_SCALE_ERROR:
        return failed(
            name,
            "the teacher's logits are not its head's: it caps or shifts them",
            "take that out of its config.json (final_logit_softcapping), or choose another teacher",
        )
    return passed(name, "1: its logits are its output head's, nothing scales them")


def _least_squares(x: Tensor, y: Tensor) -> float:
    """Return the factor that brings x closest to y."""
    return ((x * y).sum() / x.square().sum().clamp(min=1e-30)).item()


@torch.no_grad()
def mean_reverse_kl(student: Path, teacher: Path, config: RunConfig, *, perturbation: float) -> float:
    """Return KL(student || teacher) per response token, nats, with noise in the student's weights."""
    device = resolve_device(config.cluster.device)
    engine = HFTeacher(
        config.teacher, str(teacher), attn_implementation=config.model.attn_implementation, device=device
    )
    head = engine.head().to(device)
    rollouts = _random_rollouts(head.shape[0])
    batch = collate(engine.score(rollouts, TeacherPayload.HIDDEN_STATES), pad_token_id=0)
    assert batch.teacher_hidden_states is not None, "it was asked for"
    model = load_causal_lm(str(student), getattr(torch, config.teacher.dtype.value), config.model.attn_implementation)
    generator = torch.Generator().manual_seed(1)
    for parameter in model.parameters():
        noise = torch.randn(parameter.shape, generator=generator).to(parameter.dtype)
        parameter.add_(noise * parameter.std(correction=0), alpha=perturbation)
    module = PolicyModule(model, config.learner.logit_chunk_tokens).to(device)
    hidden = batch.teacher_hidden_states.to(device)
    response_mask = batch.response_mask.to(device)
    divergence = module(
        batch.token_ids.to(device),
        batch.attention_mask.to(device),
        response_mask,
        lambda output: policy_reverse_kl(output, lambda states: states @ head.T, hidden),
    )
    return divergence[response_mask].mean().item()


def _random_rollouts(vocabulary_size: int) -> list[Rollout]:
    generator = torch.Generator().manual_seed(0)
    return [
        Rollout(
            prompt_id=str(row),
            sample_index=0,
            prompt_token_ids=tuple(torch.randint(vocabulary_size, (PROMPT_LEN,), generator=generator).tolist()),
            response_token_ids=torch.randint(vocabulary_size, (RESPONSE_LEN,), generator=generator),
            rollout_logprobs=torch.zeros(RESPONSE_LEN),
            text="",
            finish_reason=FinishReason.LENGTH,
            seed=0,
            policy_version=PolicyVersion(step=0),
        )
        for row in range(NUM_ROWS)
    ]
