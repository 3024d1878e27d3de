"""Which setting to use, and how sure that is."""

from dataclasses import dataclass

import numpy as np

from brainreg.recommendation.allocation import SettingRuns, Settings
from brainreg.recommendation.surrogate import Surrogate

# Draws of the posterior that probabilities are counted over.
_DRAWS = 4000

# Of fewer runs, it cannot be told how well they are predicted.
_LEAST_GUARDED = 10

# A difference of the objective that decides nothing.
INDIFFERENCE = 0.005

# A setting whose objective is no further below that of the best is as good.
AS_GOOD = 0.01


@dataclass(frozen=True)
class Recommendation:
    """What the runs of a search say of its settings.

    Attributes:
        setting: number of the recommended one.
        mean, low, high: (settings,) expected objective of each, and the ends of its 95% interval.
        best: (settings,) probability that no other setting is better by more than `INDIFFERENCE`.
        near: (settings,) the same with `AS_GOOD`.
        regret: how much better the best of them is expected to be than the recommended one.
        draws: (draws, settings) of the posterior.
    """

    setting: int
    mean: np.ndarray
    low: np.ndarray
    high: np.ndarray
    best: np.ndarray
    near: np.ndarray
    regret: float
    draws: np.ndarray

    def better(self, one: int, other: int) -> float:
        """Return the probability that a setting is better than another one."""
        return float(np.mean(self.draws[:, one] > self.draws[:, other]))

    def gain(self, one: int, other: int) -> tuple[float, float, float]:
        """Return the expected difference of two settings, and the ends of its 95% interval."""
        difference = self.draws[:, one] - self.draws[:, other]
        low, high = np.percentile(difference, (2.5, 97.5))
        return float(difference.mean()), float(low), float(high)


def fit_guarded(settings: Settings, runs: SettingRuns, groups: np.ndarray) -> tuple[Surrogate, Settings]:
    """Fit a surrogate, without any likeness of the settings where that predicts each run better from the others.

    Then a setting's expected value is the mean of its own runs, drawn toward the mean of all.

    Args:
        settings, runs: of the search; one run at least has ended.
        groups: (axes,) the parameter of each axis; see `Places`.

    Returns:
        The surrogate, and the settings as it knows them.
    """
    known = runs.known(settings)
    alike = Surrogate(known, groups)
    if len(known) < _LEAST_GUARDED:
        return alike, settings
    apart = Surrogate(runs.known(settings.apart()), groups)
    if alike.left_out_density() >= apart.left_out_density():
        return alike, settings
    return apart, settings.apart()


def recommend(
    surrogate: Surrogate, settings: Settings, runs: SettingRuns, proposed: np.ndarray, seed: int = 0
) -> Recommendation:
    """Recommend the setting with the largest posterior mean.

    Args:
        surrogate: fitted to the runs.
        settings, runs: of the search.
        proposed: (settings,) bool, which settings may be recommended.
        seed: of the draws that probabilities are counted over.
    """
    mean, covariance = surrogate.posterior(settings.places, settings.islands)
    draws = surrogate.sample(settings.places, settings.islands, _DRAWS, np.random.default_rng(seed))
    ended = ~np.isnan(runs.values) & (runs.extra == 0)
    counts = np.bincount(runs.settings[ended], minlength=len(settings))
    chosen = int(np.where(proposed & (counts > 0), mean, -np.inf).argmax())
    tried = counts > 0
    largest = draws[:, tried].max(axis=1)
    spread = 1.959964 * np.sqrt(np.diag(covariance))
    return Recommendation(
        chosen,
        mean,
        mean - spread,
        mean + spread,
        np.mean(draws >= largest[:, None] - INDIFFERENCE, axis=0) * tried,
        np.mean(draws >= largest[:, None] - AS_GOOD, axis=0) * tried,
        float(np.mean(largest - draws[:, chosen])),
        draws,
    )
