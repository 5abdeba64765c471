"""A checkpoint as an ordinary Hugging Face model folder.

The weights are streamed from the float32 masters, one tensor at a time; everything else is the student's own.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from transformers import AutoConfig

from effopd.checkpoints.manifest import require_checkpoint
from effopd.checkpoints.reading import Checkpoint, best_checkpoint, checkpoint_at, latest_checkpoint
from effopd.checkpoints.snapshot import snapshot_path
from effopd.checkpoints.streaming import Layout, StreamWriter, num_tensor_bytes
from effopd.config.register import read_config
from effopd.durable import sync_directory
from effopd.errors import CheckpointError, ConfigError
from effopd.model_folders import resolve_model_path
from effopd.types import ShardKind

DTYPES: Mapping[str, torch.dtype] = {
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
    "float32": torch.float32,
}
MAX_SHARD_BYTES = 5 * 10**9
"""The size up to which transformers itself keeps a model in one file."""

_TOKENIZER_FILES = (
    "tokenizer*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.*",
    "merges.txt",
    "*.tiktoken",
    "spiece.model",
    "chat_template*",
)


def export_run(
    run: Path,
    output: Path,
    checkpoint: str = "last",
    dtype: str = "bfloat16",
    max_shard_bytes: int = MAX_SHARD_BYTES,
) -> None:
    """Write the weights of a run as a model folder that transformers and vLLM load as it is.

    `checkpoint` is `last`, `best` or a step. Raises ConfigError for a bad argument, a checkpoint that the run does not have or
    an `output` that is not empty, and CheckpointError when the checkpoint is damaged or not of the student's architecture.
    `output` appears when it is complete.
    """
    if dtype not in DTYPES:
        raise ConfigError(f"dtype={dtype}: cannot be exported; choose one of {', '.join(DTYPES)}")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"output={output}: exists and is not an empty folder; choose another, nothing is overwritten")
    if not (run / "config.yaml").is_file():
        raise ConfigError(f"run={run}: has no config.yaml; give the output folder of `effopd train`")
    model = read_config(run / "config.yaml").model
    source = resolve_model_path("model.path", model.path)
    chosen = choose_checkpoint(run, checkpoint)
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = output.with_name(f".{output.name}.tmp-{os.getpid()}")
    temporary.mkdir()
    try:
        _write_weights(
            snapshot_path(chosen.directory, ShardKind.MASTER), temporary, source, DTYPES[dtype], max_shard_bytes
        )
        _copy_tokenizer(source, temporary, None if model.chat_template is None else Path(model.chat_template))
        _write_config(source, temporary, dtype)
        sync_directory(temporary)
        temporary.replace(output)
    except BaseException:
        shutil.rmtree(temporary)
        raise
    sync_directory(output.parent)


def choose_checkpoint(run: Path, checkpoint: str) -> Checkpoint:
    """Return the verified checkpoint that `last`, `best` or a step names. Raises ConfigError or CheckpointError."""
    require_checkpoint(run, checkpoint)
    if checkpoint == "last":
        found = latest_checkpoint(run)
    elif checkpoint == "best":
        found = best_checkpoint(run)
    elif checkpoint.isdecimal():
        found = checkpoint_at(run, int(checkpoint))
    else:
        raise ConfigError(f"checkpoint={checkpoint}: not one of last, best or a step; try last")
    assert found is not None, "the run has such a checkpoint"
    return found


def plan_shards(layout: Layout, max_bytes: int) -> list[dict[str, tuple[torch.dtype, tuple[int, ...]]]]:
    """Return the layout cut into files of at most `max_bytes` in order; a larger tensor has a file of its own."""
    shards: list[dict[str, tuple[torch.dtype, tuple[int, ...]]]] = []
    room = 0
    for name, (dtype, shape) in layout.items():
        size = num_tensor_bytes(dtype, shape)
        if not shards or size > room:
            shards.append({})
            room = max_bytes
        shards[-1][name] = (dtype, shape)
        room -= size
    return shards


def _write_weights(masters: Path, directory: Path, source: Path, dtype: torch.dtype, max_bytes: int) -> None:
    with safe_open(masters, framework="pt") as file:  # pyright: ignore[reportGeneralTypeIssues]
        names = _names_to_export(sorted(file.keys()), source)
        layout = {name: (dtype, tuple(file.get_slice(name).get_shape())) for name in names}
        shards = plan_shards(layout, max_bytes)
        file_of: dict[str, str] = {}
        for number, shard in enumerate(shards, start=1):
            suffix = "" if len(shards) == 1 else f"-{number:05d}-of-{len(shards):05d}"
            path = directory / f"model{suffix}.safetensors"
            with StreamWriter(path, shard, {"format": "pt"}) as writer:
                for name in shard:
                    writer.write(name, file.get_tensor(name).to(dtype))
                    file_of[name] = path.name
                writer.close()
    if len(shards) > 1:
        total = sum(num_tensor_bytes(*entry) for entry in layout.values())
        index = {"metadata": {"total_size": total}, "weight_map": file_of}
        (directory / "model.safetensors.index.json").write_text(json.dumps(index, indent=2) + "\n")


def _names_to_export(names: list[str], source: Path) -> list[str]:
    """Return the names without a tied output head. Raises CheckpointError for a name that the student's files lack."""
    # Asked of transformers, because config.json leaves out what is the architecture's default.
    is_tied = AutoConfig.from_pretrained(source).get_text_config().tie_word_embeddings
    exported = [name for name in names if not (is_tied and name == "lm_head.weight")]
    known = set(_source_names(source))
    # An architecture whose files name its weights otherwise than the model in memory would load as random weights.
    unknown = [name for name in exported if known and name not in known]
    if unknown:
        raise CheckpointError(
            f"{unknown[0]} and {len(unknown) - 1} more weights of the checkpoint are not in the student's files at {source}: "
            "either config.yaml names another model, or this architecture is stored under other names, which export does "
            "not translate"
        )
    return exported


def _source_names(source: Path) -> Iterator[str]:
    """Yield the tensor names in the student's own safetensors files, if it has such."""
    for path in source.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:  # pyright: ignore[reportGeneralTypeIssues]
            yield from file.keys()


def _copy_tokenizer(source: Path, directory: Path, chat_template: Path | None) -> None:
    for pattern in _TOKENIZER_FILES:
        for path in source.glob(pattern):
            if path.is_file():
                shutil.copyfile(path, directory / path.name)
    if chat_template is None:
        return
    if not chat_template.is_file():
        raise ConfigError(f"model.chat_template={chat_template}: no such file, though the run was trained with it")
    shutil.copyfile(chat_template, directory / "chat_template.jinja")


def _write_config(source: Path, directory: Path, dtype: str) -> None:
    config = json.loads((source / "config.json").read_text())
    # Older readers know only the older key; in files that have it, both say the same.
    config |= {key: dtype for key in ("dtype", "torch_dtype") if key == "dtype" or key in config}
    (directory / "config.json").write_text(json.dumps(config, indent=2) + "\n")
    generation = source / "generation_config.json"
    if generation.is_file():
        shutil.copyfile(generation, directory / generation.name)
