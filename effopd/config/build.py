"""From a composed tree of plain values to a `RunConfig`, reporting everything wrong with it at once.

The tree is built into dataclasses here rather than by OmegaConf's `to_object`, which stops at the first stray key with a
bare `AttributeError`. Standard library only.
"""

import math
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import get_type_hints

from effopd.config.keys import EVAL_SETS, MISSING, SECTIONS, hint_of, unknown_key
from effopd.config.schema import EvalSetConfig, RunConfig
from effopd.errors import ConfigError

_PATHS = frozenset(
    {
        "model.path",
        "model.chat_template",
        "teacher.path",
        "data.path",
        "eval.path",
        "debug.recorded",
        "output_dir",
        "resume",
    }
)

_WANTED = {
    "model.path": "the student as model.path=<model folder, hub name or toy:sums_base>",
    "data.path": "the training prompts as data.path=<JSONL file, parquet file, hub data set or toy:sums>",
    "eval.path": "the evaluation prompts as eval.path=<JSONL file, parquet file, hub data set or toy:sums>, or eval=math",
}

TRAIN_REQUIRED = ("model.path", "data.path")
"""And the teacher, where something needs one: `check.needs_teacher`."""
EVAL_REQUIRED = ("model.path", "eval.path")


def build_config(tree: Mapping[str, object], required: Sequence[str]) -> RunConfig:
    """The typed configuration of a tree whose values already have the types of the schema.

    Settings in `required` must have a value; the others of `???` keep it. Raises ConfigError with one line per stray key,
    missing setting and value out of range.
    """
    leaves = dict(_leaves(tree, ""))
    set_paths = {key for key in leaves if key.startswith(f"{EVAL_SETS}.") and key.endswith(".path")}
    problems = [unknown_key(key) for key in leaves if hint_of(key) is None]
    for key in required:
        if leaves.get(key) in (None, MISSING) and not (key == "eval.path" and set_paths):
            problems.append(f"{key} is required; give {_WANTED[key]}")
    only = leaves.get("eval.only")
    for key in sorted(set_paths):
        if leaves[key] in (None, MISSING) and (not isinstance(only, list) or key.split(".")[2] in only):
            problems.append(
                f"{key} is required; give a file, a hub data set or a toy task, or leave the set out of eval.only"
            )
    for key, value in leaves.items():
        numbers = value if isinstance(value, list) else [value]
        if any(isinstance(number, float) and not math.isfinite(number) for number in numbers):
            problems.append(f"{key}={value}: must be finite; give an ordinary number")
        if (key in _PATHS or key in set_paths) and isinstance(value, str):
            leaves[key] = os.path.expanduser(value)
    config = None if problems else _build(RunConfig, leaves, "", problems)
    if problems:
        raise ConfigError("\n".join(problems))
    assert isinstance(config, RunConfig)
    return config


def _leaves(tree: Mapping[str, object], prefix: str) -> Iterable[tuple[str, object]]:
    for name, value in tree.items():
        key = f"{prefix}{name}"
        if isinstance(value, Mapping) and (key in SECTIONS or hint_of(key) is None):
            yield from _leaves(value, f"{key}.")
        else:
            yield key, value


def _build(section: type, leaves: Mapping[str, object], prefix: str, problems: list[str]) -> object:
    """An instance of `section`, or None once a problem of it has been appended to `problems`."""
    hints = get_type_hints(section)
    values: dict[str, object] = {}
    for entry in fields(section):
        key, hint = f"{prefix}{entry.name}", hints[entry.name]
        if isinstance(hint, type) and is_dataclass(hint):
            values[entry.name] = _build(hint, leaves, f"{key}.", problems)
        elif key == EVAL_SETS:
            names = dict.fromkeys(leaf.split(".")[2] for leaf in leaves if leaf.startswith(f"{EVAL_SETS}."))
            values[entry.name] = {name: _build(EvalSetConfig, leaves, f"{key}.{name}.", problems) for name in names}
        elif key in leaves:
            values[entry.name] = leaves[key]
    try:
        return section(**values)
    except ConfigError as error:
        problems.append(str(error))
        return None
