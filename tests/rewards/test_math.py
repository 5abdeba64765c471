"""Mathematical answers, judged where they are judged in a run: in the workers of a pool."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from effopd.rewards.final_answer import extract_final_answer
from effopd.rewards.pool import VerifierPool

MATH = "effopd.rewards.math:verify"
CASES = [json.loads(line) for line in Path(__file__).with_name("math_cases.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def pool() -> Iterator[VerifierPool]:
    # Enough for the slowest fair case, which takes a fifth of a second; the endless ones take all of it.
    with VerifierPool(MATH, 2, 3.0) as pool:
        yield pool


@pytest.fixture(scope="module")
def scores(pool: VerifierPool) -> dict[str, float]:
    found = pool.scores([(case["response"], case["answer"], {"prompt_id": case["what"]}) for case in CASES])
    return {case["what"]: score for case, score in zip(CASES, found, strict=True)}


def test_there_are_enough_cases_and_each_has_a_name_of_its_own() -> None:
    assert len({case["what"] for case in CASES}) == len(CASES) >= 200


@pytest.mark.parametrize("case", CASES, ids=[case["what"] for case in CASES])
def test_an_answer_is_judged_as_mathematics(case: dict, scores: dict[str, float]) -> None:
    assert scores[case["what"]] == case["expected"], f"{case['response'][:200]!r} against {case['answer']!r}"


def test_an_answer_that_never_ends_scores_0_and_the_next_one_is_judged(pool: VerifierPool) -> None:
    num_overruns = pool.num_overruns
    endless, fair = ("\\boxed{9^{9^{9^9}}}", "x+1", {}), ("\\boxed{x+y}", "y+x", {})
    assert pool.scores([endless, fair]) == [0.0, 1.0]
    assert pool.num_overruns == num_overruns + 1


@pytest.mark.parametrize(
    ("response", "expected"),
    [
        ("so \\boxed{42}.", "42"),
        ("\\boxed{1} then \\boxed{2}", "2"),
        ("\\boxed{\\frac{1}{2}}", "\\frac{1}{2}"),
        ("\\boxed{\\{1\\}}", "\\{1\\}"),
        ("\\boxed {7}", "7"),
        ("\\boxed 7.", "7"),
        ("work\n#### 72", "72"),
        ("line\nlast line", "last line"),
        ("line\nThe answer is: 7", "7"),
        ("\\boxed{never closed", None),
        ("\\boxed{}", None),
        ("<think>\\boxed{7}", None),
        ("", None),
    ],
)
def test_the_final_answer_is_the_last_box_then_the_hashes_then_the_last_line(
    response: str, expected: str | None
) -> None:
    assert extract_final_answer(response) == expected
