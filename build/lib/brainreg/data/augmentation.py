"""Augmentation: uint8 batches in, uint8 batches out; every draw comes from the given CPU generator."""

import functools
from collections.abc import Sequence

import numpy as np
import torch

from brainreg.data.lazy import v2
from brainreg.data.types import Purpose, View


def no_augmentation(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the images as they are."""
    return images


def random_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flip each image of (n, c, h, w) horizontally with probability one half."""
    flips = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(flips[:, None, None, None], images.flip(-1), images)


def random_crop_and_flip(images: torch.Tensor, generator: torch.Generator, padding: int = 4) -> torch.Tensor:
    """Crop each image of (n, c, h, w) at its own size from its reflection-padded self, and flip half of them.

    Source: arXiv 2410.03952, appendix (CIFAR augmentation).
    """
    n, channels, height, width = images.shape
    shifts = torch.randint(-padding, padding + 1, (2, n, 1), generator=generator)
    flips = torch.rand(n, 1, generator=generator) < 0.5
    rows = _reflect(torch.arange(height) + shifts[0], height)
    columns = _reflect(torch.arange(width) + shifts[1], width)
    columns = torch.where(flips, columns.flip(1), columns)
    rows, columns = rows.to(images.device), columns.to(images.device)
    image = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return images[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    """Mirror indices that lie outside 0 .. size - 1 at the edge pixel, which is not repeated."""
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)


def random_resized_crop_and_flip(
    images: torch.Tensor | Sequence[torch.Tensor], generator: torch.Generator, size: int = 224
) -> torch.Tensor:
    """Crop 8% to 100% of each image (c, h, w) at aspect 3:4 to 4:3, resize to `size`, flip half of them.

    The images may have many sizes; what returns is (n, c, size, size).

    Source: torchvision's RandomResizedCrop, whose rule this follows with draws of its own.
    """
    n, tries = len(images), 10
    area = torch.empty(n, tries).uniform_(0.08, 1, generator=generator)
    aspect = torch.empty(n, tries).uniform_(np.log(3 / 4), np.log(4 / 3), generator=generator).exp()
    corner = torch.rand(n, 2, generator=generator)
    crops = []
    for image, areas, aspects, (down, right) in zip(images, area, aspect, corner.tolist(), strict=True):
        height, width = image.shape[-2:]
        heights = (height * width * areas / aspects).sqrt().round().long()
        widths = (height * width * areas * aspects).sqrt().round().long()
        fits = ((heights <= height) & (widths <= width)).nonzero().flatten()
        if len(fits):
            h, w = int(heights[fits[0]]), int(widths[fits[0]])
            top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
        else:  # of a very long image, the middle, at the aspect that is nearest to its own
            h, w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
            top, left = (height - h) // 2, (width - w) // 2
        crops.append(v2.functional.resized_crop(image, top, left, h, w, [size, size], antialias=True))
    return random_flip(torch.stack(crops), generator)


@functools.cache
def image_view(purpose: Purpose) -> View:
    """What is made of an image where images come in many sizes: to classify it, or to regularize with it."""
    if purpose == "task":
        return v2.Compose([v2.Resize(224), v2.CenterCrop(224)])
    return v2.Compose([v2.CenterCrop((144, 256)), v2.Resize((36, 64))])
