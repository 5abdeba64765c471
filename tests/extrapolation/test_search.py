"""Searches on hand-made traces: scores in, decisions and step sizes out, for every branch."""

import math

import pytest
from scores_by_hand import gate_score

from effopd.config.schema import AccelerateConfig, AcceptRule
from effopd.config.search_schema import SearchKind
from effopd.extrapolation.gate import Accept, accept_by_value, with_entropy_guard, with_length_guard
from effopd.extrapolation.parabola import optimum
from effopd.extrapolation.search import Judge, accepted_step_size, search, withdrawn
from effopd.types import CandidateRecord, GateScore

STEP_SIZES = (2.0, 4.0, 6.0, 8.0, 10.0)


def score(value: float, mean_response_len: float = 10.0, entropy: float = 1.0) -> GateScore:
    return gate_score([value], mean_response_len, entropy)


def judge_from(values: dict[float, float], accept: Accept) -> Judge:
    """A judge that looks the value of a step size up."""

    def judge(step_size: float, best: GateScore) -> CandidateRecord:
        candidate = score(values[step_size])
        is_accepted, reason = accept(candidate, best)
        return CandidateRecord(step_size=step_size, score=candidate, is_accepted=is_accepted, reason=reason)

    return judge


def trace(
    config: AccelerateConfig, values: dict[float, float], longest: float = math.inf
) -> tuple[list[tuple[float, bool]], float]:
    """Return what was tried, with whether it was accepted in the end, and the step size to settle on. Value 0 at 0."""
    records = search(config, score(0.0), judge_from(values, accept_by_value(config.accept)), longest)
    assert records[0].step_size == 0
    return [(record.step_size, record.is_accepted) for record in records[1:]], accepted_step_size(records)


@pytest.mark.parametrize(
    ("rule", "values", "tried", "accepted"),
    [
        # The first candidate is worse: one evaluation, no jump.
        ("strict", [0.5, 0.4], [2.0], 0.0),
        ("non_worse", [0.5, 0.4], [2.0], 0.0),
        # A tie: refused as released, accepted as printed (and then the next one, worse, ends it).
        ("strict", [0.5, 0.5], [2.0], 0.0),
        ("non_worse", [0.5, 0.5, 0.4], [2.0, 4.0], 2.0),
        # A tie with the best so far, after a gain.
        ("strict", [0.5, 0.6, 0.6], [2.0, 4.0], 2.0),
        ("non_worse", [0.5, 0.6, 0.6, 0.55], [2.0, 4.0, 6.0], 4.0),
        # Compared with the best so far, not with the baseline: 0.55 would beat 0.5 but not 0.6.
        ("strict", [0.5, 0.6, 0.55], [2.0, 4.0], 2.0),
        ("non_worse", [0.5, 0.6, 0.55], [2.0, 4.0], 2.0),
        # The search stops at the first refusal and never sees the better one behind it.
        ("strict", [0.5, 0.6, 0.7, 0.65, 0.9], [2.0, 4.0, 6.0], 4.0),
        # All accepted.
        ("strict", [0.1, 0.2, 0.3, 0.4, 0.5, 0.6], list(STEP_SIZES), 10.0),
        ("non_worse", [0.5, 0.5, 0.5, 0.5, 0.5, 0.5], list(STEP_SIZES), 10.0),
    ],
)
def test_the_ladder_climbs_until_the_first_refusal(
    rule: str, values: list[float], tried: list[float], accepted: float
) -> None:
    accept = accept_by_value(AcceptRule(rule))
    judge = judge_from(dict(zip(STEP_SIZES, values[1:], strict=False)), accept)
    records = search(AccelerateConfig(), score(values[0]), judge, math.inf)
    assert [record.step_size for record in records] == [0.0, *tried]
    assert accepted_step_size(records) == accepted


def test_no_step_size_beyond_the_longest_is_tried() -> None:
    rising = {size: size for size in STEP_SIZES}
    assert trace(AccelerateConfig(), rising, longest=5.0) == ([(2.0, True), (4.0, True)], 4.0)
    assert trace(AccelerateConfig(), rising, longest=1.0) == ([], 0.0)


def test_backtracking_halves_until_the_first_accepted_and_compares_with_the_baseline() -> None:
    config = AccelerateConfig(search=SearchKind.backtracking, step_sizes=[8.0], max_candidates=3)
    assert trace(config, {8.0: -1.0, 4.0: 0.5}) == ([(8.0, False), (4.0, True)], 4.0)
    assert trace(config, {8.0: -1.0, 4.0: -0.5, 2.0: -0.1}) == ([(8.0, False), (4.0, False), (2.0, False)], 0.0)
    # 8 is too long a way; 4 is tried first.
    assert trace(config, {4.0: 0.5}, longest=5.0) == ([(4.0, True)], 4.0)


def test_fixed_tries_one_and_repeat_goes_on_while_it_gets_better() -> None:
    fixed = AccelerateConfig(search=SearchKind.fixed, step_sizes=[3.0])
    assert trace(fixed, {3.0: 0.1}) == ([(3.0, True)], 3.0)
    assert trace(fixed, {3.0: -0.1}) == ([(3.0, False)], 0.0)
    repeat = AccelerateConfig(search=SearchKind.repeat, step_sizes=[0.5], max_candidates=4)
    assert trace(repeat, {0.5: 0.1, 1.0: 0.2, 1.5: 0.15}) == ([(0.5, True), (1.0, True), (1.5, False)], 1.0)
    assert trace(repeat, {0.5: 0.1, 1.0: 0.2, 1.5: 0.3, 2.0: 0.4})[1] == 2.0


