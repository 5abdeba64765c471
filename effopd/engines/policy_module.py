"""A Hugging Face causal language model as one module whose single forward computes everything that needs parameters.

ZeRO-3 gathers parameters for the duration of a module's forward and again for its backward. A loss that applied the head
after the forward had returned would meet freed weights; here it runs inside, through a callback.
"""

from collections.abc import Callable
from typing import TypeVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from torch.nn import functional
from transformers import AutoModelForCausalLM, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.utils import logging

from effopd.algorithms.policy_output import PolicyOutput
from effopd.engines.packed_attention import last_hidden_states
from effopd.errors import ConfigError

T = TypeVar("T")


def load_causal_lm(path: str, dtype: torch.dtype, attn_implementation: str) -> PreTrainedModel:
    """Return the model in `path` on the CPU, without dropout and without a KV cache, its parameters requiring gradients.

    Code that a model folder ships is never run, and pickled weights are not read: they can hold code, too.
    """
    logging.disable_progress_bar()  # one bar per rank and model says nothing
    model = AutoModelForCausalLM.from_pretrained(
        path, dtype=dtype, attn_implementation=attn_implementation, trust_remote_code=False, use_safetensors=True
    )
    model.config.use_cache = False
    model.eval()
    return model


def enable_activation_checkpointing(model: PreTrainedModel) -> None:
    """Make every layer keep only its input and run again in the backward pass.

    Layers do so in training mode only, so the mode is set on them and not on what they contain: dropout stays off.
    """
    model.gradient_checkpointing_enable({"use_reentrant": False})
    for module in model.modules():
        if isinstance(module, GradientCheckpointingLayer):
            module.training = True


def output_head(model: PreTrainedModel) -> nn.Linear:
    """Return the linear layer that maps hidden states to logits. Raises ConfigError when it is something else."""
    head = model.get_output_embeddings()
    if not isinstance(head, nn.Linear):
        raise ConfigError(
            f"model.path={model.name_or_path}: the output head is a {type(head).__name__}; "
            "effopd computes logits from a linear head; choose a model that has one"
        )
    return head


@torch.no_grad()
def check_head(model: PreTrainedModel) -> None:
    """Raise ConfigError unless the model's logits are its head applied to its last hidden states, and nothing more.

    Models that scale or soft-cap their logits (Gemma 2, Cohere, Granite) would otherwise train on another distribution
    than the one they sample from.
    """
    head = output_head(model)
    generator = torch.Generator().manual_seed(0)
    token_ids = torch.randint(head.out_features, (1, 8), generator=generator).to(model.device)
    expected = model(input_ids=token_ids, use_cache=False).logits.float()
    hidden = model.get_decoder()(input_ids=token_ids, use_cache=False).last_hidden_state
    difference = (head(hidden).float() - expected).abs().max().item()
    if not difference <= 1e-2 * expected.abs().max().item():
        raise ConfigError(
            f"model.path={model.name_or_path}: {type(model).__name__} does more to its logits than apply the output head "
            f"to the last hidden state (they differ by {difference:.3g}), e.g. it scales or soft-caps them; "
            "choose a model that does not, or switch that off in its config.json"
        )


class CriticModule(nn.Module):
    """The decoder of `model` with a linear head that starts at zero: the value of every prefix."""

    def __init__(self, model: PreTrainedModel) -> None:
        super().__init__()
        head = output_head(model)
        self.decoder = model.get_decoder()
        self.value_head = nn.Linear(head.in_features, 1, bias=True, dtype=head.weight.dtype)
        nn.init.zeros_(self.value_head.weight)
        nn.init.zeros_(self.value_head.bias)

    def forward(
        self,
        token_ids: Int[Tensor, "B T"],
        attention_mask: Bool[Tensor, "B T"],
        response_mask: Bool[Tensor, "B T"],
        compute: Callable[[Tensor], T],
        packed_lengths: tuple[int, ...] | None = None,
    ) -> T:
        """Return `compute(values)`; `values[:, t]`, float32, belongs to the prefix before the token at t, [B, T].

        At the start of a row, or of a packed sample (see `PolicyModule`), there is no prefix, and `values` mean nothing.
        Tensors that `compute` returns and that carry gradients must be in a tuple, list or dict.
        """
        hidden = last_hidden_states(self.decoder, token_ids, attention_mask, packed_lengths)
        values = self.value_head(hidden[:, :-1]).squeeze(-1).float()
        return compute(functional.pad(values, (1, 0)))


class PolicyModule(nn.Module):
    """Wraps `model`; `chunk_tokens` bounds the tokens whose [tokens, V] logits exist at once."""

    def __init__(self, model: PreTrainedModel, chunk_tokens: int) -> None:
        super().__init__()
        self.model = model
        self.chunk_tokens = chunk_tokens

    def forward(
        self,
        token_ids: Int[Tensor, "B T"],
        attention_mask: Bool[Tensor, "B T"],
        response_mask: Bool[Tensor, "B T"],
        compute: Callable[[PolicyOutput], T],
        packed_lengths: tuple[int, ...] | None = None,
    ) -> T:
        """Return `compute(output)`, evaluated while the parameters are at hand.

        Rows are right-padded, so position ids are the columns; or there is one row of samples of `packed_lengths`, none of
        which sees another. Tensors that `compute` returns and that carry gradients must be in a tuple, list or dict:
        DeepSpeed looks for them there.
        """
        hidden = last_hidden_states(self.model.get_decoder(), token_ids, attention_mask, packed_lengths)
        head = output_head(self.model)

        def logits(hidden_states: Tensor) -> Tensor:
            # Not head(...): under ZeRO-3 every module call may gather, and ranks differ in their number of chunks.
            return functional.linear(hidden_states, head.weight, head.bias)

        return compute(PolicyOutput(hidden, logits, token_ids, response_mask, self.chunk_tokens))
