"""What `effopd train --help` says: a page to begin with, and the settings of one section with what `schema.py` says of each.

The explanations are the docstrings under the fields, read from the source, so that there is no second copy. Standard library
only; groups and defaults come from `register.py`.
"""

import ast
import inspect
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import fields, is_dataclass
from functools import cache
from itertools import pairwise
from typing import get_type_hints

from effopd.config.keys import (
    EVAL_SET_SETTINGS,
    EVAL_SETS,
    MISSING,
    SECTIONS,
    expectation,
    hint_of,
    nearest,
    written,
)
from effopd.config.overrides import TRAIN_ONLY_KEYS, TRAIN_ONLY_SECTIONS
from effopd.config.schema import EvalSetConfig, RunConfig
from effopd.errors import ConfigError

_WIDTH = 110
EXAMPLES = {
    "train": (
        "effopd train experiment=toy_effopd",
        "effopd train experiment=toy_effopd cluster=local rollout=hf learner.lr=3e-4",
        "effopd train -m experiment=toy_opd,toy_effopd seed=1,2,3",
        "effopd train model.path=/my/student teacher.path=/my/teacher data.path=/my/prompts.jsonl",
        "effopd train resume=runs/toy_effopd/<time>",
    ),
    "eval": (
        "effopd eval experiment=toy_opd",
        "effopd eval model.path=toy:sums_base data=toy_sums eval.samples_per_prompt=4",
        "effopd eval experiment=toy_opd teacher.path=toy:sums_teacher",
        "effopd eval model.path=/my/model eval=math 'eval.only=[math500,aime24]'",
        "effopd eval model.path=/my/model eval=code eval.responses=/my/responses.parquet",
    ),
}


def overview(command: str, usage: str, groups: Mapping[str, Sequence[str]]) -> str:
    """Return the first page: how to call `command`, the groups and their choices, the sections, examples."""
    settings = _settings(command)
    alone = [key for key in settings if "." not in key]
    sections = dict.fromkeys(key.partition(".")[0] for key in settings if "." in key)
    read = {group: names for group, names in groups.items() if group not in SECTIONS or group in sections}
    return "\n".join(
        [
            usage,
            "groups (group=choice):",
            *(_entry(group, ", ".join(names)) for group, names in read.items()),
            f"\nsettings (section.name=value); effopd {command} --help <section> explains those of one:",
            _wrapped(", ".join(sections), "  "),
            _wrapped(f"and without a section: {', '.join(alone)}", "  "),
            "\nexamples:",
            *(f"  {example}" for example in EXAMPLES[command]),
            f"\neverything that a run would have:\n  effopd {command} --cfg job experiment=toy_effopd\n",
        ]
    )


def explained(command: str, word: str, tree: Mapping[str, object]) -> str:
    """Return the settings of a section, or one setting, with types, meanings and the values that `tree` has for them.

    Raises ConfigError when `command` reads no such setting.
    """
    settings = _settings(command)
    found = [key for key in settings if key == word or key.startswith(f"{word}.")]
    if not found:
        names = sorted(SECTIONS & {key.partition(".")[0] for key in settings})
        raise ConfigError(
            f"--help {word}{nearest(word, [*names, *settings])}: must be a section or a setting of effopd {command}; the "
            f"sections are {', '.join(names)}"
        )
    return "\n".join(_explanation(key, settings[key], tree) for key in found) + "\n"


def _settings(command: str) -> dict[str, str]:
    """Every setting that `command` reads and its docstring, empty where it has none."""
    docs = dict(_documented(RunConfig, ""))
    if command == "train":
        return docs
    unread = {key for key in docs if key in TRAIN_ONLY_KEYS or key.partition(".")[0] in TRAIN_ONLY_SECTIONS}
    return {key: text for key, text in docs.items() if key not in unread}


def _documented(section: type, prefix: str) -> Iterator[tuple[str, str]]:
    hints, docs = get_type_hints(section), _field_docs(section)
    for entry in fields(section):
        key, hint = f"{prefix}{entry.name}", hints[entry.name]
        if isinstance(hint, type) and is_dataclass(hint):
            yield from _documented(hint, f"{key}.")
        elif key == EVAL_SETS:
            yield key, docs.get(entry.name, "")
            yield from _documented(EvalSetConfig, f"{EVAL_SETS}.<name>.")
        else:
            yield key, docs.get(entry.name, "")


@cache
def _field_docs(section: type) -> Mapping[str, str]:
    """The strings that stand under the fields of a dataclass and of those that it extends."""
    docs: dict[str, str] = {}
    for base in reversed([base for base in section.__mro__ if is_dataclass(base)]):
        tree = ast.parse(inspect.getsource(sys.modules[base.__module__]))
        body = next(node.body for node in tree.body if isinstance(node, ast.ClassDef) and node.name == base.__name__)
        for pair in pairwise(body):
            match pair:
                case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str(text))):
                    docs[name] = " ".join(text.split())
    return docs


def _explanation(key: str, text: str, tree: Mapping[str, object]) -> str:
    if key == EVAL_SETS:
        return f"{key}.<name>.<setting>\n{_wrapped(text, '    ')}"
    section, _, name = key.rpartition(".")
    of_a_set = section.startswith(EVAL_SETS)
    head = f"{key}: {expectation(EVAL_SET_SETTINGS[name] if of_a_set else hint_of(key))}"
    if not of_a_set:
        values = tree[section] if section else tree
        assert isinstance(values, Mapping)
        value = values[name]
        head += "; required" if value == MISSING else f"; default {written(value) or repr('')}"
    return f"{head}\n{_wrapped(text, '    ')}" if text else head


def _entry(name: str, text: str) -> str:
    return textwrap.fill(
        text, _WIDTH, initial_indent=f"  {name:12}", subsequent_indent=" " * 14, break_on_hyphens=False
    )


def _wrapped(text: str, indent: str) -> str:
    return textwrap.fill(text, _WIDTH, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False)
