"""Pixel similarity of images, the ranges that select pairs by it, and the targets of those pairs.

Source: arXiv 2410.03952, section 3; the lines named Th and Th_2 there are `reg_thresh` and `reg_thresh_2`.
"""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

import torch

from brainreg.errors import InputError, nearest
from brainreg.seeds import Stream, seeded_generator

# Rows of the similarity matrix worked on at once: 512 x 5,000 float32 values are 10 MB.
_BLOCK = 512

# Similarities that one pass over all pairs holds at a time: 1,024 x 4,096 float32 values are 16 MB.
_TILE = (1024, 4096)

# A `PairSampler` lists the selected pairs where all pairs are this few (2,896 images),
_FEW = 2**22
# or where a range selects so small a share of them that drawing until one is selected would take long,
_RARE = 1 / 16
# unless there are more of them than memory should hold: a listed pair takes 12 bytes, 800 MB here.
_LISTABLE = 2**26

# Pairs that are drawn at once where they are not listed; the first draw tells which share of all is selected.
_CANDIDATES = 4096

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
    directions = _directions(images)
    n = len(images)
    similarity = directions.new_empty(n, n)
    for start in range(0, n, _BLOCK):
        stop = min(start + _BLOCK, n)
        torch.mm(directions[start:stop], directions[start:].T, out=similarity[start:stop, start:])
        similarity[stop:, start:stop] = similarity[start:stop, stop:].T
    return similarity


def _directions(images: torch.Tensor) -> torch.Tensor:
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
    for block in images.split(_BLOCK):  # float64: a mean over many images keeps its last digits
        mean += pixels(block).sum(dim=0, dtype=torch.float64)
    mean = (mean / len(images)).float()

    directions = torch.empty(len(images), len(mean), device=images.device)
    for block, rows in zip(images.split(_BLOCK), directions.split(_BLOCK), strict=True):
        torch.sub(pixels(block), mean, out=rows)
        norms = rows.norm(dim=1, keepdim=True)
        norms[norms <= _SAME_AS_MEAN * len(mean) ** 0.5] = torch.nan
        rows /= norms
    return directions


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


def count_pairs(images: torch.Tensor, reg_range: str, reg_thresh: float, reg_thresh_2: float | None = None) -> int:
    """Return how many pairs i < j of the images a range selects, in one pass that holds no list of them.

    Args:
        images: (N, c, h, w), on the device that counts.
        Others as in `select_pairs`.
    """
    check_range(reg_range, reg_thresh, reg_thresh_2)
    return _count(_directions(images), reg_range, reg_thresh, reg_thresh_2)


def _count(directions: torch.Tensor, reg_range: str, reg_thresh: float, reg_thresh_2: float | None) -> int:
    selects = RANGES[reg_range]
    counts = [selects(tile, reg_thresh, reg_thresh_2).sum() for _, _, tile in _tiles(directions)]
    return int(torch.stack(counts).sum())


def _tiles(directions: torch.Tensor) -> Iterator[tuple[int, int, torch.Tensor]]:
    """Yield the similarities of all pairs i < j in tiles, each with the row and the column of its first.

    What is not i < j is NaN, which no range selects. A tile is overwritten by the next.
    """
    height, width = _TILE
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


