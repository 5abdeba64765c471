"""Which step sizes a search goes through. Standard library only: `effopd plan` counts candidates with it."""

from effopd.config.search_schema import SearchConfig, SearchKind


def planned_step_sizes(config: SearchConfig) -> list[float]:
    """Return the step sizes that can be named before anything is tried, in order.

    `repeat` adds one step size again and again: 1, 2, 3, ... times it. Source: Fast Forward, arXiv 2409.04206, which repeats
    the last update while the loss on a small validation set falls. `backtracking` halves it.
    """
    match config.search:
        case SearchKind.repeat:
            return [config.step_sizes[0] * number for number in range(1, config.max_candidates + 1)]
        case SearchKind.backtracking:
            return [config.step_sizes[0] / 2**number for number in range(config.max_candidates)]
        case _:
            return list(config.step_sizes)


def step_sizes_within(config: SearchConfig, longest: float) -> list[float]:
    """Return those planned, none of which leads further than `longest`, forwards or back.

    Those beyond are left out, but a parabola's probes are shrunk together, for it needs both.
    """
    sizes = planned_step_sizes(config)
    if config.search is SearchKind.parabola and max(sizes) > longest:
        return [min(longest, size * longest / max(sizes)) for size in sizes]
    return [size for size in sizes if abs(size) <= longest]


def num_candidates(config: SearchConfig) -> int:
    """Return how many step sizes a search tries at most; a parabola adds its optimum to those planned."""
    return len(planned_step_sizes(config)) + int(config.search is SearchKind.parabola)
