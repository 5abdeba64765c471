"""Directions as formulas: what they minimise or reproduce, and that they commute with sharding."""

import math

import pytest
import torch

from effopd.extrapolation.direction import (
    blend,
    ema_weights,
    group_factors,
    outer_step,
    principal_weights,
    weighted_path,
)
from effopd.extrapolation.groups import GROUPS, parameter_groups


def random(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


# Smoothed over triggers


@pytest.mark.parametrize("decay", [0.1, 0.5, 0.9])
def test_a_smoothed_direction_is_the_mean_of_unit_vectors_made_as_long_as_the_displacement(decay: float) -> None:
    displacement, previous = random(50, seed=1), 7 * random(50, seed=2)
    own, past = ema_weights(
        float(displacement @ displacement), float(displacement @ previous), float(previous @ previous), decay
    )
    direction = own * displacement + past * previous
    mean = (1 - decay) * displacement / displacement.norm() + decay * previous / previous.norm()
    torch.testing.assert_close(direction, displacement.norm() * mean / mean.norm())


def test_where_no_mean_exists_the_direction_is_the_displacement() -> None:
    # There was no movement before; there is none now.
    assert ema_weights(square=4.0, dot=0.0, previous_square=0.0, decay=0.5) == (1.0, 0.0)
    assert ema_weights(square=0.0, dot=0.0, previous_square=4.0, decay=0.5) == (1.0, 0.0)
    # Opposite unit vectors, equally weighted, cancel: Δ · d = -2 * 3.
    assert ema_weights(square=4.0, dot=-6.0, previous_square=9.0, decay=0.5) == (1.0, 0.0)


# By group


def test_group_factors_by_hand() -> None:
    # Wishes are -slope / ‖Δ_g‖²: 6/4 and 1/1, and 0 for the group that is uphill. Squared they would go 9/4 * 4 + 1 = 10
    # far, and the displacement is 4 + 1 + 5 = 10 long, both squared: the scale is 1.
    assert group_factors(slopes=[-6, -1, 2], squares=[4, 1, 5]) == pytest.approx([1.5, 1.0, 0.0])


def test_a_grouped_direction_is_as_long_as_the_displacement_and_falls_fastest_of_all_that_are() -> None:
    generator = torch.Generator().manual_seed(5)
    groups = [random(size, seed=size) for size in (3, 40, 7, 12)]
    gradient = [random(len(group), seed=100 + len(group)) - 0.2 * group for group in groups]
    slopes = [float(one @ other) for one, other in zip(gradient, groups, strict=True)]
    squares = [float(group @ group) for group in groups]
    assert min(slopes) < 0 < max(slopes)

    def fall(factors: list[float]) -> float:
        length = math.sqrt(sum(factor**2 * square for factor, square in zip(factors, squares, strict=True)))
        return sum(factor * slope for factor, slope in zip(factors, slopes, strict=True)) / length

    chosen = group_factors(slopes, squares)
    assert sum(f**2 * square for f, square in zip(chosen, squares, strict=True)) == pytest.approx(sum(squares))
    for _ in range(500):
        assert fall(chosen) <= fall(torch.rand(4, generator=generator).tolist()) + 1e-12


def test_one_group_or_none_downhill_leaves_the_displacement_as_it_is() -> None:
    assert group_factors(slopes=[-3.0, 0.0], squares=[2.0, 0.0])[0] == pytest.approx(1.0)
    assert group_factors(slopes=[3.0, 1.0], squares=[2.0, 1.0]) == [1.0, 1.0]
    assert group_factors(slopes=[0.0, 0.0], squares=[0.0, 0.0]) == [1.0, 1.0]


def test_layers_are_cut_into_thirds_and_what_is_neither_attention_nor_mlp_is_the_rest() -> None:
    names = [f"model.layers.{layer}.self_attn.q_proj.weight" for layer in range(7)]
    group = parameter_groups(names)
    # Seven layers: 3 * layer // 7 is 0 for layers 0 to 2, 1 for 3 and 4, 2 for 5 and 6.
    assert [GROUPS[group(name)] for name in names] == (
        3 * ["attention.bottom"] + 2 * ["attention.middle"] + 2 * ["attention.top"]
    )
    assert GROUPS[group("transformer.h.6.mlp.c_fc.weight")] == "mlp.top"
    assert GROUPS[group("model.layers.3.mlp.experts.0.up_proj.weight")] == "mlp.middle"
    for name in ("model.embed_tokens.weight", "lm_head.weight", "model.layers.1.input_layernorm.weight"):
        assert GROUPS[group(name)] == "rest"


# Principal


def gram_of(path: torch.Tensor) -> torch.Tensor:
    rows = path[1:] - path[0]
    return rows @ rows.T


@pytest.mark.parametrize("num_kept", [1, 2, 5])
@pytest.mark.parametrize("num_updates", [1, 4, 16])
def test_on_a_straight_path_the_principal_direction_is_the_displacement(num_kept: int, num_updates: int) -> None:
    speed = random(30)
    path = 5 + torch.arange(num_kept + 1)[:, None] * speed
    weights = principal_weights(gram_of(path), num_updates)
    out = torch.empty(30)
    weighted_path(list(path.float()), weights, out)
    torch.testing.assert_close(out, (num_updates * speed).float(), rtol=1e-5, atol=1e-5)


def test_the_principal_direction_is_that_of_a_singular_value_decomposition_and_a_line_fit() -> None:
    path = torch.cumsum(random(6, 40) + 0.7 * random(40, seed=9), dim=0)
    _, _, vectors = torch.linalg.svd(path - path.mean(dim=0), full_matrices=False)
    coefficients = (path - path.mean(dim=0)) @ vectors[0]
    line = torch.stack([torch.arange(6.0, dtype=torch.float64), torch.ones(6, dtype=torch.float64)], dim=1)
    speed, _ = torch.linalg.lstsq(line, coefficients[:, None]).solution.flatten()
    weights = torch.tensor(principal_weights(gram_of(path), num_updates=3), dtype=torch.float64)
    torch.testing.assert_close(weights @ (path[1:] - path[0]), 3 * speed * vectors[0])


def test_the_principal_direction_of_a_noisy_path_is_nearer_to_the_true_one_than_the_displacement() -> None:
    # Nine points on a line, each with its own noise of norm e. Over 8 updates a regression line errs by 8 e / √60, since
    # the squared numbers -4 .. 4 add up to 60, and the difference of the ends by √2 e: 0.73 times as much.
    truth = torch.nn.functional.normalize(random(400), dim=0)
    ratios = []
    for seed in range(20):
        path = torch.arange(9)[:, None] * truth + 0.02 * random(9, 400, seed=1000 + seed)
        weights = torch.tensor(principal_weights(gram_of(path), 8), dtype=torch.float64)
        error = weights @ (path[1:] - path[0]) - 8 * truth
        ratios.append(float(error.norm() / (path[-1] - path[0] - 8 * truth).norm()))
    assert sum(ratios) / len(ratios) == pytest.approx(0.73, abs=0.03)


def test_weights_that_did_not_move_have_a_principal_direction_of_zero() -> None:
    path = torch.ones(4, 10, dtype=torch.float64)
    out = torch.full((10,), 7.0)
    weighted_path(list(path.float()), principal_weights(gram_of(path), 3), out)
    assert out.tolist() == [0.0] * 10


# Nesterov


def test_the_outer_step_lands_where_pytorchs_nesterov_momentum_does() -> None:
    anchor = random(20).requires_grad_()
    optimizer = torch.optim.SGD([anchor], lr=0.7, momentum=0.9, nesterov=True)
    velocity = torch.zeros(20, dtype=torch.float64)
    for seed in (1, 2, 3):
        start = anchor.detach().clone()
        displacement = random(20, seed=seed)  # what the inner optimizer has moved
        current = start + displacement
        anchor.grad = -displacement.clone()
        optimizer.step()
        outer_step(displacement, velocity, momentum=0.9, learning_rate=0.7)
        torch.testing.assert_close(current + displacement, anchor.detach())


def test_without_momentum_and_with_a_rate_of_one_the_outer_optimizer_stays_where_training_is() -> None:
    displacement, velocity = random(20), torch.zeros(20, dtype=torch.float64)
    outer_step(displacement, velocity, momentum=0.0, learning_rate=1.0)
    assert displacement.tolist() == [0.0] * 20


# Shards


@pytest.mark.parametrize("num_shards", [2, 3, 5])
def test_with_the_same_coefficients_shards_of_a_direction_are_the_direction_of_shards_bit_for_bit(
    num_shards: int,
) -> None:
    vector, other = random(1003).float(), random(1003, seed=1).float()
    path = list(random(4, 1003, seed=2).float())

    def all_directions(cut: slice) -> torch.Tensor:
        blended, stepped, velocity = vector[cut].clone(), vector[cut].clone(), other[cut].clone()
        blend(blended, 0.3, other[cut], 1.7)
        outer_step(stepped, velocity, 0.9, 0.7)
        walked = torch.empty_like(blended)
        weighted_path([point[cut] for point in path], [0.1, 0.7, 1.3], walked)
        return torch.stack([blended, stepped, velocity, walked])

    size = -(-1003 // num_shards)
    pieces = [all_directions(slice(start, start + size)) for start in range(0, 1003, size)]
    assert torch.equal(torch.cat(pieces, dim=1), all_directions(slice(None)))
