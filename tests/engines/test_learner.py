"""Conformance of the DeepSpeed learner: every ZeRO stage and precision, one to three ranks."""

import math
import sys
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch
from safetensors.torch import save_file
from scores_by_hand import gate_score
from transformers import Gemma2Config, Gemma2ForCausalLM, Qwen3ForCausalLM

sys.path.insert(0, str(Path(__file__).parent))
import learner_cases as cases
from learner_lab import (
    DTYPES,
    WORLD_SIZES,
    Lab,
    assert_same_gradient,
    every_setting,
    every_stage,
    gradient,
    is_same,
    moved_names,
    whole,
    write_snapshot,
)

from effopd.checkpoints.learner_state import OPTIMIZER_KINDS
from effopd.config.schema import AccelerateConfig, AcceptRule, LearnerConfig, LRSchedule
from effopd.decision import accept_rule
from effopd.engines.learning_rate import lr_at
from effopd.engines.microbatches import plan_micro_batches
from effopd.engines.policy_module import check_head, load_causal_lm
from effopd.errors import ConfigError
from effopd.extrapolation.search import search
from effopd.gate_scores import Measure
from effopd.types import CandidateRecord, GateScore, ShardKind


def bfloat16_rounded(array: numpy.ndarray) -> numpy.ndarray:
    return torch.from_numpy(array).bfloat16().float().numpy()


# Fragments


@every_setting
def test_fragments_tile_every_parameter_exactly_once(lab: Lab, world_size: int, stage: int, dtype: str) -> None:
    covered: dict[str, numpy.ndarray] = {}
    for result in lab.life(world_size, stage, dtype):
        for fragment in result["fragments"]:
            assert fragment.num_elements > 0
            counts = covered.setdefault(fragment.name, numpy.zeros(int(numpy.prod(fragment.shape))))
            counts[fragment.start : fragment.start + fragment.num_elements] += 1
    model = Qwen3ForCausalLM.from_pretrained(lab.model)
    assert covered.keys() == {name for name, _ in model.named_parameters()}
    assert all((counts == 1).all() for counts in covered.values())


@every_setting
def test_masters_start_as_the_model_s_weights(lab: Lab, world_size: int, stage: int, dtype: str) -> None:
    masters = whole(lab.life(world_size, stage, dtype), lambda result: result["initial"]["master"])
    for name, parameter in Qwen3ForCausalLM.from_pretrained(lab.model).named_parameters():
        expected = parameter.detach().to(getattr(torch, dtype)).float().numpy()
        assert numpy.array_equal(masters[name], expected), name


@every_setting
def test_moments_exist_and_are_zero_before_the_first_step(lab: Lab, world_size: int, stage: int, dtype: str) -> None:
    for kind in ("exp_avg", "exp_avg_sq"):
        moments = whole(lab.life(world_size, stage, dtype), lambda result, kind=kind: result["initial"][kind])
        assert moments and all((array == 0).all() for array in moments.values())


# Jumps


@every_setting
def test_a_candidate_is_current_plus_step_size_times_displacement(
    lab: Lab, world_size: int, stage: int, dtype: str
) -> None:
    results = lab.life(world_size, stage, dtype)
    current = whole(results, lambda result: result["current"]["master"])
    anchor = whole(results, lambda result: result["current"]["anchor"])
    candidate = whole(results, lambda result: result["candidate"])
    assert anchor.keys() == moved_names(results)
    for name in current:
        if name in anchor:
            # On whole tensors in one process: the bits are the same, however the tensors were cut.
            expected = current[name] + numpy.float32(4) * (current[name] - anchor[name])
            assert numpy.array_equal(candidate[name], expected), name
            assert not numpy.array_equal(candidate[name], current[name])
        else:
            assert numpy.array_equal(candidate[name], current[name]), name


