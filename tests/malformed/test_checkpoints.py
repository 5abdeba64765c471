"""Runs that cannot be resumed: one line each, before anything starts. And those that can, from an older checkpoint."""

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from effopd import launch
from effopd.checkpoints.learner_state import LearnerProgress, save_learner
from effopd.checkpoints.manifest import hash_file
from effopd.checkpoints.store import Checkpoint, CheckpointStore
from effopd.config.jobs import training_jobs
from effopd.config.register import open_configs, write_config
from effopd.data.report import write_records
from effopd.inputs import read_inputs
from effopd.ledger import Ledger
from effopd.model_folders import TOY_MODELS
from effopd.types import Fragment, RunState

Edit = Callable[[Path], None]

SETTINGS = [
    "experiment=toy_opd",
    "cluster=local",
    "rollout=hf",
    "eval=none",
    "data.num_rows=64",
    "rollout.prompts_per_step=8",
    "num_steps=9",
]


@pytest.fixture(scope="module")
def sound_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run of 9 steps that was stopped after its second checkpoint, made without an engine."""
    with open_configs() as configs:
        (job,) = training_jobs(configs, SETTINGS, is_multirun=False)
    run = tmp_path_factory.mktemp("runs") / "run"
    store = CheckpointStore(run, keep_last=2, keep_best=False)
    weights = {
        name: tensor.float() for name, tensor in load_file(TOY_MODELS / "sums_base" / "model.safetensors").items()
    }
    fragments = [
        Fragment(name=name, shape=tuple(tensor.shape), start=0, num_elements=tensor.numel(), is_moved=False)
        for name, tensor in weights.items()
    ]

    def write(directory: Path):
        return save_learner(
            directory,
            fragments=[fragments],
            progress=LearnerProgress(optimizer_step=1),
            read=lambda rank, kind, names: {name: weights[name].reshape(-1) for name in names},
        )

    for step in (1, 2):
        store.save(RunState(step=step, data_position=step), write, {"ledger": Ledger().state()}, None)
    write_config(job.config, run / "config.yaml")
    write_records(run, read_inputs(job.config).data_records)
    (run / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n')
    (run / "eval.jsonl").write_text("")
    (run / "versions.json").write_text('{"starts": []}\n')
    return run


@pytest.fixture
def run(sound_run: Path, tmp_path: Path) -> Path:
    """A copy of it."""
    return Path(shutil.copytree(sound_run, tmp_path / "resumed"))


def checkpoint(run: Path, step: int) -> Path:
    return run / "checkpoints" / f"step_{step:06d}"


def cut(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def cut_within(path: Path, word: str) -> None:
    """Cut a file in the middle of a word: after a whole line a YAML file is a YAML file still."""
    os.truncate(path, path.read_bytes().index(word.encode()) + len(word) // 2)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def empty(path: Path) -> None:
    path.write_bytes(b"")


def garbage(path: Path) -> None:
    path.write_bytes(b"\xff" * path.stat().st_size)


class Trap:
    """Unpickled, it writes a file."""

    def __reduce__(self) -> tuple:
        return (open, ("sprung", "w"))


def plant_a_pickle(path: Path) -> None:
    torch.save({"model.norm.weight": Trap()}, path)


def seal(folder: Path) -> None:
    """Make the manifest say what the files now are, as somebody who forges a checkpoint would."""
    path = folder / "manifest.json"
    manifest = json.loads(path.read_text())
    for entry in manifest["files"]:
        file = folder / entry["name"]
        entry |= {"num_bytes": file.stat().st_size, "blake2b": hash_file(file)}
    path.write_text(json.dumps(manifest))


def in_json(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


# The newest checkpoint is damaged and the one before it is not.

DAMAGES = [
    ("master.safetensors", cut, "bytes"),
    ("master.safetensors", empty, "0 bytes"),
    ("master.safetensors", flip_a_bit, "checksum differs"),
    ("master.safetensors", os.unlink, "no such file"),
    ("master.safetensors", plant_a_pickle, "bytes"),
    ("exp_avg.safetensors", flip_a_bit, "checksum differs"),
    ("exp_avg_sq.safetensors", os.unlink, "no such file"),
    ("learner.json", cut, "bytes"),
    ("learner.json", os.unlink, "no such file"),
    ("run_state.json", flip_a_bit, "checksum differs"),
    ("run_state.json", os.unlink, "no such file"),
    ("manifest.json", cut, "not valid JSON"),
    ("manifest.json", empty, "not valid JSON"),
    ("manifest.json", garbage, "not valid JSON"),
    ("manifest.json", os.unlink, "no such file"),
]
IDS = [f"{damage.__name__} {name}" for name, damage, _ in DAMAGES]


class Resumed(Exception):
    """Stands for the start of the engines."""


@pytest.fixture
def stopped_at_start(monkeypatch: pytest.MonkeyPatch) -> None:
    def start(*arguments: object) -> None:
        raise Resumed

    monkeypatch.setattr(launch, "start", start)


@pytest.mark.parametrize(("name", "damage", "reason"), DAMAGES, ids=IDS)
def test_a_damaged_newest_checkpoint_is_passed_over_with_a_warning_that_names_file_and_reason(
    run: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, name, damage, reason
) -> None:
    found: list[Checkpoint | None] = []

    def require_fit(directory: Path, *arguments: object, **keywords: object) -> None:
        found.append(directory)
        raise Resumed

    damage(checkpoint(run, 2) / name)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "require_fit", require_fit)
    with pytest.raises(Resumed):
        resume(run)
    assert found == [checkpoint(run, 1)]
    (warning,) = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert "step_000002" in warning and name in warning and reason in warning, warning
    assert not (tmp_path / "sprung").exists()


# Nothing can be resumed.


def both(damage: Edit, name: str = "master.safetensors") -> Edit:
    def apply(run: Path) -> None:
        for step in (1, 2):
            damage(checkpoint(run, step) / name)

    return apply


def other_format(path: Path) -> None:
    in_json(path, lambda content: content.update(format=99))


def forge(name: str, damage: Edit) -> Edit:
    """Damage a file of the newest checkpoint and seal it."""

    def apply(run: Path) -> None:
        damage(checkpoint(run, 2) / name)
        seal(checkpoint(run, 2))

    return apply


def forge_json(name: str, change: Callable[[dict], object]) -> Edit:
    return forge(name, lambda path: in_json(path, change))


def another_algorithm(run: Path) -> None:
    path = run / "config.yaml"
    text = path.read_text().replace("name: opd", "name: ppo").replace("kl_coef: 0.0", "kl_coef: 0.01")
    path.write_text(text)


def a_critic(run: Path) -> None:
    folder = checkpoint(run, 2)
    shutil.copy(folder / "master.safetensors", folder / "critic_master.safetensors")


def another_model(run: Path) -> None:
    """The folder that model.path names holds a smaller model by now."""
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.utils import logging

    logging.disable_progress_bar()
    model = Path(shutil.copytree(TOY_MODELS / "sums_base", run.parent / "model"))
    config = AutoConfig.from_pretrained(model)
    config.intermediate_size = 8
    AutoModelForCausalLM.from_config(config).save_pretrained(model)
    path = run / "config.yaml"
    path.write_text(path.read_text().replace("toy:sums_base", str(model)))


def overwrite(name: str, text: str) -> Edit:
    return lambda run: (run / name).write_text(text) and None


def replace_text(old: str, new: str) -> Edit:
    def apply(run: Path) -> None:
        path = run / "config.yaml"
        assert old in path.read_text()
        path.write_text(path.read_text().replace(old, new))

    return apply


# what is wrong, how it came about, words that the line must contain
RUNS: list[tuple[str, Edit, list[str]]] = [
    ("all cut", both(cut), ["every checkpoint is damaged", "step_000002/master.safetensors", "step_000001/master"]),
    ("all flipped", both(flip_a_bit, "exp_avg.safetensors"), ["every checkpoint is damaged", "checksum differs"]),
    ("all pickles", both(plant_a_pickle), ["every checkpoint is damaged", "master.safetensors"]),
    ("other format", both(other_format, "manifest.json"), ["format 99", "this version of effopd reads 2"]),
    ("sealed pickle", forge("master.safetensors", plant_a_pickle), ["step_000002/master.safetensors", "no readable"]),
    ("sealed cut", forge("exp_avg_sq.safetensors", cut), ["step_000002/exp_avg_sq.safetensors", "no readable"]),
    ("sealed progress", forge("learner.json", garbage), ["step_000002/learner.json", "missing or damaged"]),
    ("no ledger", forge_json("run_state.json", lambda content: content.update(extra={})), ["run_state.json", "no ledger"]),
    ("bad ledger", forge_json("run_state.json", lambda content: content["extra"].update(ledger=3)), ["no ledger"]),
    ("another critic", another_algorithm, ["critic_master.safetensors", "no such file", "algo.name"]),
    ("a critic too many", a_critic, ["critic_master.safetensors", "there is a critic", "algo.name"]),
    ("another model", another_model, ["step_000002/master.safetensors", "mlp.down_proj.weight", "[96, 256]", "[96, 8]"]),
    ("finished", replace_text("num_steps: 9", "num_steps: 2"), ["finished at step 2"]),
    ("cut config", lambda run: cut_within(run / "config.yaml", "runtime"), ["config.yaml"]),
    ("binary config", lambda run: garbage(run / "config.yaml"), ["config.yaml"]),
    ("no config", lambda run: (run / "config.yaml").unlink(), ["no config.yaml in this folder"]),
    ("unknown setting", replace_text("num_steps: 9", "num_stepz: 9"), ["config.yaml", "unknown key num_stepz"]),
    ("bad value", replace_text("num_steps: 9", "num_steps: -9"), ["num_steps=-9", "must be at least 1"]),
    ("other data", replace_text("num_rows: 64", "num_rows: 65"), ["gives 65 prompts, not the 64", "start a new run"]),
    ("data record", overwrite("data.json", "{"), ["data.json", "damaged", "remove it"]),
    ("data record of lists", overwrite("data.json", '{"data": []}'), ["data.json", "damaged"]),
    ("versions", overwrite("versions.json", "{"), ["versions.json", "damaged", "remove it"]),
    ("metrics", overwrite("metrics.jsonl", '{"step": 1}\nstep 2\n'), ["metrics.jsonl, line 2", "not valid JSON"]),
    ("no step", overwrite("metrics.jsonl", "{}\n"), ["metrics.jsonl, line 1", "has no step"]),
]  # fmt: skip


@pytest.mark.parametrize(("damage", "words"), [row[1:] for row in RUNS], ids=[row[0] for row in RUNS])
def test_a_run_that_cannot_be_resumed_is_one_line_that_says_why(
    train: Callable, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: Edit, words: list[str]
) -> None:
    damage(run)
    monkeypatch.chdir(tmp_path)
    outcome = train(f"resume={run}")
    assert outcome.code in (1, 2)
    assert not [word for word in words if word not in outcome.only_line], outcome.only_line
    assert not (tmp_path / "sprung").exists(), "a pickle was loaded"


def resume(run: Path) -> None:
    with open_configs() as configs:
        (job,) = training_jobs(configs, [f"resume={run}"], is_multirun=False)
    launch.train(job.config)


def test_the_run_itself_can_be_resumed(run: Path, stopped_at_start: None) -> None:
    with pytest.raises(Resumed):
        resume(run)


def test_a_half_written_first_checkpoint_is_none_at_all(
    run: Path, stopped_at_start: None, caplog: pytest.LogCaptureFixture
) -> None:
    shutil.rmtree(checkpoint(run, 1))
    checkpoint(run, 2).rename(run / "checkpoints" / f".tmp-2-{os.getppid()}")
    with pytest.raises(Resumed):
        resume(run)
    assert "has no checkpoint yet; starting it from the beginning" in caplog.text
