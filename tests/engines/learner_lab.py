"""Where learners are put to the test: pools of ranks, tiny models, and putting together what every rank returned."""

import sys
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from transformers import Qwen3Config, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
import learner_cases as cases
import learner_rl_cases as rl_cases
import trigger_cases
from rank_pool import RankPool

from effopd.checkpoints.learner_state import OPTIMIZER_KINDS, POLICY_KINDS, LearnerProgress, save_learner
from effopd.types import ShardKind

STAGES = (0, 1, 2, 3)
DTYPES = ("float32", "bfloat16")
WORLD_SIZES = (1, 2, 3)
every_setting = pytest.mark.parametrize(
    ("world_size", "stage", "dtype"),
    [(world_size, stage, dtype) for world_size in WORLD_SIZES for stage in STAGES for dtype in DTYPES],
)
every_stage = pytest.mark.parametrize("stage", STAGES)


class Lab:
    """Pools of ranks, a model, and the results of cases, each computed once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.model = str(save_tiny_model(folder / "tied", is_tied=True))
        self.untied_model = str(save_tiny_model(folder / "untied", is_tied=False))
        self.pools = {world_size: RankPool(world_size, folder) for world_size in WORLD_SIZES}
        self.life = cache(self._life)
        self.trained = cache(self._trained)
        self.critic_life = cache(self._critic_life)
        self.rounds = cache(self._rounds)

    def _life(self, world_size: int, stage: int, dtype: str) -> list[dict[str, Any]]:
        segment = str(self.folder)
        return self.pools[world_size].run(cases.life, model=self.model, stage=stage, dtype=dtype, segment=segment)

    def _trained(self, world_size: int, stage: int, **settings: Any) -> list[dict[str, Any]]:
        return self.pools[world_size].run(cases.train, model=self.model, stage=stage, **settings)

    def _critic_life(self, world_size: int, stage: int, dtype: str) -> list[dict[str, Any]]:
        settings = {"stage": stage, "dtype": dtype, "algo": "ppo_in_two_steps"}
        return self.pools[world_size].run(rl_cases.critic_life, model=self.model, **settings)

    def _rounds(self, world_size: int, stage: int, dtype: str) -> list[dict[str, Any]]:
        return self.pools[world_size].run(trigger_cases.rounds, model=self.model, stage=stage, dtype=dtype)


def save_tiny_model(path: Path, *, is_tied: bool) -> Path:
    """A random Qwen3 in which no size is a multiple of the number of ranks."""
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=cases.VOCABULARY,
        hidden_size=35,
        intermediate_size=37,
        num_hidden_layers=2,
        num_attention_heads=3,
        num_key_value_heads=1,
        head_dim=10,
        max_position_embeddings=64,
        tie_word_embeddings=is_tied,
    )
    model = Qwen3ForCausalLM(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))  # norms too
    model.save_pretrained(path)
    return path


def whole(results: list[dict[str, Any]], read: Any, fragments: str = "fragments") -> dict[str, numpy.ndarray]:
    """Full tensors, put together from what `read(result)` gives for every rank's fragments, or `critic_fragments`."""
    tensors: dict[str, numpy.ndarray] = {}
    for result in results:
        values = read(result)
        for fragment in result[fragments]:
            if fragment.name in values:
                flat = tensors.setdefault(fragment.name, numpy.full(int(numpy.prod(fragment.shape)), numpy.nan))
                flat[fragment.start : fragment.start + fragment.num_elements] = values[fragment.name]
    shapes = {fragment.name: fragment.shape for result in results for fragment in result[fragments]}
    return {name: flat.astype(numpy.float32).reshape(shapes[name]) for name, flat in tensors.items()}


def is_same(left: dict[str, numpy.ndarray], right: dict[str, numpy.ndarray]) -> bool:
    return left.keys() == right.keys() and all(numpy.array_equal(left[name], right[name]) for name in left)


def moved_names(results: list[dict[str, Any]]) -> set[str]:
    return {fragment.name for result in results for fragment in result["fragments"] if fragment.is_moved}


def write_snapshot(folder: Path, results: list[dict[str, Any]], state: str, optimizer_step: int) -> Path:
    """What a run saves, from what the ranks saw at `state`."""
    kinds = tuple(
        kind
        for kind in POLICY_KINDS
        if kind not in OPTIMIZER_KINDS and any(result[state].get(kind) for result in results)
    )
    return write_progress(folder, results, state, LearnerProgress(optimizer_step=optimizer_step, kinds=kinds))


def write_progress(folder: Path, results: list[dict[str, Any]], state: str, progress: LearnerProgress) -> Path:
    folder.mkdir()

    def read(rank: int, kind: ShardKind, names: Sequence[str]) -> dict[str, torch.Tensor]:
        return {name: torch.from_numpy(results[rank][state][kind.value][name]) for name in names}

    save_learner(
        folder,
        fragments=[result["fragments"] for result in results],
        critic_fragments=[result.get("critic_fragments", []) for result in results],
        progress=progress,
        read=read,
    )
    return folder


def gradient(results: list[dict[str, Any]]) -> dict[str, numpy.ndarray]:
    """After one step Adam's first moment is (1 - beta1) times the clipped gradient."""
    return whole(results, lambda result: result["state"]["exp_avg"])


def assert_same_gradient(left: list[dict[str, Any]], right: list[dict[str, Any]]) -> None:
    expected = gradient(right)
    for name, array in gradient(left).items():
        assert numpy.linalg.norm(array - expected[name]) < 1e-5 * numpy.linalg.norm(expected[name]), name
    assert left[0]["metrics"]["grad_norm"] == pytest.approx(right[0]["metrics"]["grad_norm"], rel=1e-5)
