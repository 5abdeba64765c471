"""Host memory that processes take for themselves before they load a model: the least that a plan must find.

Measured on CPUs as private pages, with tiny models, and rounded down; what a model, its gradients and its optimizer take is for
`effopd plan` to say.
"""

from effopd.config.schema import RolloutConfig, RolloutEngine

PROCESS_GIB = 0.15
"""With Ray and torch."""
ENGINE_GIB = 0.25
"""With transformers or DeepSpeed."""
VLLM_GIB = 0.4
"""Without its cache."""


def sampler_gib(rollout: RolloutConfig, num_gpus: int) -> float:
    """Return what one sampler takes; without a GPU its cache is in host memory."""
    if rollout.engine is RolloutEngine.hf:
        return ENGINE_GIB
    return VLLM_GIB + (rollout.kv_cache_gib if num_gpus == 0 else 0.0)
