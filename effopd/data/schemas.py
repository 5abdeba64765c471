"""From a row to a question: one function for each of the schemas that data sets come in."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from random import Random

from effopd.config.source_schema import RowSchema, SourceConfig
from effopd.data.files import Row
from effopd.errors import DataError
from effopd.seeds import derive_seed

Message = Mapping[str, str]
"""One turn of a chat: `role` and `content`."""

VERL_PROMPT, VERL_ANSWER = "prompt", "reward_model.ground_truth"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """What a row asks, before the suffix, the chat template and the tokenizer."""

    messages: tuple[Message, ...]
    """The last one is the user's, and is what prefixes and suffixes belong to."""
    answer: str
    """Empty where there is none; such a question can be distilled but never be answered correctly."""
    metadata: Mapping[str, object]
    """The row's other columns, for verifiers; unit tests are in `code_tests`."""
    location: str
    field: str
    """Where in the row the question stands, for messages."""

    @property
    def text(self) -> str:
        """What is asked, without system messages: what duplicates and contamination are judged by."""
        return "\n".join(turn["content"] for turn in self.messages if turn["role"] != "system")


def to_question(source: SourceConfig, row: Row) -> Question:
    """Return the question of a row. Raises DataError naming location, field and reason."""
    match source.schema:
        case RowSchema.columns:
            return columns(source, row)
        case RowSchema.verl:
            return verl(source, row)
        case RowSchema.auto:
            return verl(source, row) if "reward_model" in row.values else columns(source, row)
        case RowSchema.chat:
            return chat(source, row)
        case RowSchema.multiple_choice:
            return multiple_choice(source, row)
        case RowSchema.humaneval | RowSchema.mbpp | RowSchema.stdio:
            return code(source, row)


def columns(source: SourceConfig, row: Row) -> Question:
    """A text or chat messages in one column, the answer in another."""
    messages = _messages(row, source.prompt_column)
    answer = "" if source.answer_column is None else find_answer(source, row, source.answer_column)
    return _question(row, source.prompt_column, messages, answer)


def verl(source: SourceConfig, row: Row) -> Question:
    """The columns that verl's trainers read."""
    answer = _pick(source, _as_text(find_field(row, VERL_ANSWER), row, VERL_ANSWER), row, VERL_ANSWER)
    return _question(row, VERL_PROMPT, _messages(row, VERL_PROMPT), answer)


def chat(source: SourceConfig, row: Row) -> Question:
    """A conversation whose last turn, if it is the assistant's, is not asked but is the answer unless a column has it."""
    column = source.prompt_column
    messages = _messages(row, column)
    reply = messages[-1]["content"] if messages[-1]["role"] == "assistant" else None
    asked = messages if reply is None else messages[:-1]
    if not asked:
        raise DataError(f"{row.location}, field {column}: the assistant speaks and nobody asks; a user turn is needed")
    if source.answer_column is not None:
        answer = find_answer(source, row, source.answer_column)
    elif reply is not None:
        answer = _pick(source, reply, row, column)
    else:
        raise DataError(
            f"{row.location}, field {column}: the last turn is the {messages[-1]['role']}'s, so there is no answer; "
            "the assistant's is needed, or an answer_column"
        )
    return _question(row, column, asked, answer)


def multiple_choice(source: SourceConfig, row: Row) -> Question:
    """A question with lettered choices, shuffled by a seed that the question's text alone decides.

    So the order is the same in every run and whatever else is in the file, and the right letter is not always the same.
    """
    question = find_field(row, source.prompt_column)
    if not isinstance(question, str):
        raise DataError(
            f"{row.location}, field {source.prompt_column}: a text is needed, not {type(question).__name__}"
        )
    if source.answer_column is None:
        raise DataError(f"{row.location}: multiple choice needs the column of the right answer; set answer_column")
    right = find_answer(source, row, source.answer_column)
    choices = [right, *(_as_text(find_field(row, column), row, column) for column in source.choice_columns)]
    order = list(range(len(choices)))
    Random(derive_seed("choices", question)).shuffle(order)
    lines = [f"{_LETTERS[position]}. {choices[index].strip()}" for position, index in enumerate(order)]
    content = f"{question.strip()}\n\n" + "\n".join(lines)
    messages = ({"role": "user", "content": content},)
    return _question(row, source.prompt_column, messages, _LETTERS[order.index(0)])


