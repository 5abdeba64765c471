"""Verifiers of the toy tasks, named in a configuration as `effopd.toy.verify:sums` and `effopd.toy.verify:programs`.

They judge the last comma-separated field of a response and nothing else: the steps before it may be wrong or missing.
Comparison is exact, character by character. No response makes them raise.
"""

from collections.abc import Mapping

from effopd.toy.tasks import answer_of, solve_programs


def extract_final_answer(response: str) -> str | None:
    """What is judged, for majority votes; None if that is empty."""
    return answer_of(response) or None


def sums(response: str, answer: str, metadata: Mapping[str, object]) -> float:
    """1.0 if the response ends in the answer, else 0.0. `metadata` is not read."""
    return float(answer_of(response) == answer)


def programs(response: str, answer: str, metadata: Mapping[str, object]) -> float:
    """1.0 if the response ends in what the program of `metadata["prompt"]` prints, else 0.0.

    The program is run; `answer` is not read. Raises ValueError if the prompt is not a program, whatever the response.
    """
    return float(answer_of(response) == answer_of(solve_programs(str(metadata["prompt"]))))