@every_setting
def test_a_candidate_s_published_weights_are_its_rounded_masters(
    lab: Lab, world_size: int, stage: int, dtype: str
) -> None:
    results = lab.life(world_size, stage, dtype)
    masters = whole(results, lambda result: result["candidate"])
    published = results[0]["candidate_weights"]
    expected = masters if dtype == "float32" else {name: bfloat16_rounded(array) for name, array in masters.items()}
    assert is_same(published, expected)


@every_setting
def test_a_forward_after_a_jump_uses_the_jumped_weights(lab: Lab, world_size: int, stage: int, dtype: str) -> None:
    results = lab.life(world_size, stage, dtype)
    assert max(result["largest_jump_in_logprobs"] for result in results) > 0.05
    assert results[0]["error_of_candidate"] < (1e-5 if dtype == "float32" else 0.05)


@every_setting
def test_a_step_size_of_zero_restores_bits_and_forward(lab: Lab, world_size: int, stage: int, dtype: str) -> None:
    assert all(result["is_restored"] for result in lab.life(world_size, stage, dtype))


def decision(results: list[dict[str, Any]], rule: AcceptRule) -> tuple[CandidateRecord, ...]:
    """The ladder's, gated by how probable every response is, mean over its tokens, put together from all ranks."""
    of_size = {
        size: {name: value for result in results for name, value in result["mean_logprobs"][size].items()}
        for size in results[0]["mean_logprobs"]
    }
    scores = {size: gate_score(dict(sorted(own.items()))) for size, own in of_size.items()}
    config = AccelerateConfig(accept=rule, step_sizes=[2.0, 4.0])
    accept = accept_rule(config, Measure.REVERSE_KL)

    def judge(step_size: float, best: GateScore) -> CandidateRecord:
        is_accepted, reason = accept(scores[step_size], best)
        return CandidateRecord(step_size=step_size, score=scores[step_size], is_accepted=is_accepted, reason=reason)

    return search(config, scores[0.0], judge, math.inf)


@every_setting
def test_the_same_rollouts_lead_to_the_same_decision_as_in_a_single_process(
    lab: Lab, world_size: int, stage: int, dtype: str
) -> None:
    reference, results = lab.life(1, 0, dtype), lab.life(world_size, stage, dtype)
    for rule in (AcceptRule.strict, AcceptRule.paired):
        records, expected = decision(results, rule), decision(reference, rule)
        assert [(record.step_size, record.is_accepted) for record in records] == [
            (record.step_size, record.is_accepted) for record in expected
        ]
        for record, other in zip(records, expected, strict=True):
            tolerance = 1e-5 if dtype == "float32" else 1e-3
            assert record.score.value == pytest.approx(other.score.value, rel=tolerance)


@every_setting
def test_a_refused_search_leaves_bits_and_forward_as_they_were(
    lab: Lab, world_size: int, stage: int, dtype: str
) -> None:
    assert all(result["is_rolled_back"] for result in lab.life(world_size, stage, dtype))


@every_setting
def test_a_refused_search_keeps_moments_and_moves_the_anchor_to_the_weights(
    lab: Lab, world_size: int, stage: int, dtype: str
) -> None:
    results = lab.life(world_size, stage, dtype)
    for kind in ("exp_avg", "exp_avg_sq"):
        before = whole(results, lambda result, kind=kind: result["current"][kind])
        assert is_same(before, whole(results, lambda result, kind=kind: result["after_refusal"][kind]))
    masters = whole(results, lambda result: result["after_refusal"]["master"])
    anchor = whole(results, lambda result: result["after_refusal"]["anchor"])
    assert is_same(anchor, {name: masters[name] for name in anchor})


@every_setting
def test_the_previous_displacement_is_current_minus_old_anchor(
    lab: Lab, world_size: int, stage: int, dtype: str
) -> None:
    results = lab.life(world_size, stage, dtype)
    current = whole(results, lambda result: result["current"]["master"])
    anchor = whole(results, lambda result: result["current"]["anchor"])
    previous = whole(results, lambda result: result["after_refusal"]["previous_displacement"])
    assert is_same(previous, {name: current[name] - anchor[name] for name in anchor})


