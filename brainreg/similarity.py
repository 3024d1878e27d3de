"""Pixel similarity of images, the ranges that select pairs by it, and the targets of those pairs.

Source: arXiv 2410.03952, section 3; the lines named Th and Th_2 there are `reg_thresh` and `reg_thresh_2`.
"""

from collections.abc import Callable

import torch

from brainreg.errors import InputError, nearest

# Rows of the similarity matrix worked on at once: 512 x 5,000 float32 values are 10 MB.
_BLOCK = 512

# An image whose pixels differ from the mean image by less than this (root mean square, [0,1] units;
# a gray level is 0.0039) is the mean image up to rounding, and has no direction to compare.
_SAME_AS_MEAN = 1e-6

# What each range selects, by similarity S and the thresholds Th and Th_2. All inequalities are strict.
# A similarity that does not exist is NaN, for which every comparison is false.
RANGES: dict[str, Callable[[torch.Tensor, float, float | None], torch.Tensor]] = {
    "all": lambda s, th, th_2: s == s,
    "high": lambda s, th, th_2: s.abs() > th,
    "low": lambda s, th, th_2: s.abs() < th,
    "positive": lambda s, th, th_2: (s > th) | (s.abs() < th),
    "negative": lambda s, th, th_2: (s < -th) | (s.abs() < th),
    "high_positive": lambda s, th, th_2: s > th,
    "double": lambda s, th, th_2: (s.abs() > th) | (s.abs() < th_2),
}


def check_range(reg_range: str, reg_thresh: float, reg_thresh_2: float | None) -> None:
    """Raise InputError unless the range exists and its thresholds fit: `double` needs reg_thresh_2 < reg_thresh."""
    if reg_range not in RANGES:
        raise InputError(f"reg_range={reg_range}: no such range; {nearest(reg_range, RANGES)}")
    if reg_range == "double":
        if reg_thresh_2 is None:
            raise InputError("reg_thresh_2 is missing: the range double needs a second threshold below reg_thresh")
        if not reg_thresh_2 < reg_thresh:
            raise InputError(f"reg_thresh_2={reg_thresh_2:g}: must be below reg_thresh={reg_thresh:g}")
    elif reg_thresh_2 is not None:
        raise InputError(f"reg_thresh_2={reg_thresh_2:g}: only the range double uses it, not {reg_range}")


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
    if images.ndim != 4:
        raise ValueError(f"images: shape {tuple(images.shape)}; expected (N, c, h, w)")
    unit = 255.0 if images.dtype == torch.uint8 else 1.0
    pixels = images.double().mean(dim=1).flatten(1) / unit  # float64: a mean over many images keeps its last digits
    pixels -= pixels.mean(dim=0)
    norms = pixels.norm(dim=1, keepdim=True)
    norms[norms <= _SAME_AS_MEAN * pixels.shape[1] ** 0.5] = torch.nan
    directions = (pixels / norms).float()
    del pixels

    n = len(images)
    similarity = directions.new_empty(n, n)
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        torch.mm(directions[start:stop], directions[start:].T, out=similarity[start:stop, start:])
        similarity[stop:, start:stop] = similarity[start:stop, stop:].T
    return similarity


def select_pairs(
    similarity: torch.Tensor, reg_range: str, reg_thresh: float, reg_thresh_2: float | None = None
) -> torch.Tensor:
    """Return the pairs of images that a range of similarities selects.

    Args:
        similarity: (N, N) pixel similarities; NaN is in no range.
        reg_range: a name in `RANGES`.
        reg_thresh: Th, the threshold on the similarity.
        reg_thresh_2: Th_2 < Th, for the range `double` only.

    Returns:
        (P, 2) int64 pairs (i, j) with i < j, sorted; P may be 0.

    Raises:
        InputError: unknown range, or thresholds that do not fit it.

    Source: arXiv 2410.03952, section 3.2.
    """
    check_range(reg_range, reg_thresh, reg_thresh_2)
    selects = RANGES[reg_range]
    n = len(similarity)

    def selected(start: int) -> torch.Tensor:
        """(block, n - start) mask: the block's selected pairs right of the diagonal."""
        return selects(similarity[start : start + _BLOCK, start:], reg_thresh, reg_thresh_2).triu_(diagonal=1)

    # Counted first and then written in place: growing a list would hold the pairs twice.
    starts = range(0, n, _BLOCK)
    counts = [int(selected(start).sum()) for start in starts]
    pairs = torch.empty(sum(counts), 2, dtype=torch.int64, device=similarity.device)
    written = 0
    for start, count in zip(starts, counts, strict=True):
        pairs[written : written + count] = selected(start).nonzero().add_(start)
        written += count
    return pairs


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
