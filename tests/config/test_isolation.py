"""What a fresh interpreter loads, how long a mistake takes to be said, and where the YAML files are found."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import effopd as package

HEAVY = ["deepspeed", "ray", "torch", "transformers", "vllm", "wandb"]
REPOSITORY = Path(package.__file__).parents[1]


def python(code: str, cwd: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=cwd, env=os.environ | environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("module", ["schema", "check", "build", "overrides", "keys", "completion", "help"])
def test_configuration_loads_without_heavy_packages_and_without_hydra(module, tmp_path):
    heavy = [*HEAVY, "hydra", "omegaconf", "yaml"]
    code = f"import sys, effopd.config.{module}; print([name for name in {heavy} if name in sys.modules])"
    assert python(code, tmp_path).stdout == "[]\n"


def test_only_register_imports_hydra():
    imports = re.compile(r"^\s*(import|from) (hydra|omegaconf)\b", re.MULTILINE)
    sources = (REPOSITORY / "effopd").rglob("*.py")
    assert [path.name for path in sources if imports.search(path.read_text())] == ["register.py"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["train", "experiment=toy_opd", "learner.lrr=1"],
        ["train", "experiment=toy_opd", "learner.lr=abc"],
        ["train", "experiment=toy_opd", "debug.recorded=x"],
        ["train", "experiment=toy_opd", "model.path=nobody/nothing"],
        ["eval", "experiment=toy_opd", "teacher.path=nobody/nothing"],
    ],
)
def test_a_mistake_is_said_soon_and_loads_nothing_heavy(arguments, tmp_path):
    code = (
        "import json, sys, time\n"
        "from effopd.cli import main\n"
        f"code = main({arguments})\n"
        f"print(json.dumps([code, [name for name in {HEAVY} if name in sys.modules], time.process_time()]))"
    )
    finished = python(code, tmp_path)
    code, heavy, seconds = json.loads(finished.stdout)
    assert (code, heavy, finished.stderr.count("\n")) == (2, [], 1)
    # Of this process, so that a busy machine does not count.
    assert seconds < 3


@pytest.mark.parametrize(
    "arguments",
    [
        ["compare", "--help"],
        ["compare", "nowhere", "--output", "out"],
        ["export", "run", "--output", "out"],
    ],
)
def test_compare_and_export_load_nothing_heavy_before_they_have_runs(arguments, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.yaml").write_text("{}")
    code = (
        "import sys\n"
        "from effopd.cli import main\n"
        "try:\n"
        f"    main({arguments})\n"
        "except SystemExit:\n"
        "    pass\n"
        f"sys.stderr.write(str([name for name in {HEAVY} if name in sys.modules]))"
    )
    assert python(code, tmp_path).stderr.endswith("[]")


def test_python_m_effopd_is_effopd(tmp_path):
    finished = subprocess.run(
        [sys.executable, "-m", "effopd", "train", "--info", "searchpath"], cwd=tmp_path, capture_output=True, text=True
    )
    assert finished.returncode == 0
    assert "configs" in finished.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_wheel_carries_the_configs_and_finds_them_from_any_folder(tmp_path):
    source, elsewhere = tmp_path / "source", tmp_path / "elsewhere"
    ignored = shutil.ignore_patterns("__pycache__", "models", "build", "*.egg-info")
    shutil.copytree(REPOSITORY / "effopd", source / "effopd", symlinks=True, ignore=ignored)
    shutil.copytree(REPOSITORY / "configs", source / "configs")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    elsewhere.mkdir()
    built = python(f"from setuptools.build_meta import build_wheel; build_wheel({str(elsewhere)!r})", source)
    assert built.returncode == 0, built.stderr
    (wheel,) = elsewhere.glob("*.whl")
    shutil.unpack_archive(wheel, tmp_path / "site", "zip")

    code = "import sys; from effopd.cli import main; sys.exit(main(['train', '--cfg', 'job', 'experiment=toy_opd']))"
    shown = python(code, elsewhere, PYTHONPATH=str(tmp_path / "site"))
    assert shown.returncode == 0, shown.stderr
    assert "name: toy_opd\n" in shown.stdout

    where = python(
        "import effopd.config.register as r; print(r.configs_folder())", elsewhere, PYTHONPATH=str(tmp_path / "site")
    )
    assert where.stdout == f"{tmp_path}/site/effopd/configs\n"
