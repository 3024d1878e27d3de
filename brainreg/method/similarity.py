"""Pixel similarity of images, and the targets that the regularizer makes of it.

Source: arXiv 2410.03952, section 3; the thresholds Th and Th_2 there are `reg_thresh` and `reg_thresh_2`.
"""

import torch

# Rows of the similarity matrix worked on at once: 512 x 5,000 float32 values are 10 MB.
BLOCK = 512

# An image whose pixels differ from the mean image by less than this (root mean square, [0,1] units;
# a gray level is 0.0039) is the mean image up to rounding, and has no direction to compare.
_SAME_AS_MEAN = 1e-6


def pixel_similarity(images: torch.Tensor) -> torch.Tensor:
    """Return the cosine similarity of each pair of images, after subtracting the mean image.

    RGB images are first averaged to one channel, a plain mean. Half of the product is computed and mirrored.

    Args:
        images: (N, c, h, w), uint8 or floating point; the result does not depend on the pixels' unit.

    Returns:
        (N, N) float32 in [-1, 1], symmetric. Rows and columns of an image that equals the mean image
        are NaN: it has no direction, so it has no similarity.

    Source: arXiv 2410.03952, section 3.1.
    """
    directions = image_directions(images)
    n = len(images)
    similarity = directions.new_empty(n, n)
    for start in range(0, n, BLOCK):
        stop = min(start + BLOCK, n)
        torch.mm(directions[start:stop], directions[start:].T, out=similarity[start:stop, start:])
        similarity[stop:, start:stop] = similarity[start:stop, stop:].T
    return similarity


def image_directions(images: torch.Tensor) -> torch.Tensor:
    """Return (N, h * w) float32: each image less the mean image, at unit length, or NaN where nothing is left of it.

    Works block by block: no other array is as large as the result.
    """
    if images.ndim != 4:
        raise ValueError(f"images: shape {tuple(images.shape)}; expected (N, c, h, w)")
    unit = 255.0 if images.dtype == torch.uint8 else 1.0

    def pixels(block: torch.Tensor) -> torch.Tensor:
        gray = block[:, 0].float() if block.shape[1] == 1 else block.float().mean(dim=1)
        return gray.flatten(1).div_(unit)

    mean = torch.zeros(images[0, 0].numel(), dtype=torch.float64, device=images.device)
    for block in images.split(BLOCK):  # float64: a mean over many images keeps its last digits
        mean += pixels(block).sum(dim=0, dtype=torch.float64)
    mean = (mean / len(images)).float()

    directions = torch.empty(len(images), len(mean), device=images.device)
    for block, rows in zip(images.split(BLOCK), directions.split(BLOCK), strict=True):
        torch.sub(pixels(block), mean, out=rows)
        norms = rows.norm(dim=1, keepdim=True)
        norms[norms <= _SAME_AS_MEAN * len(mean) ** 0.5] = torch.nan
        rows /= norms
    return directions


def boosted_targets(similarities: torch.Tensor, reg_thresh: float, value: float = 1.0) -> torch.Tensor:
    """Return the thresholded similarities that the network's are pulled toward.

    Args:
        similarities: any shape, the pixel similarities S of pairs.
        reg_thresh: Th.
        value: v, the size of a target; at most 1 where the loss compares arctanh values.

    Returns:
        Same shape: +v where S > Th, -v where S < -Th, else 0.

    Source: arXiv 2410.03952, section 3.3.
    """
    return value * ((similarities > reg_thresh).float() - (similarities < -reg_thresh).float())
