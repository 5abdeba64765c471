"""What must agree before a student can learn from a teacher. Checked on files alone, before any actor starts."""

import json
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from pathlib import Path

from jinja2 import TemplateError
from transformers import (
    CONFIG_MAPPING,
    MODEL_FOR_CAUSAL_LM_MAPPING,
    AutoConfig,
    AutoTokenizer,
    PreTrainedConfig,
    PreTrainedTokenizerBase,
)

from effopd.config.evaluation import evaluation_sets, longest_sequence
from effopd.config.schema import RunConfig
from effopd.errors import ConfigError
from effopd.models import end_token_ids
from effopd.weight_files import check_weights

_ATTENTION_LAYERS = frozenset({"full_attention", "sliding_attention"})
"""In transformers' words: layers that see of other tokens what a mask lets them see, and no more. Chunks are cut by the place in
the row, whatever sample is there."""

SAMPLE_MESSAGES = [{"role": "user", "content": "What is 2 + 2?"}]


@dataclass(frozen=True, slots=True)
class Problem:
    """Something that does not fit, and what to do about it."""

    message: str
    remedy: str

    def __str__(self) -> str:
        return f"{self.message}; {self.remedy}"


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
    shapes: Mapping[str, tuple[int, ...]]
    """Of every parameter, a tied one once."""
    unmasked: str | None
    """What in the model carries something from token to token past any attention mask; None if nothing does."""

    @property
    def num_parameters(self) -> int:
        return sum(math.prod(shape) for shape in self.shapes.values())


def read_model_files(key: str, folder: Path, chat_template: str | None) -> ModelFiles:
    """Read tokenizer, configs and the headers of the weights; `chat_template` is a Jinja file that replaces the own one.

    Raises ConfigError with one line when something is missing, damaged, or would need code that the folder ships.
    """
    config = _read_config(key, folder)
    shapes = check_weights(key, folder, config)
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # transformers raises many types for a damaged file; all mean "cannot be read"
        raise _unreadable(key, folder, "the tokenizer", error) from error
    if not (tokenizer.get_vocab().keys() - tokenizer.all_special_tokens):
        raise ConfigError(f"{key}={folder}: there are no tokenizer files; copy the folder again")
    if chat_template is not None:
        tokenizer.chat_template = _read_template(chat_template)
    text_config = config.get_text_config()
    return ModelFiles(
        key=key,
        folder=folder,
        tokenizer=tokenizer,
        vocabulary_size=text_config.vocab_size,
        eos_token_ids=frozenset(end_token_ids(folder)),
        max_positions=getattr(text_config, "max_position_embeddings", None),
        shapes=shapes,
        unmasked=_unmasked(config),
    )


def _unmasked(config: PreTrainedConfig) -> str | None:
    others = sorted(set(getattr(config.get_text_config(), "layer_types", None) or ()) - _ATTENTION_LAYERS)
    if others:
        return f"layers of kind {', '.join(others)}"
    # Older families do not name their layers, but say that generation has to carry a state along.
    is_stateful = MODEL_FOR_CAUSAL_LM_MAPPING[type(config)]._is_stateful  # pyright: ignore
    return "a recurrent state" if is_stateful else None


def _read_config(key: str, folder: Path) -> PreTrainedConfig:
    try:
        content = json.loads((folder / "config.json").read_bytes())
    except (OSError, ValueError) as error:
        raise ConfigError(
            f"{key}={folder}: config.json is no JSON ({' '.join(str(error).split())}); copy the folder again"
        ) from error
    if not isinstance(content, dict) or not isinstance(content.get("model_type"), str):
        raise ConfigError(
            f"{key}={folder}: config.json must hold a JSON object with a model_type; give a complete model folder"
        )
    if content["model_type"] not in CONFIG_MAPPING:
        if "auto_map" in content:
            raise ConfigError(
                f"{key}={folder}: model_type={content['model_type']} needs code from the folder (auto_map), which effopd "
                "never runs; choose a model that transformers itself knows"
            )
        raise ConfigError(
            f"{key}={folder}: model_type={content['model_type']} is unknown to this version of transformers; "
            "choose another model, or update effopd"
        )
    try:
        return AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # likewise
        raise _unreadable(key, folder, "config.json", error) from error


def _read_template(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"model.chat_template={path}: cannot be read ({error}); give a Jinja file in UTF-8"
        ) from error


def _unreadable(key: str, folder: Path, what: str, error: Exception) -> ConfigError:
    reason = " ".join(str(error).split()) or type(error).__name__
    return ConfigError(f"{key}={folder}: {what} cannot be read ({reason}); give a complete model folder")


def max_model_len(config: RunConfig) -> int:
    """Return how many tokens of prompt and response an engine must hold."""
    return config.rollout.max_model_len or longest_sequence(config).num_tokens


def check_student(student: ModelFiles, config: RunConfig) -> None:
    """Raise ConfigError listing every reason why the student cannot be sampled with these settings."""
    # Responses that are given need no engine that could hold them.
    too_long = length_problem(student, config) if config.eval.responses is None else None
    _raise([template_problem(student, config), too_long, packing_problem(student, config)])


