"""Samples packed into one row: nothing passes between them, and the learner does what it does with padding."""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AttentionInterface,
    BloomConfig,
    BloomForCausalLM,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedModel,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

sys.path.insert(0, str(Path(__file__).parent))
import learner_cases as cases
from learner_lab import DTYPES, Lab, assert_same_gradient, every_stage, whole

from effopd.algorithms.logprobs import entropy
from effopd.algorithms.policy_output import PolicyOutput
from effopd.engines.packed_attention import (
    PER_SAMPLE,
    attend_per_sample,
    check_packing,
    enable_packing,
    last_hidden_states,
)
from effopd.engines.packing import plan_packed_micro_batches
from effopd.engines.policy_module import CriticModule, PolicyModule, enable_activation_checkpointing
from effopd.errors import ConfigError

VOCABULARY = 53
LENGTHS = (6, 3, 7, 4)
MIDDLE = slice(9, 16)  # of the third sample
SIZES = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
}
SLIDING = {"use_sliding_window": True, "sliding_window": 3, "max_window_layers": 1}
SAME_IN_FLOAT32 = 3e-5
"""The same sums in another order. A sum of n terms may differ by n 2^-24 of their size; n is 53 at most, the vocabulary, and
some ten sums lie one behind the other, projections, attention and MLP of two layers and the head: 10 x 53 x 6e-8."""


