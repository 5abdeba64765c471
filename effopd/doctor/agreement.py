"""The pair of models, judged by their files: the rules of `preflight`, one line each."""

from collections.abc import Callable, Iterator

from effopd.config.schema import RunConfig
from effopd.doctor.finding import Finding, guarded, judged, passed, skipped
from effopd.model_folders import resolve_model_path
from effopd.preflight import (
    ModelFiles,
    end_problem,
    length_problem,
    max_model_len,
    padding_problem,
    read_model_files,
    template_difference,
    template_problem,
    tokenizer_problem,
)


def read_model(key: str, path: str, config: RunConfig) -> tuple[ModelFiles | None, Finding]:
    """Return what a model folder says of itself, None when it cannot be read, and what to say of it."""
    read: list[ModelFiles] = []

    def check() -> Finding:
        files = read_model_files(key, resolve_model_path(key, path), config.model.chat_template)
        read.append(files)
        return passed(key, f"{path}: {files.num_parameters:,} parameters, {files.vocabulary_size:,} tokens")

    finding = guarded(key, check)
    return (read[0] if read else None), finding


def pair_findings(student: ModelFiles | None, teacher: ModelFiles | None, config: RunConfig) -> Iterator[Finding]:
    """One finding per rule of a pair."""
    rules: dict[str, Callable[[ModelFiles, ModelFiles], Finding]] = {
        "tokenizer": lambda ours, theirs: judged(
            "tokenizer", tokenizer_problem(ours, theirs), f"the same {len(ours.tokenizer.get_vocab()):,} tokens"
        ),
        "padded vocabulary": lambda ours, theirs: judged(
            "padded vocabulary", padding_problem(ours, theirs), f"{ours.vocabulary_size:,} rows both"
        ),
        "end of sequence": lambda ours, theirs: judged(
            "end of sequence", end_problem(ours, theirs), f"{sorted(ours.eos_token_ids)} both"
        ),
        "chat template": lambda ours, theirs: _template(ours, theirs, config),
        "lengths": lambda ours, theirs: judged(
            "lengths",
            length_problem(ours, config) or length_problem(theirs, config),
            f"{max_model_len(config):,} tokens of prompt and response fit",
        ),
    }
    for name, rule in rules.items():
        if student is None or teacher is None:
            yield skipped(name, "there are no two models to compare")
        else:
            yield guarded(name, lambda rule=rule, ours=student, theirs=teacher: rule(ours, theirs))


def student_findings(student: ModelFiles, config: RunConfig) -> Iterator[Finding]:
    """What is left to check where there is no teacher."""
    yield guarded("chat template", lambda: judged("chat template", template_problem(student, config), "renders"))
    yield guarded("lengths", lambda: judged("lengths", length_problem(student, config), "fit"))


def _template(student: ModelFiles, teacher: ModelFiles, config: RunConfig) -> Finding:
    name = "chat template"
    if problem := template_problem(student, config) or template_difference(student, teacher, config):
        return judged(name, problem, "")
    if not config.data.apply_chat_template:
        return skipped(name, "data.apply_chat_template=false")
    return passed(name, "student and teacher render the same prompt")
