"""Teacher scoring: HFTeacher.score of the sampled payload, against a bare transformers forward.

The bare forward is what one writes first: the model's logits at every position, kept, a log-softmax over all of them, and
a gather. It gets one ready rectangle of tokens. Goals: at least 0.90 of its speed, on the toy (256 responses of 20
tokens) and at a vocabulary of 151,936; there also at most 1/4 of its extra memory, which is the growth of RAM in use
during one scoring, each side in a process of its own.

    python scripts/bench/teacher_scoring.py
"""

import multiprocessing
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from learner_step import random_rollouts
from measure import Comparison, alternate, argument_parser, parse, peak_growth, report
from random_models import WIDE_VOCABULARY, write_wide
from torch import Tensor

from effopd.config.schema import TeacherConfig
from effopd.data.collate import collate
from effopd.engines.hf_teacher import HFTeacher
from effopd.engines.policy_module import load_causal_lm
from effopd.model_folders import resolve_model_path
from effopd.types import Rollout, ScoredRollout, TeacherPayload

SPEED_GOAL = 0.90
MEMORY_GOAL = 0.25
WIDE_ROWS, WIDE_PROMPT_LEN, WIDE_RESPONSE_LEN = 8, 32, 480


def bare_scoring(model_path: str, rollouts: list[Rollout]) -> Callable[[], list[Tensor]]:
    model = load_causal_lm(model_path, torch.float32, "sdpa")
    batch = collate([ScoredRollout(rollout=rollout) for rollout in rollouts], 0)

    @torch.no_grad()
    def score() -> list[Tensor]:
        logits = model(input_ids=batch.token_ids, attention_mask=batch.attention_mask).logits
        logprobs = logits.log_softmax(-1)[:, :-1].gather(-1, batch.token_ids[:, 1:, None])[..., 0]
        return [row[mask] for row, mask in zip(logprobs, batch.response_mask[:, 1:], strict=True)]

    return score


def teacher_scoring(model_path: str, rollouts: list[Rollout], num_threads: int) -> Callable[[], list[Tensor]]:
    config = TeacherConfig(path=model_path, num_threads=num_threads)
    teacher = HFTeacher(config, model_path, attn_implementation="sdpa", device=torch.device("cpu"))

    def score() -> list[Tensor]:
        scored = teacher.score(rollouts, TeacherPayload.SAMPLED)
        return [item.teacher.sampled for item in scored]

    return score


def scoring(side: str, model_path: str, rollouts: list[Rollout], num_threads: int) -> Callable[[], list[Tensor]]:
    if side == "teacher":
        return teacher_scoring(model_path, rollouts, num_threads)
    return bare_scoring(model_path, rollouts)


def memory_growth(side: str, model_path: str, num_threads: int, seed: int) -> int:
    """Return the bytes that one scoring needs beyond what a first, tiny one has left behind. Runs in its own process."""
    torch.set_num_threads(num_threads)
    scoring(side, model_path, wide_rollouts(seed)[:1], num_threads)()
    return peak_growth(scoring(side, model_path, wide_rollouts(seed), num_threads))


def wide_rollouts(seed: int) -> list[Rollout]:
    lengths = (WIDE_RESPONSE_LEN, WIDE_RESPONSE_LEN)
    return [item.rollout for item in random_rollouts(WIDE_ROWS, WIDE_PROMPT_LEN, lengths, WIDE_VOCABULARY, seed)]


def compare_speed(name: str, model_path: str, rollouts: list[Rollout], arguments) -> Comparison:
    ours, theirs = (scoring(side, model_path, rollouts, arguments.threads) for side in ("teacher", "bare"))
    difference = max((a - b).abs().max().item() for a, b in zip(ours(), theirs(), strict=True))
    assert difference < 1e-3, f"the two sides differ by {difference} nats"

    def seconds(score: Callable[[], object]) -> float:
        start = time.perf_counter()
        score()
        return time.perf_counter() - start

    candidate, baseline = alternate(arguments.rounds, lambda: seconds(ours), lambda: seconds(theirs))
    return Comparison(
        what=f"HFTeacher.score, {name}",
        baseline_name="a bare transformers forward",
        unit="s",
        candidate=candidate,
        baseline=baseline,
        is_speed=True,
        goal=SPEED_GOAL,
        notes={"largest difference (nats)": difference},
    )


def compare_memory(model_path: str, arguments) -> Comparison:
    figures: dict[str, list[float]] = {"teacher": [], "bare": []}
    for _ in range(2):
        for side, values in figures.items():
            # A fresh process each time: what an allocator keeps would make the next measurement look small.
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                growth = pool.apply(memory_growth, (side, model_path, arguments.threads, arguments.seed))
            values.append(growth / 2**20)
    num_tokens = WIDE_ROWS * (WIDE_PROMPT_LEN + WIDE_RESPONSE_LEN)
    return Comparison(
        what=f"peak extra memory of HFTeacher.score, {num_tokens} tokens, V = {WIDE_VOCABULARY}",
        baseline_name="a bare transformers forward",
        unit="MiB",
        candidate=figures["teacher"],
        baseline=figures["bare"],
        is_speed=False,
        goal=MEMORY_GOAL,
        is_goal_a_minimum=False,
    )


def main() -> None:
    arguments = parse(argument_parser(__doc__))
    toy = [item.rollout for item in random_rollouts(256, 7, (20, 20), 61, arguments.seed)]
    with TemporaryDirectory() as folder:
        wide = str(write_wide(Path(folder), arguments.seed))
        report(
            arguments,
            [
                compare_speed("toy", str(resolve_model_path("teacher.path", "toy:sums_teacher")), toy, arguments),
                compare_speed(f"V = {WIDE_VOCABULARY}", wide, wide_rollouts(arguments.seed), arguments),
                compare_memory(wide, arguments),
            ],
        )


if __name__ == "__main__":
    main()
