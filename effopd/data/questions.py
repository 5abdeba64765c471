"""From the rows of a data set to its questions: bad rows, other rows and duplicates taken out, prefixes and suffixes off."""

import hashlib
import logging
import re
from collections.abc import Iterator
from dataclasses import replace

from effopd.config.source_schema import CODE_SCHEMAS, BadRowPolicy, RowSchema, SourceConfig
from effopd.data.contamination import normalise
from effopd.data.files import BadRow, Row
from effopd.data.report import ReadReport
from effopd.data.schemas import Question, find_field, to_question
from effopd.data.sources import read_rows
from effopd.errors import DataError

MBPP_TRAINING_TASKS = range(601, 975)
"""By their numbers in MBPP's own file, whose other tasks are for testing, validation and prompts (arXiv:2108.07732)."""

logger = logging.getLogger(__name__)


def read_questions(source: SourceConfig, report: ReadReport) -> Iterator[tuple[str, Question]]:
    """Yield prompt ids and questions, counting in `report` what is taken out.

    Raises DataError naming file, line, field and reason for a bad row, unless `on_bad_row` skips it.
    """
    first_answers: dict[bytes, str] = {}
    ids: set[str] = set()
    rewriting = _Rewriting(source)
    for number, row in enumerate(read_rows(source)):
        report.num_rows += 1
        try:
            if isinstance(row, BadRow):
                raise DataError(f"{row.location}: {row.reason}")
            if not _is_wanted(source, row):
                report.num_left_out += 1
                continue
            question = rewriting.apply(to_question(source, row))
            if source.drop_duplicates and _is_duplicate(question, first_answers, report):
                continue
            prompt_id = f"{source.path}:{source.split}:{number}"
            if source.id_column is not None:
                prompt_id = str(find_field(row, source.id_column))
            if prompt_id in ids:
                raise DataError(f"{row.location}, field {source.id_column}: {prompt_id} appears twice")
        except DataError as error:
            if source.on_bad_row is BadRowPolicy.error:
                raise
            report.add_bad_row(str(error))
            continue
        if source.id_column is not None:
            ids.add(prompt_id)
        report.num_without_answer += not question.answer.strip() and _has_answers(source)
        yield prompt_id, question
    rewriting.warn(source, report)


def _is_wanted(source: SourceConfig, row: Row) -> bool:
    if source.schema is RowSchema.mbpp and source.split == "train":
        task_id = row.values.get("task_id")
        if isinstance(task_id, int) and task_id not in MBPP_TRAINING_TASKS:
            return False
    if source.where is None:
        return True
    column, _, value = source.where.partition("=")
    return str(find_field(row, column.strip())) == value.strip()


def _has_answers(source: SourceConfig) -> bool:
    return source.schema not in CODE_SCHEMAS and (source.answer_column is not None or source.schema is RowSchema.chat)


def _is_duplicate(question: Question, first_answers: dict[bytes, str], report: ReadReport) -> bool:
    # A hash, for the texts of a million questions would not be kept for this alone.
    key = hashlib.blake2b(normalise(question.text).encode(), digest_size=16).digest()
    if key not in first_answers:
        first_answers[key] = question.answer
        return False
    report.num_duplicates += 1
    report.num_conflicting_duplicates += question.answer != first_answers[key]
    return True


class _Rewriting:
    """Takes `strip_prefix` and `strip_suffix` off questions and remembers whether they ever matched."""

    def __init__(self, source: SourceConfig) -> None:
        self._prefix = None if source.strip_prefix is None else re.compile(source.strip_prefix)
        self._suffix = None if source.strip_suffix is None else re.compile(f"(?:{source.strip_suffix})\\Z")
        self._unmatched = {"strip_prefix": self._prefix is not None, "strip_suffix": self._suffix is not None}

    def apply(self, question: Question) -> Question:
        """Return the question rewritten. Raises DataError when nothing of it is left."""
        last = question.messages[-1]
        content = last["content"]
        if self._prefix is not None and (match := self._prefix.match(content)):
            content = content[match.end() :]
            self._unmatched["strip_prefix"] = False
        if self._suffix is not None and (match := self._suffix.search(content)):
            content = content[: match.start()]
            self._unmatched["strip_suffix"] = False
        if not content.strip():
            raise DataError(f"{question.location}, field {question.field}: the prompt is empty and has no tokens")
        return replace(question, messages=(*question.messages[:-1], {**last, "content": content}))

    def warn(self, source: SourceConfig, report: ReadReport) -> None:
        """Say so when a pattern matched nowhere: for a set that comes in several forms that may be right."""
        for name, is_unmatched in self._unmatched.items():
            if is_unmatched and report.num_rows:
                pattern = getattr(source, name)
                logger.info("%s: %s.%s=%s matched no question", source.path, report.section, name, pattern)
