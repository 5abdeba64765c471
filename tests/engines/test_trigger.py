"""Anchors, directions, roll-backs and what a snapshot keeps of them, on shards of every kind."""

import sys
from pathlib import Path
from typing import Any

import numpy
import pytest

sys.path.insert(0, str(Path(__file__).parent))
import learner_cases as cases
import preset_cases
import trigger_cases
from learner_lab import Lab, is_same, moved_names, whole, write_progress
from plain_trigger import PlainTrigger

from effopd.config.jobs import training_jobs
from effopd.config.register import open_configs
from effopd.config.schema import AccelerateConfig, AnchorRule, DirectionKind
from effopd.types import ShardKind

LAYOUTS = [(2, 0, "bfloat16"), (3, 1, "float32"), (1, 2, "float32"), (2, 3, "bfloat16")]
"""Every stage and precision, one to three ranks; `test_learner.py` has every combination for the plain difference."""
every_layout = pytest.mark.parametrize(("world_size", "stage", "dtype"), LAYOUTS)


def flat(tensors: dict[str, numpy.ndarray], names: list[str]) -> numpy.ndarray:
    return numpy.concatenate([tensors[name].ravel().astype(float) for name in names])


def group_masks(tensors: dict[str, numpy.ndarray], names: list[str]) -> list[numpy.ndarray]:
    """{attention, MLP} of each of the two layers, of which one is the bottom third and one the middle."""
    labels = [name.split(".")[2] + name.split(".")[3] for name in names]
    elements = numpy.concatenate(
        [numpy.full(tensors[name].size, label) for name, label in zip(names, labels, strict=True)]
    )
    return [elements == label for label in sorted(set(labels))]


@every_layout
def test_every_anchor_and_direction_is_that_of_a_single_process(
    lab: Lab, world_size: int, stage: int, dtype: str
) -> None:
    results = lab.rounds(world_size, stage, dtype)
    names = sorted(moved_names(results))
    path = [
        {kind: whole(results, lambda result, n=n, kind=kind: result["path"][n][kind]) for kind in ("master", "exp_avg")}
        for n in range(len(results[0]["path"]))
    ]
    masks = group_masks(path[0]["master"], names)
    assert len(masks) == 4
    for rule, config in trigger_cases.RULES.items():
        plain = PlainTrigger(config, flat(path[0]["master"], names), masks)
        step = 0
        for number, (num_updates, step_size) in enumerate(trigger_cases.ROUNDS):
            for _ in range(num_updates):
                plain.update(flat(path[step]["master"], names))
                step += 1
            current, gradient = flat(path[step]["master"], names), flat(path[step]["exp_avg"], names)
            expected = plain.jump(current, gradient, step_size)
            direction = whole(results, lambda r, n=number, rule=rule: r["rounds"][n][rule]["direction"])
            # Weights are about 0.1 and are rounded to float32 at 1e-8; a direction is some 1e-3 long in every element.
            error = numpy.linalg.norm(flat(direction, names) - expected)
            assert error < 1e-4 * numpy.linalg.norm(expected), (rule, number)

            displacement = results[0]["rounds"][number][rule]["displacement"]
            assert all(result["rounds"][number][rule]["displacement"] == displacement for result in results)
            assert displacement.direction_norm == pytest.approx(numpy.linalg.norm(expected), rel=1e-4)
            assert displacement.slope == pytest.approx(expected @ gradient, rel=1e-3), (rule, number)


@every_layout
def test_every_settlement_is_current_plus_step_size_times_direction_bit_for_bit(
    lab: Lab, world_size: int, stage: int, dtype: str
) -> None:
    results = lab.rounds(world_size, stage, dtype)
    step = 0
    for number, (num_updates, step_size) in enumerate(trigger_cases.ROUNDS):
        step += num_updates
        current = whole(results, lambda result, n=step: result["path"][n]["master"])
        for rule in trigger_cases.RULES:
            direction = whole(results, lambda r, n=number, rule=rule: r["rounds"][n][rule]["direction"])
            settled = whole(results, lambda r, n=number, rule=rule: r["rounds"][n][rule]["settled"])
            expected = {name: current[name] + numpy.float32(step_size) * d for name, d in direction.items()}
            assert is_same(settled, current | expected), (rule, number)


