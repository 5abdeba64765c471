"""Whether a checkpoint is one of the model and the algorithm that are about to load it, judged by the headers of its files.

Checksums show that the files are those that were written. They do not show that the configuration beside them is still the
one that they were written under, nor that a file of the right name is a safetensors file at all.
"""

from collections.abc import Mapping
from pathlib import Path

from safetensors import SafetensorError

from effopd.checkpoints.learner_state import CRITIC_KINDS, OPTIMIZER_KINDS, read_progress
from effopd.checkpoints.snapshot import snapshot_path
from effopd.errors import CheckpointError
from effopd.weight_files import tensor_shapes


def require_fit(directory: Path, shapes: Mapping[str, tuple[int, ...]], *, has_critic: bool) -> None:
    """Raise CheckpointError, naming the file, unless a learner of these parameters can load the checkpoint.

    Nothing but headers is read.
    """
    progress = read_progress(directory)
    for kind in OPTIMIZER_KINDS:
        _require_shapes(snapshot_path(directory, kind), shapes)
    for kind in progress.kinds:
        _read(snapshot_path(directory, kind))
    critic = [snapshot_path(directory, kind) for kind in CRITIC_KINDS]
    for path in critic:
        if path.is_file() != has_critic:
            raise CheckpointError(
                f"{path}: {'no such file' if has_critic else 'there is a critic'}, and algo.name in config.yaml says "
                "otherwise; restore the config.yaml that the run was started with"
            )
        if has_critic:
            _read(path)


def _require_shapes(path: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
    stored = _read(path)
    for name in sorted(stored.keys() | shapes.keys()):
        if stored.get(name) != shapes.get(name):
            found, wanted = (str(list(one[name])) if name in one else "missing" for one in (stored, shapes))
            raise CheckpointError(
                f"{path}: {name} is {found} here and {wanted} in model.path of config.yaml; the checkpoint is of another "
                "model: restore the one that the run was started with"
            )


def _read(path: Path) -> dict[str, tuple[int, ...]]:
    try:
        return tensor_shapes(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: no readable safetensors file ({' '.join(str(error).split())})") from error
