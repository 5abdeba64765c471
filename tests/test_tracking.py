"""What a run writes down, and that a resumed run's files are those of one never interrupted."""

import json
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
from rich.console import Console

from effopd.config.schema import LoggerConfig, RunConfig, WandbMode
from effopd.console import RunConsole, StepSummary, format_duration, step_line, trigger_line
from effopd.errors import ConfigError, DataError
from effopd.jsonl import JsonLines, keep_rows_through, read_rows
from effopd.ledger import Ledger
from effopd.provenance import git_source
from effopd.smoothing import exponential_average, final_weights
from effopd.tracking import RunTracker, discard_records_after
from effopd.types import (
    Audit,
    CandidateRecord,
    Displacement,
    EvalReport,
    FinishReason,
    GateScore,
    PolicyVersion,
    RollBack,
    Rollout,
    RunState,
    TriggerKind,
    TriggerRecord,
)


def plain_console(width=80):
    output = StringIO()
    return RunConsole(Console(file=output, force_terminal=False, width=width)), output


def make_config(**logger):
    return RunConfig(name="test", num_steps=6, logger=LoggerConfig(**logger))


def open_tracker(run_dir, resumed=None, ledger=None, **logger):
    console, output = plain_console()
    tracker = RunTracker(run_dir, make_config(**logger), resumed, ledger, console, command=["effopd", "train"])
    return tracker, output


def gate_score(value, reverse_kl=None, accuracy=None):
    return GateScore(
        value=value,
        per_prompt={"p0": value},
        accuracy=accuracy,
        reverse_kl_per_token=reverse_kl,
        reverse_kl_per_sequence=None,
        mean_response_len=10.0,
        num_generated_tokens=50,
    )


def trigger(step, candidates, accepted):
    return TriggerRecord(
        step=step,
        displacement=Displacement(
            norm=1.0, relative_norm=0.01, cosine_to_previous=None, slope=-0.1, direction_norm=1.0, num_updates=4
        ),
        candidates=tuple(candidates),
        accepted_step_size=accepted,
        num_generated_tokens=50 * len(candidates),
        seconds=0.5,
    )


def candidate(step_size, score, is_accepted, reason=""):
    return CandidateRecord(step_size=step_size, score=score, is_accepted=is_accepted, reason=reason)


KL_JUMP = trigger(
    8,
    [
        candidate(0, gate_score(-0.21, reverse_kl=0.21), True, "baseline"),
        candidate(2, gate_score(-0.1, reverse_kl=0.1), True, "better"),
        candidate(4, gate_score(-0.083, reverse_kl=0.083), True, "better"),
        candidate(6, gate_score(-0.3, reverse_kl=0.3), False, "worse"),
    ],
    4,
)


def rollout(index):
    return Rollout(
        prompt_id=f"p{index}",
        sample_index=0,
        prompt_token_ids=(1, 2),
        response_token_ids=torch.tensor([3, 4, 5]),
        rollout_logprobs=torch.tensor([-0.5, -0.25, -1.0]),
        text="=46",
        finish_reason=FinishReason.STOP,
        seed=7,
        policy_version=PolicyVersion(step=2),
    )


def report(step):
    return EvalReport(
        step=step,
        score=step / 10,
        standard_error=0.01,
        mean_response_len=3.0,
        truncation_rate=0.0,
        num_generated_tokens=9,
        per_prompt={"a": 1.0, "b": 0.0},
    )


