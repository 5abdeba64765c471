"""The settings that say when EffOPD looks for a jump, which step sizes it tries, and what keeps it safe.

`AccelerateConfig` adds to them what is measured and what is moved. Standard library only.
"""

from dataclasses import dataclass, field
from enum import StrEnum

from effopd.config.require import require


class ScheduleKind(StrEnum):
    """After which steps a jump is tried; see `effopd/extrapolation/schedule.py`."""

    powers_of_two = "powers_of_two"
    """1, 2, 4, 8, ..., as printed."""
    every = "every"
    last = "last"
    """After the last step of the run alone."""
    adaptive = "adaptive"
    """Like `every`, but after `max_rejects` refusals in a row nothing is sampled until the way looks steeper."""


class SearchKind(StrEnum):
    """Which step sizes are tried, and when to stop; see `effopd/extrapolation/search.py`."""

    ladder = "ladder"
    """`step_sizes` in order until one is refused, as printed."""
    parallel = "parallel"
    """The ladder's decisions, but all candidates at once, each on a sampler of its own."""
    parabola = "parabola"
    """Two `step_sizes`, then the optimum of the parabola through them and the current weights."""
    backtracking = "backtracking"
    """The one step size given, halved until it is accepted."""
    fixed = "fixed"
    """The one step size given."""
    repeat = "repeat"
    """1, 2, 3, ... times the one step size given, while it gets better."""


@dataclass(slots=True)
class SearchConfig:
    """When, how far, how safely."""

    schedule: ScheduleKind = ScheduleKind.powers_of_two
    every: int = 4
    """Steps from one trigger to the next; for `schedule=every` and `adaptive`."""
    max_rejects: int = 3
    """`schedule=adaptive`: refusals in a row after which triggers only look."""
    resume_factor: float = 1.5
    """`schedule=adaptive`: searching goes on when the loss falls this many times as steeply along the direction as at the
    last refusal."""
    max_triggers: int | None = None
    search: SearchKind = SearchKind.ladder
    step_sizes: list[float] = field(default_factory=lambda: [2.0, 4.0, 6.0, 8.0, 10.0])
    """Candidates in multiples of the direction; what the search does with them is said at `search`. Negative ones, which go
    back, only with `gate=ungated`."""
    max_candidates: int = 5
    """`search=backtracking` and `repeat`: how many are tried at most."""
    max_step_size: float = 10.0
    """`search=parabola`: the trust region, in multiples of the direction."""
    min_posterior: float = 0.95
    """`accept=paired`: how probable it must be that the candidate is better."""
    chunk_prompts: int = 10
    """`accept=sequential`: gate prompts that are sampled before the next look at the evidence."""
    win_rate: float = 0.75
    """`accept=sequential`: the improvement to be recognised, as the fraction of changed prompts that change for the better."""
    max_false_accepts: float = 0.05
    """`accept=sequential`: bound on the probability of accepting a candidate that is not better."""
    max_misses: float = 0.05
    """`accept=sequential`: bound on the probability of refusing early one that has `win_rate`."""
    lr_on_accept: float = 1.0
    """Factor on the learning rate from an accepted jump on; 2 says that a jump shows the rate to be too small."""
    lr_on_reject: float = 1.0
    """Factor on the learning rate from a refused search on."""
    max_relative_jump: float | None = None
    """Candidates are not tried whose distance from the current weights, divided by their norm, is greater; a parabola's
    probes are shrunk to it instead."""
    max_entropy_change: float | None = None
    """Refuse a candidate whose sampled entropy per token differs from the baseline's by more than this fraction."""
    audit_prompts: int = 0
    """For studies: held-out prompts, beside those of the gate, on which every trigger's outcome is scored after the
    decision, and on which an oracle searches `audit_grid`. It changes no decision and counts as no training cost; but its
    prompts are not trained on, so runs to be compared prompt by prompt need the same number."""
    audit_grid: list[float] = field(default_factory=lambda: [0.5, 1.0, 2.0, 3.0, 4.0, 6.0, 8.0, 10.0])
    """Step sizes of the oracle; the current weights and those settled on are always among them."""


def check_search(config: SearchConfig) -> None:
    """Raise ConfigError for a single value out of range."""
    for name, value in (
        ("every", config.every),
        ("max_rejects", config.max_rejects),
        ("max_candidates", config.max_candidates),
        ("chunk_prompts", config.chunk_prompts),
    ):
        require(value >= 1, f"accelerate.{name}", value, "must be at least 1", "give a positive whole number")
    require(
        config.resume_factor >= 1,
        "accelerate.resume_factor",
        config.resume_factor,
        "must be at least 1",
        "1.5 asks for a way half again as steep",
    )
    require(
        len(config.step_sizes) > 0,
        "accelerate.step_sizes",
        config.step_sizes,
        "must not be empty",
        "the paper uses [2,4,6,8,10]",
    )
    require(
        all(size != 0 for size in config.step_sizes),
        "accelerate.step_sizes",
        config.step_sizes,
        "must not contain 0, which is no jump",
        "the paper uses [2,4,6,8,10]",
    )
    require(config.max_step_size > 0, "accelerate.max_step_size", config.max_step_size, "must be positive", "try 10")
    require(
        0.5 < config.min_posterior < 1,
        "accelerate.min_posterior",
        config.min_posterior,
        "must lie between 0.5 and 1",
        "try 0.95",
    )
    require(0.5 < config.win_rate < 1, "accelerate.win_rate", config.win_rate, "must lie between 0.5 and 1", "try 0.75")
    for name, value in (("max_false_accepts", config.max_false_accepts), ("max_misses", config.max_misses)):
        require(0 < value < 1, f"accelerate.{name}", value, "must lie between 0 and 1", "try 0.05")
    for name, value in (("lr_on_accept", config.lr_on_accept), ("lr_on_reject", config.lr_on_reject)):
        require(value > 0, f"accelerate.{name}", value, "must be positive", "use 1 to keep the learning rate")
    for name, bound in (
        ("max_relative_jump", config.max_relative_jump),
        ("max_entropy_change", config.max_entropy_change),
    ):
        require(bound is None or bound > 0, f"accelerate.{name}", bound, "must be positive", "use null for no bound")
    require(
        config.max_triggers is None or config.max_triggers >= 0,
        "accelerate.max_triggers",
        config.max_triggers,
        "must not be negative",
        "use null for no limit",
    )
    require(
        config.audit_prompts >= 0,
        "accelerate.audit_prompts",
        config.audit_prompts,
        "must not be negative",
        "use 0 for no audit",
    )
