"""Actors that die by themselves, for real, in the middle of a call that a test has chosen."""

import os
import signal
from pathlib import Path
from threading import Lock
from typing import Any

import ray

from effopd.actors.controller import ControllerActor
from effopd.actors.learner import LearnerActor
from effopd.actors.sampler import SamplerActor
from effopd.actors.teacher import TeacherActor
from effopd.actors.verifier import VerifierActor


def plant(folder: Path, call: str, num_answered: int = 0) -> None:
    """Let the actor die in the `num_answered + 1`-th call of, e.g., `sampler.generate`: a file says so."""
    (folder / call).write_text(f"{num_answered} 0")


def plant_sigterm(folder: Path, call: str, num_answered: int) -> None:
    """Let the actor send SIGTERM to this process, instead of dying."""
    (folder / call).write_text(f"{num_answered} {os.getpid()}")


def mortals(folder: Path) -> dict[str, Any]:
    """Return actor classes by the name that `effopd.actors.build` knows the immortal ones by."""
    return {
        "SamplerActor": _mortal(SamplerActor, folder, "sampler", ("load", "generate", "piece")),
        "TeacherActor": _mortal(TeacherActor, folder, "teacher", ("score",)),
        "VerifierActor": _mortal(VerifierActor, folder, "verifier", ("rewards",)),
        "LearnerActor": _mortal(LearnerActor, folder, "learner", ("update", "write_candidate", "read")),
        "ControllerActor": _mortal(ControllerActor, folder, "controller", ("save",)),
    }


def _mortal(actor_class: Any, folder: Path, role: str, methods: tuple[str, ...]) -> Any:
    original = actor_class.__ray_metadata__.modified_class.__ray_actor_class__

    def dying(method: str) -> Any:
        def call(self: Any, *arguments: Any) -> Any:
            fault = folder / f"{role}.{method}"
            with self.__dict__.setdefault("_fault_lock", Lock()):  # calls may come on several threads
                left, victim = map(int, fault.read_text().split()) if fault.exists() else (-1, 0)
                if left >= 0:
                    fault.write_text(f"{left - 1} {victim}") if left else fault.unlink()
            if left == 0 and victim:
                os.kill(victim, signal.SIGTERM)
            elif left == 0:
                # Its work is done when it dies, but for the answer, and nobody may take it for done.
                getattr(original, method)(self, *arguments)
                os._exit(1)
            return getattr(original, method)(self, *arguments)

        return call

    return ray.remote(type(f"Mortal{original.__name__}", (original,), {method: dying(method) for method in methods}))
