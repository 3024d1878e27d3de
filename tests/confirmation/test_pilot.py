"""A search's repeated runs as the pilot of a confirmation: what they say of noise, and which design they choose."""

import math

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from brainreg.confirmation.pilot import POWER, WORTH_FINDING, Pilot, best_design
from brainreg.recommendation.setting_table import FEWEST_REPEATS
from brainreg.records.results import load_results
from brainreg.statistics import power


def runs(settings: int, repeats: int, images: int, of_seeds: float, seed: int = 0) -> pd.DataFrame:
    """Trials of settings that are equally good but for the noise of seeds (a standard deviation) and images."""
    draws = np.random.default_rng(seed)
    true = np.clip(0.5 + of_seeds * draws.normal(size=settings * repeats), 0, 1)
    numbers = np.arange(settings).repeat(repeats)
    accuracy = draws.binomial(images, true) / images
    return pd.DataFrame(
        {"setting_number": numbers, "state": "finished", "robust_accuracy": accuracy, "robust_n": images}
    )


@pytest.mark.parametrize(("of_seeds", "images"), [(0.0, 50), (0.05, 50), (0.1, 400)])
def test_the_parts_of_the_noise_are_found(of_seeds, images):
    pilot = Pilot.of_search(runs(4000, 3, images, of_seeds))
    assert pilot.repeats == 8000 and pilot.images == images
    assert pilot.of_seeds == pytest.approx(of_seeds**2, abs=5e-4)
    assert pilot.of_images == pytest.approx(0.25 - of_seeds**2, abs=2e-3)
    assert pilot.deviation**2 == pytest.approx(pilot.of_seeds + pilot.of_images / images)


def test_too_few_repeats_are_no_pilot(searched):
    assert Pilot.of_search(runs(5, 1, 50, 0.1)) is None
    unfinished = runs(2, 2, 50, 0.1).assign(state=["finished", "failed", "finished", "finished"])
    assert Pilot.of_search(unfinished) is None  # one repeat
    assert Pilot.of_search(runs(2, 2, 50, 0.1)) is None and Pilot.of_search(runs(3, 2, 50, 0.1)).repeats == 3
    results = load_results(searched)  # a real search: whatever it repeated, its trials are counted once
    pilot = Pilot.of_search(results)
    finished = results[results.state == "finished"]
    repeats = len(finished) - finished.setting_number.nunique()
    assert (pilot is None) == (repeats < FEWEST_REPEATS) and (pilot is None or pilot.repeats == repeats)


def test_power_is_how_often_scipys_test_finds_a_difference():
    draws, seeds, comparisons = np.random.default_rng(0), 9, 3
    differences = draws.normal(0.1, 0.09, size=(20000, seeds))
    p = scipy.stats.ttest_1samp(differences, 0, axis=1).pvalue
    seen = (p < 0.05 / comparisons).mean()
    assert power(0.1, 0.09 / math.sqrt(seeds), seeds, comparisons) == pytest.approx(seen, abs=0.015)
    assert power(0.1, 0.0, 9, 3) == 1 and power(0.0, 0.1, 9, 1) == pytest.approx(0.05)


def test_more_seeds_where_the_noise_is_theirs_and_more_images_where_it_is_theirs():
    """Two designs of the same cost: twice the seeds, or four times the images."""
    designs = [(8, 24, 1.0), (16, 24, 2.0), (8, 96, 2.0)]
    of_images, of_seeds = Pilot(9, 100, 0.0, 0.25), Pilot(9, 100, 0.02, 0.1)
    assert best_design(of_images, designs, 3) == (8, 96)
    assert best_design(of_seeds, designs, 3) == (16, 24)
    sure = Pilot(9, 100, 1e-4, 0.01)  # the cheapest one finds it
    assert sure.power(8, 24, 3) > POWER and best_design(sure, designs, 3) == (8, 24)


def test_what_it_says():
    pilot = Pilot(9, 100, 0.05**2, 0.2)
    told = pilot.describe(8, 24, 3, 1000)
    assert told.startswith("pilot: 9 repeated runs of the search") and f"a difference of {WORTH_FINDING:g}" in told
    needed = pilot.seeds_needed(24, 3, 8)
    assert f"with 80% by {needed} seeds of 24 images or " in told
    assert pilot.power(needed, 24, 3) >= POWER > pilot.power(needed - 1, 24, 3)
    assert "more than 60 seeds" in Pilot(9, 100, 1.0, 0.2).describe(8, 24, 3, 1000)
    assert "; with 80%" not in Pilot(9, 100, 0.0, 0.01).describe(8, 100, 3, 1000)
    assert " or " not in pilot.describe(8, 24, 3, 24)  # there are no more