@every_setting
def test_displacement_statistics_are_global_and_the_same_on_every_rank(
    lab: Lab, world_size: int, stage: int, dtype: str
) -> None:
    results = lab.life(world_size, stage, dtype)
    first, second = results[0]["displacement"], results[0]["second_displacement"]
    assert all(result["displacement"] == first for result in results)
    assert all(result["second_displacement"] == second for result in results)

    def flat(state: str, kind: str) -> numpy.ndarray:
        tensors = whole(results, lambda result: result[state][kind])
        return numpy.concatenate([tensors[name].ravel().astype(float) for name in sorted(moved_names(results))])

    delta = flat("current", "master") - flat("current", "anchor")
    assert first.norm == pytest.approx(numpy.linalg.norm(delta), rel=1e-9)
    assert first.relative_norm == pytest.approx(
        numpy.linalg.norm(delta) / numpy.linalg.norm(flat("current", "master")), rel=1e-9
    )
    assert first.cosine_to_previous is None
    assert first.direction_norm == pytest.approx(first.norm, rel=1e-5)  # Δ in float32
    assert first.slope == pytest.approx(flat("current", "exp_avg") @ delta, rel=1e-4)
    assert first.slope < 0  # four steps on the same rollouts have all gone downhill
    second_delta = flat("before_jump", "master") - flat("before_jump", "anchor")
    previous = flat("before_jump", "previous_displacement")
    expected = second_delta @ previous / numpy.linalg.norm(second_delta) / numpy.linalg.norm(previous)
    assert second.cosine_to_previous == pytest.approx(expected, rel=1e-6)


@every_setting
def test_an_accepted_jump_lands_on_the_candidate_s_bits_keeps_moments_and_becomes_the_anchor(
    lab: Lab, world_size: int, stage: int, dtype: str
) -> None:
    results = lab.life(world_size, stage, dtype)
    for kind in ("exp_avg", "exp_avg_sq"):
        before = whole(results, lambda result, kind=kind: result["before_jump"][kind])
        assert is_same(before, whole(results, lambda result, kind=kind: result["jumped"][kind]))
    masters = whole(results, lambda result: result["jumped"]["master"])
    anchor = whole(results, lambda result: result["jumped"]["anchor"])
    assert is_same(anchor, {name: masters[name] for name in anchor})
    current = whole(results, lambda result: result["before_jump"]["master"])
    old_anchor = whole(results, lambda result: result["before_jump"]["anchor"])
    expected = {name: current[name] + numpy.float32(2) * (current[name] - old_anchor[name]) for name in anchor}
    assert is_same(anchor, expected)


@every_setting
def test_an_optimizer_step_after_an_accepted_jump_starts_from_the_jumped_weights(
    lab: Lab, world_size: int, stage: int, dtype: str
) -> None:
    results = lab.life(world_size, stage, dtype)
    jumped = whole(results, lambda result: result["jumped"]["master"])
    after = whole(results, lambda result: result["after_step"]["master"])
    # An Adam step moves an element by about lr; a lost jump would be seen as a move by the whole jump, 10 times that.
    largest = max(numpy.abs(after[name] - jumped[name]).max() for name in jumped)
    assert 0 < largest < 5 * cases.LR
    expected = after if dtype == "float32" else {name: bfloat16_rounded(array) for name, array in after.items()}
    assert is_same(results[0]["after_step_weights"], expected)


