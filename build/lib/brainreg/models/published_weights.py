"""Weights of the published implementation in networks of this one."""

import re

import torch

from brainreg.models.resnet import ResNet

# The published code's module names, outermost first, and ours.
_PUBLISHED_NAMES = (
    (r"^layer_weight$", "similarity_weights"),
    (r"^running_mean\.(\d)$", r"channel_mean_\1"),
    (r"^linear\.", "classifier."),
    (r"^core\.sections\.0\.", "stem."),
    (r"^core\.sections\.(\d)\.", lambda match: f"sections.{int(match[1]) - 1}."),
    (r"\.layer0\.0\.", ".conv1."),
    (r"\.layer0\.1\.", ".norm1."),
    (r"\.layer(\d)\.1\.", lambda match: f".conv{int(match[1]) + 1}."),
    (r"\.layer(\d)\.2\.", lambda match: f".norm{int(match[1]) + 1}."),
)


def load_published_state(model: ResNet, state: dict[str, torch.Tensor]) -> None:
    """Load weights saved by the method's published code into `model`, in place.

    Args:
        model: a network of the same architecture and size.
        state: tensors by the published module names, such as `core.sections.1.0.layer0.0.weight`.

    Raises:
        RuntimeError: a name or shape does not fit (PyTorch's message lists them).
    """
    renamed = {}
    for name, tensor in state.items():
        for pattern, ours in _PUBLISHED_NAMES:
            name = re.sub(pattern, ours, name)
        renamed[name] = tensor
    model.load_state_dict(renamed)
