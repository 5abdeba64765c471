"""Gate sets of three difficulties for a toy task, to see what the gate's questions have to be like (the paper's Fig. 7b).

    python scripts/gate_sets.py sums --output runs/gate_sets
    effopd train experiment=toy_opd accelerate=paper accelerate.path=runs/gate_sets/hard.jsonl

The base model answers training questions 16 times each. `easy.jsonl` has those that it gets right most often, `hard.jsonl` those
that it gets right least often, `medium.jsonl` those in the middle.
"""

import argparse
import json
import logging
import sys
from collections import defaultdict
from pathlib import Path

import pyarrow.parquet as pq

from effopd.cli import main as effopd
from effopd.result_files import RESPONSES_NAME
from effopd.toy.tasks import GENERATORS, ToyProblem, problems

NUM_CANDIDATES = 600
SAMPLES_PER_PROMPT = 16
SEED = 7  # of the questions: not a run's

_logger = logging.getLogger("gate_sets")


def share_right(task: str, candidates: list[ToyProblem], folder: Path) -> list[float]:
    """Return how often the base model answers each candidate rightly. Leaves the evaluation in `folder`."""
    path = folder / "candidates.jsonl"
    write(path, candidates)
    settings = [
        f"model.path=toy:{task}_base",
        f"data=toy_{task}",
        f"eval.path={path}",
        f"eval.samples_per_prompt={SAMPLES_PER_PROMPT}",
        "cluster=local",
        "rollout=hf",
        f"output_dir={folder / 'eval'}",
    ]
    if code := effopd(["eval", *settings]):
        sys.exit(code)
    rewards: dict[str, list[float]] = defaultdict(list)
    for row in pq.read_table(folder / "eval" / RESPONSES_NAME).to_pylist():
        rewards[row["prompt"]].append(row["reward"])
    return [sum(rewards[problem.prompt]) / SAMPLES_PER_PROMPT for problem in candidates]


def write(path: Path, chosen: list[ToyProblem]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = (json.dumps({"prompt": problem.prompt, "answer": problem.answer}) for problem in chosen)
    path.write_text("".join(f"{row}\n" for row in rows))


def main() -> None:
    parser = argparse.ArgumentParser(description="write easy, medium and hard gate sets for a toy task")
    parser.add_argument("task", choices=sorted(GENERATORS))
    parser.add_argument("--output", type=Path, required=True, help="folder of the sets")
    parser.add_argument("--num-prompts", type=int, default=50, help="questions per set")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")

    candidates = problems(arguments.task, "train", NUM_CANDIDATES, SEED)
    shares = share_right(arguments.task, candidates, arguments.output)
    order = sorted(range(len(candidates)), key=lambda i: -shares[i])
    middle = (len(order) - arguments.num_prompts) // 2
    for name, start in {"easy": 0, "medium": middle, "hard": len(order) - arguments.num_prompts}.items():
        chosen = order[start : start + arguments.num_prompts]
        write(arguments.output / f"{name}.jsonl", [candidates[i] for i in chosen])
        mean = sum(shares[i] for i in chosen) / len(chosen)
        _logger.info("%s: %d questions, of which the base model gets %.0f %% right", name, len(chosen), 100 * mean)


if __name__ == "__main__":
    main()
