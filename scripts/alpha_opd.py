"""AlphaOPD, a baseline: jump to the weights that the early checkpoints of a run predict for a higher score.

    effopd train experiment=toy_opd output_dir=runs/early num_steps=30 checkpoint.every=5 checkpoint.keep_last=6 eval.every=5
    python scripts/alpha_opd.py runs/early --target 1.0 --output runs/alpha
    effopd eval model.path=runs/alpha data=toy_sums

Attention and MLP matrices become those of the student plus the predicted rank-one update; everything else is as at the last
checkpoint. Source: `effopd/extrapolation/rank_one.py`.
"""

import argparse
import logging
from pathlib import Path

import torch
from safetensors.torch import load_file, save_file

from effopd.checkpoints.reading import Checkpoint, list_checkpoints, read_checkpoint
from effopd.checkpoints.snapshot import snapshot_path
from effopd.config.register import read_config
from effopd.config.schema import MovedParameters
from effopd.errors import ConfigError
from effopd.export import export_run
from effopd.extrapolation.rank_one import predicted_update
from effopd.extrapolation.selection import moved_parameters
from effopd.model_folders import resolve_model_path
from effopd.types import ShardKind

_logger = logging.getLogger("alpha_opd")


def scored_checkpoints(run: Path, until: int | None) -> list[Checkpoint]:
    """Return the checkpoints of a run that were saved with a score, in order, up to step `until`."""
    found = [
        read_checkpoint(folder) for step, folder in list_checkpoints(run).items() if until is None or step <= until
    ]
    scored = [checkpoint for checkpoint in found if checkpoint.score is not None]
    if len(scored) < 2:
        raise ConfigError(
            f"run={run}: {len(scored)} checkpoints have a score, and two are needed; train with checkpoint.every a multiple "
            "of eval.every, and checkpoint.keep_last large enough"
        )
    return scored


def write_prediction(run: Path, checkpoints: list[Checkpoint], target: float, output: Path) -> None:
    """Write the predicted weights as a Hugging Face folder, float32."""
    is_moved = moved_parameters(MovedParameters.matrices)
    before: dict[str, torch.Tensor] = {}
    for file in resolve_model_path("model.path", read_config(run / "config.yaml").model.path).glob("*.safetensors"):
        before |= load_file(file)
    masters = [load_file(snapshot_path(checkpoint.directory, ShardKind.MASTER)) for checkpoint in checkpoints]
    scores = [checkpoint.score for checkpoint in checkpoints if checkpoint.score is not None]
    predicted: dict[str, torch.Tensor] = {}
    for name, start in before.items():
        if is_moved(name, tuple(start.shape)):
            updates = [master[name].float() - start.float() for master in masters]
            predicted[name] = start.float() + predicted_update(updates, scores, target)
    # Nothing is written before all of it is known.
    export_run(run, output, checkpoint=str(checkpoints[-1].state.step), dtype="float32")
    for file in output.glob("*.safetensors"):
        weights = load_file(file)
        save_file({name: predicted.get(name, weight) for name, weight in weights.items()}, file, {"format": "pt"})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a run whose checkpoints were kept")
    parser.add_argument(
        "--until", type=int, help="last step to look at; the paper's comparison looks at the first 30 %%"
    )
    parser.add_argument("--target", type=float, required=True, help="score to predict the weights for")
    parser.add_argument("--output", type=Path, required=True, help="model folder to write")
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        checkpoints = scored_checkpoints(arguments.run, arguments.until)
        write_prediction(arguments.run, checkpoints, arguments.target, arguments.output)
    except (ConfigError, ValueError) as error:
        parser.exit(2, f"alpha_opd: {error}\n")
    steps = ", ".join(f"{checkpoint.state.step} ({checkpoint.score:.3f})" for checkpoint in checkpoints)
    _logger.info("%s: predicted from steps %s for a score of %g", arguments.output, steps, arguments.target)


if __name__ == "__main__":
    main()
