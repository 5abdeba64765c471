"""From settings to engines. Runtimes call this in whatever process an engine is to live."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from torch import Tensor

from effopd.algorithms.build import build_algorithm
from effopd.config.schema import AccelerateConfig, AlgoConfig, Device, LearnerConfig, RolloutConfig, RolloutEngine
from effopd.engines.deepspeed_learner import DeepSpeedLearner
from effopd.engines.hf_sampler import HFSampler
from effopd.engines.vllm_sampler import VLLMSampler
from effopd.errors import ConfigError
from effopd.extrapolation.selection import moved_parameters
from effopd.types import GenerateRequest, PolicyVersion, Publication, Rollout


class SamplerEngine(Protocol):
    """One engine that samples; `engines.vllm_sampler` and `engines.hf_sampler` are such."""

    def load(self, publication: Publication) -> None: ...

    def generate(self, request: GenerateRequest, version: PolicyVersion) -> list[Rollout]: ...

    def stream(
        self, request: GenerateRequest, version: PolicyVersion, num_pieces: int
    ) -> Iterator[tuple[int, list[Rollout]]]:
        """Yield what `generate` returns, bit for bit, in `num_pieces` pieces of consecutive prompts, each as soon as it is
        finished: its number and its responses."""
        ...

    def close(self) -> None: ...


def build_sampler(
    config: RolloutConfig, model_path: str, *, max_model_len: int, device: Device, seed: int
) -> SamplerEngine:
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
    accelerate: AccelerateConfig | None
    """None when nothing is ever extrapolated, and then there is no anchor."""
    model_path: str
    attn_implementation: str
    max_response_len: int
    num_steps: int
    device: Device
    segment_folder: Path


def build_learner(
    setup: LearnerSetup, teacher_head: Tensor | None, *, rank: int, world_size: int, init_method: str
) -> DeepSpeedLearner:
    """Start one rank. Collective: returns when every rank was started."""
    accelerate = setup.accelerate
    learner = DeepSpeedLearner(
        setup.config,
        model_path=setup.model_path,
        attn_implementation=setup.attn_implementation,
        algorithm=build_algorithm(setup.algo, setup.max_response_len),
        algo=setup.algo,
        teacher_head=teacher_head,
        accelerate=accelerate or AccelerateConfig(),
        moved=(lambda name, shape: False) if accelerate is None else moved_parameters(accelerate.moved),
        num_steps=setup.num_steps,
        rank=rank,
        world_size=world_size,
        init_method=init_method,
        device=setup.device,
        segment_folder=setup.segment_folder if rank == 0 else None,
    )
    if accelerate is not None and learner.num_moved_parameters == 0:
        raise ConfigError(
            f"accelerate.moved={accelerate.moved}: matches no parameter of {setup.model_path}, whose modules have other names; "
            "use accelerate.moved=all"
        )
    return learner
