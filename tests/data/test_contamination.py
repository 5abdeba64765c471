"""When a training question counts as an evaluation question, and which set phrases do not make it one."""

import pytest

from effopd.data.contamination import EvaluationIndex, SetOverlap, normalise, runs_of, words_of

WORDS = [f"word{number}" for number in range(40)]
QUESTION = "A train leaves the station at noon and travels north at sixty miles an hour for three hours; how far?"


def overlaps(sets: dict[str, list[str]], training: list[str]) -> dict[str, SetOverlap]:
    index = EvaluationIndex(sets)
    matches = [match for number, text in enumerate(training) if (match := index.match(str(number), text))]
    return index.overlaps(matches)


def sentence(first: int, num_words: int) -> str:
    return " ".join(WORDS[first : first + num_words])


@pytest.mark.parametrize(
    "text",
    [
        "$f(x)=\\frac12$",
        "$F(x) =\\,\\frac12$",
        "$f\\!(x)\\;=\\quad\\frac12$\n",
        "$f(x)\\ =~\\frac 1 2$",
        "$f(x)\\hspace{1cm}=\\frac12$",
    ],
)
def test_case_space_and_latex_spacing_do_not_matter(text: str) -> None:
    assert normalise(text) == "$f(x)=\\frac12$"


def test_no_other_latex_command_is_taken_for_spacing() -> None:
    assert normalise("\\quadratic \\,x \\{1\\}") == "\\quadraticx\\{1\\}"


def test_twelve_shared_words_are_no_run_and_thirteen_are() -> None:
    assert overlaps({"a": [sentence(0, 20)]}, ["x " + sentence(3, 12) + " y"])["a"].shared_run == 0
    assert overlaps({"a": [sentence(0, 20)]}, ["x " + sentence(3, 13) + " y"])["a"].shared_run == 1


def test_words_are_letters_and_digits_whatever_stands_between_them() -> None:
    assert runs_of(words_of("a_b c-d, E! f\\,g 1 2 3 4 5 6")) == {"a b c d e f g 1 2 3 4 5 6"}


def test_an_equal_question_is_found_however_short_and_counted_once() -> None:
    found = overlaps({"a": ["What is 1 + 1?", QUESTION]}, ["what is 1+1 ?", QUESTION.upper(), "What is 1 + 2?"])["a"]
    assert (found.equal, found.shared_run, found.prompt_ids) == (2, 0, ["0", "1"])


def test_every_set_has_its_own_count() -> None:
    found = overlaps({"a": [QUESTION], "b": [QUESTION, sentence(0, 15)], "c": ["other"]}, [QUESTION, sentence(1, 14)])
    assert [(one.equal, one.shared_run) for one in found.values()] == [(1, 0), (1, 1), (0, 0)]


def test_an_instruction_that_a_set_has_in_common_is_no_overlap() -> None:
    instruction = sentence(0, 20)
    evaluation = [f"{instruction} question {number}" for number in range(10)]
    training = [f"{instruction} problem {number}" for number in range(3)]
    assert overlaps({"a": evaluation}, training)["a"].shared_run == 0
    # An equal question is one all the same.
    assert overlaps({"a": evaluation}, [evaluation[3]])["a"].equal == 1


def test_a_phrase_that_many_training_questions_have_is_wording() -> None:
    phrase = sentence(0, 13)
    # One run of the three that this question of 15 words has.
    evaluation = [f"first {phrase} last"]
    training = [f"{number} {phrase} {number}" for number in range(21)]
    found = overlaps({"a": evaluation}, training)["a"]
    assert (found.shared_run, found.wording) == (0, 21)
    found = overlaps({"a": evaluation}, training[:20])["a"]
    assert (found.shared_run, found.wording) == (20, 0)


def test_wording_counts_where_half_the_runs_of_a_question_are_shared() -> None:
    phrase = sentence(0, 14)
    training = [f"{number} {phrase} {number}" for number in range(21)]
    # 16 words are four runs, two of which are in the phrase; 17 words are five.
    assert overlaps({"a": [f"first {phrase} last"]}, training)["a"].shared_run == 21
    assert overlaps({"a": [f"the first {phrase} last"]}, training)["a"].shared_run == 0


def test_long_questions_that_differ_in_signs_only_are_equal_and_short_ones_are_not() -> None:
    assert overlaps({"a": [QUESTION]}, [QUESTION.replace(",", " --").replace(";", "$")])["a"].equal == 1
    assert overlaps({"a": ["What is 1+2?"]}, ["What is 1-2?"])["a"].equal == 0


def test_a_hundred_paraphrases_of_one_evaluation_question_are_all_found() -> None:
    training = [f"{number}: {QUESTION} Explain." for number in range(100)]
    assert overlaps({"a": [QUESTION, "other"]}, training)["a"].shared_run == 100
    # In two sets it is still one question.
    assert overlaps({"a": [QUESTION], "b": [QUESTION.lower()]}, training)["b"].shared_run == 100
