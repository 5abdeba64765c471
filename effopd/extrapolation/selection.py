"""Which parameters a jump moves."""

import re
from collections.abc import Callable

from effopd.config.schema import MovedParameters

ATTENTION = re.compile(r"\.(self_attn|self_attention|attention|attn)\.")
MLP = re.compile(r"\.(mlp|feed_forward|ffn|fc1|fc2|experts)\.")
"""Modules by the names that model families give them."""

RELEASED_KEYWORDS = (
    "attn", "self_attn", "attention", "q_proj", "k_proj", "v_proj", "o_proj",
    "mlp", "feed_forward", "ffn", "gate_proj", "up_proj", "down_proj",
)  # fmt: skip
"""The authors' code moves every parameter whose name contains one of these. By substring that includes
`post_attention_layernorm` and the q/k norms, and excludes `input_layernorm`, embeddings and the head."""


def moved_parameters(choice: MovedParameters) -> Callable[[str, tuple[int, ...]], bool]:
    """Return the predicate over (parameter name, shape) that `choice` stands for."""
    match choice:
        case MovedParameters.all:
            return lambda name, shape: True
        case MovedParameters.released:
            return lambda name, shape: any(keyword in name for keyword in RELEASED_KEYWORDS)
        case MovedParameters.matrices:
            # Three dimensions are matrices too: the experts of a layer, stacked.
            return lambda name, shape: len(shape) >= 2 and bool(ATTENTION.search(name) or MLP.search(name))
