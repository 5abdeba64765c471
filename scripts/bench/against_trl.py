"""Tokens per second of a whole on-policy distillation step, against TRL's `DistillationTrainer(beta=1)`.

Both sides sample, score, train and bring the new weights to the sampler; only start-up and the first step are left out.
They have the same models, prompts, length limits, sampling, objective (the exact reverse KL over the vocabulary, which is
what beta=1 means), AdamW, clipping, learning rate, float32 and threads. TRL generates with transformers, as it does where
vLLM is not asked for, and gets as many rows at once as effopd's token budget holds. Each measurement is a process of its
own, TRL's in `.venv-trl` (made by `scripts/bench/trl_env.sh`), and the two sides take turns.

| case   | responses | lengths | goal |
|--------|-----------|---------|------|
| ragged | 64 from a random 5M-parameter Qwen3 | 3 of its 512 tokens end a response: geometric, cut at 512 | 2.0 with vLLM |
| toy    | 256       | 20 tokens each: the end token of the copy used is one that it never draws | 0.6 with vLLM, 1.0 with rollout.engine=hf |

    scripts/bench/trl_env.sh && python scripts/bench/against_trl.py --cases toy
"""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from measure import Comparison, alternate, argument_parser, parse, report
from random_models import random_prompts, write_small

from effopd.model_folders import resolve_model_path
from effopd.toy.tasks import problems

REPOSITORY = Path(__file__).resolve().parents[2]
TRL_PYTHON = REPOSITORY / ".venv-trl" / "bin" / "python"
TRL_STEPS = Path(__file__).with_name("trl_steps.py")
NEVER_DRAWN = "<unk>"


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    student: Path
    teacher: Path
    prompts: list[str]
    max_response_len: int
    trl_rows: int
    """Rows that TRL trains on at once."""
    goals: dict[str, float]
    """By rollout engine."""


def ragged_case(folder: Path, seed: int) -> Case:
    return Case(
        student=write_small(folder / "student", seed),
        teacher=write_small(folder / "teacher", seed + 1),
        prompts=random_prompts(64, 16, seed),
        max_response_len=512,
        trl_rows=32,
        goals={"vllm": 2.0},
    )


def toy_case(folder: Path, seed: int) -> Case:
    return Case(
        student=_without_end(resolve_model_path("model.path", "toy:sums_base"), folder / "student"),
        teacher=_without_end(resolve_model_path("teacher.path", "toy:sums_teacher"), folder / "teacher"),
        prompts=[problem.prompt for problem in problems("sums", "train", 256, seed)],
        max_response_len=20,
        trl_rows=256,
        goals={"vllm": 0.6, "hf": 1.0},
    )


CASES = {"ragged": ragged_case, "toy": toy_case}


def _without_end(model: Path, folder: Path) -> Path:
    """Copy a toy model, with an end-of-sequence token that it does not draw, so that every response is cut."""
    shutil.copytree(model, folder)
    never_drawn = json.loads((folder / "tokenizer.json").read_text())["model"]["vocab"][NEVER_DRAWN]
    for name, changes in (
        ("config.json", {"eos_token_id": never_drawn}),
        ("generation_config.json", {"eos_token_id": never_drawn}),
        ("tokenizer_config.json", {"eos_token": NEVER_DRAWN}),
    ):
        settings = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(settings | changes))
    return folder


def effopd_rate(case: Case, engine: str, data: Path, arguments) -> float:
    """Return tokens per second of the steps of one run, the first left out."""
    with TemporaryDirectory() as name:
        run_dir = Path(name) / "run"
        command = [
            *(sys.executable, "-m", "effopd", "train", f"model.path={case.student}", f"teacher.path={case.teacher}"),
            *("algo=opd_full", f"rollout={engine}", f"data.path={data}", "data.answer_column=null", "eval=none"),
            *(f"rollout.prompts_per_step={len(case.prompts)}", f"rollout.max_response_len={case.max_response_len}"),
            *("data.max_prompt_len=32", f"num_steps={arguments.steps + 1}", f"seed={arguments.seed}"),
            *(f"{role}.num_threads={arguments.threads}" for role in ("rollout", "learner", "teacher")),
            *("checkpoint.every=0", "logger.rollouts_every=0", f"output_dir={run_dir}"),
            *(["cluster=local"] if engine == "hf" else []),  # one process, as TRL
        ]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        rows = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()][1:]
    left_out = ("eval", "save", "total_training")
    seconds = sum(value for row in rows for phase, value in row["seconds"].items() if phase not in left_out)
    return sum(row["tokens"]["generated"] for row in rows) / seconds


def trl_rate(case: Case, data: Path, arguments) -> float:
    """Return tokens per second of the steps of one run of TRL, the first left out."""
    command = [
        *(str(TRL_PYTHON), str(TRL_STEPS), str(case.student), str(case.teacher), str(data)),
        *("--rows", str(case.trl_rows), "--prompts", str(len(case.prompts)), "--steps", str(arguments.steps + 1)),
        *("--max-response-len", str(case.max_response_len), "--threads", str(arguments.threads)),
        *("--seed", str(arguments.seed)),
    ]
    result = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=dict(os.environ))
    steps = json.loads(result.stdout.splitlines()[-1])[1:]
    return sum(step["tokens"] for step in steps) / sum(step["seconds"] for step in steps)


def compare(name: str, engine: str, case: Case, data: Path, arguments) -> Comparison:
    ours, theirs = alternate(
        arguments.rounds,
        lambda: effopd_rate(case, engine, data, arguments),
        lambda: trl_rate(case, data, arguments),
        num_warm_ups=0,
    )
    return Comparison(
        what=f"tokens per second of a whole step, {name}, rollout.engine={engine}",
        baseline_name="TRL DistillationTrainer(beta=1)",
        unit="tokens/s",
        candidate=ours,
        baseline=theirs,
        is_speed=True,
        goal=case.goals[engine],
        notes={"steps a round": arguments.steps, "responses a step": len(case.prompts)},
    )


def main() -> None:
    parser = argument_parser(__doc__)
    parser.set_defaults(rounds=3)
    parser.add_argument("--steps", type=int, default=5, help="measured steps of each round and side (default: 5)")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--engines", nargs="+", choices=("vllm", "hf"), default=["vllm", "hf"])
    arguments = parse(parser)
    if not TRL_PYTHON.exists():
        parser.error("there is no .venv-trl; make it with scripts/bench/trl_env.sh")
    comparisons = []
    for name in arguments.cases:
        with TemporaryDirectory() as folder:
            case = CASES[name](Path(folder), arguments.seed)
            data = Path(folder) / "prompts.jsonl"
            # Once for every step, for TRL's epochs end with the data.
            rows = [json.dumps({"prompt": prompt}) for prompt in case.prompts]
            data.write_text("\n".join(rows * (arguments.steps + 1)) + "\n")
            comparisons += [
                compare(name, engine, case, data, arguments) for engine in case.goals if engine in arguments.engines
            ]
    report(arguments, comparisons)


if __name__ == "__main__":
    main()
