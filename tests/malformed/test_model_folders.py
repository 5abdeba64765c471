"""Model folders that cannot be trained: one line each, before anything starts."""

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from effopd.model_folders import TOY_MODELS

Edit = Callable[[Path], None]

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"


def edit(name: str, **changes: object) -> Edit:
    def apply(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return apply


def write(name: str, data: bytes) -> Edit:
    return lambda folder: (folder / name).write_bytes(data) and None


def remove(*names: str) -> Edit:
    return lambda folder: [(folder / name).unlink() for name in names] and None


def cut(name: str, num_bytes: int) -> Edit:
    return lambda folder: (folder / name).write_bytes((folder / name).read_bytes()[:num_bytes]) and None


def all_of(*edits: Edit) -> Edit:
    return lambda folder: [one(folder) for one in edits] and None


def index(*files: str) -> Edit:
    """An index that puts one tensor into each of `files`."""
    content = {"metadata": {}, "weight_map": {f"tensor.{number}": name for number, name in enumerate(files)}}
    return all_of(write(INDEX, json.dumps(content).encode()), remove(WEIGHTS))


def with_tensors(change: Callable[[dict[str, torch.Tensor]], None]) -> Edit:
    def apply(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS, {"format": "pt"})

    return apply


def lose_a_layer(tensors: dict[str, torch.Tensor]) -> None:
    for name in [name for name in tensors if ".layers.2." in name]:
        del tensors[name]


def another_shape(tensors: dict[str, torch.Tensor]) -> None:
    tensors["model.norm.weight"] = torch.ones(7)


class Trap:
    """Unpickled, it writes a file."""

    def __reduce__(self) -> tuple:
        return (open, ("sprung", "w"))


def pickled(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"model.norm.weight": Trap()}, folder / "pytorch_model.bin")


def code_in_the_folder(folder: Path) -> None:
    (folder / "own.py").write_text("open('sprung', 'w')\n")
    edit("config.json", model_type="own", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})(folder)


NO_END = all_of(
    edit("config.json", eos_token_id=None),
    remove("generation_config.json"),
    edit("tokenizer_config.json", eos_token=None),
)
CHAT = "data.apply_chat_template=true"