def random_model(family: str, attention: str = "sdpa", dtype: str = "float32") -> PreTrainedModel:
    """A model whose attention counts, ready for packing."""
    torch.manual_seed(0)
    config, model_class = {
        "qwen2": lambda: (Qwen2Config(**SIZES), Qwen2ForCausalLM),
        "qwen3": lambda: (Qwen3Config(head_dim=8, **SIZES), Qwen3ForCausalLM),
        "qwen3 with sliding windows": lambda: (Qwen3Config(head_dim=8, **SIZES, **SLIDING), Qwen3ForCausalLM),
        "llama": lambda: (LlamaConfig(**SIZES), LlamaForCausalLM),
        "gpt2": lambda: (
            GPT2Config(
                vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=64, bos_token_id=0, eos_token_id=0
            ),
            GPT2LMHeadModel,
        ),
    }[family]()
    model = model_class._from_config(config, attn_implementation=attention).to(getattr(torch, dtype)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    enable_packing(model)
    return model


def random_tokens(seed: int = 1) -> Tensor:
    return torch.randint(VOCABULARY, (1, sum(LENGTHS)), generator=torch.Generator().manual_seed(seed))


def response_mask() -> Tensor:
    """Everything is response but the first two tokens of each sample."""
    masks = [torch.arange(length) >= 2 for length in LENGTHS]
    return torch.cat(masks)[None]


def run(module: torch.nn.Module, token_ids: Tensor, compute: Callable[[Any], Any]) -> Any:
    return module(token_ids, torch.ones_like(token_ids, dtype=torch.bool), response_mask(), compute, LENGTHS)


def measured(output: PolicyOutput) -> Tensor:
    """[2, T]"""
    return torch.cat([output.logprobs, output.per_token(entropy)])


FAMILIES = [
    ("qwen3", "sdpa", "float32"),
    ("qwen3", "sdpa", "bfloat16"),
    ("qwen3", "eager", "float32"),
    ("qwen3 with sliding windows", "sdpa", "float32"),
    ("qwen2", "sdpa", "float32"),
    ("llama", "sdpa", "bfloat16"),
    ("llama", "eager", "float32"),
    ("gpt2", "sdpa", "float32"),
]
every_family = pytest.mark.parametrize(("family", "attention", "dtype"), FAMILIES)


# No sample sees another


@every_family
def test_other_tokens_in_one_sample_change_no_bit_of_the_others(family: str, attention: str, dtype: str) -> None:
    policy = PolicyModule(random_model(family, attention, dtype), chunk_tokens=5)
    critic = CriticModule(random_model(family, attention, dtype))
    torch.nn.init.normal_(critic.value_head.weight)
    changed = random_tokens()
    changed[0, MIDDLE] = random_tokens(seed=2)[0, MIDDLE]
    is_changed = torch.zeros(sum(LENGTHS), dtype=torch.bool)
    is_changed[MIDDLE] = True
    mask = response_mask()[0]
    with torch.no_grad():
        for module, compute in ((policy, measured), (critic, lambda values: values)):
            before, after = (run(module, tokens, compute) for tokens in (random_tokens(), changed))
            assert torch.equal(before[:, mask & ~is_changed], after[:, mask & ~is_changed])
            assert (before[:, mask & is_changed] != after[:, mask & is_changed]).any(-1).all()


@pytest.mark.parametrize("is_checkpointed", [False, True])
@every_family
def test_the_loss_of_one_sample_has_no_gradient_in_the_inputs_of_the_others(
    family: str, attention: str, dtype: str, is_checkpointed: bool
) -> None:
    model = random_model(family, attention, dtype)
    if is_checkpointed:
        enable_activation_checkpointing(model)
    inputs: list[Tensor] = []

    def keep(module: torch.nn.Module, arguments: Any, output: Tensor) -> None:
        output.retain_grad()
        inputs.append(output)

    model.get_input_embeddings().register_forward_hook(keep)
    logprobs = run(PolicyModule(model, chunk_tokens=5), random_tokens(), lambda output: output.logprobs)
    logprobs[0, MIDDLE].sum().backward()
    (gradient,) = (tensor.grad[0] for tensor in inputs if tensor.grad is not None)
    # The last token predicts nothing.
    assert (gradient[9:15].abs().sum(-1) > 0).all()
    gradient[MIDDLE] = 0
    assert (gradient == 0).all()


@pytest.mark.parametrize(("family", "attention"), sorted({(family, attention) for family, attention, _ in FAMILIES}))
def test_a_packed_sample_is_what_it_is_alone(family: str, attention: str) -> None:
    decoder = random_model(family, attention).get_decoder()
    tokens = random_tokens()
    with torch.no_grad():
        packed = last_hidden_states(decoder, tokens, torch.ones_like(tokens).bool(), LENGTHS)[0].split(LENGTHS)
        for sample, states in zip(tokens[0].split(LENGTHS), packed, strict=True):
            alone = decoder(input_ids=sample[None], use_cache=False).last_hidden_state[0]
            torch.testing.assert_close(states, alone, atol=SAME_IN_FLOAT32 * alone.abs().max().item(), rtol=0)


def test_where_a_sample_lies_in_the_row_does_not_count_as_its_position() -> None:
    # GPT-2 learns a vector for each position. Rotary embeddings see differences only, and would hide a mistake.
    model = random_model("gpt2")
    seen: list[Tensor] = []
    positions = model.get_decoder().wpe
    positions.register_forward_hook(lambda module, arguments, output: seen.append(arguments[0]))
    tokens = random_tokens()
    with torch.no_grad():
        packed = last_hidden_states(model.get_decoder(), tokens, torch.ones_like(tokens).bool(), LENGTHS)[0, MIDDLE]
        assert seen[0].flatten().tolist() == [position for length in LENGTHS for position in range(length)]
        ongoing = model.get_decoder()(
            input_ids=tokens[:, MIDDLE], position_ids=torch.arange(20)[None, MIDDLE], use_cache=False
        ).last_hidden_state[0]
    assert (packed - ongoing).abs().max() > 0.1


def test_samples_are_attended_one_by_one_where_a_mask_would_be_causal_only() -> None:
    assert random_model("llama").config._attn_implementation == PER_SAMPLE
    assert random_model("qwen3").config._attn_implementation == PER_SAMPLE
    assert random_model("qwen3 with sliding windows").config._attn_implementation == "sdpa"
    assert random_model("llama", "eager").config._attn_implementation == "eager"


def test_every_layer_is_told_the_boundaries_that_flash_attention_asks_for() -> None:
    told: list[dict[str, Any]] = []

    def attention(module: torch.nn.Module, *states: Any, **settings: Any) -> tuple[Tensor, None]:
        told.append(settings)
        return attend_per_sample(module, *states, **settings)

    AttentionInterface.register("recording", attention)
    model = random_model("llama")
    model.set_attn_implementation("recording")
    with torch.no_grad():
        run(PolicyModule(model, chunk_tokens=5), random_tokens(), lambda output: output.logprobs)
    assert len(told) == SIZES["num_hidden_layers"]
    for settings in told:
        for name in ("cu_seq_lens_q", "cu_seq_lens_k"):
            assert settings[name].dtype == torch.int32 and settings[name].tolist() == [0, 6, 9, 16, 20]
        assert (settings["max_length_q"], settings["max_length_k"]) == (7, 7)


@every_family
def test_families_that_keep_samples_apart_are_accepted(family: str, attention: str, dtype: str) -> None:
    check_packing(random_model(family, attention, dtype))


def test_a_family_that_gets_no_position_ids_is_refused() -> None:
    model = BloomForCausalLM(BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4))
    enable_packing(model)
    with pytest.raises(ConfigError, match=r"learner\.packing=true: in BloomForCausalLM .* sees the one before it"):
        check_packing(model)


# The learner


