"""The share of a toy step that is outside generate, score, train, publish and gate. Goal: at most 10 %.

Runs `effopd train experiment=toy_effopd` on Ray and vLLM, without evaluation and in a temporary folder, and reads the
ledger of the run from `metrics.jsonl`. The first step is left out.

    python scripts/bench/step_share.py
"""

import json
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from measure import Comparison, argument_parser, parse, report

GOAL = 0.10
NOT_TRAINING = ("eval", "save", "total_training")


def run(num_steps: int, seed: int, folder: Path) -> list[dict[str, float]]:
    """Return the seconds per phase of every step but the first."""
    command = [
        *(sys.executable, "-m", "effopd", "train", "experiment=toy_effopd", "eval=none"),
        *(f"num_steps={num_steps}", f"seed={seed}", "checkpoint.every=0", f"output_dir={folder}"),
    ]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    rows = [json.loads(line)["seconds"] for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{phase: value for phase, value in row.items() if phase not in NOT_TRAINING} for row in rows[1:]]


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--steps", type=int, default=20)
    parser.set_defaults(rounds=1)
    arguments = parse(parser)
    steps: list[dict[str, float]] = []
    for index in range(arguments.rounds):
        with TemporaryDirectory() as folder:
            steps += run(arguments.steps, arguments.seed + index, Path(folder) / "run")
    totals = {phase: sum(step[phase] for step in steps) for phase in steps[0]}
    whole = sum(totals.values())
    report(
        arguments,
        [
            Comparison(
                what="share of a toy step outside generate, score, train, publish and gate",
                baseline_name="the whole step",
                unit="s",
                candidate=[step["other"] for step in steps],
                baseline=[sum(step.values()) for step in steps],
                is_speed=False,
                goal=GOAL,
                is_goal_a_minimum=False,
                notes={
                    "share of the whole run": totals["other"] / whole,
                    **{f"share of {phase}": value / whole for phase, value in totals.items() if value > 0},
                },
            )
        ],
    )


if __name__ == "__main__":
    main()
