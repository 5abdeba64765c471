"""Exported folders: what transformers loads from them is the cast masters, bit for bit."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from effopd.checkpoints.snapshot import gather_snapshot
from effopd.checkpoints.store import CheckpointStore
from effopd.config.register import write_config
from effopd.config.schema import ModelConfig, RunConfig
from effopd.errors import CheckpointError, ConfigError
from effopd.export import export_run, plan_shards
from effopd.types import Fragment, RunState, ShardKind

VOCABULARY = {"<eos>": 0, "a": 1, "b": 2}


def write_student(folder: Path, is_tied: bool) -> None:
    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=16,
        hidden_size=8,
        intermediate_size=12,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=4,
        max_position_embeddings=32,
        tie_word_embeddings=is_tied,
        eos_token_id=0,
    )
    Qwen3ForCausalLM(config).save_pretrained(folder)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel(VOCABULARY, unk_token="<eos>")))
    tokenizer.chat_template = "{{ messages[0].content }}"
    tokenizer.save_pretrained(folder)
    (folder / "README.md").write_text("about the student, not about what was made of it")


def make_run(tmp_path: Path, is_tied: bool, chat_template: str | None = None) -> tuple[Path, dict[str, torch.Tensor]]:
    """A run folder with checkpoints at steps 1 (best) and 2, and the masters of step 2."""
    write_student(tmp_path / "student", is_tied)
    run = tmp_path / "run"
    store = CheckpointStore(run, keep_last=2, keep_best=True)
    write_config(
        RunConfig(model=ModelConfig(path=str(tmp_path / "student"), chat_template=chat_template)), run / "config.yaml"
    )
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "student", dtype=torch.float32)
    masters = {}
    for step, score in ((1, 0.9), (2, 0.1)):
        generator = torch.Generator().manual_seed(step)
        masters = {
            name: parameter.detach() + 0.01 * torch.randn(parameter.shape, generator=generator)
            for name, parameter in model.named_parameters()
        }

        def write(directory, masters=masters):
            fragments = [
                Fragment(name=name, shape=tuple(t.shape), start=0, num_elements=t.numel(), is_moved=True)
                for name, t in masters.items()
            ]
            read = lambda rank, kind, names: {name: masters[name].reshape(-1) for name in names}  # noqa: E731
            return gather_snapshot(directory, [fragments], read, [ShardKind.MASTER])

        store.save(RunState(step=step), write, {}, score)
    return run, masters


@pytest.mark.parametrize("is_tied", [True, False])
@pytest.mark.parametrize("dtype", ["bfloat16", "float32"])
def test_the_exported_model_is_the_cast_masters(tmp_path, is_tied, dtype):
    run, masters = make_run(tmp_path, is_tied)
    export_run(run, tmp_path / "out", dtype=dtype)
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out", dtype="auto")
    assert model.dtype == getattr(torch, dtype)
    loaded = dict(model.named_parameters())
    assert loaded.keys() == masters.keys()
    for name, master in masters.items():
        assert torch.equal(loaded[name], master.to(getattr(torch, dtype))), name
    assert (model.lm_head.weight is model.model.embed_tokens.weight) == is_tied
    assert ("lm_head.weight" in load_file(tmp_path / "out" / "model.safetensors")) == (not is_tied)


def test_the_folder_holds_what_loading_needs_and_nothing_else(tmp_path):
    run, _ = make_run(tmp_path, is_tied=True)
    export_run(run, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "chat_template.jinja",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    ]
    assert AutoTokenizer.from_pretrained(tmp_path / "out").get_vocab() == VOCABULARY
    with safe_open(tmp_path / "out" / "model.safetensors", framework="pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_chat_template_of_the_run_replaces_the_student_s(tmp_path):
    (tmp_path / "mine.jinja").write_text("mine: {{ messages[0].content }}")
    run, _ = make_run(tmp_path, is_tied=True, chat_template=str(tmp_path / "mine.jinja"))
    export_run(run, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    message = [{"role": "user", "content": "a"}]
    assert tokenizer.apply_chat_template(message, tokenize=False) == "mine: a"


@pytest.mark.parametrize(("checkpoint", "step"), [("last", 2), ("best", 1), ("1", 1), ("2", 2)])
def test_the_checkpoint_asked_for_is_the_one_exported(tmp_path, checkpoint, step):
    run, _ = make_run(tmp_path, is_tied=True)
    export_run(run, tmp_path / "out", checkpoint, dtype="float32")
    expected = load_file(run / "checkpoints" / f"step_{step:06d}" / "master.safetensors")
    found = load_file(tmp_path / "out" / "model.safetensors")
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def test_a_large_model_is_sharded_with_an_index(tmp_path):
    run, masters = make_run(tmp_path, is_tied=False)
    export_run(run, tmp_path / "out", max_shard_bytes=700)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == masters.keys()
    assert index["metadata"]["total_size"] == 2 * sum(master.numel() for master in masters.values())
    num_files = len(set(index["weight_map"].values()))
    assert num_files > 1
    assert (tmp_path / "out" / f"model-00001-of-{num_files:05d}.safetensors").is_file()
    loaded = dict(AutoModelForCausalLM.from_pretrained(tmp_path / "out").named_parameters())
    assert all(torch.equal(loaded[name], master.bfloat16()) for name, master in masters.items())


def test_shards_are_filled_in_order_and_a_large_tensor_stands_alone():
    # float32: a 8 bytes, b 8 bytes, c 40 bytes, d 4 bytes; at most 20 bytes a file.
    layout = {"a": (2,), "b": (2,), "c": (10,), "d": (1,)}
    shards = plan_shards({name: (torch.float32, shape) for name, shape in layout.items()}, 20)
    assert [list(shard) for shard in shards] == [["a", "b"], ["c"], ["d"]]


def test_a_folder_with_something_in_it_is_not_overwritten(tmp_path):
    run, _ = make_run(tmp_path, is_tied=True)
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("precious")
    with pytest.raises(ConfigError, match="exists and is not an empty folder"):
        export_run(run, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["mine"]


def test_an_empty_folder_is_filled(tmp_path):
    run, _ = make_run(tmp_path, is_tied=True)
    (tmp_path / "out").mkdir()
    export_run(run, tmp_path / "out")
    assert (tmp_path / "out" / "config.json").is_file()


def test_weights_that_the_student_does_not_have_are_refused_and_nothing_is_left(tmp_path):
    run, _ = make_run(tmp_path, is_tied=True)
    student = tmp_path / "student" / "model.safetensors"
    tensors = load_file(student)
    save_file({f"renamed.{name}": tensor for name, tensor in tensors.items()}, student, {"format": "pt"})
    with pytest.raises(CheckpointError, match="not in the student's files"):
        export_run(run, tmp_path / "out")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["run", "student"]


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"checkpoint": "newest"}, ConfigError, "checkpoint=newest: not one of last, best or a step"),
        ({"checkpoint": "7"}, ConfigError, "checkpoint=7: .* has none at that step; choose last, or one of 1, 2"),
        ({"dtype": "int8"}, ConfigError, "dtype=int8: cannot be exported; choose one of bfloat16, float16, float32"),
    ],
)
def test_a_bad_argument_is_named(tmp_path, arguments, error, message):
    run, _ = make_run(tmp_path, is_tied=True)
    with pytest.raises(error, match=message):
        export_run(run, tmp_path / "out", **arguments)


def test_a_folder_that_is_no_run_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"has no config\.yaml"):
        export_run(tmp_path, tmp_path / "out")


def test_a_damaged_checkpoint_is_not_exported(tmp_path):
    run, _ = make_run(tmp_path, is_tied=True)
    path = run / "checkpoints" / "step_000002" / "master.safetensors"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"step_000002/master\.safetensors: .* bytes, manifest\.json says"):
        export_run(run, tmp_path / "out", "2")
