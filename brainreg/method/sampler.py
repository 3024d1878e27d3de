"""Draws the pairs of a step, with their targets, without a list of all pairs where there are many."""

from collections.abc import Iterator
from functools import cached_property
from typing import Any

import torch

from brainreg.errors import InputError
from brainreg.method.pairs import pair_count, tiles
from brainreg.method.ranges import RANGES, check_range
from brainreg.method.similarity import boosted_targets, image_directions
from brainreg.seeds import Stream, seeded_generator

# A `PairSampler` lists the selected pairs where all pairs are no more than `_FEW` (2,896 images), or where a range
# selects less than the share `_RARE` of them, so that drawing until one is selected would take long; but never more
# than `_LISTABLE`, as a listed pair takes 12 bytes (800 MB).
_FEW = 2**22
_RARE = 1 / 16
_LISTABLE = 2**26

# Pairs that are drawn at once where they are not listed; the first draw tells which share of all is selected.
_CANDIDATES = 4096

_Pairs = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # rows, columns, similarities or targets


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
        self._directions = image_directions(images.to(device or images.device))
        self._list: _Pairs | None = None
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
        self._block: _Pairs | None = None
        self._position = 0
        self.restart()

    def __str__(self) -> str:
        """How much there is to draw from."""
        return f"{self.count:,} of {self.total:,}" if self._listed else f"about {self.share:.0%} of {self.total:,}"

    @cached_property
    def count(self) -> int:
        """How many pairs the range selects, exactly; where they are not listed, this takes a pass over all pairs."""
        if self._list is not None:
            return len(self._list[0])
        return pair_count(self._directions, self.reg_range, self.reg_thresh, self.reg_thresh_2)

    def __iter__(self) -> Iterator[_Pairs]:
        return self

    def __next__(self) -> _Pairs:
        rows, columns, targets = self.batches(1)
        return rows[0], columns[0], targets[0]

    def batches(self, count: int) -> _Pairs:
        """Return the next batches together: (count, k) each of rows, columns and targets."""
        k, parts, missing = self.batch_size, [], count
        while missing:
            if self._block is None or self._position + k > len(self._block[0]):
                self._start, self._block, self._position = self._generator.get_state(), self._draw_block(), 0
            whole = min(missing, (len(self._block[0]) - self._position) // k)
            drawn = slice(self._position, self._position + whole * k)
            parts.append([part[drawn] for part in self._block])
            self._position, missing = drawn.stop, missing - whole
        rows, columns, targets = (torch.cat(part).view(count, k) for part in zip(*parts, strict=True))
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

    def _draw_block(self) -> _Pairs:
        """Draw rows, columns and similarities of some pairs, at least a batch: all of one generator state's draws."""
        if self._list is None:
            parts = [self._draw_selected(self._generator)]
            while sum(len(part[0]) for part in parts) < self.batch_size:
                parts.append(self._draw_selected(self._generator))
            rows, columns, similarities = (torch.cat(part) for part in zip(*parts, strict=True))
            return rows, columns, similarities
        if self.count <= _FEW:
            order = torch.randperm(self.count, generator=self._generator)
        else:
            order = torch.randint(self.count, (max(_CANDIDATES, self.batch_size),), generator=self._generator)
        rows, columns, similarities = (part[order.to(part.device)] for part in self._list)
        return rows.long(), columns.long(), similarities

    def _draw_selected(self, generator: torch.Generator) -> _Pairs:
        """Draw `_CANDIDATES` of all pairs, and return rows, columns and similarities of those that are selected."""
        images = torch.randint(len(self._directions), (2, _CANDIDATES), generator=generator)
        images = images.to(self._directions.device)
        rows, columns = images.amin(dim=0), images.amax(dim=0)
        similarities = (self._directions[rows] * self._directions[columns]).sum(dim=1)
        selected = RANGES[self.reg_range](similarities, self.reg_thresh, self.reg_thresh_2) & (rows < columns)
        return rows[selected], columns[selected], similarities[selected]

    def _list_selected(self) -> _Pairs | None:
        """List all selected pairs: int32 rows and columns, float32 similarities; None if memory should not hold them.

        They are written into memory that is taken at once: many small pieces between the large tiles would leave
        gigabytes of holes. What is never written takes no memory.
        """
        selects = RANGES[self.reg_range]
        most = min(self.total, 2 * _LISTABLE)
        listed = [torch.empty(most, dtype=kind) for kind in (torch.int32, torch.int32, torch.float32)]
        count = 0
        for row, column, tile in tiles(self._directions):
            selected = selects(tile, self.reg_thresh, self.reg_thresh_2)
            rows, columns = selected.nonzero(as_tuple=True)
            found = slice(count, count + len(rows))
            if found.stop > most:
                return None
            for part, values in zip(listed, (rows + row, columns + column, tile[selected]), strict=True):
                part[found] = values
            count = found.stop
        rows, columns, similarities = (part[:count].to(self._directions.device) for part in listed)
        return rows, columns, similarities

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
