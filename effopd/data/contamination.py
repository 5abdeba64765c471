"""Which training questions are evaluation questions, or so near that training on them would be training on the test.

Two questions overlap when they are equal but for case, white space and LaTeX spacing, or when they share a run of 13
words. Compared is what is asked: after prefixes and suffixes are stripped, before suffix and chat template are added.
Questions of 13 words or more whose letters and digits are all the same share every run and are reported as equal: they
differ in punctuation and in how formulas are set off.

Not every shared run is a shared question: data sets have instructions, competitions set phrases ("where m and n are
relatively prime positive integers, find m + n").

- A run that more than half the questions of an evaluation set of ten or more have is its instruction, and is ignored.
- A run that more than 20 training questions have is wording. It counts for an evaluation question only when the training
  question shares half of that question's runs; so a benchmark question that a training set holds in a hundred
  paraphrases is found a hundred times.

Only what evaluation questions consist of is held in memory.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

WORDS_IN_RUN = 13
MAX_TRAINING_QUESTIONS = 20
"""That may share a run before it is taken for wording."""
MIN_SET_SIZE = 10
"""Questions from which on a set has an instruction rather than a coincidence in common."""

_LATEX_SPACING = re.compile(r"\\(?:[,;:!> ]|q?quad\b|(?:thin|med|thick|neg)space\b|hspace\*?\{[^{}]*\})|(?<!\\)~")
_WORD = re.compile(r"[^\W_]+")


def normalise(text: str) -> str:
    """Return `text` in lower case, without white space and LaTeX spacing commands."""
    return "".join(_LATEX_SPACING.sub(" ", text).lower().split())


def words_of(text: str) -> list[str]:
    """Return the words of a text: stretches of letters and digits, in lower case."""
    return _WORD.findall(_LATEX_SPACING.sub(" ", text).lower())


def runs_of(words: Sequence[str]) -> set[str]:
    """Return every run of 13 consecutive words; none in a short text."""
    return {" ".join(words[start : start + WORDS_IN_RUN]) for start in range(len(words) - WORDS_IN_RUN + 1)}


def _equality_keys(text: str, words: Sequence[str]) -> list[str]:
    """Return what two texts have in common when they count as equal. In short texts every sign matters: 1+2 is not 1-2."""
    keys = [normalise(text)]
    return [*keys, "words " + "".join(words)] if len(words) >= WORDS_IN_RUN else keys


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """What a training question has in common with evaluation questions. Whether its runs count is known at the end."""

    prompt_id: str
    equal_questions: frozenset[int]
    runs: tuple[str, ...]


@dataclass(slots=True, kw_only=True)
class SetOverlap:
    """How many training questions overlap with one evaluation set; those that are equal are not counted again."""

    equal: int = 0
    shared_run: int = 0
    wording: int = 0
    """Questions that share a run of mere wording, and so do not overlap."""
    prompt_ids: list[str] = field(default_factory=list)


class EvaluationIndex:
    """The questions of every evaluation set, to hold training questions against."""

    def __init__(self, sets: Mapping[str, Sequence[str]]) -> None:
        self._names = tuple(sets)
        self._set_of_question: list[str] = []
        self._num_runs: list[int] = []
        self._questions_of_key: dict[str, list[int]] = {}
        self._questions_of_run: dict[str, list[int]] = {}
        for name, questions in sets.items():
            self._add(name, list({normalise(question): question for question in questions}.values()))

    def _add(self, name: str, questions: Sequence[str]) -> None:
        words = [words_of(question) for question in questions]
        runs = [runs_of(one) for one in words]
        counts = Counter(run for one in runs for run in one)
        is_large = len(questions) >= MIN_SET_SIZE
        instructions = {run for run, count in counts.items() if is_large and count > len(questions) / 2}
        for text, own_words, own_runs in zip(questions, words, runs, strict=True):
            number = len(self._set_of_question)
            self._set_of_question.append(name)
            self._num_runs.append(len(own_runs - instructions))
            for key in _equality_keys(text, own_words):
                self._questions_of_key.setdefault(key, []).append(number)
            for run in own_runs - instructions:
                self._questions_of_run.setdefault(run, []).append(number)

    def match(self, prompt_id: str, text: str) -> Match | None:
        """Return what the training question `text` has in common with evaluation questions; None when nothing."""
        words = words_of(text)
        equal = {number for key in _equality_keys(text, words) for number in self._questions_of_key.get(key, ())}
        runs = tuple(sorted(runs_of(words) & self._questions_of_run.keys()))
        return Match(prompt_id=prompt_id, equal_questions=frozenset(equal), runs=runs) if equal or runs else None

    def overlaps(self, matches: Iterable[Match]) -> dict[str, SetOverlap]:
        """Return, for every evaluation set, which of the training questions that matched overlap with it."""
        matches = list(matches)
        num_training = Counter(run for match in matches for run in match.runs)
        found = {name: SetOverlap() for name in self._names}
        for match in matches:
            equal_sets = {self._set_of_question[number] for number in match.equal_questions}
            near_sets = {self._set_of_question[number] for number in self._near_questions(match, num_training)}
            for name in self._names:
                if name in equal_sets:
                    found[name].equal += 1
                elif name in near_sets:
                    found[name].shared_run += 1
                else:
                    found[name].wording += name in {self._set_of_question[number] for number in self._touched(match)}
                    continue
                found[name].prompt_ids.append(match.prompt_id)
        return found

    def _touched(self, match: Match) -> set[int]:
        """Return the evaluation questions that share any run with a training question."""
        return {number for run in match.runs for number in self._questions_of_run[run]}

    def _near_questions(self, match: Match, num_training: Mapping[str, int]) -> set[int]:
        """Return the evaluation questions that share more than wording with a training question."""
        num_shared = Counter(number for run in match.runs for number in self._questions_of_run[run])
        near = {number for number, count in num_shared.items() if 2 * count >= self._num_runs[number]}
        for run in match.runs:
            if num_training[run] <= MAX_TRAINING_QUESTIONS:
                near.update(self._questions_of_run[run])
        return near
