"""Which tokens end a model's responses."""

from pathlib import Path

from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from effopd.errors import ConfigError


def end_token_ids(folder: Path) -> tuple[int, ...]:
    """Return the ids that end a response: the generation config's, else the model config's, else the tokenizer's.

    Raises ConfigError when none of them names one: such a model would never stop.
    """
    candidates: list[int | list[int] | None] = []
    if (folder / "generation_config.json").is_file():
        try:
            candidates.append(GenerationConfig.from_pretrained(folder).eos_token_id)
        except (OSError, ValueError, TypeError, AttributeError) as error:
            reason = " ".join(str(error).split())
            raise ConfigError(
                f"{folder}: generation_config.json cannot be read ({reason}); copy it again, or remove it"
            ) from error
    candidates.append(AutoConfig.from_pretrained(folder, trust_remote_code=False).get_text_config().eos_token_id)
    candidates.append(AutoTokenizer.from_pretrained(folder, trust_remote_code=False).eos_token_id)
    for candidate in candidates:
        if candidate is not None:
            token_ids = tuple(candidate) if isinstance(candidate, list) else (candidate,)
            if not all(isinstance(token_id, int) and token_id >= 0 for token_id in token_ids):
                raise ConfigError(f"{folder}: eos_token_id={candidate} is no token id; correct generation_config.json")
            return token_ids
    raise ConfigError(f"{folder}: no eos_token_id in generation_config.json, config.json or tokenizer; add one")
