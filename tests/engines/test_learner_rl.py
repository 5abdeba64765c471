"""Conformance of the learner where an update is more than one step, and where there is a critic."""

import sys
from pathlib import Path
from typing import Any

import numpy
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import learner_cases as cases
import learner_rl_cases as rl_cases
from learner_lab import DTYPES, WORLD_SIZES, Lab, every_stage, is_same, whole, write_snapshot
from transformers import Qwen3ForCausalLM

from effopd.checkpoints.learner_state import CRITIC_KINDS
from effopd.engines.microbatches import split_rows

STATE = ("master", "exp_avg", "exp_avg_sq")
CRITIC = tuple(kind.value for kind in CRITIC_KINDS)
# The 13 rollouts are 7 prompts of two samples, the last of one. Dealt in turn, prompts 0, 2, 4, 6 and 1, 3, 5:
MINIBATCHES = ((0, 1, 4, 5, 8, 9, 12), (2, 3, 6, 7, 10, 11))
# Prompts dealt to ranks in turn, too, which is as uneven as it gets: rank 0 of two has 0, 2, 4, 6, which is one mini-batch,
# and rank 1 the other; rank 0 of three has 0, 3, 6.
PARTS = {
    1: (tuple(range(13)),),
    2: MINIBATCHES,
    3: ((0, 1, 6, 7, 12), (2, 3, 8, 9), (4, 5, 10, 11)),
}


def tensors(results: list[dict[str, Any]], state: str, kind: str) -> dict[str, numpy.ndarray]:
    fragments = "critic_fragments" if kind in CRITIC else "fragments"
    return whole(results, lambda result: result[state][kind], fragments)


def assert_near(actual: dict[str, numpy.ndarray], expected: dict[str, numpy.ndarray], tolerance: float = 1e-4) -> None:
    """Relative to each tensor's own norm."""
    assert actual.keys() == expected.keys() and actual
    for name, array in actual.items():
        distance = numpy.linalg.norm(array.ravel() - expected[name].ravel())
        assert distance <= tolerance * numpy.linalg.norm(expected[name]) + 1e-9, (name, distance)


# Several steps an update


@pytest.mark.parametrize(
    ("algo", "minibatches"),
    [
        ("opd", (tuple(range(13)),)),
        ("opd_and_outcome", MINIBATCHES),
        ("dapo_in_four_steps", MINIBATCHES),
        ("grpo", (tuple(range(13)),)),
        ("grpo_in_four_steps", MINIBATCHES),
        ("ppo", (tuple(range(13)),)),
        ("ppo_in_four_steps", MINIBATCHES),
    ],
)
def test_an_update_is_the_steps_that_a_plain_loop_takes_one_by_one(lab: Lab, algo: str, minibatches: Any) -> None:
    (result,) = lab.pools[1].run(
        rl_cases.against_plain, model=lab.model, algo=algo, minibatches=minibatches, max_tokens_per_microbatch=20
    )
    learned, plain, initial = result["learned"], result["plain"], result["initial"]
    assert learned.keys() == plain.keys()
    for kind in plain:
        if "master" not in kind:
            assert_near(learned[kind], plain[kind], 1e-3)
            continue
        # Weights barely move, so compare how they moved.
        for name, array in learned[kind].items():
            origin = initial.get(name.replace("decoder.", "model."), numpy.zeros(())).ravel()
            moved, expected = array - origin, plain[kind][name] - origin
            assert numpy.linalg.norm(moved - expected) < 2e-3 * numpy.linalg.norm(expected), (kind, name)
    for metrics, norms in zip(result["metrics"], result["plain_norms"], strict=True):
        assert len(norms) == len(minibatches) * cases.ALGOS[algo].num_epochs
        assert metrics["grad_norm"] == pytest.approx(sum(norms) / len(norms), rel=1e-4)


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@pytest.mark.parametrize("algo", ["grpo_in_two_steps", "ppo_in_two_steps"])
@every_stage
def test_any_number_of_ranks_takes_the_same_steps(lab: Lab, algo: str, world_size: int, stage: int) -> None:
    reference = lab.trained(1, 0, algo=algo, parts=PARTS[1])
    results = lab.trained(world_size, stage, algo=algo, parts=PARTS[world_size], max_tokens_per_microbatch=20)
    for kind in (*STATE, *(CRITIC if algo.startswith("ppo") else ())):
        assert_near(tensors(results, "state", kind), tensors(reference, "state", kind), 2e-4)
    for name in ("loss", "grad_norm", "sampler_gap", "clipped_fraction", "reference_kl"):
        assert results[0]["metrics"][name] == pytest.approx(reference[0]["metrics"][name], rel=1e-3, abs=1e-7)


