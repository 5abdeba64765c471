"""GPUs by name, and the cluster that a run is planned for.

Memory is what nvidia-smi reports, a little more than the number in the name. Dense bfloat16 rates: NVIDIA's data sheets print
them with sparsity, twice as much. NVLink: both directions together, as data sheets count; a transfer sees half of it.
"""

from dataclasses import dataclass

from effopd.errors import ConfigError

MIB, GIB = 2**20, 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    name: str
    memory_bytes: int
    bf16_flops: float
    """Dense, per second."""
    memory_bandwidth: float
    """Bytes per second."""
    nvlink_bandwidth: float
    """Bytes per second to the other GPUs of a machine, both directions together."""
    network_bandwidth: float
    """Bytes per second and GPU to other machines, one direction."""


GPUS = {
    # NVIDIA H100 Tensor Core GPU data sheet, SXM5: 80 GB HBM3, 1,979 TFLOP/s with sparsity, 3.35 TB/s, NVLink 900 GB/s;
    # nvidia-smi: 81,559 MiB. Network: one 400 Gb/s adapter per GPU, as in DGX H100.
    "h100": Gpu(
        name="h100",
        memory_bytes=81_559 * MIB,
        bf16_flops=989e12,
        memory_bandwidth=3.35e12,
        nvlink_bandwidth=900e9,
        network_bandwidth=50e9,
    ),
    # NVIDIA H200 Tensor Core GPU data sheet, SXM: 141 GB HBM3e, 4.8 TB/s, the rest as H100; nvidia-smi: 143,771 MiB.
    "h200": Gpu(
        name="h200",
        memory_bytes=143_771 * MIB,
        bf16_flops=989e12,
        memory_bandwidth=4.8e12,
        nvlink_bandwidth=900e9,
        network_bandwidth=50e9,
    ),
    # H20: NVIDIA has no public data sheet; the figures that vendors and the press agree on: 96 GB HBM3, 148 TFLOP/s dense,
    # 4.0 TB/s, NVLink 900 GB/s; nvidia-smi: 97,871 MiB. Network: as the others, an assumption.
    "h20": Gpu(
        name="h20",
        memory_bytes=97_871 * MIB,
        bf16_flops=148e12,
        memory_bandwidth=4.0e12,
        nvlink_bandwidth=900e9,
        network_bandwidth=50e9,
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Machines of one kind."""

    gpu: Gpu
    gpus_per_node: int
    num_nodes: int
    host_bytes: int = 2048 * 10**9
    """Main memory of a machine: 2 TB, as DGX H100 and H200 have."""

    def __post_init__(self) -> None:
        for option, value in (("--gpus-per-node", self.gpus_per_node), ("--nodes", self.num_nodes)):
            if value < 1:
                raise ConfigError(f"{option}={value}: must be at least 1; give a positive whole number")

    @property
    def num_gpus(self) -> int:
        return self.gpus_per_node * self.num_nodes

    def __str__(self) -> str:
        return f"{self.num_nodes} x {self.gpus_per_node} {self.gpu.name}"
