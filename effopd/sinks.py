"""Weights & Biases and TensorBoard: further places for the scalars that the run folder already holds.

Neither is imported unless its sink is made. Weights & Biases gets the metrics and the settings, nothing about the machine,
its source or its environment, and in offline mode touches no network.
"""

import os
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

from effopd.config.schema import LoggerConfig, WandbMode
from effopd.durable import replace_file


class Sink(Protocol):
    """Takes scalars by step."""

    def log(self, step: int, scalars: Mapping[str, float]) -> None: ...

    def close(self) -> None: ...


class WandbSink:
    """One Weights & Biases run for the whole life of a run folder, resumes included."""

    def __init__(self, run_dir: Path, config: LoggerConfig, run_name: str, settings: Mapping[str, object]) -> None:
        # Read at import; without it the client reports its own errors to its makers.
        os.environ["WANDB_ERROR_REPORTING"] = "false"
        import wandb  # noqa: PLC0415  an optional heavy dependency

        self._run = wandb.init(
            project=config.wandb_project,
            name=run_name,
            id=_run_id(run_dir),
            dir=run_dir,
            mode=config.wandb.value,
            resume="allow",
            config=dict(settings),
            settings=wandb.Settings(
                console="off",
                silent=True,
                disable_code=True,
                disable_git=True,
                save_code=False,
                x_disable_machine_info=True,
                x_disable_meta=True,
                x_disable_stats=True,
            ),
        )
        # Steps as a metric of their own: the built-in step may never go back, which a resume does.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        self._run.log({"step": step, **scalars})

    def close(self) -> None:
        self._run.finish()


class TensorBoardSink:
    """Event files under `<run_dir>/tensorboard`."""

    def __init__(self, run_dir: Path, first_step: int) -> None:
        """`first_step` is the first step to be logged: TensorBoard hides what an earlier process logged from it on."""
        from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  an optional heavy dependency

        self._writer = SummaryWriter(str(run_dir / "tensorboard"), purge_step=first_step)

    def log(self, step: int, scalars: Mapping[str, float]) -> None:
        for name, value in scalars.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()


def open_sinks(
    run_dir: Path, config: LoggerConfig, run_name: str, settings: Mapping[str, object], first_step: int
) -> list[Sink]:
    """Return the sinks that the settings ask for."""
    sinks: list[Sink] = []
    if config.wandb != WandbMode.disabled:
        sinks.append(WandbSink(run_dir, config, run_name, settings))
    if config.tensorboard:
        sinks.append(TensorBoardSink(run_dir, first_step))
    return sinks


def _run_id(run_dir: Path) -> str:
    """Return the run's Weights & Biases id, made at its first start and kept in its folder."""
    path = run_dir / "wandb_id.txt"
    if not path.exists():
        replace_file(path, secrets.token_hex(4).encode())
    return path.read_text()
