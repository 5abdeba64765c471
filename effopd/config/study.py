"""From a study's file and the arguments of `effopd study` to the cells of its grid, each with a checked configuration.

Everything is composed and checked before the first run starts. Loads nothing heavy.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace
from itertools import product
from pathlib import Path

from effopd.config.check import training_violations
from effopd.config.evaluation import evaluation_sets
from effopd.config.jobs import raise_problems, training_jobs
from effopd.config.keys import nearest
from effopd.config.overrides import Override
from effopd.config.register import Configs, configs_folder, read_study_config
from effopd.config.schema import RunConfig
from effopd.config.study_schema import CellsConfig, StudyConfig
from effopd.errors import ConfigError

STUDY_KEYS = tuple(entry.name for entry in fields(StudyConfig))

_OWNED = {
    "learner.lr": "learning_rates",
    "seed": "seeds",
    "name": "the names of task and method",
    "output_dir": "--output",
    "resume": "the queue, which resumes by itself",
}
"""Settings that no override may touch, and what decides them."""


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class Cell:
    """One run of a study."""

    task: str
    method: str
    lr: float
    seed: int

    @property
    def label(self) -> str:
        return f"{self.task} {self.method} lr={written_lr(self.lr)} seed={self.seed}"

    @property
    def folder(self) -> Path:
        """Below the study's `runs` folder."""
        return Path(self.task, self.method, f"lr={written_lr(self.lr)}", f"seed={self.seed}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A study whose every cell can start."""

    settings: StudyConfig
    runs: tuple[tuple[Cell, RunConfig], ...]
    """In the order of the queue. The configurations name no folder yet."""


def written_lr(lr: float) -> str:
    """Return a learning rate as people write it: 3e-4."""
    digits, exponent = f"{lr:.9e}".split("e")
    return f"{digits.rstrip('0').rstrip('.')}e{int(exponent)}"


def study_names() -> list[str]:
    """Return the studies of `configs/study/`."""
    return sorted(file.stem for file in (configs_folder() / "study").glob("*.yaml"))


def read_study(configs: Configs, study: str, arguments: Sequence[str]) -> Study:
    """Return the study in the file `study`, or of that name, changed by `arguments`.

    An argument whose key is a setting of studies changes the study, any other goes to all runs. Raises ConfigError with
    one line per mistake.
    """
    parsed = configs.parse(arguments)
    changes = [override for override in parsed if override.key.partition(".")[0] in STUDY_KEYS]
    common = [override for override in parsed if override not in changes]
    settings = read_study_config(_study_file(study), {one.key: one.values[0] for one in changes})
    duplicates = [cell.label for cell, count in Counter(_cells(settings)).items() if count > 1]
    raise_problems([f"{label}: the study names this cell twice; leave one of them out" for label in duplicates])
    raise_problems(_override_problems(configs, settings, common))
    configs_of = _composed(configs, settings, common)
    runs = tuple((cell, _cell_config(configs_of[cell.task, cell.method], cell)) for cell in _cells(settings))
    # The composed configurations are sound; the rate of a cell may not be.
    raise_problems([f"{cell.label}: {line}" for cell, config in runs for line in training_violations(config)])
    return Study(settings=settings, runs=runs)


def _study_file(study: str) -> Path:
    path = Path(study).expanduser()
    if path.suffix in (".yaml", ".yml") or path.is_file():
        if not path.is_file():
            raise ConfigError(f"study {study}: no such file; give a YAML file, or one of {', '.join(study_names())}")
        return path
    if study not in study_names():
        hint = nearest(study, study_names())
        raise ConfigError(f"study {study}: must be one of {', '.join(study_names())}{hint}, or a YAML file")
    return configs_folder() / "study" / f"{study}.yaml"


def _cells(settings: StudyConfig) -> Iterator[Cell]:
    """The grid and then the blocks of `extra`. Seeds vary slowest, so that a study that is cut short has seen everything
    with some seeds, not something with all seeds."""
    for block in (CellsConfig(), *settings.extra):
        rates = settings.learning_rates if block.learning_rates is None else block.learning_rates
        seeds = settings.seeds if block.seeds is None else block.seeds
        tasks, methods = block.tasks or list(settings.tasks), block.methods or list(settings.methods)
        for kind, given, known in (("task", tasks, settings.tasks), ("method", methods, settings.methods)):
            for name in given:
                if name not in known:
                    raise ConfigError(f"extra: no {kind} {name}{nearest(name, known)}; add it to {kind}s")
        for seed, task, lr, method in product(seeds, tasks, rates, methods):
            yield Cell(task=task, method=method, lr=lr, seed=seed)


def _override_problems(configs: Configs, settings: StudyConfig, common: Sequence[Override]) -> list[str]:
    """One line per override that may not stand where it stands. What is wrong in itself shows when it is composed."""
    sources = {
        "base": settings.base,
        **{f"tasks.{name}": given for name, given in settings.tasks.items()},
        **{f"methods.{name}": given for name, given in settings.methods.items()},
    }
    problems = []
    specific: dict[str, str] = {}
    for where, given in sources.items():
        for override in configs.parse(given):
            if override.key in _OWNED:
                problems.append(f"{where}: {override.text}: is decided by {_OWNED[override.key]}; leave it out")
            if where != "base":
                specific[override.key] = where
    for override in common:
        if override.key in _OWNED:
            problems.append(f"{override.text}: is decided by {_OWNED[override.key]}; leave it out")
        elif override.key in specific:
            problems.append(f"{override.text}: has no effect where {specific[override.key]} sets it; change the file")
    return problems


def _composed(configs: Configs, settings: StudyConfig, common: Sequence[Override]) -> dict[tuple[str, str], RunConfig]:
    """Return (task, method) to its configuration. Raises ConfigError with a line per violation of any of them."""
    composed: dict[tuple[str, str], RunConfig] = {}
    wrong: dict[str, list[str]] = {}  # what to say, and of which task and method
    pairs = list(product(settings.tasks.items(), settings.methods.items()))
    for (task, of_task), (method, of_method) in pairs:
        layers = [[f"num_steps={settings.num_steps}"], settings.base, [one.text for one in common], of_task, of_method]
        arguments: dict[str, str] = {}
        for layer in layers:
            arguments |= {override.key: override.text for override in configs.parse(layer)}
        try:
            (job,) = training_jobs(configs, list(arguments.values()), is_multirun=False)
        except ConfigError as error:
            for line in str(error).splitlines():
                wrong.setdefault(line, []).append(f"task {task}, method {method}: ")
            continue
        if not evaluation_sets(job.config):
            line = "nothing is evaluated, so there would be no scores; add eval=<file>"
            wrong.setdefault(line, []).append(f"task {task}, method {method}: ")
        composed[task, method] = job.config
    # What is wrong everywhere is said once.
    raise_problems(
        [f"{where}{line}" for line, places in wrong.items() for where in (places if len(places) < len(pairs) else [""])]
    )
    return composed


def _cell_config(config: RunConfig, cell: Cell) -> RunConfig:
    return replace(
        config,
        learner=replace(config.learner, lr=cell.lr),
        seed=cell.seed,
        name=f"{cell.task}_{cell.method}",
    )
