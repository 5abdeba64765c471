"""The one module that imports Hydra and OmegaConf: schema and YAML files in, plain values and one-line errors out.

Hydra composes; it never runs a job, changes the working directory, sets up logging or writes a file. Nothing of it leaves
this module: arguments become `Override`s, configurations become plain dictionaries.
"""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import fields, make_dataclass
from operator import attrgetter
from pathlib import Path

import yaml
from antlr4.error.Errors import RecognitionException
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override as HydraOverride
from hydra.core.override_parser.types import OverrideType, QuotedString
from hydra.errors import HydraException
from omegaconf import Container, DictConfig, OmegaConf, open_dict
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException

import effopd
from effopd.config.build import build_config
from effopd.config.keys import (
    EVAL_SET_SETTINGS,
    EVAL_SETS,
    SECTIONS,
    SETTINGS,
    hint_of,
    nearest,
    unknown_key,
    wrong_value,
)
from effopd.config.overrides import Override
from effopd.config.schema import RunConfig
from effopd.config.study_schema import StudyConfig
from effopd.durable import replace_file
from effopd.errors import ConfigError

_PREFIXES = {
    OverrideType.CHANGE: "",
    OverrideType.ADD: "+",
    OverrideType.FORCE_ADD: "++",
    OverrideType.DEL: "~",
}

STUDIES = "study"
"""The folder of what `effopd study` runs: no group, for no run is composed from it."""

ConfigStore.instance().store(name="run_config", node=RunConfig)


def configs_folder() -> Path:
    """The shipped YAML files: inside the package when installed, beside it in a checkout."""
    package = Path(effopd.__file__).parent
    # In a checkout `effopd/configs` is a link to `configs`, which not every copy of a checkout keeps.
    return next(
        folder for folder in (package / "configs", package.parent / "configs") if (folder / "train.yaml").is_file()
    )


class Configs:
    """The YAML files that can be composed, ours and a user's. Made by `open_configs`, valid inside its `with` only."""

    def __init__(self, extra: Path | None) -> None:
        self._folders = [configs_folder()] if extra is None else [configs_folder(), extra]
        self._search_path = [] if extra is None else [f"hydra.searchpath=[{_quoted(f'file://{extra.absolute()}')}]"]

    def choices(self) -> dict[str, list[str]]:
        """Every group and the names of its files, but for those under a `_`, which other files bring in."""
        # Read from disk: Hydra's own listing copies the whole schema once for every group.
        files = [file.relative_to(folder) for folder in self._folders for file in folder.rglob("*.yaml")]
        names: dict[str, set[str]] = {}
        for file in files:
            group, _, name = file.with_suffix("").as_posix().partition("/")
            if name and group != STUDIES and not name.startswith("_"):
                names.setdefault(group, set()).add(name)
        return {group: sorted(names[group]) for group in sorted(names)}

    def parse(self, arguments: Sequence[str]) -> list[Override]:
        """The arguments, parsed with Hydra's grammar. Raises ConfigError with one line per malformed one."""
        overrides, problems = [], []
        for argument in arguments:
            try:
                (parsed,) = self._parser().parse_overrides([argument])
            except (HydraException, RecognitionException):
                parsed = None
            if parsed is None or not parsed.key_or_group:
                problems.append(_malformed(argument))
            else:
                overrides.append(_plain(argument, parsed))
        if problems:
            raise ConfigError("\n".join(problems))
        return overrides

    def expand(self, arguments: Sequence[str]) -> list[list[str]]:
        """The arguments of every job of a sweep, the last swept key varying fastest."""
        parsed = self._parser().parse_overrides(list(arguments))
        (jobs,) = BasicSweeper.split_arguments(parsed, max_batch_size=None)
        return jobs

    def compose(self, root: str, arguments: Sequence[str]) -> dict[str, object]:
        """The values of `configs/<root>.yaml` under checked arguments. Raises ConfigError with one line."""
        return _tree(self._compose(root, arguments))

    def to_yaml(
        self, root: str, arguments: Sequence[str], section: str | None = None, is_resolved: bool = False
    ) -> str:
        """The same as YAML text, or only one section of it."""
        config = self._compose(root, arguments)
        if section is not None and section not in SECTIONS:
            raise ConfigError(
                f"--package={section}{nearest(section, SECTIONS)}: must be one of {', '.join(sorted(SECTIONS))}"
            )
        try:
            return OmegaConf.to_yaml(config if section is None else config[section], resolve=is_resolved)
        except OmegaConfBaseException as error:
            raise ConfigError(_one_line(error)) from error

    def show_info(self, what: str, root: str, arguments: Sequence[str]) -> None:
        """Print what Hydra knows of the search path, the defaults list and the like on standard output."""
        hydra = GlobalHydra.instance().hydra
        assert hydra is not None
        plain = [argument for argument in arguments if not _is_of_an_eval_set(argument)]
        hydra.show_info(what, config_name=root, overrides=[*self._search_path, *plain])

    def _compose(self, root: str, arguments: Sequence[str]) -> DictConfig:
        plain = [argument for argument in arguments if not _is_of_an_eval_set(argument)]
        try:
            config = compose(root, overrides=[*self._search_path, *plain])
            return _with_eval_sets(config, self.parse([argument for argument in arguments if argument not in plain]))
        except (HydraException, OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
            raise ConfigError(_one_line(error)) from error

    def _parser(self) -> OverridesParser:
        return OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())


