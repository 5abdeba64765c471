"""A fresh interpreter that meets wrong files: it says so and has loaded no engine by then."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

from effopd.model_folders import TOY_MODELS

CODE = """
import sys
from effopd.cli import main
toy = ["train", "experiment=toy_opd", "output_dir=run"]
codes = [main([*toy, "data.path=rows.jsonl"]), main([*toy, "model.path=./model"]), main(["train", "resume=old"])]
print(codes, [name for name in ("ray", "vllm", "deepspeed") if name in sys.modules])
"""


def test_a_bad_data_file_model_folder_or_run_loads_no_engine(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("[1]\n")
    model = Path(shutil.copytree(TOY_MODELS / "sums_base", tmp_path / "model"))
    (model / "model.safetensors").write_bytes(b"cut")
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.yaml").write_text("num_steps: [")
    done = subprocess.run(
        [sys.executable, "-c", CODE], cwd=tmp_path, env=os.environ, capture_output=True, text=True, check=False
    )
    assert done.stdout == "[2, 2, 2] []\n", done.stdout + done.stderr
    assert len(done.stderr.splitlines()) == 3, done.stderr
    assert not (tmp_path / "run").exists()
