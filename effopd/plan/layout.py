"""Which role gets how many GPUs: what `actors/build.py` asks Ray for, counted beforehand."""

from dataclasses import dataclass

from effopd.config.check import needs_teacher, needs_teacher_head
from effopd.config.schema import AlgorithmName, DebugMode, RunConfig


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Actors of a run. Every learner rank, teacher and reference has a GPU of its own, a sampler `tensor_parallel_size`."""

    num_ranks: int
    num_samplers: int
    tensor_parallel_size: int
    num_teachers: int
    num_references: int
    has_critic: bool
    has_teacher_head: bool
    """Whether every learner rank keeps the teacher's output head, for exact divergences."""

    @property
    def num_gpus(self) -> int:
        samplers = self.num_samplers * self.tensor_parallel_size
        return self.num_ranks + samplers + self.num_teachers + self.num_references

    def __str__(self) -> str:
        parts = [
            f"{self.num_ranks} learner ranks",
            f"{self.num_samplers} samplers x {self.tensor_parallel_size}",
            f"{self.num_teachers} teacher",
            f"{self.num_references} reference",
        ]
        return " + ".join(parts) + f" = {self.num_gpus} GPUs"


def layout_of(config: RunConfig) -> Layout:
    """Return the actors that `effopd train` would start with these settings."""
    is_replay = config.debug.mode is DebugMode.train_only
    has_head = needs_teacher_head(config)
    has_teacher = needs_teacher(config) and (not is_replay or has_head)
    return Layout(
        num_ranks=config.learner.num_ranks,
        num_samplers=0 if is_replay else config.rollout.num_samplers,
        tensor_parallel_size=config.rollout.tensor_parallel_size,
        num_teachers=int(has_teacher),
        num_references=int(needs_reference(config) and not is_replay),
        has_critic=config.algo.name is AlgorithmName.ppo,
        has_teacher_head=has_teacher and has_head,
    )


def needs_reference(config: RunConfig) -> bool:
    """Return whether the algorithm compares with the student as it was: `needs.reference` of the algorithms."""
    return config.algo.kl_coef > 0 or (config.algo.name is AlgorithmName.opd and config.algo.teacher_scale != 1)
