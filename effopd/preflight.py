"""What must agree before a student can learn from a teacher. Checked on files alone, before any actor starts."""

from dataclasses import dataclass
from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from effopd.config.evaluation import evaluation_sets, longest_sequence
from effopd.config.schema import RunConfig
from effopd.errors import ConfigError
from effopd.models import end_token_ids

SAMPLE_MESSAGES = [{"role": "user", "content": "What is 2 + 2?"}]


@dataclass(frozen=True, slots=True)
class ModelFiles:
    """What a model folder says of itself."""

    key: str
    """The setting that names it, for error messages."""
    folder: Path
    tokenizer: PreTrainedTokenizerBase
    vocabulary_size: int
    """Rows of the output head, padding included."""
    eos_token_ids: frozenset[int]
    max_positions: int | None


def read_model_files(key: str, folder: Path, chat_template: str | None) -> ModelFiles:
    """Read tokenizer and configs of a folder; `chat_template` is a Jinja file that replaces the tokenizer's own."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{key}={folder}: cannot be read ({str(error).splitlines()[0]}); give a complete model folder"
        ) from error
    if chat_template is not None:
        tokenizer.chat_template = Path(chat_template).read_text()
    return ModelFiles(
        key=key,
        folder=folder,
        tokenizer=tokenizer,
        vocabulary_size=config.get_text_config().vocab_size,
        eos_token_ids=frozenset(end_token_ids(folder)),
        max_positions=getattr(config.get_text_config(), "max_position_embeddings", None),
    )


def max_model_len(config: RunConfig) -> int:
    """Return how many tokens of prompt and response an engine must hold."""
    return config.rollout.max_model_len or longest_sequence(config).num_tokens


def check_student(student: ModelFiles, config: RunConfig) -> None:
    """Raise ConfigError listing every reason why the student cannot be sampled with these settings."""
    # Responses that are given need no engine that could hold them.
    length_problems = _length_problems(student, config) if config.eval.responses is None else ()
    _raise([*_template_problems(student, config), *length_problems])


def check_pair(student: ModelFiles, teacher: ModelFiles, config: RunConfig) -> None:
    """Raise ConfigError listing every reason why this teacher cannot score this student's tokens."""
    problems = [
        *_template_problems(student, config),
        *_length_problems(student, config),
        *_length_problems(teacher, config),
        *_vocabulary_problems(student, teacher),
    ]
    if student.eos_token_ids != teacher.eos_token_ids:
        problems.append(
            f"end of sequence differs: student {sorted(student.eos_token_ids)}, teacher {sorted(teacher.eos_token_ids)}; "
            "a student punished at its own stop token grows without end: make eos_token_id equal in both generation_config.json"
        )
    if config.data.apply_chat_template and not problems:
        rendered = [_render(files.tokenizer, config) for files in (student, teacher)]
        if config.model.chat_template is None and rendered[0] != rendered[1]:
            problems.append(
                f"chat templates differ: student {rendered[0]!r}, teacher {rendered[1]!r}; the teacher would score prompts it "
                "was not trained on: give the template to use as model.chat_template=FILE"
            )
    _raise(problems)


def _vocabulary_problems(student: ModelFiles, teacher: ModelFiles) -> list[str]:
    ours, theirs = student.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
    if ours != theirs:
        odd = min((token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)), key=str)
        return [
            f"tokenizers differ: {len(ours)} and {len(theirs)} tokens, e.g. {odd!r} is {ours.get(odd)} for the student and "
            f"{theirs.get(odd)} for the teacher; distillation needs one tokenizer: choose a teacher of the student's family"
        ]
    if student.vocabulary_size != teacher.vocabulary_size:
        return [
            f"vocabularies are padded differently: student {student.vocabulary_size}, teacher {teacher.vocabulary_size} "
            f"rows for the same {len(ours)} tokens; pad the smaller one's embedding and head "
            "(model.resize_token_embeddings) and save it again"
        ]
    return []


def _template_problems(student: ModelFiles, config: RunConfig) -> list[str]:
    if student.tokenizer.chat_template is not None:
        return []
    if config.data.apply_chat_template:
        key = "data.apply_chat_template"
    elif any(one.apply_chat_template for one in evaluation_sets(config).values()):
        key = "eval.apply_chat_template"
    else:
        return []
    return [
        f"{key}=true: the tokenizer of {student.key} has no chat template; "
        "set it to false or give one as model.chat_template=FILE"
    ]


def _length_problems(files: ModelFiles, config: RunConfig) -> list[str]:
    needed = max_model_len(config)
    if files.max_positions is not None and files.max_positions < needed:
        longest = longest_sequence(config)
        return [
            f"{files.key}={files.folder.name}: holds {files.max_positions} positions; {longest.prompt_len_key} plus "
            f"{longest.response_len_key} (or rollout.max_model_len) ask for {needed}; lower them"
        ]
    return []


def _render(tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> str:
    text = tokenizer.apply_chat_template(
        SAMPLE_MESSAGES, tokenize=False, add_generation_prompt=True, enable_thinking=config.data.enable_thinking
    )
    assert isinstance(text, str)
    return text


def _raise(problems: list[str]) -> None:
    if problems:
        raise ConfigError("\n".join(problems))
