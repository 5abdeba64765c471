"""The element-wise core of a jump.

Because it is element-wise it commutes with sharding: `extrapolate(shard(w)) == shard(extrapolate(w))`, bit for bit.
"""

import torch
from jaxtyping import Float
from torch import Tensor


def extrapolate(
    current: Float[Tensor, "*S"], displacement: Float[Tensor, "*S"], step_size: float, out: Float[Tensor, "*S"]
) -> None:
    """Write current + step_size * displacement into `out`, which may live on another device.

    Source: arXiv 2605.11739, W~ = W + 2k * Δ. The released code reaches the same points by a recursion (amplify by
    a, then a <- a / (1 + a)) whose rounding errors chain.

    Every candidate is computed from the same two float32 tensors, so nothing accumulates from one candidate to the next;
    a step size of 0 copies the bits of `current`. Product and sum are rounded one after the other, never fused, so that
    the bits do not depend on the processor. `out` must alias neither input.
    """
    assert current.dtype == displacement.dtype == out.dtype == torch.float32, "a jump is computed in float32"
    if step_size == 0:
        out.copy_(current)
        return
    if out.device == displacement.device:
        torch.mul(displacement, step_size, out=out)
    else:
        out.copy_(displacement).mul_(step_size)
    out.add_(current.to(out.device))