@pytest.mark.parametrize("dtype", DTYPES)
@every_stage
def test_first_moments_of_moved_parameters_are_zeroed_on_request(lab: Lab, stage: int, dtype: str) -> None:
    results = lab.pools[2].run(cases.zeroed_moments, model=lab.model, stage=stage, dtype=dtype)
    before, after = (
        {kind: whole(results, lambda result, kind=kind, when=when: result[when][kind]) for kind in ("exp_avg", "exp_avg_sq")}
        for when in ("before", "after")
    )  # fmt: skip
    moved = moved_names(results)
    for name in before["exp_avg"]:
        assert (
            (after["exp_avg"][name] == 0).all()
            if name in moved
            else (after["exp_avg"][name] == before["exp_avg"][name]).all()
        )
    assert is_same(before["exp_avg_sq"], after["exp_avg_sq"])


# Gradients


@pytest.mark.parametrize("world_size", WORLD_SIZES)
@every_stage
def test_any_number_of_ranks_reaches_the_same_weights(lab: Lab, world_size: int, stage: int) -> None:
    reference = lab.life(1, 0, "float32")
    results = lab.life(world_size, stage, "float32")
    expected = whole(reference, lambda result: result["jumped"]["master"])
    start = whole(reference, lambda result: result["initial"]["master"])
    for name, array in whole(results, lambda result: result["jumped"]["master"]).items():
        displacement = numpy.linalg.norm(expected[name] - start[name])
        assert numpy.linalg.norm(array - expected[name]) < 1e-4 * displacement, name


@pytest.mark.parametrize("world_size", (1, 2))
@every_stage
def test_the_gradient_does_not_depend_on_micro_batches_or_ranks(lab: Lab, world_size: int, stage: int) -> None:
    # 13 rollouts of 3 to 13 tokens: one micro-batch a rank at first, then as many as fit two or three rollouts each.
    reference = lab.trained(1, 0)
    assert_same_gradient(lab.trained(world_size, stage), reference)
    assert_same_gradient(lab.trained(world_size, stage, max_tokens_per_microbatch=20), reference)


@every_stage
def test_metrics_are_means_over_all_response_tokens(lab: Lab, stage: int) -> None:
    reference, results = lab.trained(1, 0), lab.trained(3, stage)
    for result in results:
        assert result["num_response_tokens"] == reference[0]["num_response_tokens"]
        assert result["metrics"] == results[0]["metrics"]
    for name in ("loss", "reverse_kl", "sampler_gap"):
        assert results[0]["metrics"][name] == pytest.approx(reference[0]["metrics"][name], rel=1e-5)


@every_stage
def test_clipping_scales_the_gradient_to_the_limit(lab: Lab, stage: int) -> None:
    free = gradient(lab.trained(2, stage, max_grad_norm=0.0))
    norm = lab.trained(2, stage, max_grad_norm=0.0)[0]["metrics"]["grad_norm"]
    # beta1 = 0.9, so the gradient is ten times the first moment.
    assert norm == pytest.approx(numpy.sqrt(sum(((10 * array.astype(float)) ** 2).sum() for array in free.values())))
    assert norm > 0.5
    clipped = gradient(lab.trained(2, stage, max_grad_norm=0.5))
    for name, array in clipped.items():
        numpy.testing.assert_allclose(array, free[name] * 0.5 / norm, rtol=1e-3, atol=1e-9)


@every_stage
def test_ranks_may_differ_in_micro_batches_and_head_chunks(lab: Lab, stage: int) -> None:
    # One rank has 12 rollouts in many micro-batches of many chunks, the other a single short one.
    parts = (tuple(range(12)), (12,))
    settings = {"max_tokens_per_microbatch": 20, "logit_chunk_tokens": 3, "parts": parts}
    assert_same_gradient(lab.trained(2, stage, **settings), lab.trained(1, 0))


@every_stage
def test_a_rank_may_have_no_rollouts(lab: Lab, stage: int) -> None:
    parts = (tuple(range(6)), (), tuple(range(6, 13)))
    assert_same_gradient(lab.trained(3, stage, parts=parts), lab.trained(1, 0))