SETTINGS = {"packing": True, "max_tokens_per_microbatch": 30}
"""13 rollouts of 3 to 13 tokens, 99 in all: several micro-batches, most of them of several samples."""


def assert_same_state(left: list[dict[str, Any]], right: list[dict[str, Any]], kind: str, fragments: str) -> None:
    expected = whole(right, lambda result: result["state"][kind], fragments)
    assert expected
    for name, array in whole(left, lambda result: result["state"][kind], fragments).items():
        distance, size = ((other**2).sum() ** 0.5 for other in (array - expected[name], expected[name]))
        assert distance <= 2e-4 * size + 1e-9, (kind, name)


@pytest.mark.parametrize("algo", sorted(cases.ALGOS))
def test_every_algorithm_learns_from_packed_samples_what_it_learns_from_padded_ones(lab: Lab, algo: str) -> None:
    packed, padded = lab.trained(1, 0, algo=algo, **SETTINGS), lab.trained(1, 0, algo=algo)
    assert packed[0]["metrics"].pop("padding_fraction") == 0.0 < padded[0]["metrics"]["padding_fraction"]
    for name, value in packed[0]["metrics"].items():
        assert value == pytest.approx(padded[0]["metrics"][name], rel=1e-4, abs=1e-6), name
    for kind in ("exp_avg", "exp_avg_sq"):
        assert_same_state(packed, padded, kind, "fragments")
        if algo.startswith("ppo"):
            assert_same_state(packed, padded, f"critic_{kind}", "critic_fragments")


@pytest.mark.parametrize("is_checkpointed", [False, True])
@every_stage
def test_packing_changes_no_gradient_at_any_stage(lab: Lab, stage: int, is_checkpointed: bool) -> None:
    packed = lab.trained(2, stage, activation_checkpointing=is_checkpointed, logit_chunk_tokens=3, **SETTINGS)
    assert_same_gradient(packed, lab.trained(1, 0))


@pytest.mark.parametrize("stage", [1, 3])
def test_a_critic_is_packed_likewise_and_ranks_may_differ_in_micro_batches(lab: Lab, stage: int) -> None:
    parts = (tuple(range(12)), (12,))
    packed, padded = lab.trained(2, stage, algo="ppo", parts=parts, **SETTINGS), lab.trained(1, 0, algo="ppo")
    for kind, fragments in (("exp_avg", "fragments"), ("critic_exp_avg", "critic_fragments")):
        assert_same_state(packed, padded, kind, fragments)


def test_log_probabilities_are_those_of_padded_samples(lab: Lab) -> None:
    (packed,), (padded,) = (
        lab.pools[1].run(cases.untrained_logprobs, model=lab.model, **settings) for settings in (SETTINGS, {})
    )
    for ours, theirs in zip(packed, padded, strict=True):
        assert ours == pytest.approx(theirs, abs=5 * SAME_IN_FLOAT32)  # the size of log-probabilities


def test_exact_reverse_kl_of_packed_samples_agrees_with_plain_transformers(lab: Lab) -> None:
    (result,) = lab.pools[1].run(cases.divergence, model=lab.untied_model, logit_chunk_tokens=3, **SETTINGS)
    assert [kl.reverse_kl_sum for kl in result["measured"]] == pytest.approx(result["expected"], rel=1e-4)


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed_samples_whose_loss_is_not_finite_are_named(lab: Lab, dtype: str) -> None:
    for result in lab.pools[2].run(cases.not_finite, model=lab.model, stage=2, dtype=dtype, packing=True):
        culprits = result["culprits"]
        assert result["message"].endswith(
            f"not finite is the loss of {len(culprits)} of 8 responses: {', '.join(culprits)}"
        )
        assert result["is_unchanged"]


# Micro-batches


def test_packed_micro_batches_cover_every_row_once_within_the_budget_the_largest_first() -> None:
    # By first fit: 30 alone, 9 9 1, 8 4 4 3.
    plan = plan_packed_micro_batches([3, 9, 1, 9, 30, 4, 4, 8], max_tokens=20)
    assert [micro_batch.rows for micro_batch in plan] == [(4,), (1, 3, 2), (7, 5, 6, 0)]
    assert [micro_batch.num_computed_tokens for micro_batch in plan] == [30, 19, 19]


def test_packing_takes_the_chosen_rows_alone() -> None:
    plan = plan_packed_micro_batches([3, 9, 1, 9], max_tokens=10, chosen=[0, 1, 2])
    assert [(micro_batch.rows, micro_batch.lengths) for micro_batch in plan] == [((1, 2), (9, 1)), ((0,), (3,))]
    assert plan_packed_micro_batches([], max_tokens=10) == []