# Undoing a jump


@pytest.fixture(scope="module")
def refusal() -> str:
    return "roll_back is for the moment after the first update after a jump, with accelerate.max_kl_increase set"


@every_layout
def test_a_roll_back_restores_weights_forward_and_anchor_bit_for_bit_and_the_learning_rate(
    lab: Lab, world_size: int, stage: int, dtype: str, refusal: str
) -> None:
    results = lab.pools[world_size].run(
        trigger_cases.undone, model=lab.model, stage=stage, dtype=dtype, segment=str(lab.folder)
    )
    assert results[0]["is_moved"]
    for result in results:
        assert result["is_undone"]
        assert result["keeps_moments"]
        # Twice the rate, were it not for the bound of 1.5 times.
        assert (result["raised_lr"], result["lr"]) == pytest.approx((1.5 * cases.LR, cases.LR))
        assert result["cosine"] is None
        # Before the first update, a second time, and after the second update.
        assert [message.splitlines()[0] for message in result["refusals"]] == 3 * [refusal]
        kept = [ShardKind.PRE_JUMP_MASTER in kinds for kinds in result["kinds"]]
        assert kept == [True, True, False]


# Snapshots

INTERRUPTIONS = {
    "gram_pca": AccelerateConfig(direction=DirectionKind.gram_pca, anchor=AnchorRule.initial, history_size=2),
    "nesterov, undone": AccelerateConfig(direction=DirectionKind.nesterov, max_kl_increase=0.1, lr_max=1.0),
    "ema": AccelerateConfig(direction=DirectionKind.ema, anchor=AnchorRule.previous_step),
    "grouped, undone": AccelerateConfig(
        direction=DirectionKind.grouped, anchor=AnchorRule.pre_jump, max_kl_increase=0.1
    ),
}
KEPT = {
    "gram_pca": {"previous_displacement", "path_1"},
    "nesterov, undone": {"previous_displacement", "pre_jump_master", "pre_jump_anchor", "outer_velocity"},
    "ema": {"previous_displacement"},
    "grouped, undone": {"previous_displacement", "pre_jump_master", "pre_jump_anchor"},
}


@pytest.mark.parametrize(
    ("rule", "layout", "other_layout"),
    [
        ("gram_pca", (2, 3, "bfloat16"), (3, 0, "float32")),
        ("nesterov, undone", (2, 1, "float32"), (3, 3, "bfloat16")),
        ("ema", (2, 0, "bfloat16"), (1, 2, "float32")),
        ("grouped, undone", (3, 2, "float32"), (2, 0, "bfloat16")),
    ],
)
def test_a_resumed_learner_goes_on_bit_for_bit_and_other_layouts_load_the_same(
    lab: Lab, tmp_path: Path, rule: str, layout: tuple[int, int, str], other_layout: tuple[int, int, str]
) -> None:
    def run(layout: tuple[int, int, str], directory: Path | None) -> list[dict[str, Any]]:
        return lab.pools[layout[0]].run(
            trigger_cases.interrupted,
            model=lab.model,
            stage=layout[1],
            dtype=layout[2],
            accelerate=INTERRUPTIONS[rule],
            directory=None if directory is None else str(directory),
        )

    uninterrupted = run(layout, None)
    progress = uninterrupted[0]["progress"]
    assert set(progress.kinds) == {"anchor", *KEPT[rule]}
    folder = write_progress(tmp_path / "snapshot", uninterrupted, "saved", progress)

    resumed = run(layout, folder)
    assert resumed[0]["progress"] == progress
    assert resumed[0]["lr"] == uninterrupted[0]["lr"] == pytest.approx(0.7 * cases.LR)
    assert resumed[0]["displacement"] == uninterrupted[0]["displacement"]
    for kind in uninterrupted[0]["end"]:
        expected = whole(uninterrupted, lambda result, kind=kind: result["end"][kind])
        assert expected and is_same(whole(resumed, lambda result, kind=kind: result["end"][kind]), expected), kind

    elsewhere = lab.pools[other_layout[0]].run(
        cases.resume,
        model=lab.model,
        stage=other_layout[1],
        dtype=other_layout[2],
        accelerate=INTERRUPTIONS[rule],
        directory=str(folder),
    )
    for kind in ("master", "exp_avg", "exp_avg_sq", *progress.kinds):
        expected = whole(uninterrupted, lambda result, kind=kind: result["saved"][kind])
        assert expected and is_same(whole(elsewhere, lambda result, kind=kind: result["loaded"][kind]), expected), kind