@contextmanager
def open_configs(extra: Path | None = None) -> Iterator[Configs]:
    """The shipped configurations, and those of the folder `extra` after them. Raises ConfigError if it is no folder."""
    if extra is not None and not extra.is_dir():
        raise ConfigError(f"--config-dir={extra}: no such folder; give a folder with group folders such as experiment/")
    with initialize_config_dir(str(configs_folder()), job_name="effopd", version_base="1.3"):
        yield Configs(extra)


def fits(key: str, value: object) -> bool:
    """Whether the setting `key` can hold `value`, converted as Hydra converts (`1` to a float, `yes` to a bool)."""
    # A schema of this one setting: to build that of all of them takes a tenth of a second.
    schema = make_dataclass("One", [("setting", hint_of(key))])
    try:
        OmegaConf.update(OmegaConf.structured(schema), "setting", value, merge=True)
    except (OmegaConfBaseException, ValueError, TypeError):
        return False
    return True


def to_yaml(config: RunConfig) -> str:
    """Every setting as YAML text."""
    sets = {"eval": {"sets": {name: {"path": one.path} for name, one in config.eval.sets.items()}}}
    tree = OmegaConf.merge(OmegaConf.structured(RunConfig), sets)
    values = {key: attrgetter(key)(config) for key in SETTINGS}
    for name, one in config.eval.sets.items():
        values |= {f"{EVAL_SETS}.{name}.{setting}": attrgetter(setting)(one) for setting in EVAL_SET_SETTINGS}
    for key, value in values.items():
        # What looks like an interpolation by now is text, and must not be resolved when it is read back.
        text = re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value
        OmegaConf.update(tree, key, text, merge=False)
    return OmegaConf.to_yaml(tree)


def write_config(config: RunConfig, path: Path) -> None:
    """Write every setting as YAML that `read_config` reads back to an equal configuration; whole or not at all."""
    replace_file(path, to_yaml(config).encode())


def read_config(path: Path) -> RunConfig:
    """The configuration that `write_config` wrote. Raises ConfigError, naming the file."""
    return build_config(read_tree(path, {}), required=())


def read_tree(path: Path, changes: Mapping[str, object]) -> dict[str, object]:
    """The values in a file of `write_config`, some of them changed. Raises ConfigError with one line, naming the file."""
    try:
        config = OmegaConf.merge(OmegaConf.structured(RunConfig), OmegaConf.load(path))
        for key, value in changes.items():
            OmegaConf.update(config, key, value, merge=True)
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"{path}: cannot be read ({type(error).__name__}); give a run folder with config.yaml"
        ) from error
    except (OmegaConfBaseException, yaml.YAMLError, ValueError) as error:
        raise ConfigError(f"{path}: {_one_line(error)}") from error
    return _tree(config)


