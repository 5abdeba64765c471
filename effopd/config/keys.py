"""The settings by their dotted keys, and how to speak of them to a person.

Derived from the dataclasses of `schema.py`, so that no key is written twice. Standard library only.
"""

import difflib
import types
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from enum import Enum
from typing import Union, get_args, get_origin, get_type_hints

from effopd.config.schema import EvalSetConfig, RunConfig

MISSING = "???"
"""The value of a setting that has no default and was not given; Hydra's own mark."""

SYNONYMS = {
    "learning_rate": "learner.lr",
    "algo.learning_rate": "learner.lr",
    "rollout.learning_rate": "learner.lr",
    "gradient_clipping": "learner.max_grad_norm",
    "grad_clip": "learner.max_grad_norm",
    "gradient_checkpointing": "learner.activation_checkpointing",
    "batch_size": "rollout.prompts_per_step",
    "train_batch_size": "rollout.prompts_per_step",
    "data.train_batch_size": "rollout.prompts_per_step",
    "learner.batch_size": "rollout.prompts_per_step",
    "group_size": "rollout.samples_per_prompt",
    "num_generations": "rollout.samples_per_prompt",
    "max_new_tokens": "rollout.max_response_len",
    "max_completion_length": "rollout.max_response_len",
    "data.max_response_length": "rollout.max_response_len",
    "data.max_prompt_length": "data.max_prompt_len",
    "max_steps": "num_steps",
    "total_steps": "num_steps",
    "learner.max_steps": "num_steps",
    "learner.total_steps": "num_steps",
    "model_name": "model.path",
    "model_name_or_path": "model.path",
    "model.name_or_path": "model.path",
    "dataset": "data.path",
    "eval_steps": "eval.every",
    "save_steps": "checkpoint.every",
    "output": "output_dir",
    "output_folder": "output_dir",
    "gamma": "algo.discount",
    "lambda": "algo.gae_lambda",
}
"""What other trainers call a setting of ours, where that can mean but one. A name without a dot is also known under the section
that the setting has here, and under any that is none of ours. `temperature` needs no line: the one setting of that name is found."""

_NO_MISSPELLINGS = frozenset({"float16"})
"""Words that look like a choice and mean something else."""

_SCALARS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _flatten(section: type, prefix: str) -> Iterable[tuple[str, object]]:
    hints = get_type_hints(section)
    for entry in fields(section):
        hint = hints[entry.name]
        key = f"{prefix}{entry.name}"
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _flatten(hint, f"{key}.")
        elif key != EVAL_SETS:
            yield key, hint


EVAL_SETS = "eval.sets"
"""The one section whose members have names of the user's: `eval.sets.<name>.<setting>`."""

SETTINGS: dict[str, object] = dict(_flatten(RunConfig, ""))
"""Every dotted key, e.g. `learner.lr`, and its annotation, but for those of named evaluation sets."""

EVAL_SET_SETTINGS: dict[str, object] = dict(_flatten(EvalSetConfig, ""))
"""The settings of one evaluation set, e.g. `path`, and their annotations."""

SECTIONS: frozenset[str] = frozenset(key.partition(".")[0] for key in SETTINGS if "." in key)
"""The names before the dot, e.g. `learner`."""


def hint_of(key: str) -> object | None:
    """The annotation of a setting, also of `eval.sets.<name>.<setting>`; None if there is no such setting."""
    parts = key.split(".")
    if len(parts) == 4 and key.startswith(f"{EVAL_SETS}."):
        return EVAL_SET_SETTINGS.get(parts[3])
    return SETTINGS.get(key)


def nearest(word: str, choices: Iterable[str]) -> str:
    """` (did you mean X?)` for the choice that looks most like `word`, empty if none does."""
    if word in _NO_MISSPELLINGS:
        return ""
    choices = sorted(choices)
    # Someone who types the beginning of a name means that name, however long the rest of it is.
    found = [choice for choice in choices if word and choice.startswith(word)]
    found = found or difflib.get_close_matches(word, choices, n=1)
    return f" (did you mean {found[0]}?)" if found else ""