def quadratic(best: float) -> dict[float, float]:
    """The values of 2·best·x - x², which is greatest at `best`, wherever a test may look."""
    return {x: 2 * best * x - x * x for x in (0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 10.0)}


PARABOLA = AccelerateConfig(search=SearchKind.parabola, step_sizes=[2.0, 6.0])


@pytest.mark.parametrize(
    ("best", "tried", "accepted"),
    [
        # 2·3·2 - 4 = 8 and 2·3·6 - 36 = 0 at the probes: the optimum is 3, with 9.
        (3.0, [(2.0, False), (6.0, False), (3.0, True)], 3.0),
        # Below the first probe, where the ladder never looks: -2 + ... the probes are worse than the baseline.
        (0.5, [(2.0, False), (6.0, False), (0.5, True)], 0.5),
        # Beyond the trust region: clipped to 10.
        (14.0, [(2.0, False), (6.0, False), (10.0, True)], 10.0),
        # Uphill from the beginning, or so near to 0 that a jump is not worth verifying.
        (-1.0, [(2.0, False), (6.0, False)], 0.0),
        (0.1, [(2.0, False), (6.0, False)], 0.0),
        # At a probe: nothing more to try.
        (2.0, [(2.0, True), (6.0, False)], 2.0),
    ],
)
def test_the_parabola_finds_the_optimum_of_a_quadratic(
    best: float, tried: list[tuple[float, bool]], accepted: float
) -> None:
    assert trace(PARABOLA, quadratic(best)) == (tried, accepted)


def test_a_fit_without_an_optimum_takes_the_better_probe() -> None:
    # A line and a valley have no greatest value.
    assert trace(PARABOLA, {2.0: 1.0, 6.0: 3.0}) == ([(2.0, False), (6.0, True)], 6.0)
    assert trace(PARABOLA, {2.0: -1.0, 6.0: 3.0}) == ([(2.0, False), (6.0, True)], 6.0)
    assert trace(PARABOLA, {2.0: -1.0, 6.0: -0.5}) == ([(2.0, False), (6.0, False)], 0.0)


def test_a_verification_that_fails_leaves_the_better_probe() -> None:
    # The fit through 0, 8 and 12 is 5x - x²/2, greatest at 5, where the loss turns out to have a cliff.
    assert trace(PARABOLA, {2.0: 8.0, 6.0: 12.0, 5.0: -3.0}) == ([(2.0, False), (6.0, True), (5.0, False)], 6.0)


def test_the_trust_region_of_the_parabola_shrinks_with_the_longest_jump() -> None:
    assert trace(PARABOLA, quadratic(14.0) | {7.0: 147.0}, longest=7.0)[1] == 7.0
    # Both probes are halved, to 1 and 3; the optimum is the greater of them.
    assert trace(PARABOLA, quadratic(3.0), longest=3.0) == ([(1.0, False), (3.0, True)], 3.0)


def test_the_optimum_of_a_parabola_follows_from_three_points() -> None:
    # x² would be a valley, -x² + 4x is greatest at 2, 3x is a line.
    assert optimum((1.0, 1.0), (2.0, 4.0), 0.0) is None
    assert optimum((1.0, 3.0), (3.0, 3.0), 0.0) == pytest.approx(2.0)
    assert optimum((1.0, 4.0), (2.0, 7.0), 1.0) is None


def test_a_search_that_is_not_confirmed_keeps_its_reasons() -> None:
    records = search(
        AccelerateConfig(), score(0.0), judge_from({2.0: 1.0, 4.0: 0.5}, accept_by_value(AcceptRule.strict)), math.inf
    )
    refused = withdrawn(records, "not confirmed: not better")
    assert accepted_step_size(refused) == 0.0
    assert refused[0].is_accepted
    assert refused[1].reason == "better; not confirmed: not better"
    assert refused[2] == records[2]


@pytest.mark.parametrize(("length", "is_accepted"), [(10.0, True), (11.9, True), (12.1, False), (7.9, False)])
def test_the_length_guard_refuses_a_better_score_bought_with_length(length: float, is_accepted: bool) -> None:
    baseline = score(0.5, mean_response_len=10.0)
    accept = with_length_guard(accept_by_value(AcceptRule.strict), baseline, max_change=0.2)
    verdict, reason = accept(score(0.9, mean_response_len=length), baseline)
    assert verdict is is_accepted
    assert is_accepted or "length changed" in reason


@pytest.mark.parametrize(("entropy", "is_accepted"), [(1.0, True), (0.81, True), (0.79, False), (1.21, False)])
def test_the_entropy_guard_refuses_a_policy_that_collapses_or_falls_apart(entropy: float, is_accepted: bool) -> None:
    baseline = score(0.5, entropy=1.0)
    accept = with_entropy_guard(accept_by_value(AcceptRule.strict), baseline, max_change=0.2)
    verdict, reason = accept(score(0.9, entropy=entropy), baseline)
    assert verdict is is_accepted
    assert is_accepted or "entropy per token changed" in reason
