"""The scripts that are not benchmarks, each from its command line to what it writes."""

import json
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType

import pytest
import torch
from safetensors.torch import load_file

from effopd.checkpoints.reading import list_checkpoints
from effopd.checkpoints.snapshot import snapshot_path
from effopd.cli import main as effopd
from effopd.model_folders import resolve_model_path
from effopd.toy.tasks import problems
from effopd.types import ShardKind

SCRIPTS = Path(__file__).parents[1] / "scripts"


def script(name: str) -> ModuleType:
    spec = spec_from_file_location(name, SCRIPTS / f"{name}.py")
    assert spec is not None and spec.loader is not None
    module = module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(module: ModuleType, monkeypatch: pytest.MonkeyPatch, *arguments: str) -> None:
    monkeypatch.setattr(sys, "argv", [f"{module.__name__}.py", *arguments])
    module.main()


def test_gate_sets_are_questions_for_training_in_the_order_of_how_often_they_are_answered_rightly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate_sets = script("gate_sets")
    monkeypatch.setattr(gate_sets, "NUM_CANDIDATES", 8)
    # Shares of right answers by candidate: two are easy, two hard, and of the others the two in the middle are medium.
    shares = [0.5, 0.0, 1.0, 0.25, 0.75, 0.1, 0.9, 0.4]
    monkeypatch.setattr(gate_sets, "share_right", lambda task, candidates, folder: shares)
    call(gate_sets, monkeypatch, "sums", "--output", str(tmp_path), "--num-prompts", "2")
    candidates = problems("sums", "train", 8, gate_sets.SEED)
    for name, chosen in {"easy": (2, 6), "medium": (0, 7), "hard": (5, 1)}.items():
        rows = [json.loads(line) for line in (tmp_path / f"{name}.jsonl").read_text().splitlines()]
        assert rows == [{"prompt": candidates[i].prompt, "answer": candidates[i].answer} for i in chosen]


def test_shares_of_right_answers_are_those_of_an_evaluation_of_the_base_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate_sets = script("gate_sets")
    monkeypatch.setattr(gate_sets, "SAMPLES_PER_PROMPT", 2)
    shares = gate_sets.share_right("sums", problems("sums", "train", 4, gate_sets.SEED), tmp_path)
    assert len(shares) == 4 and set(shares) <= {0.0, 0.5, 1.0}


def test_alpha_opd_moves_matrices_by_a_rank_one_update_and_takes_the_rest_from_the_last_checkpoint(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, output = tmp_path / "run", tmp_path / "alpha"
    settings = [
        *("experiment=toy_opd", "accelerate=none", "cluster=local", "rollout=hf", "rollout.prompts_per_step=16"),
        *("data.num_rows=100", "data.verifier_workers=1", "algo.num_minibatches=1", "eval.num_rows=64"),
        *("num_steps=3", "eval.every=1", "checkpoint.every=1", "checkpoint.keep_last=3", "learner.lr=1e-4"),
    ]
    assert effopd(["train", *settings, f"output_dir={run}"]) == 0
    alpha_opd = script("alpha_opd")
    call(alpha_opd, monkeypatch, str(run), "--target", "1.0", "--output", str(output))

    before = load_file(resolve_model_path("model.path", "toy:sums_base") / "model.safetensors")
    last = load_file(snapshot_path(list_checkpoints(run)[3], ShardKind.MASTER))
    predicted = load_file(output / "model.safetensors")
    num_moved = 0
    for name, weights in predicted.items():
        if name.endswith("_proj.weight"):
            update = (weights - before[name]).double()
            first, second = torch.linalg.svdvals(update)[:2]
            assert first > 0 and second < 1e-3 * first, name  # beside the rounding of float32 weights
            num_moved += 1
        else:
            assert torch.equal(weights, last[name]), name
    assert num_moved > 0

    # One checkpoint makes no line.
    with pytest.raises(SystemExit) as ended:
        call(alpha_opd, monkeypatch, str(run), "--until", "1", "--target", "1.0", "--output", str(tmp_path / "none"))
    assert ended.value.code == 2 and not (tmp_path / "none").exists()
