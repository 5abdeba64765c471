"""The printed ladder on hand-made traces: scores in, decisions out."""

import pytest

from effopd.config.schema import AcceptRule
from effopd.extrapolation.gate import accept_by_value, with_length_guard
from effopd.extrapolation.search import accepted_step_size, ladder
from effopd.types import GateScore

STEP_SIZES = (2.0, 4.0, 6.0, 8.0, 10.0)


def score(value: float, mean_response_len: float = 10.0) -> GateScore:
    return GateScore(
        value=value,
        per_prompt={"a": value},
        accuracy=value,
        reverse_kl_per_token=None,
        reverse_kl_per_sequence=None,
        mean_response_len=mean_response_len,
        num_generated_tokens=100,
    )


@pytest.mark.parametrize(
    ("rule", "values", "tried", "accepted"),
    [
        # The first candidate is worse: one evaluation, no jump.
        ("strict", [0.5, 0.4], [2.0], 0.0),
        # A tie: refused as released, accepted as printed (and then the next one, worse, ends it).
        ("strict", [0.5, 0.5], [2.0], 0.0),
        ("non_worse", [0.5, 0.5, 0.4], [2.0, 4.0], 2.0),
        # Compared with the best so far, not with the baseline: 0.55 would beat 0.5 but not 0.6.
        ("strict", [0.5, 0.6, 0.55], [2.0, 4.0], 2.0),
        # The search stops at the first refusal and never sees the better one behind it.
        ("strict", [0.5, 0.6, 0.7, 0.65, 0.9], [2.0, 4.0, 6.0], 4.0),
        # All accepted.
        ("strict", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], list(STEP_SIZES), 10.0),
    ],
)
def test_the_ladder_climbs_until_the_first_refusal(
    rule: str, values: list[float], tried: list[float], accepted: float
) -> None:
    remaining = iter(values[1:])
    seen: list[float] = []

    def evaluate(step_size: float) -> GateScore:
        seen.append(step_size)
        return score(next(remaining))

    records = ladder(score(values[0]), STEP_SIZES, evaluate, accept_by_value(AcceptRule(rule)))
    assert seen == tried
    assert [record.step_size for record in records] == [0.0, *tried]
    assert accepted_step_size(records) == accepted


@pytest.mark.parametrize(("length", "is_accepted"), [(10.0, True), (11.9, True), (12.1, False), (7.9, False)])
def test_the_length_guard_refuses_a_better_score_bought_with_length(length: float, is_accepted: bool) -> None:
    baseline = score(0.5, mean_response_len=10.0)
    accept = with_length_guard(accept_by_value(AcceptRule.strict), baseline, max_change=0.2)
    verdict, reason = accept(score(0.9, mean_response_len=length), baseline)
    assert verdict is is_accepted
    assert is_accepted or "length changed" in reason
