"""Recipes of the paper at `scale=tiny`, one step each, on real engines: every algorithm and both gates, ZeRO 2 and 3."""

import json
from pathlib import Path

import pytest
from forking import run_commands

from effopd.checkpoints.reading import latest_checkpoint, weights_hash
from effopd.config.register import read_config

LOCAL = ("cluster=local", "rollout=hf")
RUNS = {
    "opd": ("experiment=r1_distill_1p5b_justrl", *LOCAL),
    "exopd": ("experiment=qwen2p5_7b_orz", "algo=exopd", *LOCAL),
    "accuracy_gate": ("experiment=qwen3_4b_grpo", "accelerate=paper", *LOCAL),
    # vLLM asks for process groups beside the one that the runs before this one have left.
    "kl_gate": ("experiment=qwen2p5_32b_dapo", "accelerate=kl_gated", "cluster=local", "rollout.kv_cache_gib=0.25"),
    "grpo": ("experiment=qwen3_14b_grpo_teacher", *LOCAL),
    "ppo": ("experiment=qwen3_8b_base_ppo_teacher", *LOCAL),
    "dapo": ("experiment=qwen3_14b_base_dapo_teacher", *LOCAL),
    "ray_and_vllm": (
        "experiment=qwen3_8b_base_from_14b_dapo",
        "accelerate=kl_gated",
        "learner.num_ranks=2",
        "learner.num_threads=1",
        "rollout.num_threads=1",
        "teacher.num_threads=1",
        "rollout.kv_cache_gib=0.25",
    ),
}
ZERO_STAGES = {name: 3 if name in ("kl_gate", "grpo", "ppo", "dapo") else 2 for name in RUNS}
METRICS = {
    "opd": {"reverse_kl"},
    "exopd": {"reverse_kl"},
    "grpo": {"reward", "reference_kl"},
    "ppo": {"reward", "reference_kl", "critic_grad_norm"},
    "dapo": {"reward", "informative_fraction"},
}


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All runs, in one process: starting it takes longer than most of them."""
    folder = tmp_path_factory.mktemp("recipes")
    commands = [["train", *arguments, "scale=tiny", f"output_dir={folder / name}"] for name, arguments in RUNS.items()]
    done = run_commands(commands, {}, tmp_path_factory.mktemp("printed"))
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def final_hash(run: Path) -> str:
    checkpoint = latest_checkpoint(run)
    assert checkpoint is not None and checkpoint.state.step == 1
    return weights_hash(checkpoint.directory)


@pytest.mark.parametrize("name", RUNS)
def test_a_tiny_recipe_trains_one_step_and_is_evaluated_and_saved(runs: Path, name: str) -> None:
    (row,) = rows(runs / name / "metrics.jsonl")
    assert row["metrics"]["grad_norm"] > 0
    assert METRICS.get(name, set()) <= row["metrics"].keys()
    assert [evaluation["step"] for evaluation in rows(runs / name / "eval.jsonl")] == [0, 1]
    assert final_hash(runs / name)
    assert read_config(runs / name / "config.yaml").learner.zero_stage == ZERO_STAGES[name]


def test_tiny_recipes_of_different_algorithms_end_at_different_weights(runs: Path) -> None:
    assert len({final_hash(runs / name) for name in METRICS}) == len(METRICS)


@pytest.mark.parametrize("name", ["accuracy_gate", "kl_gate", "ray_and_vllm"])
def test_an_accelerated_tiny_recipe_searches_on_fifty_prompts_after_its_first_step(runs: Path, name: str) -> None:
    (trigger,) = rows(runs / name / "extrapolation.jsonl")
    scores = [candidate["score"]["per_prompt"].values() for candidate in trigger["candidates"]]
    assert trigger["step"] == 1 and len(scores) >= 2
    assert all(len(score) == 50 for score in scores)
    # Right or wrong, against minus the reverse KL.
    is_accuracy = all(value in (0, 1) for score in scores for value in score)
    assert is_accuracy == (name == "accuracy_gate")