def unknown_key(key: str, groups: Iterable[str] = ()) -> str:
    """What to say of a key that is no setting. `groups` are further names that may stand before `=`."""
    if key == EVAL_SETS or key.startswith(f"{EVAL_SETS}."):
        return _unknown_eval_set_key(key)
    if key in SECTIONS:
        examples = [name for name in SETTINGS if name.startswith(f"{key}.")][:3]
        return f"{key} is a group of settings, not one setting; set {', '.join(examples)}, ..."
    section, _, name = key.rpartition(".")
    synonym = SYNONYMS.get(key) or SYNONYMS.get(name, "")
    if key in SYNONYMS or (synonym and (section not in SECTIONS or synonym.startswith(f"{section}."))):
        return f"unknown key {key} (did you mean {synonym}?)"
    # `lr` and `rollout.lr` both mean `learner.lr`: the right name under the wrong section, or under none.
    namesakes = [setting for setting in SETTINGS if setting.rpartition(".")[2] == name]
    if closest := difflib.get_close_matches(key, namesakes, n=1, cutoff=0.0):
        return f"unknown key {key} (did you mean {closest[0]}?)"
    if section not in SECTIONS:
        return f"unknown key {key}{nearest(key, [*SETTINGS, *groups])}"
    members = [setting.partition(".")[2] for setting in SETTINGS if setting.startswith(f"{section}.")]
    if close := difflib.get_close_matches(name, members, n=1):
        return f"unknown key {key} (did you mean {section}.{close[0]}?)"
    return f"unknown key {key}; {section} has {', '.join(members)}"


def _unknown_eval_set_key(key: str) -> str:
    parts = key.split(".")
    if len(parts) < 4:
        name = parts[2] if len(parts) == 3 else "<name>"
        return f"{key} is a group of settings, not one setting; set {EVAL_SETS}.{name}.path, ..."
    setting = ".".join(parts[3:])
    if setting in EVAL_SET_SETTINGS:
        remedy = "choose eval=<file> that has it, or add it"
        return f"{key}: there is no evaluation set {parts[2]}; {remedy} with +{EVAL_SETS}.{parts[2]}.path=<file>"
    if close := difflib.get_close_matches(setting, EVAL_SET_SETTINGS, n=1):
        return f"unknown key {key} (did you mean {EVAL_SETS}.{parts[2]}.{close[0]}?)"
    return f"unknown key {key}; an evaluation set has {', '.join(EVAL_SET_SETTINGS)}"


def choices_of(hint: object) -> list[str]:
    """The values that a setting annotated `hint` can take if they can be listed, else an empty list."""
    if isinstance(hint, type) and issubclass(hint, Enum):
        return [member.name for member in hint]
    return ["true", "false"] if hint is bool else []


def expectation(hint: object) -> str:
    """What a setting annotated `hint` must be, in words."""
    if get_origin(hint) in (Union, types.UnionType):
        inner = [option for option in get_args(hint) if option is not type(None)]
        return " or ".join([*(expectation(option) for option in inner), "null"])
    if get_origin(hint) is list:
        return "a list such as [a,b]" if get_args(hint) == (str,) else "a list such as [2,4,6]"
    if isinstance(hint, type) and issubclass(hint, Enum):
        return f"one of {', '.join(choices_of(hint))}"
    assert isinstance(hint, type), f"no words for the annotation {hint}"
    return _SCALARS[hint]


def written(value: object) -> str:
    """A value as it is written on the command line."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{','.join(written(item) for item in value)}]"
    return str(value)


def wrong_value(key: str, value: object) -> str:
    """What to say of a value whose type does not fit the setting `key`."""
    hint = hint_of(key)
    # A bare `null` is how YAML spells the choice `none`.
    typed = "none" if value is None else str(value)
    return f"{key}={written(value)}{nearest(typed, choices_of(hint))}: must be {expectation(hint)}"
