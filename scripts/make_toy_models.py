"""Makes the toy models from nothing, one core and some minutes each, and scores them.

    python scripts/make_toy_models.py --task sums --seed 0

A run with the same seed and package versions repeats the weights on the same kind of processor.
"""

import argparse
import logging
import shlex
import sys
from pathlib import Path

import torch

from effopd.toy.make import MODELS_DIR, RECIPES, STAGES, make_model

logger = logging.getLogger("make_toy_models")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--task", required=True, choices=sorted(RECIPES))
    parser.add_argument("--stage", default="all", choices=[*STAGES, "all"], help="a teacher is made of the saved base")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=MODELS_DIR, help="folder of the models (default: the shipped ones)")
    arguments = parser.parse_args()

    logging.basicConfig(level=logging.INFO, format="%(message)s")
    # The order of a sum depends on how many threads share it; with one, the weights do not depend on the machine's load.
    torch.set_num_threads(1)
    command = shlex.join(["python", "scripts/make_toy_models.py", *sys.argv[1:]])
    for stage in STAGES if arguments.stage == "all" else (arguments.stage,):
        score = make_model(arguments.task, stage, arguments.seed, arguments.out, command)
        logger.info(
            "%s %s: pass@1 %.3f +- %.3f, greedy %.3f",
            arguments.task,
            stage,
            score.pass_at_1,
            score.pass_at_1_se,
            score.greedy,
        )


if __name__ == "__main__":
    main()
