"""A search's repeated runs as the pilot of a confirmation: how many seeds and images find a difference."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import pandas as pd

from brainreg.recommendation.setting_table import FEWEST_REPEATS
from brainreg.records.trial import FINISHED
from brainreg.statistics import Spread, power

# The difference of robust accuracies that a confirmation should find, and how probably.
WORTH_FINDING, POWER = 0.1, 0.8

# The most seeds of a setting.
_MOST_SEEDS = 60


@dataclass(frozen=True)
class Pilot:
    """What repeated runs of a search say of the noise of a run's robust accuracy, under the search's own attack.

    Attributes:
        repeats: degrees of freedom, the runs beyond the first of their setting.
        images: that one run attacks.
        of_seeds: variance between runs that more images would not change.
        of_images: variance of one image's outcome, within a run.
    """

    repeats: int
    images: int
    of_seeds: float
    of_images: float

    @classmethod
    def of_search(cls, results: pd.DataFrame) -> Self | None:
        """Return the pilot that a search's trials are, as `load_results` returns them; None of too few repeats."""
        runs = results[(results.state == FINISHED) & results.robust_accuracy.notna() & (results.robust_n > 0)]
        by_setting = runs.groupby("setting_number").robust_accuracy
        repeats = int((by_setting.count() - 1).sum())
        if repeats < FEWEST_REPEATS:
            return None
        whole = float(((runs.robust_accuracy - by_setting.transform("mean")) ** 2).sum() / repeats)
        images = round(float(runs.robust_n.mean()))
        of_images = float((runs.robust_accuracy * (1 - runs.robust_accuracy)).mean()) * images / max(images - 1, 1)
        return cls(repeats, images, max(whole - of_images / images, 0.0), of_images)

    @property
    def deviation(self) -> float:
        """Standard deviation of a run's robust accuracy, of as many images."""
        return math.sqrt(self.of_seeds + self.of_images / self.images)

    @property
    def difference(self) -> Spread:
        """The spread of a difference of two settings, as if one's runs told nothing of the other's: the pairing over
        seeds and images can only make it smaller.
        """
        return Spread(self.repeats, self.images, 2 * self.of_seeds, 2 * self.of_images)

    def power(self, seeds: int, images: int, comparisons: int) -> float:
        """Return how probably a paired t test finds `WORTH_FINDING`, at Bonferroni's level."""
        return power(WORTH_FINDING, self.difference.error(seeds, images), seeds, comparisons)

    def seeds_needed(self, images: int, comparisons: int, fewest: int) -> int | None:
        """Return the fewest seeds that find it with `POWER`; None where `_MOST_SEEDS` do not."""
        enough = (seeds for seeds in range(fewest, _MOST_SEEDS + 1) if self.power(seeds, images, comparisons) >= POWER)
        return next(enough, None)

    def describe(self, seeds: int, images: int, comparisons: int, test_images: int) -> str:
        """Return what so many seeds and images will find, and what would find enough, in a sentence.

        Args:
            test_images: as many as there are.
        """
        found = self.power(seeds, images, comparisons)
        text = (
            f"pilot: {self.repeats} repeated runs of the search differ in robust accuracy by a standard deviation of"
            f" {self.deviation:.3f}, of which {math.sqrt(self.of_seeds):.3f} do not come from attacking only"
            f" {self.images} images; with {seeds} seeds and {images} images a difference of {WORTH_FINDING:g} is found"
            f" with a probability of about {found:.0%}"
        )
        if found >= POWER:
            return text
        ways = [
            f"{needed} seeds of {count} images"
            for count in dict.fromkeys((images, min(4 * images, test_images)))
            if (needed := self.seeds_needed(count, comparisons, seeds)) is not None
        ]
        return f"{text}; with {POWER:.0%} by {' or '.join(ways) or f'more than {_MOST_SEEDS} seeds'}"


def best_design(pilot: Pilot, designs: Sequence[tuple[int, int, float]], comparisons: int) -> tuple[int, int]:
    """Return the seeds and images of the design that finds a difference most probably; the cheapest of those that find
    it with `POWER`.

    Args:
        designs: seeds, images and cost of each that can be paid; one at least.
    """
    known = [(pilot.power(seeds, images, comparisons), seeds, images, cost) for seeds, images, cost in designs]
    enough = [one for one in known if one[0] >= POWER]
    best = min(enough, key=lambda one: one[3]) if enough else max(known, key=lambda one: (round(one[0], 3), -one[3]))
    return best[1], best[2]
