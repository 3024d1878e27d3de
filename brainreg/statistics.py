"""Intervals, tests and fronts: what is shown beside a mean, and when a difference is more than chance."""

import base64
import math
import zlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.special import stdtrit
from scipy.stats import binomtest, nct, permutation_test, ttest_1samp

# Errors of the first kind, for all comparisons of a measure together; of an interval alone.
LEVEL = 0.05


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the 95% interval of a fraction of `successes` among `n` (Wilson's score interval).

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    if n == 0:
        return 0.0, 1.0
    interval = binomtest(successes, n).proportion_ci(1 - LEVEL, method="wilson")
    return float(interval.low), float(interval.high)


# All sign flips of so many seeds are tried where there are no more flips than this; else so many are drawn.
_FLIPS = 9999

_BOOTSTRAPS = 1000


def t_test(differences: Sequence[float]) -> float:
    """Return the two-sided p of Student's paired t test; missing where no noise can be estimated."""
    count, mean, error = len(differences), float(np.mean(differences)), _error(differences)
    if count < 2:
        return math.nan
    if error < 1e-12:  # rounding
        return 1.0 if abs(mean) < 1e-12 else math.nan
    return float(ttest_1samp(differences, 0).pvalue)


def sign_flip_test(differences: Sequence[float]) -> float:
    """Return the two-sided p of the permutation test that flips signs: it does not assume normal differences.

    Its smallest value is 2 / 2^n for n differences. One seed gives one result.
    """
    values = np.asarray(differences, dtype=float)
    if len(values) < 2:
        return math.nan
    if not values.any():
        return 1.0
    if len(values) > math.log2(_FLIPS):
        options = {"n_resamples": _FLIPS, "rng": np.random.default_rng(0)}
    else:
        options = {"n_resamples": np.inf}  # all of them
    test = permutation_test(
        (values, np.zeros_like(values)),
        lambda one, other, axis: np.mean(one - other, axis=axis),
        permutation_type="samples",
        vectorized=True,
        **options,
    )
    return float(test.pvalue)


def least_seeds(comparisons: int) -> int:
    """Return the fewest seeds with which a sign-flip test can find a difference, after the correction.

    >>> [least_seeds(comparisons) for comparisons in (1, 2, 3, 4)]
    [6, 7, 7, 8]
    """
    return next(seeds for seeds in range(2, 64) if max(comparisons, 1) * 2 / 2**seeds < LEVEL)


def holm(values: Sequence[float]) -> list[float]:
    """Return p values after Holm's correction for their number, that of the missing ones included, which stay so.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]

    Source: Holm, Scand. J. Statist. 6 (1979) 65. (`multipletests` of statsmodels 0.15 gives the same, and collects
    garbage in each call: 80 ms on an AMD EPYC.)
    """
    known = sorted((i for i, value in enumerate(values) if not math.isnan(value)), key=lambda i: values[i])
    corrected, largest = [math.nan] * len(values), 0.0
    for place, i in enumerate(known):
        largest = max(largest, min((len(values) - place) * values[i], 1.0))
        corrected[i] = largest
    return corrected


def simultaneous_interval(differences: Sequence[float], comparisons: int, corrected: float) -> tuple[float, float]:
    """Return an interval of the mean that holds, with 95%, together with those of the other comparisons.

    Student's at Bonferroni's level. It leaves out 0 exactly where Holm's test rejects 0: there, an end beyond 0 is cut
    off at 0, which the rejection allows.

    Args:
        differences: one for each seed.
        comparisons: how many there are.
        corrected: p of the t test after Holm's correction.

    Source: Strassburger and Bretz, Stat. Med. 27 (2008) 4914.
    """
    if len(differences) < 2:
        return math.nan, math.nan
    mean = float(np.mean(differences))
    half = stdtrit(len(differences) - 1, 1 - LEVEL / comparisons / 2) * _error(differences)
    low, high = mean - half, mean + half
    if corrected < LEVEL:
        low, high = (max(low, 0.0), high) if mean > 0 else (low, min(high, 0.0))
    return low, high


def power(difference: float, error: float, seeds: int, comparisons: int) -> float:
    """Return how probably a two-sided paired t test finds a true difference, at Bonferroni's level.

    Args:
        difference: the true one.
        error: standard error of its mean over so many seeds.
        seeds: two at least.
        comparisons: for which the test is corrected.

    >>> round(power(0.5, 0.25, 16, 1), 3)  # Cohen's d of 0.5, as statsmodels' TTestPower has it
    0.465
    """
    if error <= 0:
        return 1.0
    freedom = seeds - 1
    critical = stdtrit(freedom, 1 - LEVEL / comparisons / 2)
    shift = difference / error
    return float(nct.sf(critical, freedom, shift) + nct.cdf(-critical, freedom, shift))


def student_interval(values: Sequence[float]) -> tuple[float, float]:
    """Return Student's 95% interval of the mean. It may end below 0 or above 1, where an accuracy cannot lie."""
    mean, half = float(np.mean(values)), stdtrit(len(values) - 1, 1 - LEVEL / 2) * _error(values)
    return mean - half, mean + half


def _error(values: Sequence[float]) -> float:
    return float(np.std(values, ddof=1) / math.sqrt(len(values))) if len(values) > 1 else math.nan


def packed(outcomes: Sequence[bool]) -> str:
    """Return which images were classified correctly as a short text."""
    bits = np.packbits(np.asarray(outcomes, dtype=bool))
    return f"{len(outcomes)}:{base64.b64encode(zlib.compress(bits.tobytes(), 9)).decode()}"


def unpacked(text: str) -> np.ndarray:
    """Return what `packed` packed, (n,) bool.

    Raises:
        ValueError: it is no such text.
    """
    count, _, content = text.partition(":")
    try:
        bits = np.frombuffer(zlib.decompress(base64.b64decode(content, validate=True)), dtype=np.uint8)
    except zlib.error as error:
        raise ValueError(f"outcomes: damaged ({error})") from error
    return np.unpackbits(bits, count=int(count)).astype(bool)


@dataclass(frozen=True)
class Spread:
    """Where the spread of a mean difference over seeds comes from.

    Attributes:
        seeds: how many there are.
        images: of one seed.
        of_seeds: variance of a seed's difference that more images would not change.
        of_images: variance of one image's difference, within a seed.
    """

    seeds: int
    images: int
    of_seeds: float
    of_images: float

    @property
    def share_of_images(self) -> float:
        """The part of the variance of the mean that is that of images; missing where there is no spread."""
        whole = self.of_seeds + self.of_images / self.images
        return self.of_images / self.images / whole if whole > 0 else math.nan

    def error(self, seeds: int, images: int) -> float:
        """Return the standard error of the mean difference over so many seeds and images."""
        return math.sqrt((self.of_seeds + self.of_images / images) / seeds)

    def half_width(self, seeds: int, images: int, comparisons: int) -> float:
        """Return half of the simultaneous interval that so many seeds and images would give."""
        return float(stdtrit(seeds - 1, 1 - LEVEL / comparisons / 2) * self.error(seeds, images))


def spread(differences: Sequence[np.ndarray]) -> Spread | None:
    """Return the parts of the variance, by the moments of a random-effects model; None where they are not known.

    Args:
        differences: of each seed, (n,) with -1, 0, 1 for each image; each seed has images of its own.
    """
    if len(differences) < 2 or min(map(len, differences)) < 2:
        return None
    images = round(float(np.mean([len(one) for one in differences])))
    within = float(np.mean([np.var(one, ddof=1) for one in differences]))
    between = float(np.var([np.mean(one) for one in differences], ddof=1))
    return Spread(len(differences), images, max(between - within / images, 0.0), within)


def bootstrap_interval(
    differences: Sequence[np.ndarray], comparisons: int, same_images: bool, seed: int = 0
) -> tuple[float, float]:
    """Return the interval of the mean difference of a bootstrap that draws seeds and, of them, images.

    Its level is that of `simultaneous_interval`. With few seeds it is too narrow by some amount.

    Args:
        differences: of each seed, (n,) with -1, 0, 1 for each image.
        comparisons: how many there are.
        same_images: whether all seeds have the same images, which are then drawn once for all of them.
        seed: of the draws.
    """
    if len(differences) < 2:
        return math.nan, math.nan
    draws, count = np.random.default_rng(seed), len(differences)
    chosen = draws.integers(count, size=(_BOOTSTRAPS, count))
    if same_images:
        values = np.stack(differences).astype(float)
        means = np.empty((_BOOTSTRAPS, count))
        for part in np.array_split(np.arange(_BOOTSTRAPS), 20):
            weights = draws.poisson(1.0, size=(len(part), values.shape[1])).astype(float)
            drawn = weights @ values.T / np.maximum(weights.sum(axis=1, keepdims=True), 1)
            means[part] = np.take_along_axis(drawn, chosen[part], axis=1)
    else:
        # Images that are drawn with replacement are counts of the three outcomes.
        parts = np.array([[np.mean(one == value) for value in (-1, 0, 1)] for one in differences])
        sizes = np.array([len(one) for one in differences])
        counts = draws.multinomial(sizes[chosen], parts[chosen])
        means = (counts[..., 2] - counts[..., 0]) / sizes[chosen]
    ends = LEVEL / comparisons / 2
    low, high = np.quantile(means.mean(axis=1), [ends, 1 - ends])
    return float(low), float(high)


def hypervolume(clean: Iterable[float], robust: Iterable[float], reference: tuple[float, float] = (0.0, 0.0)) -> float:
    """Return the area that a set of (clean, robust) accuracies dominates and that a reference alone does not.

    With the unregularized setting as the reference, it is what regularization adds. (The reference is no corner beyond
    which alone area counts: a setting that trades clean for robust accuracy would then count nothing.)

    >>> hypervolume([0.9, 0.5], [0.2, 0.6]), hypervolume([0.9, 0.5], [0.2, 0.6], (0.9, 0.1))
    (0.38, 0.29)
    """
    area, best = 0.0, 0.0
    for x, y in sorted([*zip(clean, robust, strict=True), reference], reverse=True):
        if y > best:
            area += x * (y - best)
            best = y
    return round(area - reference[0] * reference[1], 12)


def front(clean: Iterable[float], robust: Iterable[float]) -> list[bool]:
    """Return which (clean, robust) accuracies no other one exceeds in one and equals or exceeds in the other."""
    points = list(zip(clean, robust, strict=True))
    return [
        not any(other != point and other[0] >= point[0] and other[1] >= point[1] for other in points)
        for point in points
    ]


def winning_weights(clean: Sequence[float], robust: Sequence[float]) -> list[tuple[float, float] | None]:
    """Return for which weights w in [0, 1] each pair of accuracies has the largest `w * clean + (1 - w) * robust`: the
    ends of an interval; None for a pair that no weight makes the best, though it may be on the front.

    >>> winning_weights([0.9, 0.5, 0.6], [0.2, 0.6, 0.4])
    [(0.5, 1.0), (0.0, 0.5), None]
    """
    intervals: list[tuple[float, float] | None] = []
    for own_clean, own_robust in zip(clean, robust, strict=True):
        low, high = 0.0, 1.0
        for other_clean, other_robust in zip(clean, robust, strict=True):
            ahead, behind = own_clean - other_clean, other_robust - own_robust  # w * ahead >= (1 - w) * behind
            if ahead + behind > 0:
                low = max(low, behind / (ahead + behind))
            elif ahead + behind < 0:
                high = min(high, behind / (ahead + behind))
            elif behind > 0:
                low, high = 1.0, 0.0
        intervals.append((round(low, 12), round(high, 12)) if low <= high else None)
    return intervals


def knee(clean: Sequence[float], robust: Sequence[float]) -> int | None:
    """Return which pair of accuracies is the knee of their front: the one that lies farthest beyond the line through
    the ends of the front, each accuracy counted in parts of what the front spans. None where no pair lies beyond it.

    Source: Das, "On characterizing the knee of the Pareto curve", Structural Optimization 18 (1999).

    >>> knee([0.9, 0.5, 0.85], [0.2, 0.6, 0.55]), knee([0.9, 0.5], [0.2, 0.6])
    (2, None)
    """
    members = [i for i, on in enumerate(front(clean, robust)) if on]
    top, right = max(members, key=lambda i: robust[i]), max(members, key=lambda i: clean[i])
    width, height = clean[right] - clean[top], robust[top] - robust[right]
    if not (width > 0 and height > 0):
        return None
    beyond = {i: (clean[i] - clean[top]) / width + (robust[i] - robust[right]) / height - 1 for i in members}
    farthest = max(members, key=lambda i: beyond[i])
    return farthest if beyond[farthest] > 1e-9 else None
