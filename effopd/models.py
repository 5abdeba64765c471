"""Where a model's files are, and which tokens end its responses."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError
from transformers import AutoConfig, AutoTokenizer, GenerationConfig

from effopd.errors import ConfigError

TOY_MODELS = Path(__file__).parent / "toy" / "models"


def resolve_model_path(path: str) -> Path:
    """Return the folder that `path` names: a folder, `toy:<task>_<base|teacher>`, or a hub name, which is downloaded.

    Raises ConfigError naming the path and what would have been right.
    """
    if path.startswith("toy:"):
        folder = TOY_MODELS / path.removeprefix("toy:")
        if not folder.is_dir():
            choices = ", ".join(sorted(f"toy:{child.name}" for child in TOY_MODELS.iterdir() if child.is_dir()))
            raise ConfigError(f"model path {path}: no such toy model; choose one of {choices}")
        return folder
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"model path {path}: the folder has no config.json; give a Hugging Face model folder")
        return folder.resolve()
    try:
        return Path(snapshot_download(path, allow_patterns=["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]))
    except (HFValidationError, RepositoryNotFoundError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"model path {path}: neither a folder here nor a model that the hub could deliver "
            f"({type(error).__name__}); give the path of a Hugging Face model folder"
        ) from error


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
