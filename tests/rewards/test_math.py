import pytest

from effopd.rewards import math as math_rewards
from effopd.rewards.math import extract_final_answer, verify


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("so \\boxed{42}.", "42"),
        ("\\boxed{1} then \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed {7}", "7"),
        ("work\n#### 72", "72"),
        ("line\nlast line", "last line"),
        ("\\boxed{never closed", None),
        ("\\boxed{}", None),
        ("", None),
    ],
)
def test_the_final_answer_is_the_last_box_then_the_hashes_then_the_last_line(
    response: str, expected: str | None
) -> None:
    assert extract_final_answer(response) == expected


@pytest.mark.parametrize(
    ("response", "answer", "score"),
    [
        ("\\boxed{46}", "46", 1.0),
        ("\\boxed{46.0}", "46", 1.0),
        ("\\boxed{1,234}", "1234", 1.0),
        ("\\boxed{3/4}", "0.75", 1.0),
        ("\\boxed{47}", "46", 0.0),
        ("\\boxed{1/0}", "46", 0.0),
        ("\\boxed{\\frac{1}{2}}", "0.5", 1.0),
        ("\\boxed{x^2+1}", "1+x^2", 1.0),
        ("\\boxed{\\{1,2\\}}", "\\{2,1\\}", 1.0),
        ("\\boxed{(2,1)}", "(1,2)", 0.0),
        ("\\boxed{٤٦}", "47", 0.0),
        ("", "46", 0.0),
        ("1" * 5000, "46", 0.0),
        ("\\boxed{" + "7" * 5000 + "}", "7", 0.0),
    ],
)
def test_answers_are_compared_as_mathematics(response: str, answer: str, score: float) -> None:
    assert verify(response, answer, {}) == score


def test_an_answer_that_never_ends_counts_as_wrong_and_the_next_one_is_judged(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(math_rewards, "SECONDS_PER_ANSWER", 1.0)
    assert verify("\\boxed{9^{9^{9^9}}}", "x", {}) == 0.0
    monkeypatch.undo()
    assert verify("\\boxed{x+y}", "y+x", {}) == 1.0
