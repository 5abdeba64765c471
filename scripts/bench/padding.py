"""Share of a learner's tokens that are padding, with response lengths as ragged as a reasoning model's.

No model runs: lengths are drawn and cut into micro-batches as the learner cuts them. One step of the paper's recipe, 1,024
prompts of 50 to 400 tokens, each with a lognormal response of at most 16,384 tokens, dealt to the learner ranks;
`learner.max_tokens_per_microbatch` as in `configs/experiment/paper/opd.yaml`. Every round draws another step. Goal: at most 5 %.
With `learner.packing` there is none; the notes say how many micro-batches that makes.

    python scripts/bench/padding.py
"""

import math
import random
from collections.abc import Sequence
from statistics import fmean

from measure import Comparison, argument_parser, parse, report

from effopd.engines.microbatches import PaddedRows, plan_micro_batches
from effopd.engines.packing import plan_packed_micro_batches

GOAL = 0.05
MAX_RESPONSE_LEN = 16384
BUDGET = 22000
CASES = ((3000, 0.5, 32), (3000, 0.8, 32), (3000, 1.0, 32), (1000, 0.5, 32), (6000, 0.8, 32), (3000, 0.8, 8))
"""Median of the responses, standard deviation of their logarithm, learner ranks."""


def draw_lengths(num_prompts: int, median_len: int, sigma: float, seed: int) -> list[int]:
    """Return tokens of prompt and response together."""
    draw = random.Random(seed)
    responses = (round(draw.lognormvariate(math.log(median_len), sigma)) for _ in range(num_prompts))
    return [draw.randint(50, 400) + min(max(response, 1), MAX_RESPONSE_LEN) for response in responses]


def in_order(lengths: Sequence[int], max_tokens: int) -> list[PaddedRows]:
    """Cut rows as they come, each micro-batch as large as the budget allows."""
    plan: list[PaddedRows] = []
    rows: list[int] = []
    for row in range(len(lengths)):
        length = max(lengths[chosen] for chosen in [*rows, row])
        if rows and (len(rows) + 1) * length > max_tokens:
            plan.append(PaddedRows(tuple(rows), max(lengths[chosen] for chosen in rows)))
            rows = []
        rows.append(row)
    plan.append(PaddedRows(tuple(rows), max(lengths[chosen] for chosen in rows)))
    return plan


def num_tokens(plans: Sequence[Sequence[PaddedRows]]) -> int:
    """Return the tokens of all ranks, padding included."""
    return sum(micro_batch.num_computed_tokens for plan in plans for micro_batch in plan)


def compare(median_len: int, sigma: float, num_ranks: int, arguments) -> Comparison:
    padding, whole, plain_shares, num_passes, num_rounds, num_packed, fewest = [], [], [], [], [], [], []
    for index in range(arguments.rounds):
        lengths = draw_lengths(arguments.prompts, median_len, sigma, arguments.seed + index)
        ranks = [lengths[rank::num_ranks] for rank in range(num_ranks)]
        plans = [plan_micro_batches(own, BUDGET) for own in ranks]
        whole.append(float(num_tokens(plans)))
        padding.append(whole[-1] - sum(lengths))
        plain_shares.append(1 - sum(lengths) / num_tokens([in_order(own, BUDGET) for own in ranks]))
        num_passes.append(fmean(map(len, plans)))
        num_rounds.append(max(map(len, plans)))
        num_packed.append(max(len(plan_packed_micro_batches(own, BUDGET)) for own in ranks))
        fewest.append(sum(lengths) / BUDGET / num_ranks)
    return Comparison(
        what=f"padding, median {median_len}, sigma {sigma}, {num_ranks} ranks",
        baseline_name="all tokens that the learner computes",
        unit="tokens",
        candidate=padding,
        baseline=whole,
        is_speed=False,
        goal=GOAL,
        is_goal_a_minimum=False,
        notes={
            "share of padding, rows in the order of arrival": fmean(plain_shares),
            "micro-batches, mean over ranks": fmean(num_passes),
            "micro-batches, the rank with most": fmean(num_rounds),
            "the same with packing": fmean(num_packed),
            "micro-batches, if all were full": fmean(fewest),
        },
    )


def main() -> None:
    parser = argument_parser(__doc__)
    parser.add_argument("--prompts", type=int, default=1024)
    arguments = parse(parser)
    report(arguments, [compare(*case, arguments) for case in CASES])


if __name__ == "__main__":
    main()
