"""The similarity loss: how far a network's similarities are from their targets."""

import torch

# Keeps the logarithms finite where a similarity is exactly 1 or -1, as boosted targets are.
_MARGIN = 1e-5


def _stretch(similarity: torch.Tensor) -> torch.Tensor:
    """Twice the arctanh of values in [-1, 1], kept finite at both ends."""
    return torch.log(1 + similarity + _MARGIN) - torch.log(1 - similarity + _MARGIN)


def similarity_loss(outputs: torch.Tensor, targets: torch.Tensor, arctanh: bool = True) -> torch.Tensor:
    """Return the mean squared distance of the network's similarities from their targets.

    Args:
        outputs: (k,) similarities of k pairs in the network, in [-1, 1].
        targets: (k,) targets of the same pairs, in [-1, 1].
        arctanh: compare A(x) = log(1 + x + 1e-5) - log(1 - x + 1e-5) of both, instead of the values.

    Returns:
        Scalar.

    Source: arXiv 2410.03952, section 3.3; Li et al., arXiv 1911.05072, equation 4.
    """
    if arctanh:
        outputs, targets = _stretch(outputs), _stretch(targets)
    return torch.mean((outputs - targets) ** 2)
