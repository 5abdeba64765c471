"""Time is a partition: whatever is opened when, the phases and "other" add up to the clock."""

import json

import pytest

from effopd.ledger import Ledger


class Clock:
    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now

    def tick(self, seconds):
        self.now += seconds


@pytest.fixture
def clock():
    return Clock()


def test_time_outside_phases_is_other_and_start_up_is_nothing(clock):
    ledger = Ledger(clock)
    clock.tick(50)  # start-up: before the first phase
    with ledger.phase("generate"):
        clock.tick(3)
    clock.tick(2)
    with ledger.phase("train"):
        clock.tick(5)
    # 3 + 2 + 5 = 10 seconds on the clock since the first phase.
    assert [(row.phase, row.seconds, row.share) for row in ledger.totals()] == [
        ("generate", 3, 0.3),
        ("train", 5, 0.5),
        ("other", 2, 0.2),
    ]
    assert ledger.total_seconds == 10


def test_a_nested_phase_is_charged_to_the_outermost(clock):
    ledger = Ledger(clock)
    with ledger.phase("gate"):
        clock.tick(1)
        with ledger.phase("generate"):
            clock.tick(2)
            assert ledger.current_phase == "gate"
        clock.tick(4)
    assert [(row.phase, row.seconds) for row in ledger.totals()] == [("gate", 7)]


def test_a_step_has_the_seconds_since_the_step_before(clock):
    ledger = Ledger(clock)
    with ledger.phase("train"):
        clock.tick(1)
    assert ledger.end_step()["train"] == 1
    with ledger.phase("eval"):
        clock.tick(2)
    with ledger.phase("train"):
        clock.tick(3)
    clock.tick(4)
    seconds = ledger.end_step()
    assert {phase: value for phase, value in seconds.items() if value} == {"eval": 2, "train": 3, "other": 4}


def test_seconds_of_an_audit_move_out_of_the_gate_they_were_spent_in(clock):
    ledger = Ledger(clock)
    with ledger.phase("gate"):
        clock.tick(5)
    ledger.transfer("gate", "audit", 3)
    assert [(row.phase, row.seconds) for row in ledger.totals()] == [("gate", 2), ("audit", 3)]
    assert (ledger.training_seconds, ledger.total_seconds) == (2, 5)


def test_training_seconds_leave_out_audits_evaluation_and_saving(clock):
    ledger = Ledger(clock)
    for phase in ("generate", "eval", "save", "gate", "audit"):
        with ledger.phase(phase):
            clock.tick(1)
    clock.tick(0.5)
    assert ledger.training_seconds == 2.5


def test_the_bubble_is_what_training_takes_beyond_the_learners_own_phases(clock):
    ledger = Ledger(clock)
    assert ledger.bubble_share == 0
    for phase, seconds in (("wait", 2), ("train", 4), ("publish", 1), ("eval", 50), ("gate", 1), ("generate", 1)):
        with ledger.phase(phase):
            clock.tick(seconds)
    clock.tick(1)
    # Of 10 s without the evaluation the learner had 6 to do: it waited 2 + 1 for samples and 1 for the driver.
    assert ledger.bubble_share == pytest.approx(0.4)


def test_a_phase_that_fails_is_charged_and_closed(clock):
    ledger = Ledger(clock)
    with pytest.raises(RuntimeError), ledger.phase("train"):
        clock.tick(2)
        raise RuntimeError
    assert ledger.current_phase == "other"
    assert ledger.training_seconds == 2


def test_tokens_per_second_are_those_of_the_phase(clock):
    ledger = Ledger(clock)
    with ledger.phase("generate"):
        clock.tick(4)
    with ledger.phase("publish"):
        clock.tick(1)
    ledger.add_tokens("generate", 100)
    # 100 tokens in 4 seconds; publishing handles none.
    assert [(row.phase, row.tokens_per_second) for row in ledger.totals()] == [("generate", 25), ("publish", None)]


def test_a_restored_ledger_goes_on_where_it_was_saved(clock):
    ledger = Ledger(clock)
    with ledger.phase("train"):
        clock.tick(3)
    ledger.add_tokens("train", 30)
    with ledger.phase("save"):
        clock.tick(1)
        state = json.loads(json.dumps(ledger.state()))  # in the middle of saving, as a checkpoint does
    later = Ledger(clock)
    later.restore(state)
    clock.tick(1000)  # down
    with later.phase("train"):
        clock.tick(2)
    assert [(row.phase, row.seconds, row.tokens_per_second) for row in later.totals()] == [
        ("train", 5, 6),
        ("save", 1, None),
    ]
    assert later.end_step()["train"] == 2


def test_an_unknown_phase_is_refused(clock):
    with pytest.raises(AssertionError, match="unknown phase generat"), Ledger(clock).phase("generat"):
        pass
