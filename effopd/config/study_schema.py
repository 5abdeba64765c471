"""What `effopd study` is told: a grid of runs, in a YAML file of `configs/study/` or anywhere. Standard library only."""

import re
from dataclasses import dataclass, field

from effopd.config.require import require

_FOLDER_NAME = re.compile(r"[\w+-][\w.+-]*")


@dataclass(slots=True)
class CellsConfig:
    """A block of further runs: every combination of what it names. Null: all that the study itself names."""

    tasks: list[str] | None = None
    methods: list[str] | None = None
    learning_rates: list[float] | None = None
    """May be others than the study's own; seeds likewise."""
    seeds: list[int] | None = None


@dataclass(slots=True)
class StudyConfig:
    """A study: every method with every learning rate and seed on every task, and `extra` cells.

    Overrides are those of `effopd train`. Where several say something of the same key, a method has the last word, then
    the task, then `base`.
    """

    name: str = "study"
    """Part of the default output folder."""
    base: list[str] = field(default_factory=list)
    """Overrides of all runs."""
    tasks: dict[str, list[str]] = field(default_factory=dict)
    """Name to overrides."""
    methods: dict[str, list[str]] = field(default_factory=dict)
    """Name to overrides. A further method is a further line here."""
    learning_rates: list[float] = field(default_factory=list)
    """Of the grid; may be empty where `extra` names all cells."""
    seeds: list[int] = field(default_factory=list)
    extra: list[CellsConfig] = field(default_factory=list)
    """Run after the grid, in this order: a coarse grid first, then more where it matters."""
    num_steps: int = 100
    """The budget of every run, in optimizer steps; a task or method may set its own."""
    vanilla: str = "vanilla"
    """The method whose gain at its own best learning rate sets the target."""
    compare_with: list[str] = field(default_factory=list)
    """Methods that all others are divided by; empty: `vanilla` alone."""
    target_share: float = 0.97
    """The target is the score before training plus this fraction of the gain of `vanilla`."""
    shown: list[str] = field(default_factory=list)
    """Methods whose curves the figure shows; empty: all."""

    def __post_init__(self) -> None:
        if not self.compare_with:
            self.compare_with = [self.vanilla]
        needed = {"tasks": self.tasks, "methods": self.methods, "seeds": self.seeds}
        if not self.extra:
            needed["learning_rates"] = self.learning_rates
        for key, values in needed.items():
            require(len(values) > 0, key, values or "[]", "must not be empty", f"name at least one of the {key}")
        for key, values in (("learning_rates", self.learning_rates), ("seeds", self.seeds)):
            require(len(set(values)) == len(values), key, values, "names a cell twice", "leave one of them out")
        for key, names in (("tasks", self.tasks), ("methods", self.methods)):
            for name in names:
                is_safe = _FOLDER_NAME.fullmatch(name) is not None
                require(is_safe, key, name, "names a folder", "use letters, digits, _, -, + and .")
        require(_FOLDER_NAME.fullmatch(self.name) is not None, "name", self.name, "names a folder", "use a plain word")
        for key, names in (("vanilla", [self.vanilla]), ("compare_with", self.compare_with), ("shown", self.shown)):
            for name in names:
                rule = f"must be one of the methods {', '.join(self.methods)}"
                require(name in self.methods, key, name, rule, f"name one of them, or add {name} to methods")
        require(self.num_steps >= 1, "num_steps", self.num_steps, "must be at least 1", "give a positive whole number")
        require(0 < self.target_share <= 1, "target_share", self.target_share, "must lie in (0, 1]", "use 0.97")
