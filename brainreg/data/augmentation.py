"""Augmentation: uint8 batches in, uint8 batches out; every draw comes from the given CPU generator."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from brainreg._utils.lazy import torch, v2
from brainreg.data.types import Purpose, View

# Pixels that a crop may be shifted by, in each direction.
_PADDING = 4


@dataclass(frozen=True)
class DrawnAugmentation:
    """An augmentation that separates its draws from what it makes of the images.

    So an epoch's draws can be made in the order of its batches, and sent to the images' device at once.

    Attributes:
        draw: (n, d) int64 on the CPU, the draws of n images, of a CPU generator.
        apply: images (n, c, h, w) and their draws, on one device, to images of the same shape.
    """

    draw: Callable[[int, torch.Generator], torch.Tensor]
    apply: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def __call__(self, images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        """Return the augmented images, of draws made now."""
        return self.apply(images, self.draw(len(images), generator).to(images.device))


def _draw_nothing(n: int, generator: torch.Generator) -> torch.Tensor:
    return torch.empty(n, 0, dtype=torch.int64)


def _unchanged(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    return images


def _draw_flips(n: int, generator: torch.Generator) -> torch.Tensor:
    return (torch.rand(n, 1, generator=generator) < 0.5).long()


def _flip(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    return torch.where(draws[:, 0, None, None, None] == 1, images.flip(-1), images)


def _draw_crops_and_flips(n: int, generator: torch.Generator) -> torch.Tensor:
    shifts = torch.randint(-_PADDING, _PADDING + 1, (2, n, 1), generator=generator)
    return torch.cat([shifts[0], shifts[1], _draw_flips(n, generator)], dim=1)


def _crop_and_flip(images: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
    n, channels, height, width = images.shape
    down, right, flips = draws.split(1, dim=1)
    rows = _reflect(torch.arange(height, device=images.device) + down, height)
    columns = _reflect(torch.arange(width, device=images.device) + right, width)
    columns = torch.where(flips == 1, columns.flip(1), columns)
    image = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return images[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    """Mirror indices that lie outside 0 .. size - 1 at the edge pixel, which is not repeated."""
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)


# Leaves the images as they are.
no_augmentation = DrawnAugmentation(_draw_nothing, _unchanged)

# Flips each image horizontally with probability one half.
random_flip = DrawnAugmentation(_draw_flips, _flip)

# Crops each image at its own size from its reflection-padded self, and flips half of them.
# Source: arXiv 2410.03952, appendix (CIFAR augmentation).
random_crop_and_flip = DrawnAugmentation(_draw_crops_and_flips, _crop_and_flip)


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
        return square_view(224)
    return v2.Compose([v2.CenterCrop((144, 256)), v2.Resize((36, 64))])


@functools.cache
def square_view(size: int) -> View:
    """What is made of an image where all shall have one size: its shorter side becomes so long, and the middle square
    of that is cut out.
    """
    return v2.Compose([v2.Resize(size), v2.CenterCrop(size)])