def code(source: SourceConfig, row: Row) -> Question:
    """A programming task, whose answer is its unit tests: `metadata["code_tests"]`, for `effopd.rewards.code`."""
    from effopd.rewards import code_tasks  # noqa: PLC0415

    makers = {
        RowSchema.humaneval: code_tasks.humaneval,
        RowSchema.mbpp: code_tasks.mbpp,
        RowSchema.stdio: code_tasks.stdio,
    }
    try:
        task = makers[source.schema](row.values)
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(
            f"{row.location}: no row of schema {source.schema} ({type(error).__name__}: {error})"
        ) from error
    metadata: dict[str, object] = {"code_tests": task.tests}
    if "task_id" in row.values:
        metadata["task_id"] = row.values["task_id"]
    messages = ({"role": "user", "content": task.prompt},)
    return Question(messages=messages, answer="", metadata=metadata, location=row.location, field="prompt")


def find_field(row: Row, column: str, remedy: str = "set data.*_column") -> object:
    """Return the value of `column`; dots reach into nested objects and lists, as in `reward_model.ground_truth`.

    Raises DataError, which ends in `remedy`, where there is no such column.
    """
    if column in row.values:
        return row.values[column]
    value: object = row.values
    for key in column.split("."):
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdigit() and int(key) < len(value):
            value = value[int(key)]
        else:
            names = ", ".join(sorted(row.values))
            raise DataError(f"{row.location}: no field {column}; the row has {names}; {remedy}")
    return value


def find_answer(source: SourceConfig, row: Row, column: str) -> str:
    """Return the answer that stands in `column`, or the part of it that `answer_pattern` picks out."""
    remedy = "set data.answer_column"
    if source.verifier is None:
        remedy += ", or data.answer_column=null where no verifier needs answers"
    return _pick(source, _as_text(find_field(row, column, remedy), row, column), row, column)


def _pick(source: SourceConfig, text: str, row: Row, column: str) -> str:
    if source.answer_pattern is not None:
        match = re.search(source.answer_pattern, text)
        if match is None:
            raise DataError(
                f"{row.location}, field {column}: answer_pattern={source.answer_pattern!r} does not match {text[-80:]!r}"
            )
        text = match.group(1).strip()
    return text


def _as_text(value: object, row: Row, column: str) -> str:
    if isinstance(value, float) and value.is_integer():
        return str(int(value))  # AMC's answers are 142.0 and the like
    if not isinstance(value, str | int | float):
        raise DataError(f"{row.location}, field {column}: a text or number is needed, not {type(value).__name__}")
    return str(value)


def _messages(row: Row, column: str) -> tuple[Message, ...]:
    value = find_field(row, column)
    if isinstance(value, str):
        return ({"role": "user", "content": value},)
    if not isinstance(value, list) or not value:
        what = "an empty list" if isinstance(value, list) else type(value).__name__
        raise DataError(f"{row.location}, field {column}: a text or a list of chat messages is needed, not {what}")
    for number, turn in enumerate(value):
        if not (isinstance(turn, dict) and isinstance(turn.get("role"), str) and isinstance(turn.get("content"), str)):
            raise DataError(f"{row.location}, field {column}: message {number} needs a role and a content, both texts")
    return tuple({"role": turn["role"], "content": turn["content"]} for turn in value)


def _question(row: Row, column: str, messages: tuple[Message, ...], answer: str) -> Question:
    metadata = {key: value for key, value in row.values.items() if key != column}
    return Question(messages=messages, answer=answer, metadata=metadata, location=row.location, field=column)
