"""Pairs of model folders that must not be trained together, and what is said of each."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from huggingface_hub import HfApi
from transformers import CONFIG_MAPPING, AutoModelForCausalLM

from effopd.config.schema import DataConfig, LearnerConfig, ModelConfig, RolloutConfig, RunConfig
from effopd.errors import ConfigError
from effopd.model_folders import TOY_MODELS, resolve_model_path
from effopd.preflight import check_pair, length_problem, packing_problem, read_model_files

Edit = Callable[[Path], None]


def config(apply_chat_template: bool = False, max_response_len: int = 16) -> RunConfig:
    return RunConfig(
        data=DataConfig(path="toy:sums", max_prompt_len=16, apply_chat_template=apply_chat_template),
        rollout=RolloutConfig(max_response_len=max_response_len),
    )


def pair(tmp_path: Path, edit: Edit) -> tuple[Path, Path]:
    """A sound student, and its teacher after `edit`."""
    teacher = tmp_path / "teacher"
    shutil.copytree(TOY_MODELS / "sums_teacher", teacher)
    edit(teacher)
    return TOY_MODELS / "sums_base", teacher


def check(student: Path, teacher: Path, settings: RunConfig) -> None:
    files = [
        read_model_files(f"{role}.path", folder, None) for role, folder in (("model", student), ("teacher", teacher))
    ]
    check_pair(files[0], files[1], settings)


def edit_json(name: str, **changes: object) -> Edit:
    def edit(folder: Path) -> None:
        path = folder / name
        path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))

    return edit


def rename_a_token(folder: Path) -> None:
    path = folder / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["@"] = vocab.pop("7")
    path.write_text(json.dumps(tokenizer))


def pad_the_vocabulary(folder: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    model.resize_token_embeddings(model.config.vocab_size + 8)
    model.save_pretrained(folder)


def test_the_shipped_pairs_fit_each_other() -> None:
    for task in ("sums", "programs"):
        check(TOY_MODELS / f"{task}_base", TOY_MODELS / f"{task}_teacher", config())


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (rename_a_token, ["tokenizers differ", "choose a teacher of the student's family"]),
        (pad_the_vocabulary, ["padded differently", "resize_token_embeddings"]),
        (edit_json("generation_config.json", eos_token_id=5), ["end of sequence differs", "generation_config.json"]),
        (edit_json("config.json", max_position_embeddings=20), ["teacher.path", "holds 20 positions", "ask for 32"]),
    ],
)
def test_a_teacher_that_does_not_fit_is_refused_with_the_fix(tmp_path: Path, edit: Edit, words: list[str]) -> None:
    with pytest.raises(ConfigError) as error:
        check(*pair(tmp_path, edit), config())
    assert all(word in str(error.value) for word in words), str(error.value)


def test_too_few_positions_name_the_model_as_typed_and_how_many_there_are(tmp_path: Path) -> None:
    student = read_model_files("model.path", TOY_MODELS / "sums_base", None)
    # The toy model holds 128 positions; 512 + 16 are asked for.
    settings = RunConfig(
        model=ModelConfig(path="toy:sums_base"),
        data=DataConfig(path="toy:sums", max_prompt_len=512),
        rollout=RolloutConfig(max_response_len=16),
    )
    assert str(length_problem(student, settings)) == (
        "model.path=toy:sums_base: holds 128 positions; data.max_prompt_len plus rollout.max_response_len ask for 528; "
        "lower them: their sum must be at most 128"
    )
    settings.rollout.max_model_len = 600
    assert str(length_problem(student, settings)) == (
        "model.path=toy:sums_base: holds 128 positions; rollout.max_model_len asks for 600; lower it to at most 128"
    )


@pytest.mark.parametrize(
    ("family", "sizes", "what"),
    [
        ("qwen3", {"layer_types": ["full_attention", "sliding_attention"], "sliding_window": 4}, None),
        ("mamba", {"state_size": 4}, "layers of kind linear_attention"),
        ("rwkv", {}, "a recurrent state"),
        ("lfm2", {"layer_types": ["conv", "full_attention"]}, "layers of kind conv"),
        ("qwen3_next", {"layer_types": ["linear_attention", "full_attention"]}, "layers of kind linear_attention"),
        ("qwen3_5_text", {"layer_types": ["linear_attention", "full_attention"]}, "layers of kind linear_attention"),
    ],
)
def test_models_that_carry_something_past_the_attention_mask_are_not_packed(
    tmp_path: Path, family: str, sizes: dict[str, object], what: str | None
) -> None:
    shutil.copytree(TOY_MODELS / "sums_base", tmp_path, dirs_exist_ok=True)
    usual = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    vocabulary = json.loads((tmp_path / "config.json").read_text())["vocab_size"]
    kind = CONFIG_MAPPING[family](vocab_size=vocabulary, **usual, num_key_value_heads=1, **sizes, pad_token_id=0)
    AutoModelForCausalLM.from_config(kind).save_pretrained(tmp_path)
    student = read_model_files("model.path", tmp_path, None)
    settings = RunConfig(model=ModelConfig(path="mine"), learner=LearnerConfig(packing=True))
    problem = packing_problem(student, settings)
    assert (problem and str(problem)) == (
        what
        and f"learner.packing=true: model.path=mine has {what}, through which packed samples would see one another; "
        "set learner.packing=false"
    )
    settings.learner.packing = False
    assert packing_problem(student, settings) is None


def test_all_reasons_are_given_at_once(tmp_path: Path) -> None:
    def edit(folder: Path) -> None:
        edit_json("generation_config.json", eos_token_id=5)(folder)
        edit_json("config.json", max_position_embeddings=20)(folder)

    with pytest.raises(ConfigError) as error:
        check(*pair(tmp_path, edit), config())
    assert len(str(error.value).splitlines()) == 2


def test_a_chat_template_that_is_missing_or_differs_is_refused(tmp_path: Path) -> None:
    student, teacher = tmp_path / "s", tmp_path / "t"
    shutil.copytree(TOY_MODELS / "sums_base", student)
    shutil.copytree(TOY_MODELS / "sums_teacher", teacher)
    with pytest.raises(ConfigError, match="has no chat template"):
        check(student, teacher, config(apply_chat_template=True))
    (student / "chat_template.jinja").write_text("{{ messages[0].content }}=")
    (teacher / "chat_template.jinja").write_text("{{ messages[0].content }}:")
    with pytest.raises(ConfigError, match="chat templates differ"):
        check(student, teacher, config(apply_chat_template=True))


def test_a_path_that_is_no_model_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no config\.json"):
        resolve_model_path("model.path", str(tmp_path))
    with pytest.raises(ConfigError, match="choose one of toy:programs_base"):
        resolve_model_path("model.path", "toy:nothing")
    with pytest.raises(
        ConfigError, match=r"^teacher\.path=nobody/nothing: neither a folder here nor a model that the hub"
    ):
        resolve_model_path("teacher.path", "nobody/nothing")


def test_a_hub_that_does_not_answer_leaves_what_was_downloaded_before(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_answer(api: HfApi, name: str, timeout: float) -> None:
        assert timeout < 10
        raise TimeoutError

    asked = []

    def download(name: str, allow_patterns: list[str], local_files_only: bool) -> str:
        asked.append(local_files_only)
        return "cached"

    monkeypatch.setattr(HfApi, "model_info", no_answer)
    monkeypatch.setattr("effopd.model_folders.snapshot_download", download)
    assert resolve_model_path("model.path", "some/model") == Path("cached")
    assert asked == [True]
