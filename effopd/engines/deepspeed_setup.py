"""Bringing DeepSpeed up: accelerator, process group, settings, engine.

DeepSpeed is imported inside functions because it chooses its accelerator at that moment.
"""

import io
import logging
import os
import warnings
from collections.abc import Sequence
from contextlib import AbstractContextManager, redirect_stdout
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from effopd.config.schema import Device, Dtype, LearnerConfig
from effopd.engines.rendezvous import join_process_group

_MAX_REDUCE_BUCKET = 200_000_000  # elements; DeepSpeed allocates the whole bucket at once
_PERSISTENT_ELEMENTS = 100_000  # ZeRO-3 keeps parameters up to this size whole on every rank between steps


def resolve_device(device: Device) -> torch.device:
    """Return the device that a learner rank works on; each rank sees one GPU."""
    use_cuda = device is Device.cuda or (device is Device.auto and torch.cuda.is_available())
    return torch.device("cuda", 0) if use_cuda else torch.device("cpu")


def init_deepspeed(device: torch.device, init_method: str, rank: int, world_size: int) -> None:
    """Import DeepSpeed for `device` and join the default process group, or take over the one that exists."""
    os.environ["DS_ACCELERATOR"] = device.type
    os.environ.setdefault("LOCAL_RANK", "0")  # each rank sees one GPU
    logging.getLogger("DeepSpeed").setLevel(logging.WARNING)
    # DeepSpeed calls collectives under names that torch is about to retire, and torch says so at every call.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\.c10d_logger")
    import deepspeed  # noqa: PLC0415
    from deepspeed.ops.op_builder.cpu import ShareMemCommBuilder  # noqa: PLC0415

    # This op serves DeepSpeed's inference only, but joining a process group on a CPU would compile it, which takes
    # minutes, and wait for ever on the lock file of a compilation that was killed.
    deepspeed.ops.__compatible_ops__[ShareMemCommBuilder.NAME] = False  # pyright: ignore
    backend = "nccl" if device.type == "cuda" else "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        join_process_group(backend, init_method, rank, world_size)
    assert (dist.get_rank(), dist.get_world_size()) == (rank, world_size), (
        f"this process already is rank {dist.get_rank()} of {dist.get_world_size()}, not rank {rank} of {world_size}"
    )
    deepspeed.init_distributed(backend, auto_mpi_discovery=False, verbose=False)


def build_engine(
    module: nn.Module, config: LearnerConfig, device: torch.device, external: Sequence[nn.Parameter]
) -> Any:
    """Return a DeepSpeed engine around `module`, on `device`, with AdamW on every parameter, weight decay included.

    `external`: parameters that the forward uses outside the module they belong to.
    Under ZeRO-3 `device` never holds more than one whole parameter beside this rank's part.
    """
    import deepspeed  # noqa: PLC0415

    parameters = list(module.parameters())
    settings = _settings(config, sum(parameter.numel() for parameter in parameters))
    if config.zero_stage == 3:
        # The engine would partition, too, but only after moving the whole model to the device. Having partitioned, it
        # leaves buffers where they are.
        deepspeed.zero.Init(
            module=module, mem_efficient_linear=False, config_dict_or_path=settings, dtype=parameters[0].dtype
        )
        for buffer in module.buffers():
            buffer.data = buffer.data.to(device)
    # The rate is set before every step. Until then it is 0, because at stage 0 in bfloat16 DeepSpeed takes a step with
    # zero gradients while it starts, which at any other rate would decay the weights.
    optimizer = torch.optim.AdamW(
        parameters,
        lr=0.0,
        betas=(config.beta1, config.beta2),
        eps=config.eps,
        weight_decay=config.weight_decay,
        fused=True,
    )
    with redirect_stdout(io.StringIO()):  # memory statistics that cannot be switched off
        engine, *_ = deepspeed.initialize(model=module, optimizer=optimizer, config=settings, dist_init_required=False)
    if config.zero_stage == 3:
        # What is applied functionally is never gathered by a module of its own; the outermost module holds it throughout.
        for parameter in external:
            deepspeed.zero.register_external_parameter(module, parameter)
    return engine


def gathered(parameters: Sequence[nn.Parameter]) -> AbstractContextManager[None]:
    """Make ZeRO-3 parameters whole inside a `with`, for reading. Collective: every rank, same parameters."""
    import deepspeed  # noqa: PLC0415

    return deepspeed.zero.GatheredParameters(list(parameters))


def _settings(config: LearnerConfig, num_parameters: int) -> dict[str, Any]:
    settings: dict[str, Any] = {
        # Batch sizes are bookkeeping of DeepSpeed's; micro-batches are cut by tokens and the boundary is set by hand.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.max_grad_norm,
        "zero_optimization": {
            "stage": config.zero_stage,
            "reduce_bucket_size": min(num_parameters, _MAX_REDUCE_BUCKET),
            "stage3_param_persistence_threshold": _PERSISTENT_ELEMENTS,
        },
        "bf16": {"enabled": config.dtype is Dtype.bfloat16},
    }
    if config.dtype is Dtype.bfloat16 and config.zero_stage > 0:
        # Sums over micro-batches and ranks in float32. Stage 0 refuses this and sums in bfloat16.
        settings["data_types"] = {"grad_accum_dtype": "fp32"}
        settings["communication_data_type"] = "fp32"
    return settings