@every_stage
def test_activation_checkpointing_changes_no_gradient(lab: Lab, stage: int) -> None:
    assert_same_gradient(lab.trained(2, stage, activation_checkpointing=True), lab.trained(1, 0))


@every_stage
def test_exact_divergences_train_at_every_stage(lab: Lab, stage: int) -> None:
    assert_same_gradient(
        lab.trained(2, stage, algo="opd_full", logit_chunk_tokens=3), lab.trained(1, 0, algo="opd_full")
    )


@pytest.mark.parametrize("dtype", DTYPES)
@every_stage
def test_a_gradient_that_is_not_finite_changes_nothing(lab: Lab, stage: int, dtype: str) -> None:
    for result in lab.pools[2].run(cases.not_finite, model=lab.model, stage=stage, dtype=dtype):
        culprits = result["culprits"]
        assert result["message"] == (
            "GradientError: optimizer step 1: the gradient is not finite; nothing was changed; "
            f"not finite is the loss of {len(culprits)} of 8 responses: {', '.join(culprits)}"
        )
        assert result["is_unchanged"]
        assert numpy.isfinite(result["next_grad_norm"])
        assert result["optimizer_step"] == 2


@pytest.mark.parametrize("stage", [0, 3])
def test_a_step_that_is_skipped_changes_nothing_and_three_in_a_row_are_enough(lab: Lab, stage: int) -> None:
    for result in lab.pools[2].run(cases.skipped, model=lab.model, stage=stage, algo="opd"):
        assert result["metrics"] == {"skipped_steps": 1.0}
        (reason,) = result["skipped"]
        assert reason.endswith("not finite is the loss of all 8 responses, so no prompt is to blame; skipped")
        assert result["is_unchanged"]
        assert "skipped_steps" not in result["next"].metrics and not result["next"].skipped
        assert result["num_skips"] == 3
        assert result["message"].endswith("3 steps before it were skipped already, so the run ends")


# Measuring and publishing