def state_at(step, seconds=None):
    gate = 50 * (step // 2)
    return RunState(
        step=step,
        data_position=step,
        num_generated_tokens=100 * step + gate,
        num_gate_tokens=gate,
        seconds=float(step) if seconds is None else seconds,
    )


def run_steps(tracker, first, last):
    """Log as the loop does: trigger, step, rollouts, evaluation."""
    for step in range(first, last + 1):
        with tracker.phase("train"):
            pass
        if step % 2 == 0:
            tracker.log_trigger(trigger(step, [candidate(0, gate_score(0.5), True)], 0))
        tracker.log_step(state_at(step), {"loss": 1.0 / step, "reverse_kl": 0.5 / step})
        if step % 2 == 1:
            tracker.log_rollouts(step, [rollout(0), rollout(1)])
        tracker.log_eval(state_at(step), report(step))


def without_seconds(path):
    return [{key: value for key, value in row.items() if key != "seconds"} for row in read_rows(path)]


def test_a_step_is_one_row_with_metrics_tokens_and_seconds(tmp_path):
    now = iter(range(1000))
    tracker, _ = open_tracker(tmp_path, ledger=Ledger(lambda: float(next(now))))
    tracker.log_step(state_at(1), {"loss": 0.5})
    with tracker.phase("generate"):
        pass
    tracker.log_step(state_at(2), {"loss": float("nan")})
    tracker.close()
    first, second = read_rows(tmp_path / "metrics.jsonl")
    assert first["step"] == 1
    assert first["metrics"] == {"loss": 0.5}
    assert first["tokens"] == {
        "generated": 100,
        "gate": 0,
        "total_generated": 100,
        "total_gate": 0,
        "total_teacher": 100,
    }
    # Step 2 trains on 100 tokens and its trigger generates 50. JSON has no NaN.
    assert second["metrics"] == {"loss": None}
    assert second["tokens"] == {
        "generated": 150,
        "gate": 50,
        "total_generated": 250,
        "total_gate": 50,
        "total_teacher": 200,  # no trigger was logged, which would say whether the teacher scored its tokens
    }
    # The clock moves by one whenever it is read: at the start of the phase, at its end and at the row.
    assert {phase: value for phase, value in second["seconds"].items() if value} == {
        "generate": 1,
        "other": 1,
        "total_training": 2,
    }


def test_what_another_thread_does_takes_none_of_the_loops_time(tmp_path):
    now = iter(range(1000))
    tracker, _ = open_tracker(tmp_path, ledger=Ledger(lambda: float(next(now))))

    def sample_ahead():
        with tracker.phase("generate"):
            assert tracker.ledger.current_phase == "wait"

    with tracker.phase("wait"), ThreadPoolExecutor(1) as pool:
        pool.submit(sample_ahead).result()
    tracker.log_step(state_at(1), {})
    tracker.close()
    (row,) = read_rows(tmp_path / "metrics.jsonl")
    # The clock moves by one whenever it is read: at both ends of "wait" and at the row.
    del row["seconds"]["total_training"]  # which is the state's
    assert {phase: value for phase, value in row["seconds"].items() if value} == {"wait": 1, "other": 1}


def test_the_smoothed_score_follows_the_exponential_average(tmp_path):
    # alpha = 2 / (3 + 1) = 1/2 over scores 0.0, 0.1, 0.2: 0, 0.05, 0.125.
    tracker, _ = open_tracker(tmp_path)
    assert tracker.ema_score is None
    for step in range(3):
        tracker.log_eval(state_at(step), report(step))
    assert [row["ema_score"] for row in read_rows(tmp_path / "eval.jsonl")] == pytest.approx([0.0, 0.05, 0.125])
    assert tracker.ema_score == pytest.approx(0.125)
    assert exponential_average([0.0, 0.1, 0.2], 3) == pytest.approx([0.0, 0.05, 0.125])
    # The last average in terms of the scores: 1/4, 1/4, 1/2.
    assert final_weights(3, 3) == [0.25, 0.25, 0.5]


def test_an_evaluation_row_says_what_training_had_cost_by_then(tmp_path):
    tracker, _ = open_tracker(tmp_path)
    tracker.log_eval(state_at(2), report(2))
    (row,) = read_rows(tmp_path / "eval.jsonl")
    assert row["tokens"] == {"total_generated": 250, "total_gate": 50, "total_teacher": 0, "evaluation": 9}
    assert row["seconds"] == {"total_training": 2.0}
    assert row["per_prompt"] == {"a": 1.0, "b": 0.0}


def test_teacher_tokens_and_verifier_calls_add_up_over_steps_triggers_and_evaluations(tmp_path):
    tracker, _ = open_tracker(tmp_path)
    tracker.log_eval(state_at(0), report(0))
    tracker.log_step(state_at(1), {})
    # Two candidates of 50 tokens in 5 responses each; the teacher scores both, the verifier one.
    scores = [gate_score(0.5, reverse_kl=0.1, accuracy=0.5), gate_score(0.5, reverse_kl=0.1)]
    tracker.log_trigger(trigger(2, [candidate(size, score, True) for size, score in enumerate(scores)], 0))
    tracker.count_train_rewards(64)
    tracker.log_step(state_at(2), {})
    tracker.log_eval(state_at(2), report(2))
    steps, evals = read_rows(tmp_path / "metrics.jsonl"), read_rows(tmp_path / "eval.jsonl")
    # 100 tokens a step for training. An evaluation has 9 tokens of mean length 3: three responses.
    assert [row["tokens"]["total_teacher"] for row in steps] == [100, 300]
    assert [row["calls"] for row in steps] == [
        {"total_train": 0, "total_gate": 0, "total_eval": 3},
        {"total_train": 64, "total_gate": 5, "total_eval": 3},
    ]
    assert [row["tokens"]["total_teacher"] for row in evals] == [0, 300]
    assert evals[-1]["calls"] == {"total_train": 64, "total_gate": 5, "total_eval": 6}


def test_a_trigger_is_one_row_with_all_candidates(tmp_path):
    tracker, _ = open_tracker(tmp_path)
    tracker.log_trigger(KL_JUMP)
    (row,) = read_rows(tmp_path / "extrapolation.jsonl")
    assert row["accepted_step_size"] == 4
    assert [entry["step_size"] for entry in row["candidates"]] == [0, 2, 4, 6]
    assert row["candidates"][3]["score"]["per_prompt"] == {"p0": -0.3}
    assert row["displacement"]["cosine_to_previous"] is None


def test_rollouts_are_a_parquet_file_per_step(tmp_path):
    tracker, _ = open_tracker(tmp_path)
    tracker.log_rollouts(2, [rollout(0), rollout(1)])
    assert [path.name for path in (tmp_path / "rollouts").iterdir()] == ["step_000002.parquet"]
    rows = pq.read_table(tmp_path / "rollouts" / "step_000002.parquet").to_pylist()
    assert [row["prompt_id"] for row in rows] == ["p0", "p1"]
    assert rows[0]["response_token_ids"] == [3, 4, 5]
    assert rows[0]["rollout_logprobs"] == [-0.5, -0.25, -1.0]
    assert (rows[0]["finish_reason"], rows[0]["policy_version"]) == ("stop", "2.0")


def test_a_resumed_run_has_the_files_of_an_uninterrupted_one(tmp_path):
    whole, _ = open_tracker(tmp_path / "whole")
    run_steps(whole, 1, 6)
    whole.close()

    # Killed while writing step 5 after a checkpoint at step 3.
    cut, _ = open_tracker(tmp_path / "cut")
    run_steps(cut, 1, 5)
    with (tmp_path / "cut" / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 6, "metr')
    (tmp_path / "cut" / "rollouts" / ".step_000005.tmp.parquet").write_bytes(b"PAR1")
    resumed, _ = open_tracker(tmp_path / "cut", resumed=state_at(3))
    run_steps(resumed, 4, 6)
    resumed.close()

    for name in ("metrics.jsonl", "eval.jsonl", "extrapolation.jsonl"):
        assert without_seconds(tmp_path / "cut" / name) == without_seconds(tmp_path / "whole" / name), name
    rollouts = [sorted(path.name for path in (tmp_path / run / "rollouts").iterdir()) for run in ("whole", "cut")]
    assert rollouts[0] == rollouts[1] == [f"step_{step:06d}.parquet" for step in (1, 3, 5)]


def test_a_restored_ledger_continues_the_training_seconds(tmp_path):
    now = iter(range(1000))
    tracker, _ = open_tracker(tmp_path, ledger=Ledger(lambda: float(next(now))))
    with tracker.phase("train"):
        pass
    state = tracker.ledger.state()
    ledger = Ledger()
    ledger.restore(state)
    resumed, _ = open_tracker(tmp_path, resumed=RunState(step=1), ledger=ledger)
    assert resumed.training_seconds() == sum(state["seconds"].values()) > 0


def test_discarding_after_minus_one_empties_the_records(tmp_path):
    tracker, _ = open_tracker(tmp_path)
    tracker.log_eval(state_at(0), report(0))
    run_steps(tracker, 1, 2)
    discard_records_after(tmp_path, -1)
    assert [read_rows(tmp_path / name) for name in ("metrics.jsonl", "eval.jsonl", "extrapolation.jsonl")] == [
        [],
        [],
        [],
    ]
    open_tracker(tmp_path)


def test_a_new_run_does_not_write_into_the_folder_of_another(tmp_path):
    tracker, _ = open_tracker(tmp_path)
    run_steps(tracker, 1, 1)
    with pytest.raises(ConfigError, match="holds the records of another run; choose another folder"):
        open_tracker(tmp_path)


def test_a_torn_row_is_ignored_by_readers_and_removed_by_the_next_writer(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"step": 1}\n{"st')
    assert read_rows(path) == [{"step": 1}]
    rows = JsonLines(path)
    rows.append({"step": 2})
    assert path.read_bytes() == b'{"step": 1}\n{"step": 2}\n'


def test_a_bad_row_is_named_by_file_and_line(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"step": 1}\nnonsense\n{"step": 3}\n')
    with pytest.raises(DataError, match=r"rows\.jsonl, line 2: not valid JSON"):
        read_rows(path)
    path.write_bytes(b"[1]\n")
    with pytest.raises(DataError, match=r"rows\.jsonl, line 1: must be a JSON object"):
        read_rows(path)


def test_rows_kept_are_kept_to_the_byte(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'{"step":1,  "x": 0.10}\n{"step": 2}\n')
    keep_rows_through(path, 1)
    assert path.read_bytes() == b'{"step":1,  "x": 0.10}\n'
    assert [entry.name for entry in tmp_path.iterdir()] == ["rows.jsonl"]


def test_rows_are_complete_or_absent_after_a_kill(tmp_path):
    path = tmp_path / "rows.jsonl"
    for _ in range(10):
        before = len(read_rows(path)) if path.exists() else 0
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            rows = JsonLines(path)
            for step in range(10**6):
                rows.append({"step": step, "values": list(range(500))})
                os.write(writer, b".")
        os.close(writer)
        for _ in range(3):
            os.read(reader, 1)
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        rows = read_rows(path)
        # Whatever the child had reported written is there.
        assert len(rows) >= before + 3
        assert all(row["values"] == list(range(500)) for row in rows)
        os.close(reader)


def test_versions_have_one_entry_per_start_and_nothing_of_the_environment(tmp_path, monkeypatch):
    monkeypatch.setenv("SOME_API_KEY", "very-secret-value")
    open_tracker(tmp_path)
    open_tracker(tmp_path, resumed=RunState())
    text = (tmp_path / "versions.json").read_text()
    assert "very-secret-value" not in text
    starts = json.loads(text)["starts"]
    assert len(starts) == 2
    assert starts[0]["command"] == ["effopd", "train"]
    assert starts[0]["versions"]["torch"] == torch.__version__
    assert starts[0]["python"] == sys.version.split()[0]


def test_the_git_source_is_that_of_a_tracked_package_only(tmp_path):
    def git(*arguments):
        identity = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        subprocess.run(["git", "-C", tmp_path, *identity, *arguments], check=True, capture_output=True)

    for name in ("tracked", "installed"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text("")
    assert git_source(tmp_path / "tracked") is None
    git("init")
    git("add", "tracked")
    git("commit", "-m", "x")
    assert git_source(tmp_path / "installed") is None
    source = git_source(tmp_path / "tracked")
    assert source is not None
    assert len(str(source["commit"])) == 40
    assert source["is_dirty"] is False
    (tmp_path / "tracked" / "__init__.py").write_text("changed = True")
    changed = git_source(tmp_path / "tracked")
    assert changed is not None and changed["is_dirty"] is True


# --- console ---


def test_a_step_line_has_numbers_and_shares():
    summary = StepSummary(
        step=12,
        num_steps=40,
        metrics={"loss": 0.1234, "reverse_kl": 0.0451, "grad_norm": 3.0},
        score=0.61,
        tokens_per_second=1234.4,
        seconds={"generate": 4.5, "train": 5.495, "gate": 0.0, "other": 0.005},
    )
    assert step_line(summary) == ("step 12/40 loss 0.123 kl 0.045 score 0.610 1,234 tok/s generate 45% train 55%")


def test_an_accepted_jump_says_the_change_from_the_baseline_to_what_was_accepted():
    assert (
        trigger_line(KL_JUMP) == "step 8: jump x4 accepted, reverse KL 0.210 -> 0.083; 0.5 s spent, as far as 16 steps"
    )


def test_a_refused_jump_says_what_was_tried_and_why_not():
    record = trigger(
        4,
        [
            candidate(0, gate_score(0.5, accuracy=0.5), True, "baseline"),
            candidate(2, gate_score(0.48, accuracy=0.48), False, "not above the baseline"),
        ],
        0,
    )
    assert (
        trigger_line(record)
        == "step 4: no jump, x2 refused: accuracy 0.500 -> 0.480 (not above the baseline); 0.5 s spent"
    )


def test_a_refusal_names_the_first_of_candidates_that_were_sampled_at_once():
    tried = [(2, -0.3, "worse"), (4, -0.1, "behind a refusal")]
    candidates = [candidate(size, gate_score(value, reverse_kl=-value), False, why) for size, value, why in tried]
    record = trigger(4, [candidate(0, gate_score(-0.2, reverse_kl=0.2), True), *candidates], 0)
    assert trigger_line(record) == "step 4: no jump, x2 refused: reverse KL 0.200 -> 0.300 (worse); 0.5 s spent"


def test_jumps_that_nothing_judged_looks_and_roll_backs_have_lines_of_their_own():
    ungated = replace(trigger(5, [], -0.5), kind=TriggerKind.UNGATED)
    assert trigger_line(ungated) == "step 5: jump x-0.5, ungated; 0.5 s spent"
    looked = replace(trigger(16, [], 0), kind=TriggerKind.LOOK)
    assert trigger_line(looked).startswith("step 16: no search")
    undone = RollBack(jump_step=8, reverse_kl_before=0.21, reverse_kl_after=0.39)
    taken_back = replace(trigger(9, [], 0), kind=TriggerKind.ROLL_BACK, displacement=None, roll_back=undone)
    assert trigger_line(taken_back) == "step 9: jump of step 8 taken back, reverse KL 0.210 -> 0.390; 0.5 s spent"


def test_a_confirmation_and_what_was_scored_again_cost_as_much_as_a_search(tmp_path):
    # Three scores of 50 tokens each, and 60 training tokens that the teacher scored again.
    tracker, _ = open_tracker(tmp_path)
    scored = [candidate(size, gate_score(-0.1, reverse_kl=0.1), True) for size in (0, 2)]
    tracker.log_trigger(replace(trigger(1, scored[:1], 2), confirmation=tuple(scored), num_rescored_tokens=60))
    tracker.log_step(RunState(step=1), {})
    tracker.close()
    (row,) = read_rows(tmp_path / "metrics.jsonl")
    assert row["tokens"]["total_teacher"] == 3 * 50 + 60


def test_an_audit_is_no_training_time(tmp_path):
    now = iter(range(0, 1000, 10))
    tracker, _ = open_tracker(tmp_path, ledger=Ledger(lambda: float(next(now))))
    with tracker.phase("gate"):
        pass
    audit = Audit(points=(), settled_step_size=0.0, oracle_step_size=0.0, regret=0.0, seconds=4.0)
    tracker.log_trigger(replace(trigger(1, [], 0), audit=audit))
    tracker.log_step(RunState(step=1), {})
    tracker.close()
    # The clock moves by 10 whenever it is read, the first time when the phase opens.
    (row,) = read_rows(tmp_path / "metrics.jsonl")
    assert (row["seconds"]["gate"], row["seconds"]["audit"]) == (6.0, 4.0)
    assert read_rows(tmp_path / "extrapolation.jsonl")[0]["audit"]["seconds"] == 4.0


def test_the_end_of_a_run_says_what_its_triggers_cost_and_how_far_the_jumps_that_were_kept_led(tmp_path):
    # Displacements of four steps each: x4 leads as far as 16 steps; what was taken back leads nowhere but has cost time. The
    # clock moves by 10 s whenever it is read: at both ends of the phase, at the row and for the ETA, at the two tables.
    now = iter(range(0, 1000, 10))
    tracker, output = open_tracker(tmp_path, ledger=Ledger(lambda: float(next(now))))
    with tracker.phase("gate"):
        pass
    tracker.log_trigger(KL_JUMP)
    tracker.log_trigger(trigger(16, [candidate(0, gate_score(0.5), True)], 2))
    undone = RollBack(jump_step=16, reverse_kl_before=0.21, reverse_kl_after=0.39)
    tracker.log_trigger(
        replace(trigger(17, [], 0), kind=TriggerKind.ROLL_BACK, displacement=None, roll_back=undone, seconds=2.0)
    )
    tracker.log_step(state_at(17), {})
    tracker.close()
    last = output.getvalue().splitlines()[-1]
    assert last == "triggers: 2 searches, 1 jumps kept; 3.0 s spent (6.0% of training), as far as 16 steps"


def test_a_trigger_without_candidates_says_so():
    assert (
        trigger_line(trigger(1, [candidate(0, gate_score(0.5), True)], 0))
        == "step 1: no jump, nothing was tried; 0.5 s spent"
    )


def test_without_a_terminal_every_step_is_one_whole_line(tmp_path):
    tracker, output = open_tracker(tmp_path)
    tracker.log_trigger(KL_JUMP)
    tracker.log_step(state_at(1), {"loss": 0.5, "reverse_kl": 0.25, "[x]": 1.0})
    tracker.log_eval(state_at(1), report(1))
    lines = output.getvalue().splitlines()
    assert lines[0] == "step 8: jump x4 accepted, reverse KL 0.210 -> 0.083; 0.5 s spent, as far as 16 steps"
    assert lines[1].startswith("step 1/6 loss 0.500 kl 0.250 ")
    # Longer than the 80 columns of the console, and still one line.
    assert lines[2] == "step 1: score 0.100 ± 0.010 (smoothed 0.100), mean length 3, truncated 0%"
    assert len(lines) == 3


def test_the_end_of_a_run_shows_where_the_time_went(tmp_path):
    now = iter(range(0, 1000, 10))
    tracker, output = open_tracker(tmp_path, ledger=Ledger(lambda: float(next(now))))
    with tracker.phase("generate"):
        pass
    tracker.log_step(RunState(step=1, num_generated_tokens=400), {})
    tracker.close()
    text = output.getvalue()
    assert "Where the time went" in text
    # The clock moves by 10 s whenever it is read: at both ends of the phase, at the row, for the ETA and for the table. So
    # of 40 s the phase has 10, and 400 tokens in them.
    (line,) = [line for line in text.splitlines() if line.startswith("│ generate")]
    assert line.split() == ["│", "generate", "│", "10.0", "│", "25.0%", "│", "40", "│"]


def test_on_a_terminal_the_display_is_live(tmp_path):
    output = StringIO()
    console = RunConsole(Console(file=output, force_terminal=True, width=120))
    tracker = RunTracker(tmp_path, make_config(), console=console, command=[])
    run_steps(tracker, 1, 2)
    tracker.close()
    text = output.getvalue()
    assert "2/6" in text and "ETA" in text and "tok/s" in text
    assert "step 2: no jump, nothing was tried" in text


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00:00"), (59.6, "0:01:00"), (3723, "1:02:03")])
def test_durations_are_hours_minutes_seconds(seconds, text):
    assert format_duration(seconds) == text


# --- sinks ---


def test_tensorboard_gets_the_scalars(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    tracker, _ = open_tracker(tmp_path, tensorboard=True)
    run_steps(tracker, 1, 2)
    tracker.close()
    events = EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("train/loss")] == [(1, 1.0), (2, 0.5)]
    assert [event.step for event in events.Scalars("eval/ema_score")] == [1, 2]
    assert [event.step for event in events.Scalars("extrapolation/accepted_step_size")] == [2]


def test_wandb_offline_writes_into_the_run_folder_under_one_id_for_life(tmp_path):
    for resumed in (None, state_at(1)):
        tracker, _ = open_tracker(tmp_path, resumed=resumed, wandb=WandbMode.offline)
        run_steps(tracker, 1 if resumed is None else 2, 2)
        tracker.close()
    identity = (tmp_path / "wandb_id.txt").read_text()
    folders = list((tmp_path / "wandb").glob(f"offline-run-*-{identity}"))
    assert folders
    assert any(path.name == f"run-{identity}.wandb" for folder in folders for path in folder.iterdir())
    # Nothing of the machine beside the metrics.
    assert [path.name for path in (tmp_path / "wandb").rglob("wandb-metadata.json")] == []


def test_sinks_that_are_not_asked_for_are_not_imported(tmp_path):
    script = f"""
import sys
from pathlib import Path
from effopd.config.schema import RunConfig
from effopd.tracking import RunTracker
RunTracker(Path({str(tmp_path)!r}), RunConfig()).close()
heavy = {{"wandb", "tensorboard", "ray", "vllm", "deepspeed", "hydra", "matplotlib"}} & set(sys.modules)
assert not heavy, heavy
"""
    root = Path(__file__).parents[1]
    subprocess.run([sys.executable, "-c", script], check=True, cwd=root)
