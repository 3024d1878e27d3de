"""A Gaussian process over the runs of a search: what a setting's objective is without the luck of one seed.

Each run's value is a setting's own value, plus an offset of its seed that all settings share, plus noise. How large
each of the three is, and how far settings resemble each other along each parameter, is fitted. The noise is a setting's
own, too: some settings train alike with every seed, others not. Its variance is drawn toward that of all settings.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from scipy.linalg import cho_solve, cholesky, solve_triangular
from scipy.optimize import minimize

# Of standardized values. A median and a spread, both of a normal distribution of the logarithm: of the variance of the
# settings, of the noise, of the seeds' offsets, and of the length scales (the cube's edge is 1).
_PRIORS = {"signal": (0.7, 1.0), "noise": (0.4, 1.0), "offset": (0.02, 1.5), "length": (0.7, 0.8)}


# Variance of the mean, of standardized values.
_MEAN_VARIANCE = 1.0


_JITTER = 1e-8


# How much settings' variances of the noise resemble each other: each counts as if so many further runs had told of it,
# all of them of the common variance. (Degrees of freedom of a scaled inverse chi-squared distribution; `--noise` of
# benchmarks/recommendation.py fits 6.1 to 65 settings of eight seeds each on digits.)
_NOISE_FREEDOM = 6.0


# Times that scales and variances are fitted again once the settings' noise is known, and steps of finding that.
_ROUNDS, _STEPS = 2, 4


# Of more runs, scales and variances are fitted to so many, drawn at random; all runs count in the posterior. (The time
# of a fit grows with the cube of their number.)
_MOST_FITTED = 300


# The standard deviation of accuracies that is assumed as long as fewer runs are known, or all are equal.
_FIRST_SCALE, _LEAST_SCALED = 0.1, 3


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

    def setting_keys(self) -> list[tuple[int, bytes]]:
        """Return what is equal for runs of one setting."""
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


class Surrogate:
    """The fitted Gaussian process. Matern 5/2, a length scale for each parameter, fitted to the largest posterior.

    Args:
        runs: at least one.
        groups: (axes,) the parameter of each axis; see `Places`.
        like: a surrogate whose scales and variances are taken, so that nothing is fitted.

    Attributes:
        noise: standard deviation of a run around its setting's value and its seed's offset, of all settings.
        offset: standard deviation of the seeds' offsets.

    Sources: Rasmussen and Williams, Gaussian Processes for Machine Learning, 2006, chapters 2 and 5. Of the settings'
    own noise: Smyth, Linear models and empirical Bayes methods, Statistical Applications in Genetics and Molecular
    Biology 3 (2004); of how it is found: Bishop, Pattern Recognition and Machine Learning, 2006, 10.3 (variational).
    """

    def __init__(self, runs: Runs, groups: np.ndarray, like: "Surrogate | None" = None):
        self._runs, self._groups = runs, groups
        self._parameters = int(groups.max()) + 1 if len(groups) else 0
        if like is None:
            self._center = float(np.mean(runs.values))
            known = float(np.std(runs.values)) if len(runs) >= _LEAST_SCALED else 0.0
            self._scale = known or _FIRST_SCALE
            drawn = np.sort(np.random.default_rng(0).permutation(len(runs))[:_MOST_FITTED])
            self._ratios: dict[tuple[int, bytes], float] = {}
            self._logs = self._fit(runs.part(drawn))
            for _ in range(_ROUNDS):
                self._find_noise()
                self._logs = self._fit(runs.part(drawn), self._logs)
        else:
            self._center, self._scale, self._logs, self._ratios = like._center, like._scale, like._logs, like._ratios
        self._condition()

    @property
    def noise(self) -> float:
        return float(np.exp(self._logs[1] / 2) * self._scale)

    @property
    def offset(self) -> float:
        return float(np.exp(self._logs[2] / 2) * self._scale)

    def with_runs(self, runs: Runs) -> "Surrogate":
        """Return the posterior of other runs with the same scales and variances."""
        return Surrogate(runs, self._groups, self)

    def posterior(self, places: np.ndarray, islands: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return what is known of settings' values, without any seed's offset and without noise.

        Args:
            places: (settings, axes) in the unit cube.
            islands: (settings,) as in `Runs`.

        Returns:
            (settings,) means and (settings, settings) covariances.
        """
        signal = np.exp(self._logs[0])
        cross = self._kernel(self._runs.places, self._runs.islands, places, islands)
        own = self._kernel(places, islands, places, islands)
        half = solve_triangular(self._factor, cross, lower=True, check_finite=False)
        mean = cross.T @ self._weights
        covariance = own - half.T @ half
        covariance[np.diag_indices(len(places))] += _JITTER * signal
        return self._center + self._scale * mean, self._scale**2 * covariance

    def sample(self, places: np.ndarray, islands: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
        """Return draws of the settings' values from their posterior, (count, settings)."""
        mean, covariance = self.posterior(places, islands)
        return draw(mean, covariance, count, generator)

    def left_out(self) -> tuple[np.ndarray, np.ndarray]:
        """Return what each run's value is predicted to be from all others: (runs,) means and standard deviations.

        Source: Rasmussen and Williams, 5.4.2.
        """
        inverse = cho_solve((self._factor, True), np.eye(len(self._runs)), check_finite=False)
        diagonal = np.diag(inverse)
        standard = (self._runs.values - self._center) / self._scale
        mean = standard - inverse @ standard / diagonal
        return self._center + self._scale * mean, self._scale / np.sqrt(diagonal)

    def left_out_density(self) -> float:
        """Return the mean logarithm of the density that each run's value has, predicted from all others."""
        mean, spread = self.left_out()
        return float(np.mean(-0.5 * ((self._runs.values - mean) / spread) ** 2 - np.log(spread)))

    def _squares(self, one: np.ndarray, other: np.ndarray) -> np.ndarray:
        """Squared distances along each parameter, (parameters, ones, others)."""
        squares = np.zeros((self._parameters, len(one), len(other)))
        for axis, group in enumerate(self._groups):
            squares[group] += (one[:, axis, None] - other[None, :, axis]) ** 2
        return squares

    def _kernel(
        self, places: np.ndarray, islands: np.ndarray, other_places: np.ndarray, other_islands: np.ndarray
    ) -> np.ndarray:
        squares = self._squares(places, other_places)
        inverse = np.exp(-2 * self._logs[3:])
        alike = _matern(np.einsum("p,pij->ij", inverse, squares))
        alike = np.where(_connected(islands, other_islands), alike, islands[:, None] == other_islands[None, :])
        return np.exp(self._logs[0]) * alike + _MEAN_VARIANCE

    def _noise_of(self, runs: Runs) -> np.ndarray:
        """(runs,) variance of each one's noise, in units of the common one."""
        return np.array([self._ratios.get(key, 1.0) for key in runs.setting_keys()])

    def _find_noise(self) -> None:
        """Find each setting's variance of the noise, with the scales and common variances as they are."""
        runs, keys = self._runs, self._runs.setting_keys()
        noise = np.exp(self._logs[1])
        measured = [i for i in range(len(runs)) if runs.extra[i] == 0]
        for _ in range(_STEPS):
            self._condition()
            own = noise * self._noise_of(runs)
            inverse = cho_solve((self._factor, True), np.eye(len(runs)), check_finite=False)
            squares = (own * self._weights) ** 2 + own - own**2 * np.diag(inverse)  # expected, of each run's noise
            counts, sums = Counter(keys[i] for i in measured), Counter[tuple[int, bytes]]()
            for i in measured:
                sums[keys[i]] += squares[i] / noise
            self._ratios = {key: (_NOISE_FREEDOM + sums[key]) / (_NOISE_FREEDOM + counts[key]) for key in counts}

    def _fit(self, runs: Runs, start: np.ndarray | None = None) -> np.ndarray:
        count = len(runs)
        ratios = self._noise_of(runs)
        standard = (runs.values - self._center) / self._scale
        extra = runs.extra / self._scale**2
        squares = self._squares(runs.places, runs.places)
        connected = _connected(runs.islands, runs.islands)
        same_island = (runs.islands[:, None] == runs.islands[None, :]).astype(float)
        same_seed = (runs.seeds[:, None] == runs.seeds[None, :]).astype(float)
        names = ["signal", "noise", "offset"] + ["length"] * self._parameters
        middles = np.log([_PRIORS[name][0] for name in names])
        spreads = np.array([_PRIORS[name][1] for name in names])

        def loss(logs: np.ndarray) -> tuple[float, np.ndarray]:
            signal, noise, offset = np.exp(logs[:3])
            inverse_squares = np.exp(-2 * logs[3:])
            square = np.einsum("p,pij->ij", inverse_squares, squares)
            distance = np.sqrt(5 * square)
            decay = np.exp(-distance)
            alike = np.where(connected, (1 + distance + distance**2 / 3) * decay, same_island)
            matrix = signal * alike + offset * same_seed + _MEAN_VARIANCE
            matrix[np.diag_indices(count)] += noise * ratios + extra + _JITTER
            factor = cholesky(matrix, lower=True, check_finite=False)
            weights = cho_solve((factor, True), standard, check_finite=False)
            inverse = cho_solve((factor, True), np.eye(count), check_finite=False)
            value = 0.5 * standard @ weights + np.log(np.diag(factor)).sum()
            outer = inverse - np.outer(weights, weights)
            slope = np.where(connected, signal * (5 / 3) * (1 + distance) * decay, 0.0)
            gradient = np.concatenate(
                [
                    [
                        0.5 * signal * np.sum(outer * alike),
                        0.5 * noise * np.sum(np.diag(outer) * ratios),
                        0.5 * offset * np.sum(outer * same_seed),
                    ],
                    0.5 * inverse_squares * np.einsum("ij,pij->p", outer * slope, squares),
                ]
            )
            away = (logs - middles) / spreads
            return value + 0.5 * away @ away, gradient + away / spreads

        bounds = list(zip(middles - 4 * spreads, middles + 4 * spreads, strict=True))
        return minimize(
            loss,
            middles if start is None else start,
            jac=True,
            method="L-BFGS-B",
            bounds=bounds,
            options={"maxiter": 60},
        ).x

    def _condition(self) -> None:
        runs = self._runs
        noise, offset = np.exp(self._logs[1:3])
        matrix = self._kernel(runs.places, runs.islands, runs.places, runs.islands)
        matrix += offset * (runs.seeds[:, None] == runs.seeds[None, :])
        matrix[np.diag_indices(len(runs))] += noise * self._noise_of(runs) + runs.extra / self._scale**2 + _JITTER
        self._factor = cholesky(matrix, lower=True, check_finite=False)
        self._weights = cho_solve((self._factor, True), (runs.values - self._center) / self._scale, check_finite=False)


def _connected(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which pairs of settings both lie in the space."""
    return (one[:, None] < 0) & (other[None, :] < 0)


def _matern(square: np.ndarray) -> np.ndarray:
    distance = np.sqrt(5 * square)
    return (1 + distance + distance**2 / 3) * np.exp(-distance)


def draw(mean: np.ndarray, covariance: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return draws of a normal distribution, (count, settings), whose covariance may have lost rank by rounding."""
    values, vectors = np.linalg.eigh(covariance)
    half = vectors * np.sqrt(np.maximum(values, 0.0))
    return mean + generator.standard_normal((count, len(mean))) @ half.T