def check_pair(student: ModelFiles, teacher: ModelFiles, config: RunConfig) -> None:
    """Raise ConfigError listing every reason why this teacher cannot score this student's tokens."""
    tokenizer = tokenizer_problem(student, teacher)
    own_template = template_problem(student, config)
    _raise(
        [
            own_template,
            length_problem(student, config),
            length_problem(teacher, config),
            packing_problem(student, config),
            tokenizer,
            # The number of rows says nothing where the tokens themselves differ.
            None if tokenizer else padding_problem(student, teacher),
            end_problem(student, teacher),
            None if own_template else template_difference(student, teacher, config),
        ]
    )


def packing_problem(student: ModelFiles, config: RunConfig) -> Problem | None:
    """Packed samples must not see one another: where something goes past the mask, they would."""
    if not config.learner.packing or student.unmasked is None:
        return None
    return Problem(
        f"learner.packing=true: {student.key}={config.model.path} has {student.unmasked}, through which packed samples would "
        "see one another",
        "set learner.packing=false",
    )


def tokenizer_problem(student: ModelFiles, teacher: ModelFiles) -> Problem | None:
    """Both must have the same tokens under the same ids."""
    ours, theirs = student.tokenizer.get_vocab(), teacher.tokenizer.get_vocab()
    if ours == theirs:
        return None
    odd = min((token for token in ours.keys() | theirs.keys() if ours.get(token) != theirs.get(token)), key=str)
    return Problem(
        f"tokenizers differ: {len(ours)} and {len(theirs)} tokens, e.g. {odd!r} is {ours.get(odd)} for the student and "
        f"{theirs.get(odd)} for the teacher",
        "distillation needs one tokenizer: choose a teacher of the student's family",
    )


def padding_problem(student: ModelFiles, teacher: ModelFiles) -> Problem | None:
    """Both output heads must have the same number of rows."""
    if student.vocabulary_size == teacher.vocabulary_size:
        return None
    return Problem(
        f"vocabularies are padded differently: student {student.vocabulary_size}, teacher {teacher.vocabulary_size} "
        f"rows for the same {len(student.tokenizer.get_vocab())} tokens",
        "pad the smaller one's embedding and head (model.resize_token_embeddings) and save it again",
    )


def end_problem(student: ModelFiles, teacher: ModelFiles) -> Problem | None:
    """Both must end a response with the same tokens."""
    if student.eos_token_ids == teacher.eos_token_ids:
        return None
    return Problem(
        f"end of sequence differs: student {sorted(student.eos_token_ids)}, teacher {sorted(teacher.eos_token_ids)}",
        "a student punished at its own stop token grows without end: make eos_token_id equal in both generation_config.json",
    )


def template_problem(student: ModelFiles, config: RunConfig) -> Problem | None:
    """Where a chat template is to be applied there must be one, and it must render."""
    if config.data.apply_chat_template:
        key = "data.apply_chat_template"
    elif any(one.apply_chat_template for one in evaluation_sets(config).values()):
        key = "eval.apply_chat_template"
    else:
        return None
    if student.tokenizer.chat_template is None:
        return Problem(
            f"{key}=true: the tokenizer of {student.key} has no chat template",
            "set it to false or give one as model.chat_template=FILE",
        )
    return _rendering_problem(student, config)


def template_difference(student: ModelFiles, teacher: ModelFiles, config: RunConfig) -> Problem | None:
    """The teacher's own template must render what the student's renders, unless one file replaces both."""
    if not config.data.apply_chat_template or config.model.chat_template is not None:
        return None
    remedy = "give the template to use as model.chat_template=FILE"
    if teacher.tokenizer.chat_template is None:
        return Problem(f"chat templates differ: the tokenizer of {teacher.key} has none", remedy)
    if problem := _rendering_problem(teacher, config):
        return problem
    rendered = [_render(files.tokenizer, config) for files in (student, teacher)]
    if rendered[0] == rendered[1]:
        return None
    return Problem(
        f"chat templates differ: student {rendered[0]!r}, teacher {rendered[1]!r}",
        f"the teacher would score prompts it was not trained on: {remedy}",
    )


def length_problem(files: ModelFiles, config: RunConfig) -> Problem | None:
    """The longest prompt and response together must fit into a model's positions."""
    needed = max_model_len(config)
    if files.max_positions is None or files.max_positions >= needed:
        return None
    model = f"{files.key}={attrgetter(files.key)(config)}"
    if config.rollout.max_model_len is not None:
        return Problem(
            f"{model}: holds {files.max_positions} positions; rollout.max_model_len asks for {needed}",
            f"lower it to at most {files.max_positions}",
        )
    longest = longest_sequence(config)
    return Problem(
        f"{model}: holds {files.max_positions} positions; {longest.prompt_len_key} plus {longest.response_len_key} ask for "
        f"{needed}",
        f"lower them: their sum must be at most {files.max_positions}",
    )


def _rendering_problem(files: ModelFiles, config: RunConfig) -> Problem | None:
    try:
        _render(files.tokenizer, config)
    except TemplateError as error:
        return Problem(
            f"the chat template of {files.key} does not render ({' '.join(str(error).split())})",
            "correct it, or give another as model.chat_template=FILE",
        )
    return None


def _render(tokenizer: PreTrainedTokenizerBase, config: RunConfig) -> str:
    text = tokenizer.apply_chat_template(
        SAMPLE_MESSAGES, tokenize=False, add_generation_prompt=True, enable_thinking=config.data.enable_thinking
    )
    assert isinstance(text, str)
    return text


def _raise(problems: Iterable[Problem | None]) -> None:
    found = [str(problem) for problem in problems if problem is not None]
    if found:
        raise ConfigError("\n".join(found))
