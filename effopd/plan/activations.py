"""Bytes that a forward and its backward keep per token, by the tensors that autograd saves.

Counted for transformers' Qwen2, Qwen3 and Llama with `attn_implementation=sdpa`, and for `algorithms/policy_output.py`. The
mixed terms come from RMSNorm, which computes in float32 whatever the dtype.
"""

from dataclasses import dataclass

from effopd.plan.memory import Item, Moment
from effopd.plan.shapes import ModelShape

_FLOAT = 4
_HEAD_COPIES = 4
"""float32 [tokens, V] matrices alive in the backward of a sampled log-probability: the logits, their gradient through the
gather, the softmax of the logsumexp, and their sum."""
_EXACT_KL_COPIES = 7
"""Likewise in the backward of the exact reverse KL, which has the teacher's logits, too; measured."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MicroBatch:
    """One forward and backward of one rank."""

    num_tokens: int
    """Padding included."""
    row_length: int
    is_masked: bool
    """Whether rows differ in length: then attention takes a [T, T] mask and keys and values repeated for every query head."""
    is_packed: bool = False
    """Whether samples lie in one row: then they are attended one by one, without a mask, and their outputs copied together."""


def saved_by_layer(shape: ModelShape, itemsize: int, *, is_masked: bool, is_packed: bool = False) -> int:
    """Return the bytes per token that one decoder layer saves for its backward."""
    hidden, queries, keys = shape.hidden_size, shape.query_width, shape.key_value_width
    heads = shape.num_heads + shape.num_kv_heads
    norms = 2 * (_norm(hidden, itemsize) + hidden * itemsize)  # and what the projections take in
    normed_heads = _norm(queries + keys, itemsize) + _FLOAT * heads if shape.has_qk_norm else 0
    attended = 2 * queries + (2 * queries if is_masked else 2 * keys)  # query, output, key, value
    attended += queries if is_packed else 0  # the outputs of samples, and those of the row
    mlp = 4 * shape.intermediate_size  # gate, its activation, up, their product
    return norms + normed_heads + (attended + mlp) * itemsize + _FLOAT * shape.num_heads + 2 * _FLOAT


def _norm(width: int, itemsize: int) -> int:
    """What an RMSNorm saves: its input in float32, the normalised input in the dtype, and one float32 scale, left out."""
    return width * (_FLOAT + itemsize)


def learner_moments(
    shape: ModelShape,
    batch: MicroBatch,
    *,
    itemsize: int,
    chunk_tokens: int,
    is_checkpointed: bool,
    is_exact: bool,
    teacher_hidden_size: int,
) -> tuple[Moment, Moment]:
    """Return the two moments of a forward and backward that can be the worst: at the head, and inside a layer."""
    hidden, tokens = shape.hidden_size, batch.num_tokens
    layer = saved_by_layer(shape, itemsize, is_masked=batch.is_masked, is_packed=batch.is_packed)
    kept_per_layer = hidden * itemsize if is_checkpointed else layer
    # Under checkpointing in float32 the layer's saved input is the checkpoint itself.
    again = layer - (hidden * itemsize if itemsize == _FLOAT else 0) if is_checkpointed else 0
    rotary = 2 * shape.head_dim * itemsize * batch.row_length
    kept = Item("activations kept", tokens * shape.num_layers * kept_per_layer + rotary)
    mask = _mask(batch, itemsize, shape.num_layers if not is_checkpointed else 1)
    teacher = Item("teacher hidden states", tokens * teacher_hidden_size * itemsize)

    final_norm = tokens * (_norm(hidden, itemsize) + hidden * itemsize + _FLOAT) + tokens * hidden * itemsize
    chunk = min(chunk_tokens, tokens)
    copies = _EXACT_KL_COPIES if is_exact else _HEAD_COPIES
    logits = Item("logits chunk", copies * _FLOAT * chunk * shape.vocabulary_size)
    weight_gradient = shape.vocabulary_size * hidden * itemsize if tokens > chunk_tokens else 0
    norm_gradients = tokens * hidden * (3 * _FLOAT if itemsize == _FLOAT else 14)
    if logits.num_bytes + weight_gradient >= norm_gradients:
        at_head = (logits, Item("gradient of the head", weight_gradient))
    else:
        at_head = (Item("gradients in flight", norm_gradients),)
    last = Item("last norm and head input", final_norm)

    gradients = tokens * (2 * shape.intermediate_size + hidden) * itemsize
    return (
        Moment(name="backward of the head", items=(kept, mask, teacher, last, *at_head)),
        Moment(
            name="backward of a layer",
            items=(
                kept,
                mask,
                teacher,
                Item("one layer recomputed", tokens * again),
                Item("gradients in flight", gradients),
            ),
        ),
    )


def _mask(batch: MicroBatch, itemsize: int, num_copies: int) -> Item:
    """One boolean [B, T, T] for all layers, and one in the dtype for every layer whose attention is saved."""
    square = batch.num_tokens * batch.row_length
    return Item("attention mask", square * (1 + num_copies * itemsize) if batch.is_masked else 0)


def scoring_moment(shape: ModelShape, *, num_tokens: int, chunk_tokens: int, itemsize: int) -> Moment:
    """Return what a forward without gradients needs: one layer's work and one chunk of logits, at most."""
    hidden = shape.hidden_size
    in_layer = num_tokens * (3 * shape.intermediate_size + 2 * hidden) * itemsize
    in_norm = num_tokens * hidden * (2 * _FLOAT + itemsize)
    chunk = min(chunk_tokens, num_tokens)
    # The logits, their float32 copy and log-softmax.
    logits = chunk * shape.vocabulary_size * (itemsize + 2 * _FLOAT) + 2 * num_tokens * hidden * itemsize
    return Moment(
        name="forward",
        items=(Item("activations", max(in_layer, in_norm)), Item("logits chunk and hidden states", logits)),
    )
