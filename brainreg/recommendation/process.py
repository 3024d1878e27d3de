"""A Gaussian process over runs, whose scales are given: what they say of each setting's objective."""

from dataclasses import dataclass, field, replace
from functools import cached_property

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular

# Variance of the mean, of standardized values.
MEAN_VARIANCE = 1.0

JITTER = 1e-8
SettingKey = tuple[int, bytes]


@dataclass(frozen=True)
class Runs:
    """What is known of the runs of a search.

    Attributes:
        places: (runs, axes) of their settings in the unit cube.
        islands: (runs,) int, -1 for settings inside the space; any other number is a setting of its own, which
            resembles no other, such as the unregularized one.
        seeds: (runs,) int, equal for runs of one seed.
        values: (runs,) of the objective.
        extra: (runs,) variance beside the noise, of values that were only estimated.
    """

    places: np.ndarray
    islands: np.ndarray
    seeds: np.ndarray
    values: np.ndarray
    extra: np.ndarray

    def __len__(self) -> int:
        return len(self.values)

    @cached_property
    def setting_keys(self) -> list[SettingKey]:
        """What is equal for runs of one setting."""
        return [(int(island), place.tobytes()) for island, place in zip(self.islands, self.places, strict=True)]

    def part(self, chosen: np.ndarray) -> "Runs":
        """Return some of the runs."""
        return Runs(*(getattr(self, name)[chosen] for name in ("places", "islands", "seeds", "values", "extra")))

    def with_pending(self, places: np.ndarray, islands: np.ndarray, seeds: np.ndarray, values: np.ndarray) -> "Runs":
        """Return these runs and others, whose values are only expected."""
        return Runs(
            np.concatenate([self.places, places]),
            np.concatenate([self.islands, islands]),
            np.concatenate([self.seeds, seeds]),
            np.concatenate([self.values, values]),
            np.concatenate([self.extra, np.zeros(len(values))]),
        )


@dataclass(frozen=True, eq=False)
class Scales:
    """What a Gaussian process supposes of the objective.

    Attributes:
        center, scale: what standardizes values.
        logs: (3 + parameters,) logarithms of the variance of the settings, of the noise and of the seeds' offsets, all
            of standardized values, and of the length scale along each parameter (the cube's edge is 1).
        ratios: of some settings, the variance of their noise in units of the common one; 1 of the others.
    """

    center: float
    scale: float
    logs: np.ndarray
    ratios: dict[SettingKey, float] = field(default_factory=dict)

    @property
    def signal(self) -> float:
        return float(np.exp(self.logs[0]))

    @property
    def noise(self) -> float:
        return float(np.exp(self.logs[1]))

    @property
    def offset(self) -> float:
        return float(np.exp(self.logs[2]))

    @property
    def mean_ratio(self) -> float:
        """Mean of the settings' ratios."""
        return float(np.mean([*self.ratios.values()])) if self.ratios else 1.0

    def standardized(self, runs: Runs) -> np.ndarray:
        """Return (runs,) values."""
        return (runs.values - self.center) / self.scale

    def ratios_of(self, runs: Runs) -> np.ndarray:
        """Return (runs,) the variance of each one's noise, in units of the common one."""
        return np.array([self.ratios.get(key, 1.0) for key in runs.setting_keys])

    def with_ratios(self, ratios: dict[SettingKey, float]) -> "Scales":
        return replace(self, ratios=ratios)

    def with_logs(self, logs: np.ndarray) -> "Scales":
        return replace(self, logs=logs)


