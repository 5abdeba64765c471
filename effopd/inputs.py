"""What a run reads before anything starts: model folders, tokenizers, prompts. Everything a person can get wrong in files
is found here, while no actor is running."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from effopd.config.check import needs_teacher
from effopd.config.evaluation import EvalSet, evaluation_sets
from effopd.config.keys import MISSING
from effopd.config.schema import GateKind, RunConfig
from effopd.data.contamination import EvaluationIndex
from effopd.data.prompts import (
    Decontamination,
    LoadedPrompts,
    PromptRendering,
    hold_out,
    load_prompts,
    require_a_batch,
)
from effopd.data.report import DataRecord, data_fingerprint
from effopd.errors import DataError
from effopd.model_folders import resolve_model_path
from effopd.preflight import ModelFiles, check_pair, check_student, read_model_files
from effopd.publishing import num_canaries
from effopd.types import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInputs:
    """Checked inputs of a training run."""

    student: ModelFiles
    teacher: ModelFiles | None
    """None where nothing needs a teacher."""
    train_prompts: Sequence[Prompt]
    gate_prompts: tuple[Prompt, ...]
    """Not among `train_prompts`; empty for plain OPD and for jumps that nothing judges."""
    audit_prompts: tuple[Prompt, ...]
    """Held out likewise; empty unless triggers are audited."""
    eval_sets: Mapping[str, "EvalSetPrompts"]
    """By name; empty when nothing is evaluated."""
    canary_prompts: tuple[Prompt, ...]
    data_records: Mapping[str, DataRecord]
    """What was read, by the key that it stands under: `data`, `accelerate`, `eval`, `eval.sets.<name>`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EvalSetPrompts:
    """One evaluation set, read."""

    settings: EvalSet
    prompts: tuple[Prompt, ...]
    questions: tuple[str, ...]
    """What is asked, without suffix and template, to hold training questions against."""
    record: DataRecord


def read_inputs(config: RunConfig) -> RunInputs:
    """Read and check everything. Raises ConfigError or DataError; nothing has been started by then."""
    template = config.model.chat_template
    student = read_model_files("model.path", resolve_model_path("model.path", config.model.path), template)
    teacher = None
    if needs_teacher(config):
        teacher = read_model_files("teacher.path", resolve_model_path("teacher.path", config.teacher.path), template)
        check_pair(student, teacher, config)
    else:
        check_student(student, config)

    eval_sets = read_eval_sets(config, student)
    gate_set = None if config.accelerate.path is None else _read_gate_set(config, config.accelerate.path, student)
    kept_apart = {name: one.questions for name, one in eval_sets.items()}
    if gate_set is not None:
        kept_apart["accelerate.path"] = gate_set.questions
    loaded = load_prompts(
        config.data,
        _rendering(config, student, config.data.apply_chat_template),
        section="data",
        stream_above=config.data.stream_above_rows,
        decontamination=Decontamination(index=EvaluationIndex(kept_apart), policy=config.data.contamination),
    )
    prompts = loaded.prompts
    records = {"data": DataRecord(report=loaded.report, fingerprint=data_fingerprint(prompts))}
    accelerate = config.accelerate
    is_gate_drawn = gate_set is None and accelerate.gate not in (GateKind.none, GateKind.ungated)
    num_gate = accelerate.num_prompts if is_gate_drawn else 0
    held_out: tuple[Prompt, ...] = ()
    if num_gate + accelerate.audit_prompts > 0:
        asked = {"accelerate.num_prompts": num_gate, "accelerate.audit_prompts": accelerate.audit_prompts}
        asked_by = " and ".join(f"{key}={count}" for key, count in asked.items() if count)
        held_out, prompts = hold_out(prompts, num_gate + accelerate.audit_prompts, config.seed, asked_by)
    gate_prompts = held_out[:num_gate]
    if gate_set is not None:
        gate_prompts = tuple(gate_set.prompts[: accelerate.num_prompts])
        records["accelerate"] = DataRecord(report=gate_set.report, fingerprint=data_fingerprint(gate_prompts))
    require_a_batch(prompts, config.rollout.prompts_per_step)
    return RunInputs(
        student=student,
        teacher=teacher,
        train_prompts=prompts,
        gate_prompts=gate_prompts,
        audit_prompts=held_out[num_gate:],
        eval_sets=eval_sets,
        canary_prompts=tuple(prompts[: num_canaries(config.rollout.num_samplers)]),
        data_records=records | {one.settings.section: one.record for one in eval_sets.values()},
    )


def _rendering(config: RunConfig, student: ModelFiles, apply_chat_template: bool) -> PromptRendering:
    return PromptRendering(
        tokenizer=student.tokenizer,
        apply_chat_template=apply_chat_template,
        enable_thinking=config.data.enable_thinking,
    )


def _read_gate_set(config: RunConfig, path: str, student: ModelFiles) -> LoadedPrompts:
    """Read gate prompts that are not drawn from the training prompts. Raises DataError when they are too few."""
    loaded = load_prompts(
        replace(config.data, path=path, hub_files=None, num_rows=None),
        _rendering(config, student, config.data.apply_chat_template),
        section="accelerate",
        stream_above=sys.maxsize,
        keep_questions=True,
    )
    if len(loaded.prompts) < config.accelerate.num_prompts:
        raise DataError(
            f"accelerate.path={path}: gives {len(loaded.prompts)} prompts, fewer than "
            f"accelerate.num_prompts={config.accelerate.num_prompts}; lower accelerate.num_prompts or give more"
        )
    return loaded


def read_eval_sets(config: RunConfig, student: ModelFiles) -> dict[str, EvalSetPrompts]:
    """Read every evaluation set; none when the configuration has none."""
    return {name: _read_eval_set(config, settings, student) for name, settings in evaluation_sets(config).items()}


def _read_eval_set(config: RunConfig, settings: EvalSet, student: ModelFiles) -> EvalSetPrompts:
    loaded = load_prompts(
        settings.source,
        _rendering(config, student, settings.apply_chat_template),
        section=settings.section,
        stream_above=sys.maxsize,  # every evaluation asks all of them at once
        keep_questions=True,
    )
    prompts = tuple(loaded.prompts)
    return EvalSetPrompts(
        settings=settings,
        prompts=prompts,
        questions=loaded.questions,
        record=DataRecord(report=loaded.report, fingerprint=data_fingerprint(prompts)),
    )


def read_eval_teacher(config: RunConfig, student: ModelFiles) -> ModelFiles | None:
    """Return the checked teacher of `effopd eval`, which reports the reverse KL to it; None unless one is given."""
    if config.teacher.path == MISSING:
        return None
    folder = resolve_model_path("teacher.path", config.teacher.path)
    teacher = read_model_files("teacher.path", folder, config.model.chat_template)
    check_pair(student, teacher, config)
    return teacher


def read_student(config: RunConfig) -> ModelFiles:
    """Return the checked student alone, for `effopd eval`."""
    folder = resolve_model_path("model.path", config.model.path)
    student = read_model_files("model.path", folder, config.model.chat_template)
    check_student(student, config)
    return student
