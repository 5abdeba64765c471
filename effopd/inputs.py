"""What a run reads before anything starts: model folders, tokenizers, prompts. Everything a person can get wrong in files
is found here, while no actor is running."""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from effopd.config.check import needs_teacher
from effopd.config.evaluation import EvalSet, evaluation_sets
from effopd.config.keys import MISSING
from effopd.config.schema import GateKind, RunConfig
from effopd.data.contamination import EvaluationIndex
from effopd.data.prompts import Decontamination, PromptRendering, hold_out, load_prompts, require_a_batch
from effopd.data.report import DataRecord, data_fingerprint
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
    """Held out of `train_prompts`; empty for plain OPD and for jumps that nothing judges."""
    audit_prompts: tuple[Prompt, ...]
    """Held out likewise; empty unless triggers are audited."""
    eval_sets: Mapping[str, "EvalSetPrompts"]
    """By name; empty when nothing is evaluated."""
    canary_prompts: tuple[Prompt, ...]
    data_records: Mapping[str, DataRecord]
    """What was read, by the key that it stands under: `data`, `eval`, `eval.sets.<name>`."""


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
    loaded = load_prompts(
        config.data,
        PromptRendering(
            tokenizer=student.tokenizer,
            apply_chat_template=config.data.apply_chat_template,
            enable_thinking=config.data.enable_thinking,
        ),
        section="data",
        stream_above=config.data.stream_above_rows,
        decontamination=Decontamination(
            index=EvaluationIndex({name: one.questions for name, one in eval_sets.items()}),
            policy=config.data.contamination,
        ),
    )
    prompts = loaded.prompts
    record = DataRecord(report=loaded.report, fingerprint=data_fingerprint(prompts))
    accelerate = config.accelerate
    num_gate = 0 if accelerate.gate in (GateKind.none, GateKind.ungated) else accelerate.num_prompts
    held_out: tuple[Prompt, ...] = ()
    if num_gate + accelerate.audit_prompts > 0:
        asked = {"accelerate.num_prompts": num_gate, "accelerate.audit_prompts": accelerate.audit_prompts}
        asked_by = " and ".join(f"{key}={count}" for key, count in asked.items() if count)
        held_out, prompts = hold_out(prompts, num_gate + accelerate.audit_prompts, config.seed, asked_by)
    require_a_batch(prompts, config.rollout.prompts_per_step)
    return RunInputs(
        student=student,
        teacher=teacher,
        train_prompts=prompts,
        gate_prompts=held_out[:num_gate],
        audit_prompts=held_out[num_gate:],
        eval_sets=eval_sets,
        canary_prompts=tuple(prompts[: num_canaries(config.rollout.num_samplers)]),
        data_records={"data": record, **{one.settings.section: one.record for one in eval_sets.values()}},
    )


def read_eval_sets(config: RunConfig, student: ModelFiles) -> dict[str, EvalSetPrompts]:
    """Read every evaluation set; none when the configuration has none."""
    return {name: _read_eval_set(config, settings, student) for name, settings in evaluation_sets(config).items()}


def _read_eval_set(config: RunConfig, settings: EvalSet, student: ModelFiles) -> EvalSetPrompts:
    loaded = load_prompts(
        settings.source,
        PromptRendering(
            tokenizer=student.tokenizer,
            apply_chat_template=settings.apply_chat_template,
            enable_thinking=config.data.enable_thinking,
        ),
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
