"""Statistics, for any data: against SciPy, and against what they must be."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given
from hypothesis import strategies as st

from brainreg.statistics import (
    front,
    holm,
    hypervolume,
    packed,
    sign_flip_test,
    simultaneous_interval,
    spread,
    student_interval,
    t_test,
    unpacked,
    wilson_interval,
)

accuracies = st.floats(0, 1, allow_nan=False)
differences = st.lists(st.floats(-1, 1).map(lambda value: round(value, 6)), min_size=2, max_size=9)
points = st.lists(st.tuples(accuracies, accuracies), min_size=1, max_size=12)


@given(st.integers(0, 2000), st.integers(1, 2000))
def test_wilsons_interval_holds_its_fraction_and_narrows(successes, n):
    successes = min(successes, n)
    low, high = wilson_interval(successes, n)
    assert 0 <= low <= successes / n <= high <= 1
    # The ends are where a score test is just not significant.
    for end in (low, high):
        if 1e-6 < end < 1 - 1e-6:
            z = (successes / n - end) / math.sqrt(end * (1 - end) / n)
            assert abs(z) == pytest.approx(scipy.stats.norm.ppf(0.975), rel=1e-6)
    wider = wilson_interval(10 * successes, 10 * n)
    assert wider[1] - wider[0] < high - low


def test_of_nothing_nothing_is_known():
    assert wilson_interval(0, 0) == (0, 1)


@given(differences)
def test_the_t_test_is_scipys(values):
    p = t_test(values)
    if np.std(values) < 1e-9:
        assert p == 1 if abs(np.mean(values)) < 1e-12 else math.isnan(p)
    else:
        assert p == pytest.approx(scipy.stats.ttest_1samp(values, 0).pvalue, rel=1e-9)
        low, high = student_interval(values)
        theirs = scipy.stats.ttest_1samp(values, 0).confidence_interval(0.95)
        assert (low, high) == pytest.approx((theirs.low, theirs.high), rel=1e-9, abs=1e-12)


@given(differences)
def test_flipping_all_signs_changes_no_test(values):
    flipped = [-value for value in values]
    assert sign_flip_test(values) == pytest.approx(sign_flip_test(flipped))
    assert sign_flip_test(values) >= 2 / 2 ** len(values) - 1e-12


@given(st.lists(st.one_of(st.floats(0, 1), st.just(math.nan)), min_size=1, max_size=8))
def test_holms_correction(values):
    """Against its definition: the largest of the smaller ones, each times how many are left."""
    corrected = holm(values)
    for value, found in zip(values, corrected, strict=True):
        if math.isnan(value):
            assert math.isnan(found)
            continue
        smaller = sorted(one for one in values if one <= value)  # of equal ones, the last counts
        steps = [min((len(values) - place) * one, 1.0) for place, one in enumerate(smaller)]
        first = steps[: len([one for one in smaller if one < value]) + 1]
        assert max(first) - 1e-12 <= found <= max(steps) + 1e-12 and found >= value - 1e-12


@given(differences, st.integers(1, 5))
def test_a_simultaneous_interval_is_wider_the_more_there_are(values, comparisons):
    one, more = (simultaneous_interval(values, count, 1.0) for count in (comparisons, comparisons + 1))
    assert more[0] <= one[0] <= np.mean(values) + 1e-12 and np.mean(values) - 1e-12 <= one[1] <= more[1]


@given(st.lists(st.booleans(), max_size=300))
def test_outcomes_are_packed_without_loss(outcomes):
    assert unpacked(packed(outcomes)).tolist() == outcomes


@given(points)
def test_the_front_is_what_nothing_dominates(values):
    clean, robust = zip(*values, strict=True)
    members = front(clean, robust)
    assert any(members)
    for inside, (c, r) in zip(members, values, strict=True):
        better = any(a >= c and b >= r and (a, b) != (c, r) for a, b in values)
        assert inside is not better


@given(points, st.tuples(accuracies, accuracies))
def test_a_hypervolume_never_falls_with_more_points(values, another):
    clean, robust = zip(*values, strict=True)
    more = hypervolume((*clean, another[0]), (*robust, another[1]))
    assert more >= hypervolume(clean, robust) - 1e-9
    assert hypervolume(clean, robust) >= max(c * r for c, r in values) - 1e-9


@given(st.integers(2, 6), st.integers(2, 60), st.integers(0, 2**32 - 1))
def test_the_parts_of_a_spread_make_the_variance_of_the_means(seeds, images, seed):
    values = np.random.default_rng(seed).integers(-1, 2, size=(seeds, images))
    known = spread([*values])
    between = np.var(values.mean(axis=1), ddof=1)
    assert known.of_seeds >= 0 and known.of_images >= 0
    assert known.of_seeds + known.of_images / images >= between - 1e-9
