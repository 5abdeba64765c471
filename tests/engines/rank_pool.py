"""Processes that form one process group and run many cases, so that a case costs no interpreter start."""

import gc
import multiprocessing
import os
import sys
import traceback
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

CASE_TIMEOUT = 120  # seconds

os.environ["OMP_NUM_THREADS"] = "1"
os.environ["OMP_WAIT_POLICY"] = "PASSIVE"
os.environ["DS_ACCELERATOR"] = "cpu"
CONTEXT = multiprocessing.get_context("forkserver")
# The server imports once; every rank is forked from it.
CONTEXT.set_forkserver_preload(
    ["deepspeed", "transformers.models.qwen3.modeling_qwen3", "learner_rl_cases", "trigger_cases", "preset_cases"]
)


def _serve(rank: int, world_size: int, init_file: str, tasks: Any, results: Any) -> None:
    import torch
    import torch.distributed as dist

    os.environ["TORCH_EXTENSIONS_DIR"] = str(Path(init_file).parent / "compiled")
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo",
        init_method=f"file://{init_file}",
        rank=rank,
        world_size=world_size,
        timeout=timedelta(seconds=CASE_TIMEOUT),
    )
    while (task := tasks.get()) is not None:
        function, arguments = task
        # DeepSpeed collects garbage eight times per engine, which takes longer than a case when it looks at every module.
        gc.freeze()
        try:
            results.put((rank, True, function(rank, world_size, **arguments)))
        except Exception:
            results.put((rank, False, traceback.format_exc()))


class RankPool:
    """`world_size` processes. After a failed case the processes are replaced, for their collectives may be out of step."""

    def __init__(self, world_size: int, folder: Path) -> None:
        self.world_size = world_size
        self._folder = folder
        self._num_starts = 0
        self._processes: list[Any] = []

    def run(self, function: Callable[..., Any], **arguments: Any) -> list[Any]:
        """Return what `function(rank, world_size, **arguments)` returned on every rank."""
        if not self._processes:
            self._start()
        for tasks in self._tasks:
            tasks.put((function, arguments))
        outcomes: dict[int, Any] = {}
        try:
            for _ in range(self.world_size):
                rank, is_ok, outcome = self._results.get(timeout=2 * CASE_TIMEOUT)
                if not is_ok:
                    raise AssertionError(f"rank {rank} of {self.world_size}:\n{outcome}")
                outcomes[rank] = outcome
        except BaseException:
            self.stop()
            raise
        return [outcomes[rank] for rank in range(self.world_size)]

    def stop(self) -> None:
        for process in self._processes:
            process.terminate()
        for process in self._processes:
            process.join()
        self._processes = []

    def _start(self) -> None:
        self._num_starts += 1
        init_file = str(self._folder / f"init-{self.world_size}-{self._num_starts}")
        self._results = CONTEXT.Queue()
        self._tasks = [CONTEXT.Queue() for _ in range(self.world_size)]
        self._processes = [
            CONTEXT.Process(target=_serve, args=(rank, self.world_size, init_file, tasks, self._results), daemon=True)
            for rank, tasks in enumerate(self._tasks)
        ]
        for process in self._processes:
            process.start()


# Cases are found by module name in the ranks, and test modules are not importable by name.
if str(Path(__file__).parent) not in sys.path:
    sys.path.insert(0, str(Path(__file__).parent))
