"""What a run reads before anything starts: model folders, tokenizers, prompts. Everything a person can get wrong in files
is found here, while no actor is running."""

from dataclasses import dataclass

from effopd.config.check import needs_teacher
from effopd.config.keys import MISSING
from effopd.config.schema import GateKind, RunConfig
from effopd.data.prompts import hold_out, load_prompts
from effopd.models import resolve_model_path
from effopd.preflight import ModelFiles, check_pair, check_student, read_model_files
from effopd.publishing import num_canaries
from effopd.types import Prompt


@dataclass(frozen=True, slots=True, kw_only=True)
class RunInputs:
    """Checked inputs of a training run."""

    student: ModelFiles
    teacher: ModelFiles | None
    """None where nothing needs a teacher."""
    train_prompts: tuple[Prompt, ...]
    gate_prompts: tuple[Prompt, ...]
    """Held out of `train_prompts`; empty for plain OPD."""
    eval_prompts: tuple[Prompt, ...]
    canary_prompts: tuple[Prompt, ...]


def read_inputs(config: RunConfig) -> RunInputs:
    """Read and check everything. Raises ConfigError or DataError; nothing has been started by then."""
    template = config.model.chat_template
    student = read_model_files("model.path", resolve_model_path(config.model.path), template)
    teacher = None
    if needs_teacher(config):
        teacher = read_model_files("teacher.path", resolve_model_path(config.teacher.path), template)
        check_pair(student, teacher, config)
    else:
        check_student(student, config)

    prompts = load_prompts(
        config.data, student.tokenizer, path=config.data.path, split=config.data.split, num_rows=config.data.num_rows
    )
    gate_prompts: tuple[Prompt, ...] = ()
    if config.accelerate.gate != GateKind.none:
        gate_prompts, prompts = hold_out(prompts, config.accelerate.num_prompts, config.seed)
    return RunInputs(
        student=student,
        teacher=teacher,
        train_prompts=prompts,
        gate_prompts=gate_prompts,
        eval_prompts=read_eval_prompts(config, student),
        canary_prompts=prompts[: num_canaries(config.rollout.num_samplers)],
    )


def read_eval_prompts(config: RunConfig, student: ModelFiles) -> tuple[Prompt, ...]:
    """Return the evaluation prompts; none when `eval.path` is null."""
    if config.eval.path is None:
        return ()
    return load_prompts(
        config.data, student.tokenizer, path=config.eval.path, split=config.eval.split, num_rows=config.eval.num_rows
    )


def read_eval_teacher(config: RunConfig, student: ModelFiles) -> ModelFiles | None:
    """Return the checked teacher of `effopd eval`, which reports the reverse KL to it; None unless one is given."""
    if config.teacher.path == MISSING:
        return None
    folder = resolve_model_path(config.teacher.path)
    teacher = read_model_files("teacher.path", folder, config.model.chat_template)
    check_pair(student, teacher, config)
    return teacher


def read_student(config: RunConfig) -> ModelFiles:
    """Return the checked student alone, for `effopd eval`."""
    folder = resolve_model_path(config.model.path)
    student = read_model_files("model.path", folder, config.model.chat_template)
    check_student(student, config)
    return student
