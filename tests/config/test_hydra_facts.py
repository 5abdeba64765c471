"""Facts about Hydra 1.3 and OmegaConf 2.3 that `effopd.config` is built around. A new version that breaks one says so here."""

from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Literal

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf
from omegaconf.errors import ReadonlyConfigError, ValidationError


class Colour(StrEnum):
    red = "red"
    blue = "blue"


@dataclass(slots=True)
class Slotted:
    size: int = 1
    colour: Colour = Colour.red

    def __post_init__(self) -> None:
        if self.size < 0:
            raise ValueError("size must not be negative")


@dataclass
class Unslotted:
    size: int = 1


@dataclass(slots=True)
class Root:
    slotted: Slotted = field(default_factory=Slotted)
    unslotted: Unslotted = field(default_factory=Unslotted)


@pytest.fixture
def composed(tmp_path):
    """Composes a root without any group in its defaults list; a file `experiment/foo.yaml` exists beside it."""
    ConfigStore.instance().store(name="hydra_facts_schema", node=Root)
    (tmp_path / "root.yaml").write_text("defaults: [hydra_facts_schema, _self_]\n")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "foo.yaml").write_text("# @package _global_\nslotted: {size: 7}\n")
    with initialize_config_dir(str(tmp_path), version_base="1.3"):
        yield lambda *overrides: compose("root", overrides=list(overrides))


# Fact 1.


def test_literal_is_refused():
    @dataclass
    class WithLiteral:
        colour: Literal["red", "blue"] = "red"

    with pytest.raises(ValidationError):
        OmegaConf.structured(WithLiteral)


def test_a_wrong_enum_value_lists_the_members():
    with pytest.raises(ValidationError, match=r"expected one of \[red, blue\]"):
        OmegaConf.update(OmegaConf.structured(Slotted), "colour", "green")


def test_optional_and_path_work():
    @dataclass
    class WithPath:
        count: int | None = None
        folder: Path = Path("a")

    config = OmegaConf.structured(WithPath)
    OmegaConf.update(config, "count", 3)
    OmegaConf.update(config, "folder", "b")
    assert (config.count, config.folder) == (3, Path("b"))


# Fact 2.


def test_a_frozen_dataclass_takes_no_override():
    @dataclass(frozen=True)
    class Frozen:
        size: int = 1

    with pytest.raises(ReadonlyConfigError):
        OmegaConf.update(OmegaConf.structured(Frozen), "size", 2)


# Fact 3.


def test_a_plus_attaches_a_stray_key_to_an_unslotted_object(composed):
    config = composed("+unslotted.stray=1")
    assert OmegaConf.to_object(config.unslotted).stray == 1


def test_a_plus_on_a_slotted_class_fails_only_at_to_object_and_barely(composed):
    config = composed("+slotted.stray=1")
    with pytest.raises(AttributeError):
        OmegaConf.to_object(config.slotted)


def test_a_plus_takes_a_group_that_the_defaults_list_lacks(composed):
    assert composed("+experiment=foo").slotted.size == 7


# Fact 4.


def test_post_init_runs_at_to_object_and_not_when_composing(composed):
    config = composed("slotted.size=-1")
    with pytest.raises(ValueError, match="must not be negative"):
        OmegaConf.to_object(config)
