"""Unreliable solutions: worked as `tasks` works them, by someone who now and then gets a step wrong.

Standard library only.
"""

import random
from collections.abc import Callable, Iterator

from effopd.toy.tasks import GENERATORS, LETTERS, SOLVERS, split_of


def slip_in_sum(step: str, rng: random.Random) -> str:
    """The number with an error of one in its units or its tens, as in a forgotten carry."""
    return str(int(step) + rng.choice((-10, -1, 1, 10)))


def slip_in_string(step: str, rng: random.Random) -> str:
    """The string with one letter exchanged for another of the same case."""
    place = rng.randrange(len(step))
    letters = LETTERS.upper() if step[place].isupper() else LETTERS
    return step[:place] + rng.choice(letters.replace(step[place], "")) + step[place + 1 :]


SLIPS: dict[str, Callable[[str, random.Random], str]] = {"sums": slip_in_sum, "programs": slip_in_string}


def unreliable_solutions(task: str, slip_rate: float, rng: random.Random) -> Iterator[tuple[str, str]]:
    """Endless pairs of a training prompt and a solution, each step of which slips with probability `slip_rate`."""

    def slip(step: str) -> str:
        return SLIPS[task](step, rng) if rng.random() < slip_rate else step

    while True:
        prompt = GENERATORS[task](rng).prompt
        if split_of(prompt) == "train":
            yield prompt, SOLVERS[task](prompt, slip)
