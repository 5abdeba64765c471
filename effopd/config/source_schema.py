"""The settings that say where rows lie and how each becomes a question: shared by `data` and by every evaluation set.

Standard library only.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from effopd.config.require import require


class RowSchema(StrEnum):
    """How a row becomes a question; one function each in `effopd/data/schemas.py`."""

    columns = "columns"
    """A text or a list of chat messages in `prompt_column`, the answer in `answer_column`."""
    verl = "verl"
    """Chat messages in `prompt`, the answer in `reward_model.ground_truth`."""
    auto = "auto"
    """`verl` for a row that has `reward_model`, else `columns`."""
    chat = "chat"
    """Chat messages in `prompt_column`. The answer is in `answer_column`, or, where that is null, in the last message, which
    must be the assistant's; a last message of the assistant is never part of the question."""
    multiple_choice = "multiple_choice"
    """The right answer in `answer_column`, the wrong ones in `choice_columns`. The choices are shuffled, each question
    always in the same way, and the answer is the letter."""
    humaneval = "humaneval"
    mbpp = "mbpp"
    """With split=train and numbers in `task_id`, only tasks 601 to 974: MBPP's own file has test and training tasks both."""
    stdio = "stdio"
    """Programs that read standard input and are judged by what they print, or functions, by what they return."""


CODE_SCHEMAS = frozenset({RowSchema.humaneval, RowSchema.mbpp, RowSchema.stdio})


class BadRowPolicy(StrEnum):
    error = "error"
    skip = "skip"
    """Leave the row out; the number of such rows and the first three reasons are logged."""


class LongPromptPolicy(StrEnum):
    drop = "drop"
    error = "error"


class ContaminationPolicy(StrEnum):
    drop = "drop"
    error = "error"
    ignore = "ignore"
    """Count and keep."""


@dataclass(slots=True)
class SourceConfig:
    """A data set and how to read it."""

    path: str = "???"
    """A .jsonl, .jsonl.gz, .json or .parquet file, a folder or a glob of such files, the name of a hub data set, or
    `toy:<task>` for the shipped toy tasks."""
    subset: str | None = None
    """Hub data sets with several configurations, e.g. `main` of openai/gsm8k."""
    split: str = "train"
    """Of hub data sets, and of MBPP's own file."""
    hub_files: str | None = None
    """Hub data sets only: a file or glob inside the repository, read instead of its splits, e.g. `test6.jsonl`."""
    num_rows: int | None = None
    """Use only the first rows; for toy tasks, how many problems to make (null: 20000)."""
    where: str | None = None
    """`column=value`: use only the rows whose column has this value, e.g. `ability=code`."""
    schema: RowSchema = RowSchema.columns
    prompt_column: str = "prompt"
    """Like all columns: dots reach into nested objects and lists, as in `extra.question` or `final_answer.0`."""
    answer_column: str | None = "answer"
    choice_columns: list[str] = field(default_factory=list)
    """Of the wrong answers to multiple-choice questions."""
    id_column: str | None = None
    """Null numbers the rows."""
    answer_pattern: str | None = None
    """Regular expression whose first group is the answer within the answer column, e.g. `####\\s*(.+)` for GSM8K."""
    strip_prefix: str | None = None
    """Regular expression that is removed from the beginning of every question."""
    strip_suffix: str | None = None
    """Regular expression that is removed from the end of every question, before `prompt_suffix` is added."""
    prompt_suffix: str = ""
    """Appended to every question, e.g. the boxed-answer instruction."""
    max_prompt_len: int = 512
    """Tokens; what becomes of longer prompts is `on_long_prompt`."""
    on_long_prompt: LongPromptPolicy = LongPromptPolicy.drop
    on_bad_row: BadRowPolicy = BadRowPolicy.error
    drop_duplicates: bool = True
    """Keep only the first of the questions that are equal but for case, white space and LaTeX spacing."""
    verifier: str | None = None
    """`package.module:function`, called as f(response, answer, metadata) -> float in [0, 1]."""


def check_source(source: SourceConfig, section: str) -> None:
    """Raise ConfigError for a single value out of range; `section` is the dotted key that the source stands under."""
    require(
        source.max_prompt_len >= 1, f"{section}.max_prompt_len", source.max_prompt_len, "must be at least 1", "try 512"
    )
    require(
        source.num_rows is None or source.num_rows >= 1,
        f"{section}.num_rows",
        source.num_rows,
        "must be at least 1",
        "use null for all rows",
    )


def check_sampling(
    section: str,
    *,
    samples_per_prompt: int | None,
    temperature: float | None,
    top_p: float | None,
    max_response_len: int | None,
) -> None:
    """Raise ConfigError for a sampling setting of an evaluation out of range; null is always in range."""
    require(
        samples_per_prompt is None or samples_per_prompt >= 1,
        f"{section}.samples_per_prompt",
        samples_per_prompt,
        "must be at least 1",
        "try 1",
    )
    require(
        temperature is None or temperature >= 0,
        f"{section}.temperature",
        temperature,
        "must not be negative",
        "0 is greedy",
    )
    require(
        top_p is None or 0 < top_p <= 1, f"{section}.top_p", top_p, "must lie in (0, 1]", "1 samples from everything"
    )
    require(
        max_response_len is None or max_response_len >= 1,
        f"{section}.max_response_len",
        max_response_len,
        "must be at least 1",
        "use null for rollout.max_response_len",
    )


@dataclass(slots=True)
class EvalSetConfig(SourceConfig):
    """One evaluation set among several. Where it says null, `data` has the verifier and `eval` the rest."""

    split: str = "test"
    on_long_prompt: LongPromptPolicy = LongPromptPolicy.error
    """A score on part of a set is not the score on the set."""
    drop_duplicates: bool = False
    samples_per_prompt: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    max_response_len: int | None = None
