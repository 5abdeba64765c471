"""Attention in a row of packed samples, each of which must see itself alone.

transformers can do that unaided: given position ids that start again and neither mask nor cache, it builds a mask of blocks
on the diagonal, whether training or not. But SDPA pays for a mask: products of all T tokens with all T instead of each
sample's with its own, and T x T elements that the backward of every layer keeps (on a CPU a whole step took 3.6 times as long
with 16 samples of 16 to 512 tokens, and 8 times with 256 of at most 20). So samples are attended one by one where causality is
all that a mask would say. Other layers (sliding windows, chunks) and `eager` keep transformers' mask, and flash attention is
told the boundaries: it would infer them from position ids, which not every family passes on to it.
"""

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import AttentionInterface, PreTrainedConfig, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from effopd.errors import ConfigError

PER_SAMPLE = "sdpa_per_sample"
"""Our name for it among transformers' attention implementations."""
_CHECKED_LEN = 8
_CHECK_TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 1e-2}
"""Relative to the norm of the hidden states."""


def attend_per_sample(
    module: nn.Module,
    query: Float[Tensor, "1 H T d"],
    key: Float[Tensor, "1 h T d"],
    value: Float[Tensor, "1 h T d"],
    attention_mask: None,
    sample_lengths: tuple[int, ...] | None = None,
    **settings: Any,
) -> tuple[Float[Tensor, "1 T H d"], None]:
    """Return what transformers' SDPA makes of each sample, one after the other; the whole row is one without lengths.

    `settings` are whatever a family hands to its attention, scaling and dropout among them.
    """
    # transformers builds no mask for an implementation that it does not know, so one would be the caller's.
    assert attention_mask is None, "samples are told apart by their lengths, not by a mask"
    lengths = (query.shape[2],) if sample_lengths is None else sample_lengths
    samples = zip(*(states.split(lengths, dim=2) for states in (query, key, value)), strict=True)
    return torch.cat([sdpa_attention_forward(module, q, k, v, None, **settings)[0] for q, k, v in samples], dim=1), None


AttentionInterface.register(PER_SAMPLE, attend_per_sample)


def enable_packing(model: PreTrainedModel) -> None:
    """Make `model` attend sample by sample in rows that are packed, where SDPA would need a mask for it."""
    if model.config._attn_implementation == "sdpa" and _is_only_causal(model.config.get_text_config()):
        model.set_attn_implementation(PER_SAMPLE)


def _is_only_causal(config: PreTrainedConfig) -> bool:
    """Whether every layer attends to all that precedes."""
    layer_types = getattr(config, "layer_types", None)
    if layer_types is not None:
        return set(layer_types) == {"full_attention"}
    return getattr(config, "sliding_window", None) is None


def last_hidden_states(
    decoder: nn.Module,
    token_ids: Int[Tensor, "B T"],
    attention_mask: Bool[Tensor, "B T"],
    packed_lengths: tuple[int, ...] | None,
) -> Float[Tensor, "B T D"]:
    """Return the decoder's output; `packed_lengths` are those of the samples in the one row, None where a row is a sample."""
    if packed_lengths is None:
        return decoder(input_ids=token_ids, attention_mask=attention_mask, use_cache=False).last_hidden_state
    lengths = torch.tensor(packed_lengths, device=token_ids.device)
    ends = lengths.cumsum(0)
    starts = torch.repeat_interleave(ends - lengths, lengths, output_size=token_ids.shape[1])
    position_ids = torch.arange(token_ids.shape[1], device=token_ids.device) - starts
    bounds = torch.nn.functional.pad(ends, (1, 0)).to(torch.int32)
    # No mask, though nothing is padding: with one, transformers would not look for restarting position ids.
    return decoder(
        input_ids=token_ids,
        attention_mask=None,
        position_ids=position_ids[None],
        use_cache=False,
        sample_lengths=packed_lengths,
        cu_seq_lens_q=bounds,
        cu_seq_lens_k=bounds,
        max_length_q=max(packed_lengths),
        max_length_k=max(packed_lengths),
    ).last_hidden_state


@torch.no_grad()
def check_packing(model: PreTrainedModel) -> None:
    """Raise ConfigError unless what a sample gives is the same whatever is packed before it.

    Families differ in what they pass on to their layers (BLOOM's do not get position ids), and not all of them keep their
    state in attention. Nothing at all may differ, but for the rounding of experts, which compute together the tokens that
    chose them.
    """
    generator = torch.Generator().manual_seed(0)
    vocabulary_size = model.config.get_text_config().vocab_size
    first, other, last = torch.randint(vocabulary_size, (3, _CHECKED_LEN), generator=generator).to(model.device)
    mask = torch.ones(1, 2 * _CHECKED_LEN, dtype=torch.bool, device=model.device)
    outputs = [
        last_hidden_states(model.get_decoder(), torch.cat([before, last])[None], mask, (_CHECKED_LEN, _CHECKED_LEN))[
            0, _CHECKED_LEN:
        ].float()
        for before in (first, other)
    ]
    difference = (outputs[0] - outputs[1]).norm().item()
    if not difference <= _CHECK_TOLERANCE[model.dtype] * outputs[0].norm().item():
        raise ConfigError(
            f"learner.packing=true: in {type(model).__name__} ({model.name_or_path}) a packed sample sees the one before it; "
            "set learner.packing=false, or try another model.attn_implementation"
        )
