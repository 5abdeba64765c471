"""Which way a jump goes, from the displacement Δ = current - anchor and what is kept of the past.

Every direction is a combination of vectors whose few coefficients come from scalar products over all parameters. The
coefficients are functions of numbers here; the combining is element-wise, and so commutes with sharding once every rank
has the same coefficients. A step size of 1 along a direction stands for as much training as one along Δ.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def ema_weights(square: float, dot: float, previous_square: float, decay: float) -> tuple[float, float]:
    """Return (a, b) of the smoothed direction a Δ + b d, whose norm is ‖Δ‖; d is the previous trigger's direction.

    Both are made unit vectors, averaged with weights (1 - decay, decay), and the average is made as long as Δ. Lengths are
    left out of the average because Δ grows with the updates between triggers, which double from one to the next.
    Where that is undefined (no Δ, no d, or their average vanishes) the direction is Δ itself.

    Args:
        square: ‖Δ‖².
        dot: Δ · d.
        previous_square: ‖d‖².
        decay: weight of the past, in (0, 1).

    """
    if square == 0 or previous_square == 0:
        return 1.0, 0.0
    cosine = dot / math.sqrt(square * previous_square)
    average_square = (1 - decay) ** 2 + decay**2 + 2 * decay * (1 - decay) * cosine
    if average_square < 1e-12:
        return 1.0, 0.0
    length = math.sqrt(average_square)
    return (1 - decay) / length, decay / length * math.sqrt(square / previous_square)


def group_factors(slopes: Sequence[float], squares: Sequence[float]) -> list[float]:
    """Return the factor α_g on the displacement Δ_g of every group, so that the direction has the norm of Δ.

    Among all Σ α_g Δ_g with α_g >= 0 and ‖Σ α_g Δ_g‖ = ‖Δ‖ it is the one in which the loss falls fastest to first order.
    Groups share no parameter, so the norm is Σ α_g² ‖Δ_g‖², and with a multiplier c for it

        minimise  Σ α_g slope_g + 1/(2c) Σ α_g² ‖Δ_g‖²    gives    α_g = c max(0, -slope_g) / ‖Δ_g‖²,

    where slope_g = gradient · Δ_g: a Newton step along every group under one curvature, the trust radius ‖Δ‖ shared. A
    group that is uphill stays where it is. Where no group is downhill the direction is Δ itself.

    Args:
        slopes: gradient · Δ_g.
        squares: ‖Δ_g‖²; 0 where a group is empty or has not moved, and then its factor is 0.

    """
    wishes = [max(0.0, -slope) / square if square > 0 else 0.0 for slope, square in zip(slopes, squares, strict=True)]
    wished_square = sum(wish**2 * square for wish, square in zip(wishes, squares, strict=True))
    if wished_square == 0:
        return [1.0] * len(wishes)
    scale = math.sqrt(sum(squares) / wished_square)
    return [scale * wish for wish in wishes]


def principal_weights(gram: Float[Tensor, "m m"], num_updates: int) -> list[float]:
    """Return w_1 .. w_m of the denoised direction Σ w_i D_i, where D_i = W_i - W_0 are displacements along the last updates.

    W_0 .. W_m are the weights before the first of m updates and after each. Let u be the first principal vector of these
    points, centred at their mean, and c_i the coefficients along it. A line is fitted to c_0 .. c_m against the update
    number 0 .. m by least squares. Its slope b is the speed along u per update and the direction is `num_updates` b u:
    where training would be after as many updates more as have been taken since the anchor. For a straight path at constant
    speed that is Δ itself.

    With q the unit eigenvector of the centred Gram matrix that belongs to its largest eigenvalue λ, u = Σ q_i D_i / √λ and
    c = √λ q; λ cancels, as does the sign of q. Source: RELEX, arXiv 2605.21468, which does this per tensor and measures
    from W_0 instead of from the mean. Here all moved parameters are one vector, and W_0 is as noisy as any other point:
    measured from it, its noise would be in every D_i, and more of it in the direction than Δ has.

    Args:
        gram: D_i · D_j, float64.
        num_updates: between the anchor and now.

    """
    num_points = len(gram) + 1
    centre = torch.eye(num_points, dtype=torch.float64) - 1 / num_points
    from_mean = centre @ functional.pad(gram, (1, 0, 1, 0)) @ centre  # D_0 = 0
    coefficients = torch.linalg.eigh(from_mean).eigenvectors[:, -1]  # ascending eigenvalues
    numbers = torch.arange(num_points, dtype=torch.float64)
    centred = numbers - numbers.mean()
    speed = centred @ coefficients / centred.square().sum()
    return (num_updates * speed * coefficients[1:]).tolist()


def blend(vector: Float[Tensor, "*S"], weight: float, other: Float[Tensor, "*S"], other_weight: float) -> None:
    """Make `vector` weight * vector + other_weight * other, every operation rounded by itself."""
    vector.mul_(weight).add_(other * other_weight)


def outer_step(
    displacement: Float[Tensor, "*S"], velocity: Float[Tensor, "*S"], momentum: float, learning_rate: float
) -> None:
    """Advance `velocity` and make `displacement` the way from the current weights to where Nesterov's momentum leads.

    The outer gradient of DiLoCo (arXiv 2311.08105) is -Δ, at the anchor: v <- momentum v + Δ, and the target is
    anchor + learning_rate (momentum v + Δ). Less current = anchor + Δ that is
    learning_rate momentum v + (learning_rate - 1) Δ.
    """
    velocity.mul_(momentum).add_(displacement)
    blend(displacement, learning_rate - 1, velocity, learning_rate * momentum)


def weighted_path(path: Sequence[Float[Tensor, "*S"]], weights: Sequence[float], out: Float[Tensor, "*S"]) -> None:
    """Write Σ weights[i - 1] (path[i] - path[0]), i from 1, into `out`, added in that order."""
    out.zero_()
    for point, weight in zip(path[1:], weights, strict=True):
        out.add_((point - path[0]).mul_(weight))