@every_stage
def test_exact_reverse_kl_agrees_with_plain_transformers(lab: Lab, stage: int) -> None:
    results = lab.pools[3].run(
        cases.divergence, model=lab.untied_model, stage=stage, logit_chunk_tokens=3, max_tokens_per_microbatch=20
    )
    for result in results:
        assert [kl.reverse_kl_sum for kl in result["measured"]] == pytest.approx(result["expected"], rel=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
@every_stage
def test_tied_weights_are_published_once_and_only_by_rank_0(lab: Lab, stage: int, dtype: str) -> None:
    results = lab.pools[2].run(cases.published, model=lab.model, stage=stage, dtype=dtype, segment=str(lab.folder))
    assert results[1]["version"] is None
    assert results[0]["version"] == "3.0"
    assert results[0]["dtypes"] == [f"torch.{dtype}"]
    assert results[0]["names"] == sorted(
        name for name, _ in Qwen3ForCausalLM.from_pretrained(lab.model).named_parameters()
    )
    assert "lm_head.weight" not in results[0]["names"]


@pytest.mark.parametrize("stage", (0, 3))
def test_untied_heads_are_published(lab: Lab, stage: int) -> None:
    segment = str(lab.folder)
    results = lab.pools[2].run(cases.published, model=lab.untied_model, stage=stage, segment=segment)
    assert "lm_head.weight" in results[0]["names"]


def test_the_segment_is_gone_on_close(lab: Lab) -> None:
    assert not lab.life(1, 0, "float32")[0]["segment_outlives_the_learner"]


def test_nothing_is_compiled(lab: Lab) -> None:
    lab.life(2, 1, "float32")
    assert not (lab.folder / "compiled").exists()


# Snapshots


@pytest.mark.parametrize(
    ("saved_by", "loaded_by"),
    [
        ((1, 0), (3, 3)),
        ((3, 3), (2, 1)),
        ((2, 1), (1, 2)),
        ((3, 2), (2, 0)),
        ((2, 3), (1, 0)),
    ],
)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_snapshot_loads_bit_for_bit_on_other_ranks_and_stages(
    lab: Lab, tmp_path: Path, saved_by: tuple[int, int], loaded_by: tuple[int, int], dtype: str
) -> None:
    saved = lab.life(*saved_by, dtype)
    folder = write_snapshot(tmp_path / "snapshot", saved, "jumped", optimizer_step=5)
    loaded = lab.pools[loaded_by[0]].run(
        cases.resume, model=lab.model, stage=loaded_by[1], dtype=dtype, directory=str(folder)
    )
    for kind in (*OPTIMIZER_KINDS, ShardKind.ANCHOR, ShardKind.PREVIOUS_DISPLACEMENT):
        expected = whole(saved, lambda result, kind=kind: result["jumped"][kind.value])
        assert expected
        assert is_same(whole(loaded, lambda result, kind=kind: result["loaded"][kind.value]), expected), kind
    assert all(result["optimizer_step"] == 5 and "previous_displacement" in result["kinds"] for result in loaded)


@every_setting
def test_the_step_after_loading_is_the_step_that_would_have_come(
    lab: Lab, tmp_path: Path, world_size: int, stage: int, dtype: str
) -> None:
    saved = lab.life(world_size, stage, dtype)
    folder = write_snapshot(tmp_path / "snapshot", saved, "jumped", optimizer_step=5)
    resumed = lab.pools[world_size].run(cases.resume, model=lab.model, stage=stage, dtype=dtype, directory=str(folder))
    for kind in ("master", "exp_avg", "exp_avg_sq"):
        expected = whole(saved, lambda result, kind=kind: result["after_step"][kind])
        assert is_same(whole(resumed, lambda result, kind=kind: result["after_step"][kind]), expected), kind


@every_stage
def test_a_snapshot_from_before_the_first_step_loads(lab: Lab, tmp_path: Path, stage: int) -> None:
    fresh = lab.pools[2].run(cases.initial_state, model=lab.model, stage=stage)
    assert all(result["optimizer_step"] == 0 for result in fresh)
    folder = write_snapshot(tmp_path / "snapshot", fresh, "state", optimizer_step=0)
    resumed = lab.pools[2].run(cases.resume, model=lab.model, stage=stage, directory=str(folder))
    # The step after it is the very first step.
    reference = lab.trained(2, stage)
    expected = whole(reference, lambda result: result["state"]["master"])
    assert is_same(whole(resumed, lambda result: result["after_step"]["master"]), expected)
    assert not any("previous_displacement" in result["kinds"] for result in resumed)


def test_without_an_anchor_file_the_loaded_weights_are_the_anchor(lab: Lab, tmp_path: Path) -> None:
    folder = write_snapshot(tmp_path / "snapshot", lab.life(2, 1, "float32"), "current", optimizer_step=4)
    (folder / "anchor.safetensors").unlink()
    loaded = lab.pools[2].run(cases.resume, model=lab.model, stage=3, directory=str(folder))
    masters = whole(loaded, lambda result: result["loaded"]["master"])
    anchor = whole(loaded, lambda result: result["loaded"]["anchor"])
    assert anchor and is_same(anchor, {name: masters[name] for name in anchor})


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (lambda tensors: tensors.pop("model.norm.weight"), "no tensor model.norm.weight"),
        (
            lambda tensors: tensors.update({"model.norm.weight": torch.zeros(36)}),
            "tensor model.norm.weight is F32 of shape [36]; the model needs F32 of shape [35]",
        ),
    ],
)
def test_a_damaged_snapshot_is_refused_by_name(lab: Lab, tmp_path: Path, damage: Any, complaint: str) -> None:
    results = lab.life(1, 0, "float32")
    folder = write_snapshot(tmp_path / "snapshot", results, "current", optimizer_step=4)
    tensors = {
        name: torch.from_numpy(array) for name, array in whole(results, lambda r: r["current"]["exp_avg"]).items()
    }
    damage(tensors)
    save_file(tensors, folder / "exp_avg.safetensors")
    (loaded,) = lab.pools[1].run(cases.resume, model=lab.model, directory=str(folder))
    assert loaded["error"].startswith("CheckpointError: ")
    assert complaint in loaded["error"]


