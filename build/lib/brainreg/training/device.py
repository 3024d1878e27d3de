"""The device of a run, and what results call it."""

import contextlib
import platform
from pathlib import Path

import torch

from brainreg._utils.machine import cpu_cores


def default_device() -> torch.device:
    """Return the CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: str | torch.device) -> str:
    """Return what results call a device of this machine: the GPU's name, or the processor's and its cores."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.machine()
    with contextlib.suppress(OSError, StopIteration):  # not on Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return f"CPU ({model}, {cpu_cores()} cores)"
