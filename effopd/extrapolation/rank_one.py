"""AlphaOPD: where the leading direction of a matrix's update would be at a higher score, by a line through checkpoints.

A baseline, and no part of a trigger: it looks at checkpoints of a run. Source: AlphaRL (arXiv 2510.00553), which EffOPD (arXiv
2605.11739) applies to on-policy distillation. The authors' script leaves open what becomes of the other directions; here the
prediction has rank one, which is what the method's name promises.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor


def predicted_update(
    updates: Sequence[Float[Tensor, "m n"]], scores: Sequence[float], target: float
) -> Float[Tensor, "m n"]:
    """Return the rank-one update of one matrix that the scores predict for a score of `target`.

    Every update is reduced to x = σ u, its largest singular value times the left singular vector. Partial least squares with
    one component fits the scores: with X and y centred, w = Xᵀy / ‖Xᵀy‖, t = Xw, y ≈ q t for q = t·y / t·t, and X ≈ t pᵀ for
    p = Xᵀt / t·t. Inverted, the target lies at t* = (target - mean y) / q and x* = mean x + t* p. The right singular vector is
    the last update's.

    Args:
        updates: W_t - W_0 at each checkpoint, in order of training; float32 or wider.
        scores: of the checkpoints.
        target: may lie beyond all of them.

    Raises:
        ValueError: for fewer than two checkpoints, or scores or leading vectors that do not differ.

    """
    if len(updates) < 2 or len(updates) != len(scores):
        raise ValueError(f"{len(updates)} updates and {len(scores)} scores; a line needs two of each")
    lefts, rights = zip(*(_leading(update) for update in updates), strict=True)
    points = torch.stack(_aligned(lefts)).double()
    values = torch.tensor(scores, dtype=torch.float64)
    from_mean, value_from_mean = points - points.mean(0), values - values.mean()
    weights = from_mean.T @ value_from_mean
    if weights.norm() == 0:
        raise ValueError("the scores or the updates of all checkpoints are the same; no line goes through them")
    component = from_mean @ (weights / weights.norm())
    slope = component @ value_from_mean / component.square().sum()
    loading = from_mean.T @ component / component.square().sum()
    left = points.mean(0) + (target - values.mean()) / slope * loading
    # The last vector was not flipped, so its right one belongs to it as it is.
    return torch.outer(left, rights[-1].double()).to(updates[-1].dtype)


def _leading(update: Float[Tensor, "m n"]) -> tuple[Float[Tensor, " m"], Float[Tensor, " n"]]:
    left, values, right = torch.linalg.svd(update, full_matrices=False)
    return values[0] * left[:, 0], right[0]


def _aligned(vectors: Sequence[Float[Tensor, " m"]]) -> list[Float[Tensor, " m"]]:
    """Flip vectors, whose signs a singular value decomposition leaves open, so that each points as the next one does."""
    aligned = [vectors[-1]]
    for vector in reversed(vectors[:-1]):
        aligned.insert(0, vector if vector @ aligned[0] >= 0 else -vector)
    return aligned
