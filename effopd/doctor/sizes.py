"""How many bytes the parts of a run take, from the number of parameters."""

from pathlib import Path

from effopd.config.schema import AlgorithmName, Dtype, RunConfig, TeacherConfig
from effopd.extrapolation.copies import num_trigger_copies
from effopd.preflight import ModelFiles

BYTES_OF = {Dtype.float32: 4, Dtype.bfloat16: 2}


def checkpoint_bytes(student: ModelFiles, config: RunConfig) -> int:
    """Return an upper bound of one checkpoint: all float32, and as if every parameter were moved.

    Master weights and two moments; what extrapolation keeps between triggers; the critic's three.
    """
    num_copies = 3 + num_trigger_copies(config.accelerate).num_saved
    if config.algo.name is AlgorithmName.ppo:
        num_copies += 3
    return student.num_parameters * 4 * num_copies


def num_checkpoints(config: RunConfig) -> int:
    """Return how many are on the disk at a time: those kept, the best one, and the one that is being written; no more than
    the run writes."""
    every = config.checkpoint.every or config.num_steps
    num_saves = -(-config.num_steps // every)
    return min(config.checkpoint.keep_last + config.checkpoint.keep_best + 1, num_saves)


def segment_bytes(student: ModelFiles, config: RunConfig) -> int:
    """Return what one publish takes of shared memory: the learner casts to its own precision before it publishes."""
    return student.num_parameters * BYTES_OF[config.learner.dtype]


def teacher_bytes(teacher: ModelFiles, config: TeacherConfig) -> tuple[int, int]:
    """Return the bytes of the teacher's weights, and of the logits of one chunk of tokens.

    A chunk's [tokens, V] logits exist in the teacher's precision, in float32 where that is another, and once more as
    log-probabilities.
    """
    width = BYTES_OF[config.dtype]
    copies = width + (4 if config.dtype is not Dtype.float32 else 0) + 4
    return teacher.num_parameters * width, config.logit_chunk_tokens * teacher.vocabulary_size * copies


def available_memory() -> int:
    """Return the bytes that new work can take without swapping, by Linux's own estimate."""
    lines = Path("/proc/meminfo").read_text().splitlines()
    fields = dict(line.split(":", 1) for line in lines)
    return int(fields["MemAvailable"].split()[0]) * 1024


def shown_bytes(num_bytes: int) -> str:
    """`1.5 GiB`."""
    value, units = float(num_bytes), ["B", "KiB", "MiB", "GiB"]
    while value >= 1024 and len(units) > 1:
        value, units = value / 1024, units[1:]
    return f"{value:.0f} {units[0]}" if value >= 100 or units[0] == "B" else f"{value:.1f} {units[0]}"
