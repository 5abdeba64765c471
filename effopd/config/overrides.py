"""What is wrong with the arguments of a command line, before anything is composed from them.

`register.py` parses the arguments with Hydra's grammar; here they are judged. Standard library only.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from effopd.config.keys import EVAL_SETS, SECTIONS, SETTINGS, hint_of, nearest, unknown_key, written, wrong_value

RESUME_KEYS = (
    "resume",
    "num_steps",
    "eval.every",
    "learner.num_ranks",
    "learner.zero_stage",
    "learner.num_threads",
    "rollout.num_samplers",
    "rollout.num_threads",
    "teacher.num_threads",
)
RESUME_SECTIONS = ("checkpoint", "cluster", "logger")
"""With `RESUME_KEYS`, what may change when a run continues: how far, how often, where, but never what is computed."""

TRAIN_ONLY_KEYS = (
    "num_steps",
    "resume",
    "eval.every",
    "eval.ema",
    "data.contamination",
    "data.num_rows",
    "data.stream_above_rows",
    "rollout.prompts_per_step",
    "rollout.samples_per_prompt",
    "rollout.canary_every",
    "logger.timeline",
)
TRAIN_ONLY_SECTIONS = ("algo", "learner", "accelerate", "pipeline", "checkpoint", "debug")
"""With `TRAIN_ONLY_KEYS`, what `effopd eval` does not read."""

_GROUPS_BY_PATH = ("model", "teacher", "data", "eval")
"""Groups whose choices are named by their `path`, so that it stands for one that has no name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Override:
    """One `key=value` argument.

    Example: `+learner.lr=1e-3` is `Override(text="+learner.lr=1e-3", prefix="+", key="learner.lr", values=(0.001,))`.
    """

    text: str
    """As typed."""
    prefix: str
    """`+`, `++` or `~`, else empty."""
    key: str
    """A dotted setting or the name of a group."""
    values: tuple[object, ...]
    """Several in a sweep."""


def override_problems(
    overrides: Sequence[Override],
    choices: Mapping[str, Sequence[str]],
    fits: Callable[[str, object], bool],
    is_multirun: bool,
) -> list[str]:
    """One line per wrong argument; empty if all are right.

    `choices` maps every group to the names of its files; `fits(key, value)` says whether a setting can hold a value.
    """
    problems = []
    for index, override in enumerate(overrides):
        earlier = [other.text for other in overrides[:index] if other.key == override.key]
        if earlier:
            problems.append(f"{override.key} is given twice: {earlier[0]} and {override.text}; keep one")
        elif problem := _problem(override, choices, fits, is_multirun):
            problems.append(problem)
    return problems


def _problem(
    override: Override,
    choices: Mapping[str, Sequence[str]],
    fits: Callable[[str, object], bool],
    is_multirun: bool,
) -> str:
    """The first thing wrong with one argument, or an empty string."""
    key = override.key
    if key == "hydra" or key.startswith(("hydra.", "hydra/")):
        return f"{override.text}: Hydra's own settings have no effect here; output_dir names the run folder"
    if override.prefix == "~" and key.startswith(f"{EVAL_SETS}."):
        return f"{override.text}: a set cannot be removed; name those to keep, as in eval.only=[math500,aime24]"
    if hint_of(key) is None and key not in SECTIONS and key not in choices:
        return unknown_key(key, choices)
    if override.prefix == "~":
        return f"{override.text}: a setting cannot be removed; give it a value instead"
    if override.prefix and (key in SETTINGS or key in SECTIONS or key in ("experiment", "scale")):
        return f"{override.text}: {key} exists, so nothing can be added; write {override.text.lstrip('+')}"
    if len(override.values) > 1 and not is_multirun:
        return (
            f"{override.text}: several values need -m, which runs one after the other; a list is written "
            f"{key}=[a,b], a text with commas '{key}=\"a,b\"'"
        )
    if key in choices:
        return next((line for value in override.values if (line := _wrong_choice(key, value, choices[key]))), "")
    if key in SECTIONS:
        return unknown_key(key)
    return next((wrong_value(key, value) for value in override.values if not fits(key, value)), "")


def _wrong_choice(group: str, value: object, names: Sequence[str]) -> str:
    if isinstance(value, list) and value:
        return next((line for name in value if (line := _wrong_choice(group, name, names))), "")
    if isinstance(value, str) and value in names:
        return ""
    remedy = ""
    if group in _GROUPS_BY_PATH and value is not None:
        remedy = f"; for your own, write {group}.path={written(value)}"
    return f"{group}={written(value)}{nearest(str(value), names)}: must be one of {', '.join(names)}{remedy}"


def resume_problems(overrides: Sequence[Override]) -> list[str]:
    """One line per argument that must not stand beside `resume=`."""
    sections = ", ".join(f"{section}.*" for section in RESUME_SECTIONS)
    return [
        f"{override.text}: a resumed run keeps its own settings; only {', '.join(RESUME_KEYS[1:])}, {sections} may change"
        for override in overrides
        if not _names(override.key, RESUME_KEYS, RESUME_SECTIONS)
    ]


def evaluation_problems(overrides: Sequence[Override]) -> list[str]:
    """One line per argument that `effopd eval` does not read. Group choices pass, for an experiment makes them too."""
    problems = [
        f"{override.text}: has no effect on effopd eval, which trains nothing; remove it"
        for override in overrides
        if _names(override.key, TRAIN_ONLY_KEYS, TRAIN_ONLY_SECTIONS)
    ]
    if not names_teacher(overrides):
        problems += [
            f"{override.text}: has no effect on effopd eval without a teacher; add teacher.path=<folder or hub name>"
            for override in overrides
            if _names(override.key, (), ("teacher",))
        ]
    return problems


def names_teacher(overrides: Sequence[Override]) -> bool:
    """Whether a teacher is asked for by an argument of its own, not only as part of an experiment."""
    return any(override.key in ("teacher", "teacher.path") for override in overrides)


def _names(key: str, keys: Sequence[str], sections: Sequence[str]) -> bool:
    section, dot, _ = key.partition(".")
    return key in keys or (bool(dot) and section in sections)
