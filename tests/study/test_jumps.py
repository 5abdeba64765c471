"""Accept rate, false accepts and regret of triggers made by hand."""

import pytest
from curves_by_hand import audit, trigger

from effopd.study.jumps import is_harmful, is_harmful_by_accuracy, judge, regret


def test_without_triggers_there_are_no_rates():
    record = judge([])
    assert (record.num_triggers, record.accept_rate, record.false_accept_rate, record.mean_regret) == (
        0,
        None,
        None,
        None,
    )


def test_without_audits_only_the_accept_rate_is_known():
    record = judge([trigger(2.0), trigger(0.0), trigger(4.0), trigger(0.0)])
    assert (record.num_triggers, record.num_accepted, record.accept_rate) == (4, 2, 0.5)
    assert (record.num_audited, record.false_accept_rate, record.false_accept_upper_bound) == (0, None, None)


def test_a_jump_is_harmful_only_if_the_reverse_kl_rises_beyond_noise():
    # The margin from 0.1 to about 0.1074 is 1.645 * sqrt(0.01 + 0.01153) / 32 = 0.00754.
    assert not is_harmful(audit(0.1, 0.107))
    assert is_harmful(audit(0.1, 0.108))
    # With 4 prompts instead of 1,024 the margin is sixteen times as wide.
    assert not is_harmful(audit(0.1, 0.108, num_prompts=4))


def test_a_jump_is_harmful_by_accuracy_only_if_the_accuracy_falls_beyond_noise():
    # At one half the margin is 1.645 * sqrt(0.5 / 1024) = 0.0363.
    assert not is_harmful_by_accuracy(audit(0.1, 0.1, accuracy_before=0.52, accuracy_after=0.49))
    assert is_harmful_by_accuracy(audit(0.1, 0.1, accuracy_before=0.52, accuracy_after=0.48))


def test_false_accepts_are_harmful_ones_among_audited_accepted_jumps():
    good, bad = audit(0.2, 0.1), audit(0.1, 0.2)
    # The refused trigger's audit is no trial, nor is the accepted one without an audit.
    record = judge([trigger(2.0, good), trigger(2.0, bad), trigger(0.0, audit(0.1, 0.1)), trigger(2.0)])
    assert (record.num_accepted, record.num_audited, record.num_harmful, record.false_accept_rate) == (3, 2, 1, 0.5)
    # One event in two: p with 1 - p**2 = 0.05.
    assert record.false_accept_upper_bound == pytest.approx(0.95**0.5, abs=1e-6)


def test_regret_is_what_the_best_step_along_the_line_would_have_gained_more():
    found = audit(0.2, 0.15, oracle=[(2.0, 0.15), (4.0, 0.1), (6.0, 0.3)])
    missed = audit(0.2, 0.2, oracle=[(2.0, 0.18)])  # refused
    assert regret(found) == pytest.approx(0.05)
    record = judge([trigger(2.0, found), trigger(0.0, missed), trigger(2.0, audit(0.2, 0.1))])
    # Regrets 0.05 and 0.02 of possible gains 0.1 and 0.02; an audit without an oracle says nothing of regret.
    assert record.num_searched == 2
    assert record.mean_regret == pytest.approx(0.035)
    assert record.lost_share == pytest.approx(0.07 / 0.12)


def test_a_step_that_beats_every_oracle_step_has_no_regret():
    assert regret(audit(0.2, 0.1, oracle=[(2.0, 0.15)])) == 0.0