class PairSampler:
    """An endless iterator of batches of pairs, drawn uniformly from those that a range of similarities selects.

    No list of all pairs is ever made, so N may be the size of a training set. Where the range selects few pairs,
    one pass over all similarities lists them; up to 4 million are then drawn without replacement, all of them
    before any comes again, the incomplete last batch dropped. Otherwise pairs are drawn with replacement: from the
    list, or, where the range selects at least one pair in 16, by drawing pairs of all images and keeping those that
    it selects, which needs no pass at all. All three draw from the same distribution, that of a list of
    all selected pairs (up to the rounding of a float32 similarity that lies on a threshold).

    Each batch is `(rows, columns, targets)`: two (k,) int64 of images i < j, and (k,) float32 of their targets.

    Args:
        images: (N, c, h, w), uint8 or floating point.
        reg_range, reg_thresh, reg_thresh_2: what is selected, as in `select_pairs`.
        batch_size: k.
        seed: fixes the draws, the same on every device as far as similarities round alike.
        device: where similarities are computed and batches lie; that of the images unless given.
        reg_boosting: targets thresholded to +v, 0, -v, as in `boosted_targets`; else the similarities.
        reg_boosting_val: v.

    Attributes:
        total: number of all pairs, N (N - 1) / 2.
        share: fraction of them that the range selects; exact where they are listed, else from 4,096 draws.

    Raises:
        InputError: a range that does not exist, thresholds that do not fit it, or fewer selected pairs than a batch.

    Source: arXiv 2410.03952, section 3.2 and appendix.
    """

    def __init__(
        self,
        images: torch.Tensor,
        *,
        reg_range: str = "all",
        reg_thresh: float,
        reg_thresh_2: float | None = None,
        batch_size: int,
        seed: int = 0,
        device: str | torch.device | None = None,
        reg_boosting: bool = True,
        reg_boosting_val: float = 1.0,
    ):
        check_range(reg_range, reg_thresh, reg_thresh_2)
        self.reg_range, self.reg_thresh, self.reg_thresh_2 = reg_range, reg_thresh, reg_thresh_2
        self.reg_boosting, self.reg_boosting_val = reg_boosting, reg_boosting_val
        self.batch_size = batch_size
        self.total = len(images) * (len(images) - 1) // 2
        self._directions = _directions(images.to(device or images.device))
        self._listed = self.total <= _FEW
        if not self._listed:
            probed = self._draw_selected(seeded_generator(seed, Stream.PAIRS_PROBE))
            self.share = len(probed[0]) / _CANDIDATES
            self._listed = self.share < _RARE and self.share * self.total <= _LISTABLE
        if self._listed:
            self._list = self._list_selected()
            self._listed = self._list is not None  # the share may have been far too low an estimate
        if self._listed:
            self.share = self.count / max(self.total, 1)
            self._check_enough(len(images))
            del self._directions
        self._seed = seed
        self.restart()

    def __str__(self) -> str:
        """How much there is to draw from."""
        return f"{self.count:,} of {self.total:,}" if self._listed else f"about {self.share:.0%} of {self.total:,}"

    @cached_property
    def count(self) -> int:
        """How many pairs the range selects, exactly; where they are not listed, this takes a pass over all pairs."""
        if self._listed:
            return len(self._list[0])
        return _count(self._directions, self.reg_range, self.reg_thresh, self.reg_thresh_2)

    def __iter__(self) -> Iterator[tuple[torch.Tensor, torch.Tensor, torch.Tensor]]:
        return self

    def __next__(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        if self._block is None or self._position + self.batch_size > len(self._block[0]):
            self._start, self._block, self._position = self._generator.get_state(), self._draw_block(), 0
        batch = slice(self._position, self._position + self.batch_size)
        self._position += self.batch_size
        rows, columns, targets = (part[batch] for part in self._block)
        if self.reg_boosting:
            targets = boosted_targets(targets, self.reg_thresh, self.reg_boosting_val)
        return rows, columns, targets

    def restart(self) -> None:
        """Go back to the first draw."""
        self._generator = seeded_generator(self._seed, Stream.PAIRS)
        self.reshuffle()

    def reshuffle(self) -> None:
        """Begin anew with other draws: from here on, listed pairs are drawn once before any comes again."""
        self._start, self._block, self._position = self._generator.get_state(), None, 0

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on exactly: a (5056,) uint8 generator state and a position."""
        return {"start": self._start, "position": self._position}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where a sampler of the same images and settings was when its `state_dict` was taken."""
        self._generator.set_state(state["start"])
        self.reshuffle()
        if state["position"]:
            self._block, self._position = self._draw_block(), state["position"]

    def _draw_block(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw rows, columns and similarities of some pairs, at least a batch: all of one generator state's draws."""
        if not self._listed:
            parts = [self._draw_selected(self._generator)]
            while sum(len(part[0]) for part in parts) < self.batch_size:
                parts.append(self._draw_selected(self._generator))
            return tuple(torch.cat(part) for part in zip(*parts, strict=True))
        if self.count <= _FEW:
            order = torch.randperm(self.count, generator=self._generator)
        else:
            order = torch.randint(self.count, (max(_CANDIDATES, self.batch_size),), generator=self._generator)
        rows, columns, similarities = (part[order.to(part.device)] for part in self._list)
        return rows.long(), columns.long(), similarities

    def _draw_selected(self, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Draw `_CANDIDATES` of all pairs, and return rows, columns and similarities of those that are selected."""
        images = torch.randint(len(self._directions), (2, _CANDIDATES), generator=generator)
        images = images.to(self._directions.device)
        rows, columns = images.amin(dim=0), images.amax(dim=0)
        similarities = (self._directions[rows] * self._directions[columns]).sum(dim=1)
        selected = RANGES[self.reg_range](similarities, self.reg_thresh, self.reg_thresh_2) & (rows < columns)
        return rows[selected], columns[selected], similarities[selected]

    def _list_selected(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None:
        """List all selected pairs: int32 rows and columns, float32 similarities; None if memory should not hold them.

        They are written into memory that is taken at once: many small pieces between the large tiles would leave
        gigabytes of holes. What is never written takes no memory.
        """
        selects = RANGES[self.reg_range]
        most = min(self.total, 2 * _LISTABLE)
        listed = [torch.empty(most, dtype=kind) for kind in (torch.int32, torch.int32, torch.float32)]
        count = 0
        for row, column, tile in _tiles(self._directions):
            selected = selects(tile, self.reg_thresh, self.reg_thresh_2)
            rows, columns = selected.nonzero(as_tuple=True)
            found = slice(count, count + len(rows))
            if found.stop > most:
                return None
            for part, values in zip(listed, (rows + row, columns + column, tile[selected]), strict=True):
                part[found] = values
            count = found.stop
        return tuple(part[:count].to(self._directions.device) for part in listed)

    def _check_enough(self, images: int) -> None:
        if self.count >= self.batch_size:
            return
        thresholds = f"reg_thresh={self.reg_thresh:g}"
        if self.reg_thresh_2 is not None:
            thresholds += f", reg_thresh_2={self.reg_thresh_2:g}"
        selected = f"selects {self.count} of the {self.total} pairs of {images} images at {thresholds}"
        if self.count == 0:
            raise InputError(f"reg_range={self.reg_range}: {selected}; choose other thresholds or more images")
        raise InputError(
            f"reg_batch_size={self.batch_size}: a step needs as many pairs, and the range {self.reg_range} {selected}"
        )
