"""The gradient of the cross-entropy with respect to images."""

import torch
import torch.nn.functional as F
from torch import nn


def input_gradient(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of a batch, and the gradient of the cross-entropy with respect to its images."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(images)
        loss = F.cross_entropy(logits, labels, reduction="sum")
    return logits.detach(), torch.autograd.grad(loss, images)[0]
