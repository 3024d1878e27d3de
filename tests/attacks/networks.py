"""Small networks that the tests of attacks use, and images for them."""

import copy
from functools import cache

import torch
from sklearn.datasets import load_digits
from torch import nn


def digits() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    """A network of digits, trained for a second, and 40 images of which it has 5 wrong, with their labels."""
    return copy.deepcopy(_digits())


@cache
def _digits() -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    data = load_digits()
    images = torch.from_numpy(data.images).float()[:, None] / 16
    labels = torch.from_numpy(data.target).long()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Conv2d(1, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(288, 10))
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    for _ in range(30):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images[:1000]), labels[:1000]).backward()
        optimizer.step()
    optimizer.zero_grad()
    model.eval()
    right = model(images).argmax(dim=1) == labels
    index = torch.arange(1000, len(images))
    right, wrong = index[right[index]], index[~right[index]]
    index = torch.cat([right[:20], wrong[:5], right[20:35]])
    assert len(index) == 40
    return model, images[index], labels[index]


class Brightness(nn.Module):
    """Ten classes by an image's mean brightness: a model whose robust accuracy is known.

    The logit of class c is -(10 m - c)^2 up to a term that all classes share, so the boundary between two
    neighbors lies half way, and an Linf perturbation of eps moves m by eps at the most; in L2, by eps divided by
    the root of the number of values, in L1 by eps divided by their number.
    """

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        mean = 10 * images.mean(dim=(1, 2, 3))
        classes = torch.arange(10.0)
        return 20 * (mean[:, None] * classes - classes**2 / 2)


def flat(*values: float) -> torch.Tensor:
    """Return an image of one brightness for each value, (n, 1, 8, 8)."""
    return torch.tensor(values)[:, None, None, None].expand(-1, 1, 8, 8).clone()


class Counting(nn.Module):
    """A model that counts the images that pass, and in how many batches."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model, self.images, self.calls = model, 0, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.images += len(images)
        self.calls += 1
        return self.model(images)


# Batches of two sizes, and code in another order, are rounded otherwise; how much so depends on the processor. What
# must be the same is then the same for all but an image in a hundred, of few images for all but one.


def alike(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Return whether two tensors of outcomes differ in one of a hundred at most, of fewer in one."""
    return one.shape == other.shape and (one != other).sum().item() <= max(1, one.numel() // 100)


def apart(one: torch.Tensor, other: torch.Tensor) -> int:
    """Return of how many images two tensors of examples, (n, c, h, w), are not the same up to rounding."""
    return int(((one - other).abs().flatten(1).amax(dim=1) > 1e-5).sum())
