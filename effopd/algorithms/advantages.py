"""From rewards to advantages."""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def group_normalised(
    rewards: Float[Tensor, " B"], group_index: Int[Tensor, " B"], epsilon: float = 1e-6
) -> Float[Tensor, " B"]:
    """Return (reward - mean) / (std + epsilon) within each group; 0 throughout a group that agrees with itself.

    std is the sample standard deviation (n - 1). A group of one has no spread to compare with and gets 0.
    Source: Shao et al., DeepSeekMath, arXiv 2402.03300, section 4.1.2.
    """
    # In float64 the mean of equal float32 numbers is that number. In float32 it is one rounding off, and so is every
    # reward of the group then, in the same direction, over a deviation of the same size: up to 0.2 instead of 0.
    exact = rewards.double()
    nothing = exact.new_zeros(int(group_index.max()) + 1)
    sizes = nothing.index_add(0, group_index, torch.ones_like(exact))
    centred = exact - (nothing.index_add(0, group_index, exact) / sizes)[group_index]
    variances = nothing.index_add(0, group_index, centred.square()) / (sizes - 1).clamp(min=1)
    return (centred / (variances.sqrt()[group_index] + epsilon)).to(rewards.dtype)


def over_response(values: Float[Tensor, " B"], response_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Return each row's value at all of its response tokens and 0 elsewhere."""
    return values[:, None] * response_mask


def at_last_token(values: Float[Tensor, " B"], response_mask: Bool[Tensor, "B T"]) -> Float[Tensor, "B T"]:
    """Return each row's value at its last response token and 0 elsewhere."""
    positions = torch.arange(response_mask.shape[1])
    last = (positions * response_mask).amax(-1, keepdim=True)
    return torch.where(positions == last, values[:, None], 0.0)


def generalised_advantages(
    rewards: Float[Tensor, "B T"],
    values: Float[Tensor, "B T"],
    response_mask: Bool[Tensor, "B T"],
    *,
    discount: float,
    gae_lambda: float,
) -> tuple[Float[Tensor, "B T"], Float[Tensor, "B T"]]:
    """Return advantages and returns at the response tokens, 0 elsewhere.

    A_t = sum over k of (discount * gae_lambda)^k * delta_{t+k} with delta_t = r_t + discount * V_{t+1} - V_t, V being 0
    after the last response token, cut or not; returns are A + V. Source: Schulman et al., arXiv 1506.02438, eq. 16.

    Args:
        rewards: for having written the token at t.
        values: `values[:, t]` is the estimate before the token at t was written.
        response_mask: contiguous in every row.

    """
    advantages = torch.zeros_like(values)
    running = torch.zeros_like(values[:, 0])
    next_value = torch.zeros_like(running)
    for t in range(values.shape[1] - 1, -1, -1):
        inside = response_mask[:, t]
        delta = rewards[:, t] + discount * next_value - values[:, t]
        running = torch.where(inside, delta + discount * gae_lambda * running, 0.0)
        next_value = torch.where(inside, values[:, t], 0.0)
        advantages[:, t] = running
    return advantages, (advantages + values) * response_mask
