"""The element-wise core of a jump.

Because it is element-wise it commutes with sharding: `extrapolate(shard(w)) == shard(extrapolate(w))`, bit for bit.
"""

import torch
from jaxtyping import Float
from torch import Tensor

_CHUNK_PER_THREAD = 1 << 18  # elements: what a core reads and writes of three tensors is 3 MiB and stays in its cache


def extrapolate(
    current: Float[Tensor, "*S"], anchor: Float[Tensor, "*S"], step_size: float, out: Float[Tensor, "*S"]
) -> None:
    """Write current + step_size * (current - anchor) into `out`, which may live on another device.

    Every candidate is computed from the same two float32 originals, so nothing accumulates from one candidate to the
    next; a step size of 0 copies the bits of `current`. `out` must alias neither input.

    Source: arXiv 2605.11739, W~ = W + 2k * Δ. The released code reaches the same points by a recursion (amplify by
    a, then a <- a / (1 + a)) whose rounding errors chain.
    """
    assert current.dtype == anchor.dtype == out.dtype == torch.float32, "a jump is computed in float32"
    if step_size == 0:
        out.copy_(current)
        return
    if out.device.type == "cpu":
        # Chunk by chunk, so that the second and third pass find in the cache what the first one brought there.
        chunk = _CHUNK_PER_THREAD * torch.get_num_threads()
        pieces = (tensor.view(-1).split(chunk) for tensor in (current, anchor, out))
        for current_piece, anchor_piece, out_piece in zip(*pieces, strict=True):
            torch.sub(current_piece, anchor_piece, out=out_piece).mul_(step_size).add_(current_piece)
        return
    torch.sub(current, anchor, out=out) if out.device == current.device else out.copy_(current - anchor)
    out.mul_(step_size).add_(current.to(out.device))
