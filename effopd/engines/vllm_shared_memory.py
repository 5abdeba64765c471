"""A weight-transfer engine for vLLM that reads weights from a shared-memory segment of this machine.

vLLM brings engines for GPUs (NCCL, CUDA IPC) and lets others register; this one is called `shared_memory`. It works with
every vLLM build, because what it hands to vLLM's own layerwise reload are ordinary CPU tensors: views of the segment.
Importing this module registers the engine. It neither decides when to load nor verifies versions: the sampler does.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch
from vllm.config import VllmConfig
from vllm.config.weight_transfer import WeightTransferConfig
from vllm.distributed.weight_transfer.base import (
    WeightTransferEngine,
    WeightTransferInitInfo,
    WeightTransferUpdateInfo,
)
from vllm.distributed.weight_transfer.factory import WeightTransferEngineFactory
from vllm.model_executor.layers.quantization.base_config import QuantizeMethodBase
from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead, VocabParallelEmbedding
from vllm.model_executor.model_loader.mtp_validation import disable_mtp_completeness_check
from vllm.model_executor.model_loader.reload import finalize_layerwise_reload, initialize_layerwise_reload
from vllm.model_executor.model_loader.reload.layerwise import get_layerwise_info
from vllm.platforms import current_platform

from effopd.types import TensorSlot
from effopd.weights import SegmentReaders

ENGINE_NAME = "shared_memory"


@dataclass
class SharedMemoryInitInfo(WeightTransferInitInfo):
    """Nothing: there is no peer to meet."""


@dataclass
class SharedMemoryUpdateInfo(WeightTransferUpdateInfo):
    """One bucket of a publication, in plain types that vLLM can send to its workers."""

    segment: str
    """Path of the memory-mapped file."""
    slots: list[dict[str, Any]]
    """Fields of `TensorSlot`, one dictionary per tensor."""


class SharedMemoryWorkerExtension:
    """Joins the classes that vLLM's worker inherits from, in every worker process, which so imports this module."""

    weight_transfer_engine: "SharedMemoryWeightTransferEngine"
    """The worker's own attribute."""

    def layers_without_weights(self) -> list[str]:
        """Return the layers that the last finished update gave no weights. vLLM itself only logs them."""
        return self.weight_transfer_engine.layers_without_weights


class SharedMemoryWeightTransferEngine(WeightTransferEngine[SharedMemoryInitInfo, SharedMemoryUpdateInfo]):
    """Receives weights in checkpoint format: names and shapes are those of the Hugging Face model."""

    init_info_cls = SharedMemoryInitInfo
    update_info_cls = SharedMemoryUpdateInfo

    def __init__(
        self, config: WeightTransferConfig, vllm_config: VllmConfig, device: torch.device, model: torch.nn.Module
    ) -> None:
        super().__init__(config, vllm_config, device, model)
        self._readers = SegmentReaders()
        self._tied_heads: list[ParallelLMHead] = []
        self.layers_without_weights: list[str] = []

    def init_transfer_engine(self, init_info: SharedMemoryInitInfo) -> None:
        pass

    def start_weight_update(self) -> None:
        self._tied_heads = _tied_heads(self.model)
        initialize_layerwise_reload(self.model)

    def update_weights(self, update_info: dict[str, Any]) -> None:
        self.receive_weights(self.parse_update_info(update_info))
        # The inherited method synchronises unconditionally, which raises where there is no accelerator.
        if torch.accelerator.is_available():
            torch.accelerator.synchronize()

    def receive_weights(self, update_info: SharedMemoryUpdateInfo) -> None:
        slots = [TensorSlot(**slot) for slot in update_info.slots]
        load_weights = cast(Callable[[list[tuple[str, torch.Tensor]]], object], self.model.load_weights)
        try:
            with disable_mtp_completeness_check():
                load_weights(self._readers.of(update_info.segment).tensors(slots))
        except Exception:
            # Ends the reload. The next one would else count what this one has loaded, and leave layers half old.
            finalize_layerwise_reload(self.model, self.model_config)
            raise

    def finish_weight_update(self) -> None:
        self.layers_without_weights = [
            name
            for name, module in self.model.named_modules()
            if module not in self._tied_heads and _has_no_new_weights(module)
        ]
        finalize_layerwise_reload(self.model, self.model_config)
        # vLLM's CPU layers multiply with a packed copy of their weight, which the reload makes anew for every layer that
        # loads something. A tied head loads nothing, its embedding does, and so it would keep the old copy: sampled
        # log-probabilities would be those of a model that never existed, without an error.
        if current_platform.is_cpu():
            for head in self._tied_heads:
                cast(QuantizeMethodBase, head.quant_method).process_weights_after_loading(head)

    def shutdown(self) -> None:
        self._readers.close()


def _tied_heads(model: torch.nn.Module) -> list[ParallelLMHead]:
    """Return the output heads whose weight is also that of an input embedding."""
    embeddings = [
        module
        for module in model.modules()
        if isinstance(module, VocabParallelEmbedding) and not isinstance(module, ParallelLMHead)
    ]
    return [
        head
        for head in model.modules()
        if isinstance(head, ParallelLMHead) and any(head.weight is embedding.weight for embedding in embeddings)
    ]


def _has_no_new_weights(module: torch.nn.Module) -> bool:
    """Return whether `module` has parameters and a running reload gave it none. One that is complete has left the reload."""
    info = get_layerwise_info(module)
    return info.can_load() and info.load_numel == 0 and info.kernel_tensors is not None and bool(info.kernel_tensors[0])


def register() -> None:
    """Make the engine known to vLLM in this process; again is harmless."""
    if ENGINE_NAME not in WeightTransferEngineFactory._registry:
        WeightTransferEngineFactory.register_engine(ENGINE_NAME, SharedMemoryWeightTransferEngine)


register()
