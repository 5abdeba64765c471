"""Whether a model folder holds the weights that its config.json asks for, judged by the headers of its files alone.

Every tensor of a safetensors file has its shape in the header, so nothing is loaded, and a model of any size is checked in
about a second. Pickled weights (`pytorch_model.bin`) are not read: unpickling runs whatever the file says.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM, PreTrainedConfig

from effopd.errors import ConfigError

WEIGHTS_NAME = "model.safetensors"
INDEX_NAME = "model.safetensors.index.json"

Shapes = Mapping[str, tuple[int, ...]]
"""Name of a tensor to its shape."""


@dataclass(frozen=True, slots=True)
class _Architecture:
    """What a configuration makes: no weights, only names and shapes."""

    stored: Shapes
    """Every tensor that a file may hold, tied ones under each of their names."""
    parameters: Shapes
    """Every parameter once, under the first of its names."""
    tied: tuple[frozenset[str], ...]
    """One set per parameter: the names that it has. Any one of them in a file is enough."""


def check_weights(key: str, folder: Path, config: PreTrainedConfig) -> Shapes:
    """Return every parameter of the model in `folder`, a tied one once.

    Raises ConfigError when the folder has no safetensors weights, a file of them is missing or damaged, or they are not
    those of `config`.
    """
    architecture = _architecture(key, folder, config)
    found = {name: shape for file in _weight_files(key, folder) for name, shape in _read_shapes(key, file).items()}
    # Quantised weights are packed into other shapes; transformers and vLLM unpack them.
    is_packed = hasattr(config, "quantization_config")
    for name, shape in found.items():
        wanted = architecture.stored.get(name, shape)
        if wanted != shape and not is_packed:
            raise ConfigError(
                f"{key}={folder}: {name} is {list(shape)} in the weights, but config.json makes it {list(wanted)}; "
                "the two belong to different models: copy the folder again"
            )
    missing = sorted(min(names) for names in architecture.tied if not names & found.keys())
    # Some architectures are stored under other names and converted while loading; only a folder without a single name of
    # its own is sure to lack what is missing.
    if missing and found.keys() <= architecture.stored.keys():
        raise ConfigError(
            f"{key}={folder}: the weights lack {missing[0]}{_and_more(len(missing))}; copy the folder again"
        )
    return architecture.parameters


def _architecture(key: str, folder: Path, config: PreTrainedConfig) -> _Architecture:
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ConfigError(
            f"{key}={folder}: model_type={config.model_type} is no causal language model; give one that generates text"
        )
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    except Exception as error:  # a model's constructor raises whatever an impossible number leads to
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"{key}={folder}: config.json describes no model ({reason}); copy the folder again"
        ) from error
    names: dict[int, set[str]] = {}
    for name, parameter in model.named_parameters(remove_duplicate=False):
        names.setdefault(id(parameter), set()).add(name)
    return _Architecture(
        stored={name: tuple(tensor.shape) for name, tensor in model.state_dict().items()},
        parameters={name: tuple(parameter.shape) for name, parameter in model.named_parameters()},
        tied=tuple(frozenset(group) for group in names.values()),
    )


def _weight_files(key: str, folder: Path) -> list[Path]:
    # In the order in which transformers looks.
    if (folder / WEIGHTS_NAME).is_file():
        return [folder / WEIGHTS_NAME]
    index = folder / INDEX_NAME
    if index.is_file():
        files = [folder / name for name in _indexed_files(key, index)]
        missing = [file.name for file in files if not file.is_file()]
        if missing:
            raise ConfigError(
                f"{key}={folder}: {INDEX_NAME} names {missing[0]}{_and_more(len(missing))}, but there is no such file; "
                "copy the folder again"
            )
        return files
    pickled = sorted(path.name for pattern in ("*.bin", "*.pt", "*.pth") for path in folder.glob(pattern))
    if pickled:
        raise ConfigError(
            f"{key}={folder}: the weights are pickled ({pickled[0]}), and a pickle runs code when it is read; "
            "give a folder with safetensors, as save_pretrained writes it"
        )
    raise ConfigError(f"{key}={folder}: no {WEIGHTS_NAME}; give a folder with its weights")


def _indexed_files(key: str, index: Path) -> list[str]:
    try:
        names = json.loads(index.read_bytes())["weight_map"].values()
        return sorted({str(name) for name in names})
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ConfigError(f"{key}: {index} is damaged ({type(error).__name__}); copy the folder again") from error


def tensor_shapes(file: Path) -> dict[str, tuple[int, ...]]:
    """Return name and shape of every tensor in a safetensors file. Raises OSError or SafetensorError."""
    with safe_open(file, framework="pt") as tensors:  # pyright: ignore[reportGeneralTypeIssues]
        return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118


def _read_shapes(key: str, file: Path) -> dict[str, tuple[int, ...]]:
    try:
        return tensor_shapes(file)
    except (SafetensorError, OSError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{key}: {file} is no sound safetensors file ({reason}); copy it again") from error


def _and_more(num_names: int) -> str:
    return f" and {num_names - 1} more" if num_names > 1 else ""
