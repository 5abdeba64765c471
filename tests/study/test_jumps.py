"""Accept rate, false accepts and regret of triggers made by hand."""

from dataclasses import replace

import pytest
from curves_by_hand import audit, trigger

from effopd.study.jumps import is_harmful, is_harmful_by_accuracy, judge


def test_without_triggers_there_are_no_rates() -> None:
    record = judge([])
    assert (record.num_triggers, record.accept_rate, record.false_accept_rate, record.mean_regret) == (
        0,
        None,
        None,
        None,
    )


def test_without_audits_only_the_accept_rate_is_known() -> None:
    record = judge([trigger(2.0), trigger(0.0), trigger(4.0), trigger(0.0)])
    assert (record.num_triggers, record.num_accepted, record.accept_rate) == (4, 2, 0.5)
    assert (record.num_audited, record.false_accept_rate, record.false_accept_upper_bound) == (0, None, None)


def test_a_jump_is_harmful_only_if_the_reverse_kl_rises_beyond_noise() -> None:
    # One-sided 5 %: 1.645 standard errors.
    assert not is_harmful(audit(0.016, error=0.01))
    assert is_harmful(audit(0.017, error=0.01))
    assert not is_harmful(audit(-0.5, error=0.01))


def test_a_jump_is_harmful_by_accuracy_only_if_the_accuracy_falls_beyond_noise() -> None:
    assert not is_harmful_by_accuracy(audit(0.0, accuracy_change=-0.016, accuracy_error=0.01))
    assert is_harmful_by_accuracy(audit(0.0, accuracy_change=-0.017, accuracy_error=0.01))
    assert not is_harmful_by_accuracy(audit(0.0, accuracy_change=None, accuracy_error=None))


def test_false_accepts_are_harmful_ones_among_audited_accepted_jumps() -> None:
    good, bad = audit(-0.1), audit(0.1)
    # The refused trigger's audit is no trial, nor is the accepted one without an audit.
    record = judge([trigger(2.0, good), trigger(2.0, bad), trigger(0.0, audit(0.0)), trigger(2.0)])
    assert (record.num_accepted, record.num_audited, record.num_harmful, record.false_accept_rate) == (3, 2, 1, 0.5)
    # One event in two: p with 1 - p**2 = 0.05.
    assert record.false_accept_upper_bound == pytest.approx(0.95**0.5, abs=1e-6)


def test_regret_is_what_the_best_step_along_the_line_would_have_gained_more() -> None:
    found, missed = audit(-0.05, regret=0.05, possible_gain=0.1), audit(0.0, regret=0.02, possible_gain=0.02)
    record = judge([trigger(2.0, found), trigger(0.0, missed), trigger(2.0)])
    assert record.num_searched == 2
    assert record.mean_regret == pytest.approx(0.035)
    assert record.lost_share == pytest.approx(0.07 / 0.12)


def test_jumps_that_were_taken_back_are_counted_among_the_accepted() -> None:
    triggers = [trigger(2.0), replace(trigger(4.0), is_taken_back=True), trigger(0.0)]
    record = judge(triggers)
    assert (record.num_accepted, record.num_taken_back) == (2, 1)
