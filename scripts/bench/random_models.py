"""Models with random weights, made on the fly, for measuring what does not depend on what a model knows."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

SMALL_VOCABULARY = 512
SMALL_EOS_IDS = (1, 2, 3)
"""A random model draws nearly uniformly, so of each token 3 in 512 end the response: geometric lengths, 170 on average
before the cut at 512 and 160 after it."""
WIDE_VOCABULARY = 151_936


def write_small(folder: Path, seed: int, max_model_len: int = 1024) -> Path:
    """Write a Qwen3 of 4.9 million parameters whose responses are ragged."""
    config = Qwen3Config(
        vocab_size=SMALL_VOCABULARY,
        hidden_size=256,
        intermediate_size=768,
        num_hidden_layers=6,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=64,
        max_position_embeddings=max_model_len,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=list(SMALL_EOS_IDS),
        bos_token_id=None,
    )
    return _write(folder, Qwen3ForCausalLM, config, torch.float32, seed, SMALL_VOCABULARY)


def write_wide(folder: Path, seed: int) -> Path:
    """Write a narrow Qwen3 with a vocabulary of 151,936, so that logits are what takes memory."""
    config = Qwen3Config(
        vocab_size=WIDE_VOCABULARY,
        hidden_size=64,
        intermediate_size=192,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=32,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return _write(folder, Qwen3ForCausalLM, config, torch.float32, seed, 16)


def write_half_billion(folder: Path, seed: int) -> Path:
    """Write a model with the shapes of Qwen2.5-0.5B, 494 million parameters in bfloat16."""
    config = Qwen2Config(
        vocab_size=WIDE_VOCABULARY,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        tie_word_embeddings=True,
        pad_token_id=0,
        eos_token_id=1,
        bos_token_id=None,
    )
    return _write(folder, Qwen2ForCausalLM, config, torch.bfloat16, seed, 16)


def random_prompts(num_prompts: int, prompt_len: int, seed: int) -> list[str]:
    """Return texts of `prompt_len` tokens for the tokenizer of `write_small`."""
    generator = torch.Generator().manual_seed(seed)
    token_ids = torch.randint(len(SMALL_EOS_IDS) + 1, SMALL_VOCABULARY, (num_prompts, prompt_len), generator=generator)
    return [" ".join(f"t{token_id}" for token_id in row) for row in token_ids.tolist()]


def _write(
    folder: Path,
    model_class: type[PreTrainedModel],
    config: PreTrainedConfig,
    dtype: torch.dtype,
    seed: int,
    num_words: int,
) -> Path:
    torch.manual_seed(seed)
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        model_class(config).save_pretrained(folder)
    finally:
        torch.set_default_dtype(default)
    vocabulary = {"<pad>": 0, "<eos>": 1} | {f"t{index}": index for index in range(2, num_words)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<eos>", pad_token="<pad>").save_pretrained(folder)
    return folder
