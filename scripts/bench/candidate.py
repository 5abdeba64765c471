"""Writing one candidate, and rolling back, against memcpy of the same bytes.

On a random 0.5B-parameter model in bfloat16 at ZeRO-0 on one rank. The bytes are the float32 bytes of the moved
parameters (the attention and MLP matrices), copied from one warm buffer to another by as many threads. Writing a
candidate computes them from two float32 originals and then rounds *all* masters, the embedding included, into the
weights of the forward pass; rolling back is writing the candidate of step size 0. Goals: at least 0.30 of memcpy; and
at most 2 float32 copies of the moved parameters beyond DeepSpeed's own state, through a whole trigger.

    python scripts/bench/candidate.py
"""

import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from measure import Comparison, alternate, argument_parser, parse, peak_growth, report, resident_bytes
from random_models import write_half_billion

from effopd.algorithms.opd import OPD
from effopd.algorithms.surrogate import Clipping
from effopd.config.schema import AccelerateConfig, AlgoConfig, Device, Dtype, LearnerConfig, MovedParameters
from effopd.engines.deepspeed_learner import DeepSpeedLearner
from effopd.extrapolation.selection import moved_parameters
from effopd.types import Settlement, ShardKind

SPEED_GOAL = 0.30
MEMORY_GOAL = 2.0
STEP_SIZE = 2.0


def make_learner(
    model_path: str, num_threads: int, folder: Path, segment_folder: Path | None, *, is_moved: bool
) -> DeepSpeedLearner:
    config = LearnerConfig(dtype=Dtype.bfloat16, num_threads=num_threads)
    return DeepSpeedLearner(
        config,
        model_path=model_path,
        attn_implementation="sdpa",
        algorithm=OPD(Clipping(low=0.2, high=0.2, dual=3.0), importance_cap=5.0),
        algo=AlgoConfig(),
        teacher_head=None,
        accelerate=AccelerateConfig(),
        moved=moved_parameters(MovedParameters.matrices) if is_moved else (lambda name, shape: False),
        num_steps=1000,
        rank=0,
        world_size=1,
        init_method=f"file://{folder}/rendezvous",
        device=Device.cpu,
        segment_folder=segment_folder,
    )


def compare(learner: DeepSpeedLearner, model_path: str, folder: Path, arguments) -> list[Comparison]:
    moved = [fragment for fragment in learner.fragments() if fragment.is_moved]
    num_bytes = 4 * sum(fragment.num_elements for fragment in moved)
    # The trigger's anchor came with the learner; what else it takes, it takes now.
    anchor_bytes = sum(learner.read(ShardKind.ANCHOR, [fragment.name])[fragment.name].nbytes for fragment in moved)
    assert anchor_bytes == num_bytes, "the anchor covers the moved parameters"
    before = resident_bytes()

    def whole_trigger() -> None:
        learner.open_trigger()
        learner.write_candidate(STEP_SIZE)
        learner.write_candidate(0.0)
        learner.close_trigger(Settlement(step_size=0.0))

    peak = peak_growth(whole_trigger)
    kept = resident_bytes() - before
    again = peak_growth(whole_trigger)  # from the second trigger on, with a previous displacement
    copies = 1 + max(peak, kept + again) / num_bytes

    learner.open_trigger()
    source = torch.ones(num_bytes // 4)
    target = torch.zeros_like(source)

    def seconds(action: Callable[[], object]) -> float:
        start = time.perf_counter()
        action()
        return time.perf_counter() - start

    comparisons = []
    for name, step_size in (("writing a candidate", STEP_SIZE), ("rolling back", 0.0)):
        candidate, baseline = alternate(
            arguments.rounds,
            lambda step_size=step_size: seconds(lambda: learner.write_candidate(step_size)),
            lambda: seconds(lambda: target.copy_(source)),
        )
        comparisons.append(
            Comparison(
                what=f"{name}, 0.5B parameters in bfloat16",
                baseline_name=f"memcpy of the {num_bytes / 2**20:.0f} MiB of moved float32 parameters",
                unit="s",
                candidate=candidate,
                baseline=baseline,
                is_speed=True,
                goal=SPEED_GOAL,
            )
        )
    learner.close_trigger(Settlement(step_size=0.0))
    memory = Comparison(
        what="memory beyond DeepSpeed's own state, anchor and peak of two triggers",
        baseline_name="one float32 copy of the moved parameters",
        unit="MiB",
        candidate=[copies * num_bytes / 2**20],
        baseline=[num_bytes / 2**20],
        is_speed=False,
        goal=MEMORY_GOAL,
        is_goal_a_minimum=False,
        notes={"temporary, per trigger (MiB)": max(peak - kept, again) / 2**20},
    )
    return [*comparisons, memory]


def main() -> None:
    arguments = parse(argument_parser(__doc__))
    with TemporaryDirectory() as name:
        folder = Path(name)
        model_path = str(write_half_billion(folder / "model", arguments.seed))
        learner = make_learner(model_path, arguments.threads, folder, None, is_moved=True)
        report(arguments, compare(learner, model_path, folder, arguments))
        learner.close()


if __name__ == "__main__":
    main()
