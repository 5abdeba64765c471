"""`effopd`, with learner ranks that make one gradient not finite for every file in the folder that the first argument names.

Nothing in effopd does such a thing on request. Here a response's scores arrive as NaN, as they would from a broken teacher,
in the next update and nowhere else: a gate that met them would decide otherwise, and so would the run from there on.
"""

import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import ray
from torch import Tensor

from effopd.actors import build
from effopd.actors.learner import LearnerActor
from effopd.cli import main
from effopd.handles import to_train_on
from effopd.types import Rollout, ScoredRollout, TeacherScores, UpdateReport


def poisoned(item: ScoredRollout) -> ScoredRollout:
    """Return a scored response of which the teacher says NaN."""
    assert item.teacher is not None, "toy_effopd has a teacher"
    return replace(
        item,
        teacher=TeacherScores(
            sampled=_nan_like(item.teacher.sampled), hidden_states=_nan_like(item.teacher.hidden_states)
        ),
    )


def _nan_like(scores: Tensor | None) -> Tensor | None:
    return None if scores is None else scores.new_full(scores.shape, float("nan"))


def poisonable(folder: Path) -> type:
    """Return the learner's class with an `update` that looks into `folder`."""
    original = LearnerActor.__ray_metadata__.modified_class.__ray_actor_class__

    def update(
        self: object,
        rewards: Mapping[tuple[str, int], float] | None,
        *parts: Sequence[Rollout | ScoredRollout],
    ) -> UpdateReport:
        items = to_train_on((item for part in parts for item in part), rewards)
        for poison in sorted(folder.glob("poison-*"))[:1]:
            with suppress(FileNotFoundError):  # another rank was faster
                poison.unlink()
                items[0] = poisoned(items[0])
        return original.update(self, None, items)

    return type(original.__name__, (original,), {"update": update})  # by the same name, under which it is looked for


if __name__ == "__main__":
    build.LearnerActor = ray.remote(poisonable(Path(sys.argv[1])))
    sys.exit(main(sys.argv[2:]))
