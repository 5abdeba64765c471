"""How rows of every schema become questions, and what is said of rows that cannot."""

import pytest

from effopd.config.source_schema import RowSchema, SourceConfig
from effopd.data.files import Row
from effopd.data.schemas import Question, to_question
from effopd.errors import DataError

USER = {"role": "user", "content": "1+1?"}
ASSISTANT = {"role": "assistant", "content": "It is #### 2"}


def question(source: SourceConfig, values: dict[str, object]) -> Question:
    return to_question(source, Row(values, "a.jsonl, line 7"))


def test_columns_take_a_text_or_messages_and_keep_the_rest_as_metadata() -> None:
    source = SourceConfig(prompt_column="q", answer_column="a")
    assert question(source, {"q": "1+1?", "a": 2, "level": 3}).messages == (USER,)
    found = question(source, {"q": [{"role": "system", "content": "Be brief."}, USER], "a": 2, "level": 3})
    assert (found.text, found.answer, found.metadata) == ("1+1?", "2", {"a": 2, "level": 3})


@pytest.mark.parametrize(
    ("value", "column", "answer"),
    [
        ({"answer": "1,234"}, "answer", "1,234"),
        ({"answer": 142.0}, "answer", "142"),
        ({"answer": 0.5}, "answer", "0.5"),
        ({"final_answer": ["$2$", "$3$"]}, "final_answer.0", "$2$"),
        ({"extra": {"gold": "x"}}, "extra.gold", "x"),
        ({"Correct. Answer": "y"}, "Correct. Answer", "y"),
        ({"answer": ""}, "answer", ""),
    ],
)
def test_answers_are_texts_numbers_or_members_of_lists(value: dict[str, object], column: str, answer: str) -> None:
    assert question(SourceConfig(answer_column=column), {"prompt": "1+1?", **value}).answer == answer


def test_verl_rows_have_their_places() -> None:
    row = {"prompt": [USER], "reward_model": {"ground_truth": "2", "style": "rule"}, "data_source": "MATH"}
    found = question(SourceConfig(schema=RowSchema.verl), dict(row))
    assert (found.messages, found.answer, found.metadata["data_source"]) == ((USER,), "2", "MATH")
    assert question(SourceConfig(schema=RowSchema.auto, prompt_column="problem"), dict(row)) == found


def test_auto_falls_back_on_columns() -> None:
    source = SourceConfig(schema=RowSchema.auto, prompt_column="problem", answer_column="final")
    assert question(source, {"problem": "1+1?", "final": "2"}).answer == "2"


def test_a_chat_ends_before_the_assistants_last_turn_which_is_the_answer() -> None:
    source = SourceConfig(
        schema=RowSchema.chat, prompt_column="messages", answer_column=None, answer_pattern=r"####\s*(.+)"
    )
    found = question(source, {"messages": [USER, ASSISTANT]})
    assert (found.messages, found.answer) == ((USER,), "2")


def test_a_chat_with_an_answer_column_forgets_the_assistants_last_turn() -> None:
    source = SourceConfig(schema=RowSchema.chat, prompt_column="messages", answer_column="gold")
    for messages in ([USER, ASSISTANT], [USER]):
        found = question(source, {"messages": messages, "gold": 4})
        assert (found.messages, found.answer) == ((USER,), "4")


def multiple_choice(text: str) -> Question:
    source = SourceConfig(
        schema=RowSchema.multiple_choice,
        prompt_column="Question",
        answer_column="Right",
        choice_columns=["Wrong 1", "Wrong 2", "Wrong 3"],
    )
    return question(source, {"Question": text, "Right": "yes ", "Wrong 1": "no", "Wrong 2": 2, "Wrong 3": "never"})


def test_the_letter_of_a_multiple_choice_answer_is_that_of_the_right_choice() -> None:
    for number in range(20):
        found = multiple_choice(f"Is it {number}?")
        asked, _, listed = found.text.partition("\n\n")
        choices = dict(line.split(". ") for line in listed.splitlines())
        assert asked == f"Is it {number}?"
        assert sorted(choices) == ["A", "B", "C", "D"]
        assert sorted(choices.values()) == ["2", "never", "no", "yes"]
        assert choices[found.answer] == "yes"


def test_choices_are_shuffled_always_alike_and_not_alike_for_all_questions() -> None:
    assert multiple_choice("Is it?") == multiple_choice("Is it?")
    assert {multiple_choice(f"Is it {number}?").answer for number in range(40)} == {"A", "B", "C", "D"}


CHAT = SourceConfig(schema=RowSchema.chat, answer_column=None)
VERL = SourceConfig(schema=RowSchema.verl)
CHOICE = SourceConfig(schema=RowSchema.multiple_choice, choice_columns=["wrong"])

BAD_ROWS = [
    (SourceConfig(), {"answer": "2"}, ["no field prompt", "the row has answer"]),
    (
        SourceConfig(),
        {"prompt": "1+1?"},
        ["no field answer", "data.answer_column=null where no verifier needs answers"],
    ),
    (SourceConfig(verifier="a:b"), {"prompt": "1+1?"}, ["no field answer; the row has prompt; set data.answer_column"]),
    (SourceConfig(), {"prompt": None, "answer": "2"}, ["field prompt", "not NoneType"]),
    (SourceConfig(), {"prompt": [], "answer": "2"}, ["field prompt", "not an empty list"]),
    (SourceConfig(), {"prompt": ["1+1?"], "answer": "2"}, ["field prompt", "message 0 needs a role and a content"]),
    (SourceConfig(), {"prompt": [USER, {"role": "user", "content": [1]}], "answer": "2"}, ["message 1", "both texts"]),
    (SourceConfig(), {"prompt": "1+1?", "answer": None}, ["field answer", "not NoneType"]),
    (SourceConfig(), {"prompt": "1+1?", "answer": ["2"]}, ["field answer", "not list"]),
    (SourceConfig(answer_column="a.5"), {"prompt": "1+1?", "a": ["2"]}, ["no field a.5"]),
    (SourceConfig(answer_pattern="#(.)"), {"prompt": "1+1?", "answer": "2"}, ["'#(.)' does not match '2'"]),
    (VERL, {"prompt": [USER]}, ["no field reward_model.ground_truth"]),
    (VERL, {"prompt": [USER], "reward_model": "rule"}, ["no field reward_model.ground_truth"]),
    (VERL, {"prompt": [USER], "reward_model": {"ground_truth": {}}}, ["reward_model.ground_truth", "not dict"]),
    (CHAT, {"prompt": [ASSISTANT]}, ["field prompt", "nobody asks"]),
    (CHAT, {"prompt": [USER]}, ["the last turn is the user's", "answer_column"]),
    (CHOICE, {"prompt": "1+1?", "answer": "2"}, ["no field wrong"]),
    (CHOICE, {"prompt": [USER], "answer": "2", "wrong": "3"}, ["field prompt", "a text is needed, not list"]),
]


@pytest.mark.parametrize(("source", "values", "words"), BAD_ROWS, ids=[" ".join(words) for _, _, words in BAD_ROWS])
def test_a_bad_row_names_line_field_and_reason(
    source: SourceConfig, values: dict[str, object], words: list[str]
) -> None:
    with pytest.raises(DataError) as error:
        question(source, values)
    assert all(word in str(error.value) for word in ["a.jsonl, line 7", *words]), str(error.value)
