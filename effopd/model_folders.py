"""Where a model's files are. Loads no torch, so that a name which is wrong is said within seconds."""

from collections.abc import Sequence
from functools import cache
from operator import attrgetter
from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError, RepositoryNotFoundError

from effopd.config.schema import RunConfig
from effopd.errors import ConfigError

TOY_MODELS = Path(__file__).parent / "toy" / "models"
HUB_SECONDS = 5.0
"""How long the hub may take to answer before it counts as out of reach. By itself its library waits without end."""

_PATTERNS = ["*.json", "*.safetensors", "*.jinja", "*.txt", "*.model"]


def require_models(config: RunConfig, keys: Sequence[str]) -> None:
    """Raise ConfigError for the first of the settings `keys` whose model is nowhere; one of the hub is downloaded."""
    for key in keys:
        resolve_model_path(key, attrgetter(key)(config))


def resolve_model_path(key: str, path: str) -> Path:
    """Return the folder that `path` names: a folder, `toy:<task>_<base|teacher>`, or a hub name, which is downloaded.

    Raises ConfigError naming the setting `key`, the path and what would have been right.
    """
    if path.startswith("toy:"):
        folder = TOY_MODELS / path.removeprefix("toy:")
        if not folder.is_dir():
            choices = ", ".join(sorted(f"toy:{child.name}" for child in TOY_MODELS.iterdir() if child.is_dir()))
            raise ConfigError(f"{key}={path}: no such toy model; choose one of {choices}")
        return folder
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            raise ConfigError(f"{key}={path}: the folder has no config.json; give a Hugging Face model folder")
        return folder.resolve()
    failure = _hub_failure(path)
    try:
        # What an earlier download has left will do while the hub is out of reach.
        return Path(snapshot_download(path, allow_patterns=_PATTERNS, local_files_only=failure is not None))
    except (HFValidationError, RepositoryNotFoundError, LocalEntryNotFoundError, OSError) as error:
        raise ConfigError(
            f"{key}={path}: neither a folder here nor a model that the hub could deliver "
            f"({type(failure or error).__name__}); give the path of a Hugging Face model folder"
        ) from error


@cache
def _hub_failure(name: str) -> Exception | None:
    """Return why the hub has no answer about a model, None if it has one."""
    try:
        HfApi().model_info(name, timeout=HUB_SECONDS)
    except Exception as error:  # the library passes on what its HTTP client raises, and has had three of them
        return error
    return None
