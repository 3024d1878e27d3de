"""The pairs of images that a range of similarities selects.

Source: arXiv 2410.03952, section 3.2.
"""

from collections.abc import Iterator

import torch

from brainreg.method.ranges import RANGES, check_range
from brainreg.method.similarity import BLOCK, image_directions

# Similarities that one pass over all pairs holds at a time: 1,024 x 4,096 float32 values are 16 MB.
TILE = (1024, 4096)


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
        return selects(similarity[start : start + BLOCK, start:], reg_thresh, reg_thresh_2).triu_(diagonal=1)

    # Counted first and then written in place: growing a list would hold the pairs twice.
    starts = range(0, n, BLOCK)
    counts = [int(selected(start).sum()) for start in starts]
    pairs = torch.empty(sum(counts), 2, dtype=torch.int64, device=similarity.device)
    written = 0
    for start, count in zip(starts, counts, strict=True):
        pairs[written : written + count] = selected(start).nonzero().add_(start)
        written += count
    return pairs


def count_pairs(images: torch.Tensor, reg_range: str, reg_thresh: float, reg_thresh_2: float | None = None) -> int:
    """Return how many pairs i < j of the images a range selects, in one pass that holds no list of them.

    Args:
        images: (N, c, h, w), on the device that counts.
        Others as in `select_pairs`.
    """
    check_range(reg_range, reg_thresh, reg_thresh_2)
    return pair_count(image_directions(images), reg_range, reg_thresh, reg_thresh_2)


def pair_count(directions: torch.Tensor, reg_range: str, reg_thresh: float, reg_thresh_2: float | None) -> int:
    """Return how many pairs of unit vectors (N, d), the directions of images, a range selects."""
    selects = RANGES[reg_range]
    counts = [selects(tile, reg_thresh, reg_thresh_2).sum() for _, _, tile in tiles(directions)]
    return int(torch.stack(counts).sum())


def tiles(directions: torch.Tensor) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield the similarities of all pairs i < j in tiles, each with the row and the column of its first.

    What is not i < j is NaN, which no range selects. A tile is overwritten by the next.
    """
    height, width = TILE
    held = directions.new_empty(height * width)
    for row in range(0, len(directions), height):
        rows = directions[row : row + height]
        below = torch.ones(len(rows), len(rows), dtype=torch.bool, device=directions.device).tril()
        for column in range(row, len(directions), width):
            columns = directions[column : column + width]
            tile = held[: len(rows) * len(columns)].view(len(rows), len(columns))
            torch.mm(rows, columns.T, out=tile)
            if column == row:
                tile[:, : len(rows)].masked_fill_(below, torch.nan)
            yield row, column, tile