class Process:
    """A Gaussian process with given scales, conditioned on runs. Matern 5/2, a length scale for each parameter.

    Args:
        runs: at least one.
        groups: (axes,) the parameter of each axis; see `Places`.
        scales: see there.

    Attributes:
        log_likelihood: of the runs' standardized values, less a constant.

    Source: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters 2 and 5.
    """

    def __init__(self, runs: Runs, groups: np.ndarray, scales: Scales):
        self.runs, self.groups, self.scales = runs, groups, scales
        matrix = self._kernel(runs.places, runs.islands, runs.places, runs.islands)
        matrix += scales.offset * (runs.seeds[:, None] == runs.seeds[None, :])
        own = scales.noise * scales.ratios_of(runs) + runs.extra / scales.scale**2
        matrix[np.diag_indices(len(runs))] += own + JITTER
        standard = scales.standardized(runs)
        self._factor = cholesky(matrix, lower=True, check_finite=False)
        self._weights = cho_solve((self._factor, True), standard, check_finite=False)
        self.log_likelihood = float(-0.5 * standard @ self._weights - np.log(np.diag(self._factor)).sum())

    def posterior(self, places: np.ndarray, islands: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what is known of settings' values, without any seed's offset and without noise.

        Args:
            places: (settings, axes) in the unit cube.
            islands: (settings,) as in `Runs`.

        Returns:
            (settings,) means and (settings, settings) covariances.
        """
        scales = self.scales
        cross = self._kernel(self.runs.places, self.runs.islands, places, islands)
        covariance = self._kernel(places, islands, places, islands)
        half = solve_triangular(self._factor, cross, lower=True, check_finite=False)
        covariance -= half.T @ half
        covariance[np.diag_indices(len(places))] += JITTER * scales.signal
        return scales.center + scales.scale * (cross.T @ self._weights), scales.scale**2 * covariance

    def with_pending(self, places: np.ndarray, islands: np.ndarray, seeds: np.ndarray) -> "Process":
        """Return the process as if further runs had given what it expects of them; see `Runs`."""
        expected = self.posterior(places, islands)[0]
        return Process(self.runs.with_pending(places, islands, seeds, expected), self.groups, self.scales)

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what each run's value is predicted to be from all others: (runs,) means and standard deviations.

        Source: Rasmussen and Williams, 5.4.2.
        """
        diagonal = np.diag(self._inverse)
        mean = self.scales.standardized(self.runs) - self._weights / diagonal
        return self.scales.center + self.scales.scale * mean, self.scales.scale / np.sqrt(diagonal)

    def noise_squares(self) -> np.ndarray:
        """Return (runs,) the expected square of each run's noise, in units of the noise's common variance."""
        own = self.scales.noise * self.scales.ratios_of(self.runs)
        return ((own * self._weights) ** 2 + own - own**2 * np.diag(self._inverse)) / self.scales.noise

    @cached_property
    def _inverse(self) -> np.ndarray:
        return cho_solve((self._factor, True), np.eye(len(self.runs)), check_finite=False)

    def _kernel(
        self, places: np.ndarray, islands: np.ndarray, other_places: np.ndarray, other_islands: np.ndarray
    ) -> np.ndarray:
        squares = squared_distances(places, other_places, self.groups, np.exp(-2 * self.scales.logs[3:]))
        alike = matern(squares.sum(axis=0))
        alike = np.where(connected(islands, other_islands), alike, islands[:, None] == other_islands[None, :])
        return self.scales.signal * alike + MEAN_VARIANCE


def squared_distances(
    one: np.ndarray, other: np.ndarray, groups: np.ndarray, weights: np.ndarray | None = None
) -> np.ndarray:
    """Return squared distances along each parameter, (parameters, ones, others), times its weight."""
    count = int(groups.max()) + 1 if len(groups) else 0
    squares = np.zeros((count, len(one), len(other)))
    for axis, group in enumerate(groups):
        square = (one[:, axis, None] - other[None, :, axis]) ** 2
        squares[group] += square if weights is None else weights[group] * square
    return squares


def connected(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Return which pairs of settings both lie in the space."""
    return (one[:, None] < 0) & (other[None, :] < 0)


def matern(square: np.ndarray) -> np.ndarray:
    """Return how alike settings of such squared distances are (Matern 5/2)."""
    distance = np.sqrt(5 * square)
    return (1 + distance + distance**2 / 3) * np.exp(-distance)
