"""When a run goes on from its last checkpoint by itself, and when it does not."""

import signal
from pathlib import Path

import pytest

from effopd.checkpoints.store import Checkpoint, CheckpointStore
from effopd.config.schema import ClusterConfig, LearnerConfig, NonfiniteRule, RunConfig
from effopd.errors import ActorLostError, EffOPDError, GradientError
from effopd.restarts import train_with_restarts
from effopd.termination import Terminated, Termination
from effopd.train import SpoiledUpdateError
from effopd.types import RunState


class Attempts:
    """Attempts that end as they are told to, each after saving a checkpoint at a step, or none."""

    def __init__(self, folder: Path, ends: list[tuple[int | None, Exception | None]]) -> None:
        self.folder = folder
        self.store = CheckpointStore(folder, keep_last=2, keep_best=False)
        self.ends = list(ends)
        self.began: list[tuple[int, int]] = []
        """Step and data position that each attempt was begun with."""
        self.num_stops = 0

    def attempt(self, checkpoint: Checkpoint | None, data_position: int) -> None:
        self.began.append((0 if checkpoint is None else checkpoint.state.step, data_position))
        step, error = self.ends.pop(0)
        if step is not None:
            self.store.save(RunState(step=step), lambda folder: None, {}, None)
        (self.folder / "metrics.jsonl").write_text('{"step": 1}\n{"step": 9}\n')
        if error is not None:
            raise error

    def stop(self) -> None:
        self.num_stops += 1

    def run(self, config: RunConfig, termination: Termination | None = None) -> None:
        train_with_restarts(
            self.attempt, None, config, self.folder, self.store, self.stop, termination or Termination()
        )


def config(max_restarts: int = 3, rule: NonfiniteRule = NonfiniteRule.stop) -> RunConfig:
    return RunConfig(cluster=ClusterConfig(max_restarts=max_restarts), learner=LearnerConfig(on_nonfinite=rule))


LOST = ActorLostError("a learner rank died")


def test_after_a_loss_the_run_begins_at_the_last_checkpoint_or_at_the_beginning_without_rows(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path, [(None, LOST), (4, LOST), (None, None)])
    attempts.run(config())
    assert attempts.began == [(0, 0), (0, 0), (4, 0)]
    assert attempts.num_stops == 2


def test_rows_of_a_run_that_begins_at_the_beginning_are_removed(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path, [(None, LOST)])
    with pytest.raises(IndexError):  # there is no second attempt to take
        attempts.run(config())
    assert (tmp_path / "metrics.jsonl").read_text() == ""


@pytest.mark.parametrize("max_restarts", [0, 2])
def test_one_loss_too_many_ends_the_run_with_what_happened_and_how_to_go_on(tmp_path: Path, max_restarts: int) -> None:
    attempts = Attempts(tmp_path, [(1, LOST)] * (max_restarts + 1))
    with pytest.raises(EffOPDError) as raised:
        attempts.run(config(max_restarts))
    assert str(raised.value) == (
        f"a learner rank died\nthe run ends after {max_restarts} restarts (cluster.max_restarts={max_restarts}); "
        f"continue it with resume={tmp_path}"
    )
    assert len(attempts.began) == max_restarts + 1


def test_other_errors_end_the_run_at_once(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path, [(1, GradientError("something"))])
    with pytest.raises(GradientError, match=r"^something$"):
        attempts.run(config())


def test_a_loss_after_sigterm_is_no_reason_to_begin_again(tmp_path: Path) -> None:
    termination = Termination()
    termination.signal_number = signal.SIGTERM
    with pytest.raises(Terminated):
        Attempts(tmp_path, [(1, LOST)]).run(config(), termination)


def test_a_roll_back_leaves_out_the_prompts_that_led_there_until_the_run_is_past_them(tmp_path: Path) -> None:
    ends = [(4, SpoiledUpdateError("NaN", 7)), (None, LOST), (6, SpoiledUpdateError("NaN", 12)), (None, None)]
    attempts = Attempts(tmp_path, ends)
    attempts.run(config(rule=NonfiniteRule.roll_back))
    assert attempts.began == [(0, 0), (4, 7), (4, 7), (6, 12)]


def test_a_second_roll_back_to_the_same_checkpoint_ends_the_run(tmp_path: Path) -> None:
    attempts = Attempts(tmp_path, [(4, SpoiledUpdateError("NaN", 7)), (None, SpoiledUpdateError("NaN again", 8))])
    with pytest.raises(SpoiledUpdateError, match=r"^NaN again$"):
        attempts.run(config(rule=NonfiniteRule.roll_back))


def test_without_the_rule_a_gradient_that_is_not_finite_ends_the_run(tmp_path: Path) -> None:
    with pytest.raises(SpoiledUpdateError, match=r"^NaN$"):
        Attempts(tmp_path, [(4, SpoiledUpdateError("NaN", 7))]).run(config())
