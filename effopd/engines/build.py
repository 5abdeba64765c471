"""From settings to engines. Runtimes call this in whatever process an engine is to live."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from effopd.algorithms.build import build_algorithm
from effopd.config.schema import AlgoConfig, Device, LearnerConfig, MovedParameters, RolloutConfig, RolloutEngine
from effopd.engines.deepspeed_learner import DeepSpeedLearner
from effopd.engines.hf_sampler import HFSampler
from effopd.engines.vllm_sampler import VLLMSampler
from effopd.extrapolation.selection import moved_parameters


def build_sampler(
    config: RolloutConfig, model_path: str, *, max_model_len: int, device: Device, seed: int
) -> VLLMSampler | HFSampler:
    """Start the engine that `rollout.engine` names."""
    match config.engine:
        case RolloutEngine.vllm:
            return VLLMSampler(config, model_path, max_model_len=max_model_len, device=device, seed=seed)
        case RolloutEngine.hf:
            return HFSampler(config, model_path, max_model_len=max_model_len, device=device, seed=seed)


@dataclass(frozen=True, slots=True, kw_only=True)
class LearnerSetup:
    """Everything a rank needs to begin a run, but its rank."""

    config: LearnerConfig
    algo: AlgoConfig
    moved: MovedParameters | None
    """None when nothing is ever extrapolated, and then there is no anchor."""
    model_path: str
    attn_implementation: str
    num_steps: int
    device: Device
    segment_path: Path


def build_learner(
    setup: LearnerSetup, teacher_head: Tensor | None, *, rank: int, world_size: int, init_method: str
) -> DeepSpeedLearner:
    """Start one rank. Collective: returns when every rank was started."""
    return DeepSpeedLearner(
        setup.config,
        model_path=setup.model_path,
        attn_implementation=setup.attn_implementation,
        algorithm=build_algorithm(setup.algo),
        teacher_head=teacher_head,
        moved=(lambda name, shape: False) if setup.moved is None else moved_parameters(setup.moved),
        num_steps=setup.num_steps,
        rank=rank,
        world_size=world_size,
        init_method=init_method,
        device=setup.device,
        segment_path=setup.segment_path if rank == 0 else None,
    )
