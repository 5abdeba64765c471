"""Rules about data: where rows lie, what is read of them, and what an evaluation needs. Standard library only."""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from effopd.config.evaluation import EvalSet, evaluation_sets, verifier_names
from effopd.config.keys import nearest, written
from effopd.config.schema import ACCURACY_GATES, DataConfig, RunConfig
from effopd.config.source_schema import CODE_SCHEMAS, RowSchema, SourceConfig
from effopd.config.verifier_time import SANDBOX_SECONDS_IN_ALL, is_code_verifier

TOY_TASKS = ("programs", "sums")
FILE_SUFFIXES = (".jsonl", ".jsonl.gz", ".json", ".parquet")

_EXAMPLE_VERIFIER = "give one such as effopd.rewards.math:verify"

# The settings that a schema does not read, for it knows where everything is.
_UNREAD = {
    RowSchema.verl: ("prompt_column", "answer_column"),
    **dict.fromkeys(CODE_SCHEMAS, ("prompt_column", "answer_column", "answer_pattern")),
}
_DEFAULTS = SourceConfig()
_DATA_DEFAULTS = DataConfig()


def data_violations(config: RunConfig, *, is_training: bool) -> Iterator[str]:
    """One line per rule that the training prompts or the evaluation sets violate: keys and values, rule, remedy."""
    if is_training:
        yield from _path("data", config.data)
    # The columns of `data` are those of the single evaluation set too.
    yield from _columns("data", config.data)
    yield from _eval_names(config)
    sets = evaluation_sets(config)
    for one in sets.values():
        yield from _path(one.section, one.source)
        if one.section != "eval":
            yield from _columns(one.section, one.source)
    if not config.data.apply_chat_template and not any(one.apply_chat_template for one in sets.values()):
        yield from _template_without_effect(config)
    if config.eval.apply_chat_template is not None and not sets and not config.eval.sets:
        chosen = shown("eval.apply_chat_template", config.eval.apply_chat_template)
        yield f"{chosen}: has no effect without an evaluation set; choose eval=..."
    yield from _verifiers(config, sets.values())
    yield from _greedy(config)


def shown(key: str, value: object) -> str:
    """`key=value` as it is typed."""
    return f"{key}={written(value)}"


def toy_hint(name: str, choices: Iterable[str]) -> str:
    """The hint of `nearest`, in names as they are typed."""
    return nearest(name, choices).replace("mean ", "mean toy:")


def is_local(path: str) -> bool:
    """Whether a path can only mean this machine: a hub name has at most one slash and no such beginning or ending."""
    has_local_shape = path.startswith(("/", "./", "../")) or path.count("/") > 1
    return has_local_shape or path.endswith(FILE_SUFFIXES) or is_glob(path) or Path(path).exists()


def is_glob(path: str) -> bool:
    return any(mark in path for mark in "*?[")


def _path(section: str, source: SourceConfig) -> Iterator[str]:
    path, key = source.path, f"{section}.path"
    if path.startswith("toy:"):
        name = path.removeprefix("toy:")
        if name not in TOY_TASKS:
            names = ", ".join(f"toy:{task}" for task in TOY_TASKS)
            yield f"{shown(key, path)}: no such toy task{toy_hint(name, TOY_TASKS)}; choose from {names}"
        if source.split != ("train" if section == "data" else "test"):
            reason = f"has no effect with {shown(key, path)}; only hub data sets have splits"
            yield f"{shown(f'{section}.split', source.split)}: {reason}"
    elif is_glob(path) and not Path(path).exists():
        folder = Path(re.split(r"[*?\[]", path)[0] + "x").parent
        if not folder.is_dir():
            yield f"{shown(key, path)}: no folder {folder}; give an existing one before the pattern"
    else:
        yield from no_such_file(key, path)


def no_such_file(key: str, path: str | None) -> Iterator[str]:
    """One line if a path that can only mean this machine is not there. What a pattern stands for is seen when it is read."""
    if path is not None and is_local(path) and not is_glob(path) and not Path(path).exists():
        yield f"{shown(key, path)}: no such file; give a {', '.join(FILE_SUFFIXES)} file or a folder of such files"


def _columns(section: str, source: SourceConfig) -> Iterator[str]:
    for name in _UNREAD.get(source.schema, ()):
        value, usual = getattr(source, name), getattr(_DEFAULTS, name)
        if value != usual:
            schema = shown(f"{section}.schema", source.schema)
            yield f"{shown(f'{section}.{name}', value)}: has no effect with {schema}; leave it out"
    if (source.schema is RowSchema.multiple_choice) != bool(source.choice_columns):
        keys = f"{shown(f'{section}.schema', source.schema)} and {shown(f'{section}.choice_columns', source.choice_columns)}"
        yield f"{keys}: multiple choice needs the columns of the wrong answers, and nothing else reads them; set both"
    if source.answer_pattern is not None and source.answer_column is None and source.schema is not RowSchema.chat:
        pattern = shown(f"{section}.answer_pattern", source.answer_pattern)
        yield f"{pattern}: has no effect without a column to search; set {section}.answer_column"
    if source.where is not None and "=" not in source.where:
        yield f"{shown(f'{section}.where', source.where)}: must have the form column=value; write for example ability=code"
    for name in ("answer_pattern", "strip_prefix", "strip_suffix"):
        yield from _pattern(f"{section}.{name}", getattr(source, name), needs_group=name == "answer_pattern")


