"""Whole runs through the command line, on real engines, as a user starts them."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import pyarrow.parquet as pq
import pytest
from forking import run_commands

from effopd.checkpoints.reading import latest_checkpoint, weights_hash
from effopd.toy.tasks import problems

SMALL = [
    "experiment=toy_effopd",
    "rollout.prompts_per_step=16",
    "data.num_rows=200",
    "eval.num_rows=16",
    "accelerate.num_prompts=8",
    "learner.lr=1e-3",
    "learner.lr_schedule=constant",
    "eval.every=2",
    "checkpoint.every=1",
    "learner.num_threads=1",
    "rollout.num_threads=1",
    "teacher.num_threads=1",
]
LOCAL = [*SMALL, "cluster=local", "rollout=hf"]
SLOW = "pool_verifiers:slow_sums"
MOST_KILLED = 8  # workers; starting another takes seconds on a busy machine

# No teacher: the policy learns from the verifier alone.
REWARDED = [
    "model=toy_sums",
    "data=toy_sums",
    "rollout.prompts_per_step=8",
    "rollout.samples_per_prompt=4",
    "rollout.max_response_len=16",
    "data.num_rows=200",
    "eval.num_rows=8",
    "eval.every=1",
    "learner.lr=1e-4",
    "checkpoint.every=1",
    "learner.num_threads=1",
    "rollout.num_threads=1",
    "teacher.num_threads=1",
    "cluster=local",
    "rollout=hf",
]
CRITIC_FILES = ["critic_exp_avg.safetensors", "critic_exp_avg_sq.safetensors", "critic_master.safetensors"]


SECRETS = {"WANDB_API_KEY": "planted-0123456789abcdef", "HF_TOKEN": "hf_planted0123456789"}
"""In the environment of every run here."""


def effopd(*commands: Sequence[str]) -> subprocess.CompletedProcess[str]:
    """Run commands one after the other in one process."""
    with TemporaryDirectory() as output:
        return run_commands(commands, SECRETS, Path(output))


def effopd_ok(*arguments: str) -> str:
    done = effopd(arguments)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def without_seconds(value: object) -> object:
    """Return `value` without what may differ between two runs of the same course: measured time."""
    if isinstance(value, dict):
        return {key: without_seconds(item) for key, item in value.items() if key != "seconds"}
    return [without_seconds(item) for item in value] if isinstance(value, list) else value


def course(run: Path) -> object:
    """Everything a run recorded, but for time."""
    return [without_seconds(rows(run / name)) for name in ("metrics.jsonl", "eval.jsonl", "extrapolation.jsonl")]


def final_hash(run: Path) -> str:
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    return weights_hash(checkpoint.directory)


def files_of_last_checkpoint(run: Path, pattern: str) -> dict[str, bytes]:
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None
    return {path.name: path.read_bytes() for path in sorted(checkpoint.directory.glob(pattern))}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "uninterrupted"
    command = [sys.executable, "-m", "effopd", "train", *LOCAL, "num_steps=4", f"output_dir={run}"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, env=os.environ | SECRETS)
    assert done.returncode == 0, done.stdout + done.stderr
    # Beside the run, not in it.
    run.with_name("output").write_text(done.stdout + done.stderr)
    return run


def test_no_secret_of_the_environment_is_in_the_run_folder_or_in_what_was_printed(uninterrupted: Path) -> None:
    files = [path for path in uninterrupted.rglob("*") if path.is_file()]
    assert {path.name for path in files} >= {"config.yaml", "versions.json", "metrics.jsonl", "manifest.json"}
    for path in [*files, uninterrupted.with_name("output")]:
        content = path.read_bytes()
        assert not [name for name, secret in SECRETS.items() if secret.encode() in content], path


def test_a_run_writes_its_config_versions_metrics_triggers_evaluations_and_checkpoints(uninterrupted: Path) -> None:
    assert [row["step"] for row in rows(uninterrupted / "metrics.jsonl")] == [1, 2, 3, 4]
    assert [row["step"] for row in rows(uninterrupted / "extrapolation.jsonl")] == [2, 4]
    assert [row["step"] for row in rows(uninterrupted / "eval.jsonl")] == [0, 2, 4]
    assert (uninterrupted / "config.yaml").is_file() and (uninterrupted / "versions.json").is_file()
    trigger = rows(uninterrupted / "extrapolation.jsonl")[0]
    assert len(trigger["candidates"][0]["score"]["per_prompt"]) == 8
    assert trigger["displacement"]["norm"] > 0


def test_a_run_stopped_and_resumed_equals_the_uninterrupted_one_bit_for_bit(
    uninterrupted: Path, tmp_path: Path
) -> None:
    run = tmp_path / "resumed"
    effopd_ok("train", *LOCAL, "num_steps=2", f"output_dir={run}")
    effopd_ok("train", f"resume={run}", "num_steps=4")
    assert final_hash(run) == final_hash(uninterrupted)
    assert course(run) == course(uninterrupted)


def test_a_run_whose_data_changed_is_not_resumed(tmp_path: Path) -> None:
    data, run = tmp_path / "sums.jsonl", tmp_path / "run"
    lines = [json.dumps({"prompt": p.prompt, "answer": p.answer}) + "\n" for p in problems("sums", "train", 40, 0)]
    data.write_text("".join(lines))
    settings = [setting for setting in LOCAL if not setting.startswith(("data.", "accelerate."))]
    effopd_ok("train", *settings, f"data.path={data}", "accelerate=none", "num_steps=1", f"output_dir={run}")
    assert json.loads((run / "data.json").read_text())["data"]["num_prompts"] == 40
    data.write_text("".join(lines[1:]))
    refused = effopd(["train", f"resume={run}", "num_steps=2"])
    assert refused.returncode != 0
    assert f"data.path={data}: gives 39 prompts, not the 40 that the run began with" in refused.stderr
    data.write_text("".join(lines))
    effopd_ok("train", f"resume={run}", "num_steps=2")


def test_two_evaluation_sets_with_two_verifiers_are_scored_and_averaged(tmp_path: Path) -> None:
    sums = ["path=toy:sums", "num_rows=16", "max_prompt_len=16"]
    # The model of sums never saw a program; its answers are wrong, and judged by their own verifier.
    programs = ["path=toy:programs", "num_rows=4", "max_prompt_len=16", "samples_per_prompt=3"]
    two_sets = [
        "eval.path=null",
        *(f"+eval.sets.sums.{setting}" for setting in sums),
        *(f"+eval.sets.programs.{setting}" for setting in (*programs, "verifier=effopd.toy.verify:programs")),
    ]
    settings = [setting for setting in LOCAL if not setting.startswith(("eval.", "accelerate."))]
    run = tmp_path / "run"
    effopd_ok("train", *settings, *two_sets, "accelerate=none", "num_steps=1", f"output_dir={run}")
    for row in rows(run / "eval.jsonl"):
        assert set(row["per_set"]) == {"sums", "programs"}
        assert row["per_set"]["sums"] > 0
        assert row["score"] == pytest.approx((row["per_set"]["sums"] + row["per_set"]["programs"]) / 2)
        assert len(row["per_prompt"]) == 16 + 4


def test_kill_9_at_a_random_moment_and_resume_gives_the_same_weights(tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    # What a checkpoint has to keep the most of: the path of the last updates, and the way back from a jump.
    settings = [*LOCAL, "accelerate.direction=gram_pca", "accelerate.max_kl_increase=0.5", "num_steps=16"]
    effopd_ok("train", *settings, f"output_dir={whole}")
    kill_after_first_step(["train", *settings, f"output_dir={killed}"], killed)
    effopd_ok("train", f"resume={killed}")
    assert final_hash(killed) == final_hash(whole)
    assert course(killed) == course(whole)


def test_a_run_that_is_asked_to_end_while_its_engines_start_says_in_a_line_how_to_go_on(tmp_path: Path) -> None:
    run = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-m", "effopd", "train", "experiment=toy_opd", "rollout=hf", f"output_dir={run}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    with process.stderr as lines:
        assert any(line.startswith("starting learner 0, controller, teacher 0, sampler 0") for line in lines)
        process.send_signal(signal.SIGTERM)
        said = lines.read()
    assert process.wait() == 128 + signal.SIGTERM
    assert said == f"effopd: ended by SIGTERM; continue with effopd train resume={run}\n"


def kill_after_first_step(arguments: list[str], run: Path) -> None:
    """Start a run and kill its driver within a second of its first step: in a step, a trigger, a save.

    The run must be long enough not to be over by then.
    """
    seed = random.randrange(10**6)
    delay = random.Random(seed).uniform(0, 1)
    print(f"seed {seed}: killing {delay:.3f} s after the first row")  # noqa: T201  (pytest shows it when the test fails)
    process = subprocess.Popen(
        [sys.executable, "-m", "effopd", *arguments], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    wait_for_row(run / "metrics.jsonl", process)
    time.sleep(delay)
    os.kill(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, "the run was over before it could be killed"


def wait_for_row(path: Path, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(3000):
        if path.is_file() and path.stat().st_size:
            return
        assert process.poll() is None, "the run ended before its first step"
        time.sleep(0.1)
    raise AssertionError("no step within 300 s")


def test_killing_verifier_workers_in_the_middle_of_answers_changes_neither_rewards_nor_weights(tmp_path: Path) -> None:
    # GRPO: rewards are all that its gradient has.
    rewarded = ["train", *REWARDED, "algo=grpo", "num_steps=3"]
    uninterrupted, log, run = tmp_path / "uninterrupted", tmp_path / "begun.jsonl", tmp_path / "run"
    effopd_ok(*rewarded, f"output_dir={uninterrupted}")
    for row in rows(uninterrupted / "metrics.jsonl"):
        assert 0 < row["metrics"]["reward"] < 1 and row["metrics"]["grad_norm"] > 0
    log.touch()
    path = os.pathsep.join([str(Path(__file__).parent / "rewards"), os.environ.get("PYTHONPATH", "")])
    process = subprocess.Popen(
        [sys.executable, "-m", "effopd", *rewarded, f"output_dir={run}", f"data.verifier={SLOW}"],
        env={**os.environ, "PYTHONPATH": path, "VERIFIER_LOG": str(log)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
    )
    killed: set[int] = set()
    while process.poll() is None:
        time.sleep(random.uniform(0.3, 0.9))
        for pid, *_ in rows(log)[-1:]:
            if pid in killed or len(killed) == MOST_KILLED:
                continue
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
                killed.add(pid)
    assert process.stderr is not None
    assert process.returncode == 0, process.stderr.read().decode()
    process.stderr.close()
    # What was killed in the middle of an answer began that answer again.
    assert len(rows(log)) > 3 * 8 * 4 + 8 * len(rows(run / "eval.jsonl"))
    assert final_hash(run) == final_hash(uninterrupted)
    assert course(run) == course(uninterrupted)


def test_recorded_rollouts_train_without_a_sampler(tmp_path: Path) -> None:
    plain = ["experiment=toy_opd", *(setting for setting in LOCAL[1:] if not setting.startswith("accelerate"))]
    effopd_ok("train", *plain, "num_steps=2", "debug=rollout_only", f"output_dir={tmp_path / 'recording'}")
    recorded = f"debug.recorded={tmp_path / 'recording' / 'recorded'}"
    replay = [setting for setting in plain if not setting.startswith("eval")]
    effopd_ok(
        "train", *replay, "eval=none", "num_steps=2", "debug=train_only", recorded, f"output_dir={tmp_path / 'replay'}"
    )
    metrics = rows(tmp_path / "replay" / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2]
    # The first batch was sampled by the very weights that train on it.
    assert metrics[0]["metrics"]["sampler_gap"] < 1e-4


@pytest.fixture(scope="module")
def ppo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("runs") / "ppo"
    effopd_ok("train", *REWARDED, "algo=ppo", "num_steps=3", f"output_dir={run}")
    return run


def test_ppo_trains_a_policy_and_a_critic_and_saves_both(ppo: Path) -> None:
    metrics = [row["metrics"] for row in rows(ppo / "metrics.jsonl")]
    assert len(metrics) == 3
    for row in metrics:
        assert 0 <= row["reward"] <= 1 and row["grad_norm"] > 0 and row["critic_grad_norm"] > 0
        assert row["importance_weight"] == pytest.approx(1, abs=1e-3)  # sampled by the very weights that are trained
    assert metrics[0]["reference_kl"] < metrics[2]["reference_kl"]  # it has left where it began
    assert list(files_of_last_checkpoint(ppo, "critic_*")) == CRITIC_FILES


def test_a_ppo_run_stopped_and_resumed_equals_the_uninterrupted_one_bit_for_bit(ppo: Path, tmp_path: Path) -> None:
    run = tmp_path / "resumed"
    effopd_ok("train", *REWARDED, "algo=ppo", "num_steps=2", f"output_dir={run}")
    effopd_ok("train", f"resume={run}", "num_steps=3")
    assert files_of_last_checkpoint(run, "*.safetensors") == files_of_last_checkpoint(ppo, "*.safetensors")
    assert course(run) == course(ppo)


def test_critic_and_reference_on_ray_with_two_zero3_ranks_resume_bit_for_bit(tmp_path: Path) -> None:
    on_ray = [setting for setting in REWARDED if setting != "cluster=local"]
    shape = [*on_ray, "algo=ppo", "learner.num_ranks=2", "learner.zero_stage=3", "rollout.num_samplers=2"]
    whole, run = tmp_path / "2", tmp_path / "1"
    done = effopd(
        ["train", "-m", *shape, "num_steps=2,1", f"output_dir={tmp_path}/${{num_steps}}"],
        ["train", f"resume={run}", "num_steps=2"],
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert set(CRITIC_FILES) <= set(files_of_last_checkpoint(whole, "*.safetensors"))
    assert files_of_last_checkpoint(run, "*.safetensors") == files_of_last_checkpoint(whole, "*.safetensors")
    assert course(run) == course(whole)


@pytest.mark.parametrize(
    "settings",
    [
        ["algo=grpo", "algo.num_epochs=2"],
        ["algo=dapo", "algo.overlong_buffer=4"],
        ["teacher=toy_sums", "algo=opd", "algo.reward_coef=0.5", "accelerate=none"],
    ],
    ids=["grpo", "dapo", "opd and outcome"],
)
def test_rewards_train_a_policy(settings: list[str], tmp_path: Path) -> None:
    effopd_ok("train", *REWARDED, *settings, "num_steps=3", f"output_dir={tmp_path}")
    metrics = [row["metrics"] for row in rows(tmp_path / "metrics.jsonl")]
    assert len(metrics) == 3
    for row in metrics:
        assert 0 < row["reward"] < 1 and 0 < row["informative_fraction"] <= 1 and row["grad_norm"] > 0
    assert not files_of_last_checkpoint(tmp_path, "critic_*")


def test_a_recording_of_dynamically_sampled_groups_is_replayed_as_it_was_kept(tmp_path: Path) -> None:
    dapo = [setting for setting in REWARDED if not setting.startswith("eval")] + ["algo=dapo", "eval=none"]
    recording, replay = tmp_path / "recording", tmp_path / "replay"
    effopd_ok("train", *dapo, "num_steps=2", "debug=rollout_only", f"output_dir={recording}")
    kept = json.loads((recording / "recorded" / "step_000000.json").read_text())
    rewards: dict[str, set[float]] = {}
    for row in kept:
        rewards.setdefault(row["prompt_id"], set()).add(row["reward"])
    assert len(rewards) == 8 and all(len(scores) > 1 for scores in rewards.values())
    recorded = f"debug.recorded={recording / 'recorded'}"
    effopd_ok("train", *dapo, "num_steps=2", "debug=train_only", recorded, f"output_dir={replay}")
    metrics = rows(replay / "metrics.jsonl")
    assert [row["step"] for row in metrics] == [1, 2]
    assert metrics[0]["metrics"]["sampler_gap"] < 1e-4


def test_two_zero3_ranks_and_two_vllm_samplers_survive_kill_9_on_ray_bit_for_bit(tmp_path: Path) -> None:
    shape = ["learner.num_ranks=2", "learner.zero_stage=3", "rollout.num_samplers=2", "rollout.samples_per_prompt=2"]
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    effopd_ok("train", *SMALL, *shape, "num_steps=12", f"output_dir={whole}")
    kill_after_first_step(["train", *SMALL, *shape, "num_steps=12", f"output_dir={killed}"], killed)
    effopd_ok("train", f"resume={killed}")
    assert final_hash(killed) == final_hash(whole)
    assert course(killed) == course(whole)


def test_the_runs_of_a_sweep_differ_in_what_they_were_told_to(tmp_path: Path) -> None:
    effopd_ok("train", "-m", *SMALL, "num_steps=1", "seed=1,2", f"output_dir={tmp_path}/${{seed}}")
    assert final_hash(tmp_path / "1") != final_hash(tmp_path / "2")
    # The second run began where the first one began, in the first one's actors: not where it ended.
    starts = [rows(tmp_path / seed / "eval.jsonl")[0] for seed in ("1", "2")]
    # Nor does it matter where actors live.
    effopd_ok("train", *SMALL, "cluster=local", "num_steps=1", "seed=2", f"output_dir={tmp_path / 'alone'}")
    assert final_hash(tmp_path / "alone") == final_hash(tmp_path / "2")
    assert rows(tmp_path / "alone" / "eval.jsonl")[0]["score"] == starts[1]["score"]


def test_compare_and_export_read_a_finished_run(uninterrupted: Path, tmp_path: Path) -> None:
    effopd_ok("compare", str(uninterrupted), "--output", str(tmp_path / "comparison"))
    comparison = json.loads((tmp_path / "comparison" / "comparison.json").read_text())
    assert comparison["runs"][0]["steps"] == 4
    effopd_ok("export", str(uninterrupted), "--output", str(tmp_path / "model"))
    out = effopd_ok(
        "eval", f"model.path={tmp_path / 'model'}", "data=toy_sums", "cluster=local", "rollout=hf",
        "eval.num_rows=16", "eval.samples_per_prompt=2", "teacher.path=toy:sums_teacher", f"output_dir={tmp_path / 'eval'}",
    )  # fmt: skip
    assert "score" in out
    evaluated = json.loads((tmp_path / "eval" / "eval.json").read_text())
    result = evaluated["sets"]["toy:sums"]
    assert (evaluated["teacher"], result["num_prompts"], list(result["pass_at_k"])) == (
        "toy:sums_teacher",
        16,
        ["1", "2"],
    )
    responses = pq.read_table(tmp_path / "eval" / "responses.parquet").to_pylist()
    assert len(responses) == 32
    assert sum(row["reward"] for row in responses) / 32 == result["avg_at_k"]["value"]
    reverse_kl = sum(row["reverse_kl"] for row in responses) / sum(row["num_tokens"] for row in responses)
    assert result["reverse_kl_per_token"]["value"] == pytest.approx(reverse_kl)