def read_study_config(path: Path, changes: Mapping[str, object]) -> StudyConfig:
    """The study in a YAML file, some of its settings changed. Raises ConfigError with one line, naming the file."""
    names = [entry.name for entry in fields(StudyConfig)]
    try:
        config = OmegaConf.merge(OmegaConf.structured(StudyConfig), OmegaConf.load(path))
        for key, value in changes.items():
            OmegaConf.update(config, key, value, merge=not isinstance(value, list))
        return OmegaConf.to_object(config)  # pyright: ignore[reportReturnType]
    except (ConfigKeyError, ConfigAttributeError) as error:
        key = error.full_key or ""
        raise ConfigError(f"{path}: unknown key {key}{nearest(key, names)}; there are {', '.join(names)}") from error
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    except (OmegaConfBaseException, yaml.YAMLError, ValueError, OSError) as error:
        raise ConfigError(f"{path}: {_one_line(error)}") from error


def _is_of_an_eval_set(argument: str) -> bool:
    return argument.lstrip("+~").startswith(f"{EVAL_SETS}.")


def _with_eval_sets(config: DictConfig, overrides: Sequence[Override]) -> DictConfig:
    """Return `config` with the settings of named evaluation sets changed.

    Hydra cannot: it makes a missing member of a typed mapping a plain dictionary, which the type then refuses.
    """
    names = set(config.eval.sets)
    added = {override.key.split(".")[2] for override in overrides if override.prefix}
    for override in overrides:
        _, _, name, setting = override.key.split(".")
        if name not in names | added:
            raise ConfigError(unknown_key(override.key) + nearest(name, names))
        change = {"eval": {"sets": {name: {setting: override.values[0]}}}}
        with open_dict(config):
            merged = OmegaConf.merge(config, change)
        assert isinstance(merged, DictConfig)
        config = merged
    return config


def _tree(config: Container) -> dict[str, object]:
    """Plain values: enums stay enums, interpolations are resolved, settings without a value are `???`."""
    try:
        tree = OmegaConf.to_container(config, resolve=True, throw_on_missing=False)
    except OmegaConfBaseException as error:
        raise ConfigError(_one_line(error)) from error
    assert isinstance(tree, dict)
    return {str(key): value for key, value in tree.items()}


def _plain(argument: str, parsed: HydraOverride) -> Override:
    key = parsed.key_or_group if parsed.package is None else f"{parsed.key_or_group}@{parsed.package}"
    swept = parsed.sweep_iterator() if parsed.is_discrete_sweep() else (parsed.value(),)
    values = tuple(value.text if isinstance(value, QuotedString) else value for value in swept)
    return Override(text=argument, prefix=_PREFIXES[parsed.type], key=key, values=values)


def _malformed(argument: str) -> str:
    key, equals, value = argument.partition("=")
    if equals and re.fullmatch(r"[+~]*[\w./@-]+", key):
        return f"{argument}: the value cannot be parsed; quote it twice, for the shell and for Hydra: '{key}={_quoted(value)}'"
    if key in SETTINGS:
        return f"{argument}: not of the form key=value; write {key}=<value>"
    return f"{argument}: not of the form key=value{nearest(key, SETTINGS)}; write for example learner.lr=3e-4"


def _quoted(text: str) -> str:
    """`text` as a quoted value in Hydra's grammar, where a backslash is special before a quote only."""
    inner = re.sub(r'(\\*)("|$)', lambda found: found[1] * 2 + ('\\"' if found[2] else ""), text)
    return f'"{inner}"'


def _one_line(error: Exception) -> str:
    """What to say of an error of Hydra, OmegaConf or YAML, whose own texts take several lines."""
    text = str(error)
    origin = re.match(r"In '([^']+)': ", text)
    where = f"{origin[1]}: " if origin else ""
    # Hydra raises its own exception while handling OmegaConf's and copies only the text of it.
    cause = error if isinstance(error, OmegaConfBaseException) else error.__cause__ or error.__context__
    if isinstance(cause, OmegaConfBaseException):
        key = re.sub(r"\[\d+\]$", "", cause.full_key or "")
        if isinstance(cause, ConfigKeyError | ConfigAttributeError):
            return f"{where}{unknown_key(key)}"
        if hint_of(key) is not None and cause.value is not None:
            return f"{where}{wrong_value(key, cause.value)}"
        return f"{where}{key}: {str(cause).splitlines()[0]}" if key else f"{where}{str(cause).splitlines()[0]}"
    kept = text.partition("Config search path:")[0]
    return " ".join(kept.replace(os.linesep, "\n").split())