@every_stage
def test_mini_batches_may_leave_a_rank_without_rollouts(lab: Lab, stage: int) -> None:
    parts = (tuple(range(2)), (), tuple(range(2, 13)))
    reference = lab.trained(1, 0, algo="ppo_in_two_steps", parts=PARTS[1])
    results = lab.trained(3, stage, algo="ppo_in_two_steps", parts=parts, max_tokens_per_microbatch=20)
    for kind in (*STATE, *CRITIC):
        assert_near(tensors(results, "state", kind), tensors(reference, "state", kind), 2e-4)


def test_one_prompt_a_rank_is_enough_for_as_many_mini_batches_as_prompts(lab: Lab) -> None:
    # Dealt by every rank for itself, all three prompts would be in the first mini-batch and none in the second.
    results = lab.trained(3, 1, algo="grpo_in_two_steps", parts=((0, 1), (2, 3), (4, 5)))
    assert results[0]["num_response_tokens"] == sum(1 + (3 * index) % 8 for index in range(6))


def test_tokens_are_counted_once_however_many_steps_they_are_in(lab: Lab) -> None:
    once, often = (lab.trained(1, 0, algo=algo, parts=PARTS[1])[0] for algo in ("grpo", "grpo_in_four_steps"))
    assert often["num_response_tokens"] == once["num_response_tokens"]


def test_the_learning_rate_falls_from_update_to_update_and_not_within_one(lab: Lab) -> None:
    settings = {"num_steps": 4, "lr_schedule": "linear", "num_updates": 4}
    (found,) = lab.pools[1].run(rl_cases.rates, model=lab.model, algo="ppo_in_four_steps", **settings)
    assert found == pytest.approx([cases.LR * part for part in (1, 0.75, 0.5, 0.25)])


def test_prompts_are_dealt_to_mini_batches_in_turn_and_stay_whole() -> None:
    prompt_ids = ["a", "a", "b", "c", "c", "b", "d", "a"]
    assert split_rows(prompt_ids, 2, ["a", "b", "c", "d"]) == [[0, 1, 3, 4, 7], [2, 5, 6]]
    # With a prompt of another rank before them, b and d are in the first mini-batch.
    assert split_rows(prompt_ids, 2, ["_", "a", "b", "c", "d"]) == [[2, 5, 6], [0, 1, 3, 4, 7]]
    assert split_rows([], 2, ["a"]) == [[], []]
    assert split_rows(prompt_ids, 1, ["a", "b", "c", "d"]) == [list(range(8))]


# The critic


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@every_stage
def test_advantages_are_whitened_over_all_ranks(lab: Lab, world_size: int, stage: int) -> None:
    # Each rank by itself would whiten with other numbers: the shares differ in rewards and lengths.
    reference = lab.trained(1, 0, algo="ppo")
    results = lab.trained(world_size, stage, algo="ppo")
    for kind in ("exp_avg", "critic_exp_avg"):
        assert_near(tensors(results, "state", kind), tensors(reference, "state", kind), 2e-4)


@every_stage
def test_ranks_may_differ_in_the_critic_s_micro_batches(lab: Lab, stage: int) -> None:
    # The second rank has nothing to add while the first goes on, and must add nothing.
    reference = lab.trained(1, 0, algo="ppo")
    results = lab.trained(2, stage, algo="ppo", max_tokens_per_microbatch=20, parts=(tuple(range(12)), (12,)))
    for kind in ("exp_avg", "critic_exp_avg"):
        assert_near(tensors(results, "state", kind), tensors(reference, "state", kind), 2e-4)
    for name in ("value_loss", "value_error", "critic_grad_norm", "loss"):
        assert results[0]["metrics"][name] == pytest.approx(reference[0]["metrics"][name], rel=1e-4, abs=1e-6)


