"""The device of a run, and what results call it."""

import contextlib
import platform
from pathlib import Path

import torch

from brainreg._utils.machine import cpu_cores


def default_device() -> torch.device:
    """Return the CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


# What errors say, beside `torch.OutOfMemoryError`, where memory lacks: those of cuDNN and cuBLAS, which want some for
# themselves, and of a CPU's allocator.
_LACKING_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "unable to find an engine",
    "cudnn_status_alloc_failed",
    "cudnn_status_internal_error",
    "cublas_status_alloc_failed",
    "cublas_status_not_initialized",
)

# What they say where a GPU does not answer, or a process cannot use it any more; another process may.
_LOST_GPU = ("cuda error", "cuda unknown error", "no cuda gpus are available", "cudnn_status_execution_failed")


def lacks_memory(error: Exception) -> bool:
    """Return whether an error comes of too little memory, so that less at a time may fit."""
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _LACKING_MEMORY)


def lost_gpu(error: Exception) -> bool:
    """Return whether an error says that this process cannot use its GPU."""
    return isinstance(error, RuntimeError) and any(sign in str(error).lower() for sign in _LOST_GPU)


def device_name(device: str | torch.device) -> str:
    """Return what results call a device of this machine: the GPU's name, or the processor's and its cores."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.machine()
    with contextlib.suppress(OSError, StopIteration):  # not on Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return f"CPU ({model}, {cpu_cores()} cores)"
