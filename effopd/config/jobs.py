"""From the arguments of `effopd train` and `effopd eval` to checked configurations, one for each job of a sweep.

All jobs are checked before the first one runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from effopd.config.build import EVAL_REQUIRED, TRAIN_REQUIRED, build_config
from effopd.config.check import check_evaluation, check_training
from effopd.config.keys import MISSING, written
from effopd.config.overrides import (
    Override,
    evaluation_problems,
    names_teacher,
    override_problems,
    resume_problems,
)
from effopd.config.register import Configs, fits, read_config, read_tree
from effopd.config.schema import LRSchedule, RunConfig
from effopd.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One run to start."""

    label: str
    """Its arguments, as a person would type them."""
    config: RunConfig


def training_jobs(configs: Configs, arguments: Sequence[str], is_multirun: bool) -> list[Job]:
    """What `effopd train` is to run. Raises ConfigError with one line per violation."""
    overrides = checked_overrides(configs, arguments, is_multirun)
    runs = [
        value for override in overrides if override.key == "resume" for value in override.values if value is not None
    ]
    if runs:
        for run in runs:
            _require_run(Path(str(run)))
        raise_problems(resume_problems(overrides))
    expanded = configs.expand(arguments) if is_multirun else [list(arguments)]
    jobs = [_training_job(configs, job) for job in expanded]
    folders = [job.config.output_dir or job.config.resume for job in jobs]
    shared = sorted({folder for folder in folders if folder is not None and folders.count(folder) > 1})
    raise_problems([f"{folder}: several jobs of the sweep would write here; leave output_dir out" for folder in shared])
    return jobs


def evaluation_jobs(configs: Configs, arguments: Sequence[str], is_multirun: bool) -> list[Job]:
    """What `effopd eval` is to run. Raises ConfigError with one line per violation."""
    overrides = checked_overrides(configs, arguments, is_multirun)
    raise_problems(evaluation_problems(overrides))
    jobs = []
    for job in configs.expand(arguments) if is_multirun else [list(arguments)]:
        tree = configs.compose("eval", job)
        _require_choice(configs, tree, ("model", "eval"), "evaluate")
        config = build_config(tree, EVAL_REQUIRED)
        if not names_teacher(overrides):
            config.teacher.path = MISSING  # an experiment has a teacher, but its score needs none
        check_evaluation(config)
        jobs.append(Job(label=_label(configs, job), config=config))
    return jobs


def checked_overrides(configs: Configs, arguments: Sequence[str], is_multirun: bool) -> list[Override]:
    """The arguments, each of them right on its own. Raises ConfigError with one line per wrong one."""
    overrides = configs.parse(arguments)
    raise_problems(override_problems(overrides, configs.choices(), fits, is_multirun))
    return overrides


def raise_problems(problems: Sequence[str]) -> None:
    """Raise ConfigError if there are any."""
    if problems:
        raise ConfigError("\n".join(problems))


def _training_job(configs: Configs, arguments: list[str]) -> Job:
    changes = {override.key: override.values[0] for override in configs.parse(arguments)}
    run = changes.pop("resume", None)
    if run is None:
        tree = configs.compose("train", arguments)
        _require_choice(configs, tree, ("model", "teacher", "data"), "train")
        if tree["resume"] is not None:
            raise ConfigError(
                f"resume={tree['resume']}: stands in a file and has no effect there; give it as an argument"
            )
    else:
        tree = _resumed_tree(Path(str(run)), changes)
    config = build_config(tree, TRAIN_REQUIRED)
    check_training(config)
    return Job(label=_label(configs, arguments), config=config)


def _label(configs: Configs, arguments: Sequence[str]) -> str:
    """The arguments of a job as a person would type them; Hydra's splitting of a sweep has put backslashes into them."""
    overrides = configs.parse(arguments)
    return " ".join(f"{override.prefix}{override.key}={written(override.values[0])}" for override in overrides)


def _require_run(run: Path) -> None:
    if not (run / "config.yaml").is_file():
        what = "no config.yaml in this folder" if run.is_dir() else "no such folder"
        raise ConfigError(f"resume={run}: {what}; give the folder of an earlier run, such as runs/<name>/<time>")


def _resumed_tree(run: Path, changes: dict[str, object]) -> dict[str, object]:
    """The run's own settings with `changes`; its folder may have moved since they were written."""
    tree = read_tree(run / "config.yaml", changes)
    before = read_config(run / "config.yaml")
    if before.learner.lr_schedule is not LRSchedule.constant and tree["num_steps"] != before.num_steps:
        raise ConfigError(
            f"num_steps={tree['num_steps']}: the learning rate of this run falls over num_steps={before.num_steps} "
            f"(learner.lr_schedule={before.learner.lr_schedule}), so it ends there; leave num_steps out, or start a new run"
        )
    return tree | {"resume": str(run), "output_dir": str(run)}


def _require_choice(configs: Configs, tree: dict[str, object], sections: Sequence[str], verb: str) -> None:
    """Raise ConfigError if nothing at all was chosen, which is how a first try looks."""
    chosen = [section for name in sections if isinstance(section := tree[name], dict)]
    paths = [section["path"] for section in chosen if not section.get("sets")]
    if len(paths) == len(chosen) and all(path in (None, MISSING) for path in paths):
        experiments = ", ".join(configs.choices()["experiment"])
        given = ", ".join(f"{name}.path=" for name in sections)
        raise ConfigError(f"nothing to {verb}: choose experiment=<one of {experiments}>, or give {given}")
