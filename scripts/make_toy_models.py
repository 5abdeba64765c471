"""Makes the toy models, some minutes each, and scores them: a base from nothing, a teacher of the saved base by GRPO.

    python scripts/make_toy_models.py --task sums --stage base --seed 0
    python scripts/make_toy_models.py --task sums --stage teacher --seed 0

A teacher is what `effopd train experiment=toy_teacher` (or `toy_teacher_programs`) leaves, exported. A run with the same seed
and package versions repeats the weights on the same kind of processor.
"""

import argparse
import logging
import shlex
import shutil
import subprocess
import sys
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from effopd.toy.make import MODELS_DIR, RECIPES, STAGES, make_base, note_score

TEACHER_EXPERIMENTS = {"sums": "toy_teacher", "programs": "toy_teacher_programs"}


def make_teacher(task: str, seed: int, out: Path) -> float:
    """Trains `out/<task>_teacher` with the framework, and returns the seconds that it took, start-up included."""
    effopd = [sys.executable, "-m", "effopd"]
    started = time.monotonic()
    with TemporaryDirectory() as folder:
        run, exported = Path(folder, "run"), Path(folder, "model")
        settings = [f"experiment={TEACHER_EXPERIMENTS[task]}", f"seed={seed}", f"model.path={out / f'{task}_base'}"]
        subprocess.run([*effopd, "train", *settings, f"output_dir={run}"], check=True)
        subprocess.run([*effopd, "export", str(run), "--output", str(exported)], check=True)
        shutil.copytree(exported, out / f"{task}_teacher", dirs_exist_ok=True)
    return time.monotonic() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=sorted(RECIPES))
    parser.add_argument("--stage", required=True, choices=STAGES)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=MODELS_DIR, help="folder of the models (default: the shipped ones)")
    arguments = parser.parse_args()
    task, stage, seed, out = arguments.task, arguments.stage, arguments.seed, arguments.out.resolve()

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # The order of a sum depends on how many threads share it; with one, the weights do not depend on the machine's load.
    torch.set_num_threads(1)
    seconds = make_base(task, seed, out) if stage == "base" else make_teacher(task, seed, out)
    command = shlex.join(["python", "scripts/make_toy_models.py", *sys.argv[1:]])
    score = note_score(task, stage, out, seed=seed, seconds=seconds, command=command)
    print(f"{task} {stage}: pass@1 {score.pass_at_1:.3f} +- {score.pass_at_1_se:.3f}, greedy {score.greedy:.3f}")


if __name__ == "__main__":
    main()
