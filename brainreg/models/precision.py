"""The arithmetic of float32 on a GPU."""

import contextlib
from collections.abc import Iterator

import torch


@contextlib.contextmanager
def ieee_float32() -> Iterator[None]:
    """Compute float32 in full within the block, also in convolutions and matrix products on a CUDA device.

    There, PyTorch's convolutions round their inputs to TF32 (10 bits of mantissa instead of 23) unless told otherwise:
    fast enough for training, but a measurement would then be another one than on a CPU.

    Source: NVIDIA's TF32, PyTorch's notes on CUDA semantics.
    """
    convolutions, products = torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32, torch.backends.cuda.matmul.allow_tf32 = convolutions, products
