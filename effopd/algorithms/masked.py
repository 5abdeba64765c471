"""Reductions over response tokens. Always float32, always with a denominator that the caller states."""

from jaxtyping import Bool, Float, Shaped
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence


def masked_sum(values: Shaped[Tensor, "B T"], mask: Bool[Tensor, "B T"]) -> Float[Tensor, ""]:
    """Return the sum of `values` where `mask` holds. Values outside are ignored even if they are not finite."""
    return values.float().masked_fill(~mask, 0.0).sum()


def token_mean(values: Float[Tensor, "B T"], mask: Bool[Tensor, "B T"], num_tokens: int) -> Float[Tensor, ""]:
    """Return this micro-batch's share of the mean over `num_tokens`, the *global* number of response tokens.

    Shares of all micro-batches and ranks add up to the mean, so accumulation and data-parallel width cannot change a
    gradient.
    """
    return masked_sum(values, mask) / num_tokens


def sequence_mean(
    values: Float[Tensor, "B T"],
    mask: Bool[Tensor, "B T"],
    num_sequences: int,
    packed_lengths: tuple[int, ...] | None = None,
) -> Float[Tensor, ""]:
    """Return this micro-batch's share of the mean over `num_sequences`, their *global* number, of each one's token mean.

    A sequence is a row, or of one row the parts of `packed_lengths`.
    """
    if packed_lengths is not None:
        values, mask = (pad_sequence(list(row[0].split(packed_lengths)), batch_first=True) for row in (values, mask))
    lengths = mask.sum(-1).clamp(min=1)
    return (values.float().masked_fill(~mask, 0.0).sum(-1) / lengths).sum() / num_sequences