def test_a_missing_snapshot_file_is_refused(lab: Lab, tmp_path: Path) -> None:
    folder = write_snapshot(tmp_path / "snapshot", lab.life(1, 0, "float32"), "current", optimizer_step=4)
    (folder / "master.safetensors").unlink()
    (loaded,) = lab.pools[1].run(cases.resume, model=lab.model, directory=str(folder))
    assert "master.safetensors: cannot be read" in loaded["error"]


# Without ranks


def test_a_model_that_caps_its_logits_is_refused(tmp_path: Path) -> None:
    config = Gemma2Config(
        vocab_size=53,
        hidden_size=32,
        intermediate_size=32,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=16,
        final_logit_softcapping=0.5,
        pad_token_id=0,
    )
    Gemma2ForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="Gemma2ForCausalLM does more to its logits"):
        check_head(load_causal_lm(str(tmp_path), torch.float32, "eager"))


def test_a_plain_head_is_accepted(lab: Lab) -> None:
    check_head(load_causal_lm(lab.model, torch.bfloat16, "sdpa"))


def test_micro_batches_cover_every_row_once_within_the_budget() -> None:
    lengths = [3, 9, 1, 9, 30, 4, 4, 8]
    plan = plan_micro_batches(lengths, max_tokens=20)
    assert sorted(row for micro_batch in plan for row in micro_batch.rows) == list(range(8))
    for micro_batch in plan:
        assert micro_batch.length == max(lengths[row] for row in micro_batch.rows)
        assert micro_batch.num_computed_tokens <= 20 or len(micro_batch.rows) == 1
    assert plan[0].rows == (4,)


def test_micro_batches_end_before_padding_is_a_twentieth_of_them() -> None:
    # With n rows of 900 the padding is 100 n of 1000 (10 + n) tokens: at n = 10, 1,000 of 20,000, just a twentieth.
    plan = plan_micro_batches([1000] * 10 + [900] * 10, max_tokens=100_000)
    assert [len(micro_batch.rows) for micro_batch in plan] == [20]
    plan = plan_micro_batches([1000] * 10 + [900] * 11, max_tokens=100_000)
    assert [len(micro_batch.rows) for micro_batch in plan] == [20, 1]


def test_a_few_tokens_of_padding_do_not_end_a_micro_batch() -> None:
    # One row of 257 and n of 1: padding of 256 n tokens, far more than a twentieth; one such row is let in.
    plan = plan_micro_batches([257, 1, 1], max_tokens=100_000)
    assert [len(micro_batch.rows) for micro_batch in plan] == [2, 1]


def test_no_rows_make_no_micro_batches() -> None:
    assert plan_micro_batches([], max_tokens=20) == []


def test_learning_rates_follow_the_schedule() -> None:
    constant = LearnerConfig(lr=1.0)
    assert [lr_at(constant, step, 4) for step in range(4)] == [1, 1, 1, 1]
    linear = LearnerConfig(lr=1.0, lr_schedule=LRSchedule.linear, warmup_steps=2)
    # 2 steps up, then 4 steps of which the first is at the top and a fifth would be at 0.
    assert [lr_at(linear, step, 6) for step in range(6)] == [0.5, 1, 1, 0.75, 0.5, 0.25]
    cosine = LearnerConfig(lr=1.0, lr_schedule=LRSchedule.cosine)
    assert [lr_at(cosine, step, 4) for step in (0, 2)] == pytest.approx([1, 0.5])
    assert lr_at(linear, 100, 6) == 0
