import pytest
import torch

from effopd.config.schema import MovedParameters
from effopd.extrapolation.jump import extrapolate
from effopd.extrapolation.schedule import is_power_of_two, num_triggers
from effopd.extrapolation.selection import moved_parameters


def test_a_jump_adds_the_displacement_step_size_times() -> None:
    out = torch.empty(2)
    extrapolate(torch.tensor([1.0, 2.0]), torch.tensor([0.5, -1.0]), 4.0, out)
    # 1 + 4 * 0.5 = 3;  2 + 4 * -1 = -2
    assert out.tolist() == [3.0, -2.0]


def test_step_size_zero_copies_the_bits() -> None:
    current = torch.tensor([0.0, -0.0, 1e-42, 3.0])
    out = torch.full((4,), 7.0)
    extrapolate(current, torch.tensor([1.0, 1.0, 1.0, float("inf")]), 0.0, out)
    assert torch.equal(out.view(torch.int32), current.view(torch.int32))


@pytest.mark.parametrize("num_elements", [1, 7, 16, 1000, 100_003])
@pytest.mark.parametrize("num_shards", [2, 3, 5])
def test_extrapolating_shards_gives_the_shards_of_the_extrapolation_bit_for_bit(
    num_elements: int, num_shards: int
) -> None:
    generator = torch.Generator().manual_seed(num_elements)
    current = torch.randn(num_elements, generator=generator)
    anchor = current + 1e-3 * torch.randn(num_elements, generator=generator)
    whole = torch.empty(num_elements)
    extrapolate(current, current - anchor, 2.0 * 3, whole)
    pieces = []
    for piece_of_current, piece_of_anchor in zip(current.chunk(num_shards), anchor.chunk(num_shards), strict=True):
        pieces.append(torch.empty_like(piece_of_current))
        extrapolate(piece_of_current, piece_of_current - piece_of_anchor, 2.0 * 3, pieces[-1])
    assert torch.equal(torch.cat(pieces), whole)


def test_the_released_codes_recursion_reaches_the_same_candidates() -> None:
    # It amplifies by a = 2, then a <- a / (1 + a): 2, 2/3, 2/5, 2/7, 2/9. Each accepted step adds exactly 2 more.
    generator = torch.Generator().manual_seed(0)
    current, anchor = (torch.randn(50, generator=generator).double() for _ in range(2))
    weights, amplification = current.clone(), 2.0
    for k in range(1, 6):
        weights = weights + amplification * (weights - anchor)
        amplification = amplification / (1 + amplification)
        out = torch.empty(50)
        extrapolate(current.float(), (current - anchor).float(), 2.0 * k, out)
        torch.testing.assert_close(out, weights.float(), rtol=1e-5, atol=1e-5)


def test_triggers_are_the_powers_of_two() -> None:
    assert [step for step in range(40) if is_power_of_two(step)] == [1, 2, 4, 8, 16, 32]
    assert [num_triggers(step) for step in (0, 1, 2, 3, 4, 7, 8)] == [0, 1, 2, 2, 3, 3, 4]


QWEN3_NAMES = {
    "model.embed_tokens.weight": (64, 96),
    "model.layers.0.self_attn.q_proj.weight": (96, 96),
    "model.layers.0.self_attn.q_norm.weight": (32,),
    "model.layers.0.mlp.gate_proj.weight": (256, 96),
    "model.layers.0.input_layernorm.weight": (96,),
    "model.layers.0.post_attention_layernorm.weight": (96,),
    "model.norm.weight": (96,),
    "lm_head.weight": (64, 96),
}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (MovedParameters.all, set(QWEN3_NAMES)),
        (
            MovedParameters.matrices,
            {"model.layers.0.self_attn.q_proj.weight", "model.layers.0.mlp.gate_proj.weight"},
        ),
        (
            MovedParameters.released,
            {
                "model.layers.0.self_attn.q_proj.weight",
                "model.layers.0.self_attn.q_norm.weight",
                "model.layers.0.mlp.gate_proj.weight",
                "model.layers.0.post_attention_layernorm.weight",
            },
        ),
    ],
)
def test_each_choice_moves_the_parameters_it_names(choice: MovedParameters, expected: set[str]) -> None:
    is_moved = moved_parameters(choice)
    assert {name for name, shape in QWEN3_NAMES.items() if is_moved(name, shape)} == expected