@every_stage
def test_activation_checkpointing_changes_no_gradient_of_the_critic(lab: Lab, stage: int) -> None:
    reference = lab.trained(1, 0, algo="ppo")
    results = lab.trained(2, stage, algo="ppo", activation_checkpointing=True)
    assert_near(tensors(results, "state", "critic_exp_avg"), tensors(reference, "state", "critic_exp_avg"), 2e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("world_size", WORLD_SIZES)
@every_stage
def test_the_critic_starts_as_the_policy_s_decoder_with_a_head_of_zeros(
    lab: Lab, world_size: int, stage: int, dtype: str
) -> None:
    results = lab.critic_life(world_size, stage, dtype)
    covered: dict[str, numpy.ndarray] = {}
    for result in results:
        for fragment in result["critic_fragments"]:
            counts = covered.setdefault(fragment.name, numpy.zeros(int(numpy.prod(fragment.shape))))
            counts[fragment.start : fragment.start + fragment.num_elements] += 1
    assert all((counts == 1).all() for counts in covered.values())

    masters = tensors(results, "initial", "critic_master")
    model = Qwen3ForCausalLM.from_pretrained(lab.model, dtype=dtype)
    expected = {
        f"decoder.{name}": parameter.detach().float().numpy() for name, parameter in model.model.named_parameters()
    }
    expected["value_head.weight"], expected["value_head.bias"] = numpy.zeros((1, 35)), numpy.zeros(1)
    assert is_same(masters, expected)
    for kind in ("critic_exp_avg", "critic_exp_avg_sq"):
        assert all((array == 0).all() for array in tensors(results, "initial", kind).values())


@pytest.mark.parametrize(
    ("saved_by", "loaded_by"),
    [((1, 0), (3, 3)), ((3, 3), (2, 1)), ((2, 1), (1, 2)), ((3, 2), (2, 0)), ((2, 3), (1, 0))],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_critic_s_snapshot_loads_bit_for_bit_on_other_ranks_and_stages(
    lab: Lab, tmp_path: Path, saved_by: tuple[int, int], loaded_by: tuple[int, int], dtype: str
) -> None:
    saved = lab.critic_life(*saved_by, dtype)
    folder = write_snapshot(tmp_path / "snapshot", saved, "state", optimizer_step=saved[0]["optimizer_step"])
    assert {f"{kind}.safetensors" for kind in CRITIC} <= {path.name for path in folder.iterdir()}
    loaded = lab.pools[loaded_by[0]].run(
        rl_cases.critic_resume,
        model=lab.model,
        algo="ppo_in_two_steps",
        stage=loaded_by[1],
        dtype=dtype,
        directory=str(folder),
    )
    for kind in (*STATE, *CRITIC):
        expected = tensors(saved, "state", kind)
        assert expected and any((array != 0).any() for array in expected.values())
        assert is_same(tensors(loaded, "state", kind), expected), kind
    assert all(result["optimizer_step"] == saved[0]["optimizer_step"] == 4 for result in loaded)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("world_size", (1, 2))
@every_stage
def test_the_update_after_loading_is_the_update_that_would_have_come(
    lab: Lab, tmp_path: Path, world_size: int, stage: int, dtype: str
) -> None:
    saved = lab.critic_life(world_size, stage, dtype)
    folder = write_snapshot(tmp_path / "snapshot", saved, "state", optimizer_step=saved[0]["optimizer_step"])
    resumed = lab.pools[world_size].run(
        rl_cases.critic_resume,
        model=lab.model,
        algo="ppo_in_two_steps",
        stage=stage,
        dtype=dtype,
        directory=str(folder),
    )
    for kind in (*STATE, *CRITIC):
        assert is_same(tensors(resumed, "after_step", kind), tensors(saved, "after_step", kind)), kind


def test_a_snapshot_without_a_critic_is_refused_by_a_learner_that_has_one(lab: Lab, tmp_path: Path) -> None:
    saved = lab.critic_life(1, 0, "float32")
    without = [{**result, "critic_fragments": []} for result in saved]
    folder = write_snapshot(tmp_path / "snapshot", without, "state", optimizer_step=4)
    assert not (folder / "critic_master.safetensors").exists()
    (loaded,) = lab.pools[1].run(rl_cases.critic_resume, model=lab.model, algo="ppo", directory=str(folder))
    assert loaded["error"].startswith("CheckpointError: ")
    assert "critic_master.safetensors" in loaded["error"]


def test_a_learner_without_a_critic_has_nothing_of_one(lab: Lab) -> None:
    (result,) = lab.trained(1, 0, algo="grpo", parts=PARTS[1])
    assert result["critic_fragments"] == []
    assert not [name for name in result["metrics"] if "value" in name or "critic" in name]