def _pattern(key: str, pattern: str | None, *, needs_group: bool) -> Iterator[str]:
    if pattern is None:
        return
    try:
        num_groups = re.compile(pattern).groups
    except re.error as error:
        yield f"{shown(key, pattern)}: not a regular expression ({error}); correct it"
        return
    if needs_group and num_groups == 0:
        yield f"{shown(key, pattern)}: must have a group, which is the answer; put (...) around it"


def _eval_names(config: RunConfig) -> Iterator[str]:
    names = config.eval.sets
    if config.eval.path is not None and names:
        keys = f"{shown('eval.path', config.eval.path)} and eval.sets={','.join(names)}"
        yield f"{keys}: one set or several; write eval.path=null, or give the one file as +eval.sets.<name>.path"
    for name in names:
        if not re.fullmatch(r"\w+", name):
            yield f"eval.sets.{name}: a name must be made of letters, digits and underscores; rename it"
    only = config.eval.only
    if only is None:
        return
    if not only:
        yield f"{shown('eval.only', only)}: would evaluate nothing; write eval=none for that"
    for name in only:
        if name not in names:
            have = (
                f"choose from {', '.join(names)}" if names else "there are no eval.sets; choose eval=math or eval=code"
            )
            yield f"{shown('eval.only', only)}: no evaluation set {name}{nearest(name, names)}; {have}"


def _template_without_effect(config: RunConfig) -> Iterator[str]:
    reason = "has no effect with data.apply_chat_template=false; add data.apply_chat_template=true"
    if config.data.enable_thinking:
        yield f"{shown('data.enable_thinking', True)}: {reason}"
    if config.model.chat_template is not None:
        yield f"{shown('model.chat_template', config.model.chat_template)}: {reason}"


def _verifiers(config: RunConfig, sets: Iterable[EvalSet]) -> Iterator[str]:
    of_data = config.data.verifier
    if of_data is None and config.accelerate.gate in ACCURACY_GATES:
        keys = f"{shown('accelerate.gate', config.accelerate.gate)} and {shown('data.verifier', of_data)}"
        yield f"{keys}: this gate scores answers; {_EXAMPLE_VERIFIER}"
    yield from _verifier_form("data.verifier", of_data)
    if not verifier_names(config):
        for name in ("verifier_workers", "verifier_seconds"):
            value = getattr(config.data, name)
            if value != getattr(_DATA_DEFAULTS, name):
                yield f"{shown(f'data.{name}', value)}: has no effect with data.verifier=null; {_EXAMPLE_VERIFIER}"
    seconds, code_verifiers = config.data.verifier_seconds, [*filter(is_code_verifier, verifier_names(config))]
    if code_verifiers and seconds is not None and seconds < SANDBOX_SECONDS_IN_ALL:
        yield (
            f"{shown('data.verifier_seconds', seconds)} and {code_verifiers[0]}: the code sandbox itself may take "
            f"{SANDBOX_SECONDS_IN_ALL:.0f} s, and right answers would score 0; leave it out, or give at least that"
        )
    for one in sets:
        if one.verifier is None:
            own = "" if one.section == "eval" else f" (or {one.section}.verifier)"
            keys = f"{shown(f'{one.section}.path', one.source.path)} and {shown('data.verifier', None)}"
            yield f"{keys}{own}: an evaluation scores answers; {_EXAMPLE_VERIFIER}"
        if one.section != "eval":
            yield from _verifier_form(f"{one.section}.verifier", one.source.verifier)


def _verifier_form(key: str, verifier: str | None) -> Iterator[str]:
    if verifier is not None and not re.fullmatch(r"[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*", verifier):
        yield f"{shown(key, verifier)}: must have the form package.module:function; {_EXAMPLE_VERIFIER}"


def _greedy(config: RunConfig) -> Iterator[str]:
    shared = [("eval", config.eval.temperature, config.eval.samples_per_prompt)]
    named = [
        (one.section, one.temperature, one.samples_per_prompt)
        for one in evaluation_sets(config).values()
        if one.section != "eval"
    ]
    for section, temperature, samples_per_prompt in named or shared:
        if temperature == 0 and samples_per_prompt > 1:
            keys = f"{shown(f'{section}.temperature', temperature)} and {shown(f'{section}.samples_per_prompt', samples_per_prompt)}"
            yield f"{keys}: greedy samples of one prompt are all the same; set {section}.samples_per_prompt=1"