# Presets, from scores to weights

LAYERS = [f"model.layers.{layer}." for layer in range(2)]
MOVED_AS_RELEASED = {
    layer + name
    for layer in LAYERS
    for name in (
        *("self_attn.q_proj.weight", "self_attn.k_proj.weight", "self_attn.v_proj.weight", "self_attn.o_proj.weight"),
        *("self_attn.q_norm.weight", "self_attn.k_norm.weight", "post_attention_layernorm.weight"),
        *("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight"),
    )
}
MOVED_AS_PRINTED = MOVED_AS_RELEASED | {
    *(layer + "input_layernorm.weight" for layer in LAYERS),
    *("model.embed_tokens.weight", "model.norm.weight"),
}
TRACES = {
    # Right answers of 50, by the weights before and then by every candidate; the step sizes tried; the one settled on.
    "paper": [
        ((25, 24), [2], 0),  # worse at once
        ((25, 25, 24), [2, 4], 2),  # a tie is no loss
        ((25, 30, 30, 29), [2, 4, 6], 4),  # neither is one with the best so far
        ((25, 30, 28), [2, 4], 2),  # better than the weights before, but not than the best so far
        ((25, 30, 35, 34, 50), [2, 4, 6], 4),  # what lies behind a refusal is not seen
        ((5, 10, 15, 20, 25, 30), [2, 4, 6, 8, 10], 10),
    ],
    "released": [
        ((25, 24), [2], 0),
        ((25, 25), [2], 0),  # a tie is no gain
        ((25, 30, 30), [2, 4], 2),
        ((25, 30, 28), [2, 4], 2),
        ((25, 30, 35, 34, 50), [2, 4, 6], 4),
        ((5, 10, 15, 20, 25, 30), [2, 4, 6, 8, 10], 10),
    ],
}


@pytest.mark.parametrize(
    ("preset", "moved", "world_size", "stage", "dtype"),
    [
        ("paper", MOVED_AS_PRINTED, 1, 2, "float32"),
        ("paper", MOVED_AS_PRINTED, 3, 1, "bfloat16"),
        ("paper", MOVED_AS_PRINTED, 2, 3, "bfloat16"),
        ("released", MOVED_AS_RELEASED, 2, 0, "bfloat16"),
        ("released", MOVED_AS_RELEASED, 3, 3, "float32"),
    ],
    ids=lambda value: "" if isinstance(value, set) else str(value),
)
def test_a_preset_turns_scores_into_decisions_and_these_into_weights(
    preset: str, moved: set[str], lab: Lab, world_size: int, stage: int, dtype: str
) -> None:
    with open_configs() as configs:
        (job,) = training_jobs(configs, ["experiment=toy_opd", f"accelerate={preset}"], is_multirun=False)
    traces = TRACES[preset]
    results = lab.pools[world_size].run(
        preset_cases.replayed,
        model=lab.model,
        stage=stage,
        dtype=dtype,
        accelerate=job.config.accelerate,
        traces=[scores for scores, _, _ in traces],
    )
    assert moved_names(results) == moved
    anchor: dict[str, numpy.ndarray] = {}
    for number, (_, tried, accepted) in enumerate(traces):
        for result in results:
            assert result["triggers"][number]["tried"] == [0, *tried]
            assert result["triggers"][number]["accepted"] == accepted
        current, measured_from = (
            whole(results, lambda result, n=number, kind=kind: result["triggers"][n]["before"][kind])
            for kind in ("master", "anchor")
        )
        # A jump is measured from where the one before it has led, refused or not.
        assert number == 0 or is_same(measured_from, {name: anchor[name] for name in moved})
        after = whole(results, lambda result, n=number: result["triggers"][n]["after"])
        expected = {
            name: array + numpy.float32(accepted) * (array - measured_from[name])
            if name in moved and accepted
            else array
            for name, array in current.items()
        }
        assert is_same(after, expected)
        assert all(not numpy.array_equal(after[name], current[name]) for name in moved) is (accepted != 0)
        anchor = after
