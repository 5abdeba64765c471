"""Whole command lines in this process, up to the point where engines would start, which none of these may reach."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from effopd import launch
from effopd.cli import main


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one command line said."""

    code: int
    lines: list[str]
    """Of standard error."""

    @property
    def only_line(self) -> str:
        """The one line, without the name of the program before it."""
        assert len(self.lines) == 1, self.lines
        assert self.lines[0].startswith("effopd: "), self.lines
        return self.lines[0]


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Runs `effopd train` on the toy experiment, with `arguments` added, or on a run to resume."""

    def start(*arguments: object) -> None:
        raise AssertionError("nothing may start")

    monkeypatch.setattr(launch, "start", start)

    def run(*arguments: str) -> Outcome:
        toy = ["experiment=toy_opd", "cluster=local", "rollout=hf", "eval=none", f"output_dir={tmp_path / 'run'}"]
        is_resumed = any(argument.startswith("resume=") for argument in arguments)
        code = main(["train", *([] if is_resumed else toy), *arguments])
        return Outcome(code, capfd.readouterr().err.splitlines())

    return run
