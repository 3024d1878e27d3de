"""Models whose output is not the logits alone: tuples, mappings, outputs with `.logits`."""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from brainreg.errors import InputError


class _PickedLogits(nn.Module):
    """A model of which one part of what it returns is kept."""

    def __init__(self, model: nn.Module, pick: Callable[[Any], torch.Tensor]):
        super().__init__()
        self.model, self.pick = model, pick

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pick(self.model(images))


def as_logits(model: nn.Module, pick: Callable[[Any], torch.Tensor] | None = None) -> nn.Module:
    """Return a model of logits alone, as measurements need it, from one that returns them with other things.

    Args:
        model: of images; such as one of Hugging Face's transformers, or one that returns (logits, features).
        pick: what takes the logits (n, classes) from what the model returns. Absent: its `.logits`, its `["logits"]`,
            or the first of a tuple or list.

    Raises:
        InputError: in a pass, the model returns nothing that has logits.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> pair = as_logits(_PickedLogits(model, lambda logits: (logits, "more")))
    >>> pair(torch.zeros(3, 1, 2, 2)).shape
    torch.Size([3, 2])
    """
    return _PickedLogits(model, pick or _logits_in)


def _logits_in(output: Any) -> torch.Tensor:
    if isinstance(output, torch.Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    if isinstance(output, tuple | list) and output:
        return output[0]
    raise InputError(f"model: returns {type(output).__name__}, which has no logits; pass as_logits(model, pick=...)")
