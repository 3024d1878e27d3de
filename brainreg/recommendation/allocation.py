"""What to run next: a new setting, or a known one with a further seed.

Top-two Thompson sampling: a draw of the surrogate's posterior says which setting may be the best, further draws which
other one may be; one of the two is run. As long as much is unknown, that is mostly a new setting; the better the best
ones are known, the more often it is one of them again, with another seed.

Source: Russo, Simple Bayesian algorithms for best-arm identification, Operations Research 68 (2020) 1625.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from brainreg.recommendation.process import Runs
from brainreg.recommendation.surrogate import Surrogate

# How often the leader itself is run, and not its challenger.
_LEADER_SHARE = 0.5

# So many draws look for a challenger.
_CHALLENGER_DRAWS = 64


@dataclass(frozen=True)
class Settings:
    """The settings of a search, in any order.

    Attributes:
        places: (settings, axes) in the unit cube.
        islands: (settings,) int, as in `Runs`.
    """

    places: np.ndarray
    islands: np.ndarray

    def __len__(self) -> int:
        return len(self.islands)

    def apart(self) -> "Settings":
        """Return the same settings, none of which resembles another."""
        return Settings(self.places, np.arange(len(self)))

    def and_new(self, places: np.ndarray) -> "Settings":
        """Return these settings and new ones inside the space."""
        return Settings(np.concatenate([self.places, places]), np.concatenate([self.islands, np.full(len(places), -1)]))


@dataclass(frozen=True)
class SettingRuns:
    """Runs of such settings.

    Attributes:
        settings: (runs,) int, which of the settings each is of.
        seeds: (runs,) int, equal for runs of one seed.
        values: (runs,) of the objective; missing where a run has not ended.
        extra: (runs,) variance beside the noise, of values that were only estimated.
    """

    settings: np.ndarray
    seeds: np.ndarray
    values: np.ndarray
    extra: np.ndarray

    def counts(self, settings: int) -> np.ndarray:
        """Return how many runs each setting has, those that have not ended too."""
        return np.bincount(self.settings, minlength=settings)

    def with_values(self, values: np.ndarray) -> "SettingRuns":
        """Return the runs with the values of another goal."""
        return replace(self, values=values)

    def known(self, settings: Settings) -> Runs:
        """Return the runs that have ended, as a surrogate wants them."""
        ended = ~np.isnan(self.values)
        chosen = self.settings[ended]
        return Runs(
            settings.places[chosen],
            settings.islands[chosen],
            self.seeds[ended],
            self.values[ended],
            self.extra[ended],
        )


def fit_surrogates(settings: Settings, runs: SettingRuns, values: np.ndarray, groups: np.ndarray) -> list[Surrogate]:
    """Fit a surrogate of each goal to the runs that have ended; those that run count as if they gave what is expected.

    Args:
        settings, runs: of the search; one run at least has ended.
        values: (goals, runs), missing where `runs.values` are.
        groups: (axes,) the parameter of each axis; see `Places`.
    """
    pending = np.isnan(runs.values)
    chosen = runs.settings[pending]
    places, islands = settings.places[chosen], settings.islands[chosen]
    surrogates = []
    for own in values:
        known = runs.with_values(own).known(settings)
        surrogate = Surrogate(known, groups)
        if pending.any():
            surrogate = surrogate.with_pending(places, islands, runs.seeds[pending])
        surrogates.append(surrogate)
    return surrogates


def choose(
    surrogates: Sequence[Surrogate], settings: Settings, allowed: np.ndarray, generator: np.random.Generator
) -> int:
    """Return the number of the setting to run next.

    Of several goals, each call looks in one direction of their front: the hypervolume is the mean over all directions
    of what a draw reaches in them.

    Args:
        surrogates: of the search's runs, one for each goal.
        settings: the known ones and candidates for new ones.
        allowed: (settings,) bool, which of them may be run.
        generator: of the draws.

    Source of the directions: Zhang and Golovin, Random hypervolume scalarizations for provable multi-objective black
        box optimization, arXiv 2006.04655.
    """
    draws = [one.sample(settings.places, settings.islands, 1 + _CHALLENGER_DRAWS, generator) for one in surrogates]
    utility = draws[0]
    if len(draws) > 1:
        direction = np.abs(generator.standard_normal(len(draws)))
        direction /= np.linalg.norm(direction)
        utility = np.min(
            [
                (one - one[:, allowed].min(axis=1, keepdims=True)) / max(part, 1e-3)
                for one, part in zip(draws, direction, strict=True)
            ],
            axis=0,
        )
    utility[:, ~allowed] = -np.inf
    firsts = utility.argmax(axis=1)
    leader = int(firsts[0])
    if generator.random() < _LEADER_SHARE:
        return leader
    challengers = firsts[firsts != leader]
    return int(challengers[0]) if len(challengers) else leader