# what is wrong, how it came about, further arguments, words that the line must contain
FOLDERS: list[tuple[str, Edit, list[str], list[str]]] = [
    ("no config", remove("config.json"), [], ["has no config.json"]),
    ("empty config", write("config.json", b""), [], ["config.json is no JSON"]),
    ("cut config", cut("config.json", 100), [], ["config.json is no JSON"]),
    ("binary config", write("config.json", b"\xff\xfe\x00"), [], ["config.json is no JSON"]),
    ("list for config", write("config.json", b"[]"), [], ["config.json must hold a JSON object with a model_type"]),
    ("no model type", write("config.json", b"{}"), [], ["must hold a JSON object with a model_type"]),
    ("unknown type", edit("config.json", model_type="qwen99"), [], ["model_type=qwen99", "unknown"]),
    ("own code", code_in_the_folder, [], ["model_type=own", "auto_map", "never runs"]),
    ("no language model", edit("config.json", model_type="vit"), [], ["model_type=vit", "no causal language model"]),
    ("text for a number", edit("config.json", hidden_size="big"), [], ["config.json cannot be read", "hidden_size"]),
    ("layers that differ", edit("config.json", num_hidden_layers=4), [], ["config.json", "num_hidden_layers"]),
    ("impossible heads", edit("config.json", num_attention_heads=0), [], ["config.json", "describes no model"]),
    ("no weights", remove(WEIGHTS), [], ["no model.safetensors"]),
    ("empty weights", cut(WEIGHTS, 0), [], [WEIGHTS, "no sound safetensors file"]),
    ("cut header", cut(WEIGHTS, 3000), [], [WEIGHTS, "no sound safetensors file"]),
    ("cut tensors", cut(WEIGHTS, 600_000), [], [WEIGHTS, "no sound safetensors file", "copy it again"]),
    ("text for weights", write(WEIGHTS, b"version https://git-lfs" * 9), [], [WEIGHTS, "no sound safetensors file"]),
    ("pickled weights", pickled, [], ["pickled (pytorch_model.bin)", "safetensors"]),
    ("a layer missing", with_tensors(lose_a_layer), [], ["weights lack model.layers.2.", "and 10 more"]),
    ("another shape", with_tensors(another_shape), [], ["model.norm.weight is [7]", "[96]"]),
    ("another size", edit("config.json", hidden_size=64), [], ["model.embed_tokens.weight is [61, 96]", "[61, 64]"]),
    ("another vocabulary", edit("config.json", vocab_size=20), [], ["[61, 96]", "[20, 96]"]),
    ("shard missing", index("model-00001-of-00001.safetensors"), [], [INDEX, "model-00001-of-00001.safetensors"]),
    ("shards missing", index("a.safetensors", "b.safetensors"), [], [INDEX, "a.safetensors and 1 more"]),
    ("cut index", all_of(write(INDEX, b'{"weight'), remove(WEIGHTS)), [], [INDEX, "damaged"]),
    ("index without map", all_of(write(INDEX, b"{}"), remove(WEIGHTS)), [], [INDEX, "damaged"]),
    ("no tokenizer", remove("tokenizer.json", "tokenizer_config.json"), [], ["no tokenizer files"]),
    ("no tokens", remove("tokenizer.json"), [], ["the tokenizer cannot be read"]),
    ("cut tokenizer", cut("tokenizer.json", 500), [], ["the tokenizer cannot be read"]),
    ("empty tokenizer", write("tokenizer.json", b"{}"), [], ["the tokenizer cannot be read"]),
    ("tokenizer settings", write("tokenizer_config.json", b"["), [], ["the tokenizer cannot be read"]),
    ("generation config", write("generation_config.json", b"{"), [], ["generation_config.json cannot be read"]),
    ("text for the end", edit("generation_config.json", eos_token_id="x"), [], ["eos_token_id=x", "no token id"]),
    ("no end", NO_END, [], ["no eos_token_id"]),
    ("another end", edit("generation_config.json", eos_token_id=5), [], ["end of sequence differs", "[5]", "[1]"]),
    ("few positions", edit("config.json", max_position_embeddings=20), [], ["holds 20 positions", "lower them"]),
    ("no template", lambda folder: None, [CHAT], ["has no chat template", "model.chat_template=FILE"]),
    ("bad template", write("chat_template.jinja", b"{% if %}"), [CHAT], ["chat template", "does not render"]),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A sound model folder."""
    return Path(shutil.copytree(TOY_MODELS / "sums_base", tmp_path / "model"))


@pytest.mark.parametrize(
    ("damage", "arguments", "words"), [row[1:] for row in FOLDERS], ids=[row[0] for row in FOLDERS]
)
def test_a_bad_model_folder_is_one_line_that_says_what_is_wrong(
    train: Callable,
    tmp_path: Path,
    folder: Path,
    monkeypatch: pytest.MonkeyPatch,
    damage: Edit,
    arguments: list[str],
    words: list[str],
) -> None:
    damage(folder)
    monkeypatch.chdir(tmp_path)
    outcome = train(f"model.path={folder}", "data.num_rows=600", *arguments)
    assert outcome.code == 2
    assert not [word for word in words if word not in outcome.only_line], outcome.only_line
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "sprung").exists(), "what came with the model was run"


def test_a_bad_teacher_is_named_by_its_own_key(train: Callable, folder: Path) -> None:
    cut(WEIGHTS, 600_000)(folder)
    assert "teacher.path: " in train(f"teacher.path={folder}", "data.num_rows=600").only_line


def test_code_beside_a_model_that_transformers_knows_is_never_run(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from effopd.engines.policy_module import load_causal_lm
    from effopd.preflight import read_model_files

    (folder / "own.py").write_text("open('sprung', 'w')\n")
    edit("config.json", auto_map={"AutoConfig": "own.C", "AutoModelForCausalLM": "own.M"})(folder)
    monkeypatch.chdir(tmp_path)
    read_model_files("model.path", folder, None)
    load_causal_lm(str(folder), torch.float32, "sdpa")
    assert not (tmp_path / "sprung").exists()
    assert "own" not in sys.modules


def test_an_engine_does_not_read_pickled_weights_either(
    tmp_path: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from effopd.engines.policy_module import load_causal_lm

    pickled(folder)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match=r"model\.safetensors"):
        load_causal_lm(str(folder), torch.float32, "sdpa")
    assert not (tmp_path / "sprung").exists()
