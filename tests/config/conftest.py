"""A command line that starts nothing: `effopd.launch` and `effopd.scoring` are replaced by a module that remembers what it was
given."""

import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType

import pytest

from effopd.cli import main
from effopd.config.schema import RunConfig


class FakeLaunch(ModuleType):
    """Stands in for both."""

    def __init__(self) -> None:
        super().__init__("effopd.launch")
        self.started: list[RunConfig] = []
        self.error: BaseException | None = None

    def train(self, config: RunConfig) -> None:
        self.started.append(config)
        if self.error is not None:
            raise self.error

    evaluate = train


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one command line did."""

    code: int
    stdout: str
    stderr: str
    configs: list[RunConfig] = field(default_factory=list)


@pytest.fixture
def launch(monkeypatch: pytest.MonkeyPatch) -> FakeLaunch:
    module = FakeLaunch()
    monkeypatch.setitem(sys.modules, "effopd.launch", module)
    monkeypatch.setitem(sys.modules, "effopd.scoring", module)
    return module


@pytest.fixture
def effopd(launch: FakeLaunch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs `effopd <arguments>` in this process."""

    def run(*arguments: str) -> Outcome:
        launch.started.clear()
        code = main(arguments)
        captured = capfd.readouterr()
        return Outcome(code, captured.out, captured.err, list(launch.started))

    return run
