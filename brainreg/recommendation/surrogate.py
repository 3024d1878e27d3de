"""A Gaussian process over the runs of a search: what a setting's objective is without the luck of one seed.

Each run's value is a setting's own value, plus an offset of its seed that all settings share, plus noise. How large
each of the three is, and how far settings resemble each other along each parameter, is fitted. The noise is a setting's
own, too: some settings train alike with every seed, others not. Its variance is drawn toward that of all settings.

Few runs leave all of these uncertain, and one fit that passes for the truth makes intervals too narrow. So a surrogate
is several processes, whose scales are drawn from what the runs leave possible.
"""

from collections import Counter
from collections.abc import Sequence
from copy import copy

import numpy as np
from scipy.linalg import cho_solve, cholesky
from scipy.optimize import minimize
from scipy.special import logsumexp

from brainreg.recommendation.process import (
    JITTER,
    MEAN_VARIANCE,
    Process,
    Runs,
    Scales,
    SettingKey,
    connected,
    squared_distances,
)

# Of standardized values. A median and a spread, both of a normal distribution of the logarithm: of the variance of the
# settings, of the noise, of the seeds' offsets, and of the length scales (the cube's edge is 1).
_PRIORS = {"signal": (0.7, 1.0), "noise": (0.4, 1.0), "offset": (0.02, 1.5), "length": (0.7, 0.8)}

# How much settings' variances of the noise resemble each other: each counts as if so many further runs had told of it,
# all of them of the common variance. (Degrees of freedom of a scaled inverse chi-squared distribution; `--noise` of
# benchmarks/recommendation.py fits 6.1 to 65 settings of eight seeds each on digits.)
_NOISE_FREEDOM = 6.0

# Times that scales and variances are fitted again once the settings' noise is known, and steps of finding that.
_ROUNDS, _STEPS = 2, 4

# Processes whose scales are drawn around the fitted ones, in pairs that lie opposite each other.
_PROCESSES = 8

# Of more runs, scales and variances are fitted to so many, drawn at random; all runs count in the posterior. (The time
# of a fit grows with the cube of their number.)
_MOST_FITTED = 300

# The standard deviation of accuracies that is assumed as long as fewer runs are known, or all are equal.
_FIRST_SCALE, _LEAST_SCALED, _LEAST_SCALE = 0.1, 3, 1e-9

# Of scales, in units of their prior: the largest distance from its middle, and the largest standard deviation of draws.
_FARTHEST, _WIDEST = 4.0, 1.5


class Surrogate:
    """Gaussian processes with scales that the runs leave possible.

    Args:
        runs: at least one.
        groups: (axes,) the parameter of each axis; see `Places`.

    Attributes:
        processes: one for each draw of the scales.

    Sources: of the draws around the fitted scales (Laplace's approximation), and of how the settings' own noise is
    found (variational): Bishop, Pattern Recognition and Machine Learning, 2006, 4.4 and 10.3. Of that noise: Smyth,
    Linear models and empirical Bayes methods, Statistical Applications in Genetics and Molecular Biology 3 (2004).
    """

    def __init__(self, runs: Runs, groups: np.ndarray):
        self.processes = [Process(runs, groups, scales) for scales in possible_scales(runs, groups)]

    @property
    def noise(self) -> float:
        """Standard deviation of a run around its setting's value and its seed's offset, over all settings."""
        return self._root_mean([one.scales.noise * one.scales.mean_ratio for one in self.processes])

    @property
    def offset(self) -> float:
        """Standard deviation of the seeds' offsets."""
        return self._root_mean([one.scales.offset for one in self.processes])

    def _root_mean(self, variances: Sequence[float]) -> float:
        return float(np.sqrt(np.mean(variances)) * self.processes[0].scales.scale)

    def with_pending(self, places: np.ndarray, islands: np.ndarray, seeds: np.ndarray) -> "Surrogate":
        """Return the posterior as if further runs had given what each process expects of them.

        Args:
            places: (runs, axes) of their settings in the unit cube.
            islands, seeds: (runs,) as in `Runs`.
        """
        other = copy(self)
        other.processes = [one.with_pending(places, islands, seeds) for one in self.processes]
        return other

    def posterior(self, places: np.ndarray, islands: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and covariance of settings' values over all processes; see `Process.posterior`."""
        means, covariances = map(
            np.array, zip(*(one.posterior(places, islands) for one in self.processes), strict=True)
        )
        mean = means.mean(axis=0)
        away = means - mean
        return mean, covariances.mean(axis=0) + away.T @ away / len(means)

    def sample(self, places: np.ndarray, islands: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
        """Return draws of the settings' values from their posterior, (count, settings)."""
        draws = np.empty((count, len(places)))
        own = generator.permutation(generator.permutation(len(self.processes))[np.arange(count) % len(self.processes)])
        for i, process in enumerate(self.processes):
            if (own == i).any():
                mean, covariance = process.posterior(places, islands)
                draws[own == i] = draw(mean, covariance, int((own == i).sum()), generator)
        return draws

    def left_out_density(self) -> float:
        """Return the mean logarithm of the density that each run's value has, predicted from all others."""
        densities = []
        for process in self.processes:
            mean, spread = process.left_out()
            densities.append(-0.5 * ((process.runs.values - mean) / spread) ** 2 - np.log(spread))
        return float(np.mean(logsumexp(densities, axis=0) - np.log(len(densities))))


def possible_scales(runs: Runs, groups: np.ndarray) -> list[Scales]:
    """Return scales that runs leave possible: draws around the most likely ones.

    Args:
        runs: at least one.
        groups: (axes,) the parameter of each axis.
    """
    spread = float(np.std(runs.values)) if len(runs) >= _LEAST_SCALED else 0.0
    part = runs.part(np.sort(np.random.default_rng(0).permutation(len(runs))[:_MOST_FITTED]))
    middles, spreads = _prior(groups)
    scales = Scales(float(np.mean(runs.values)), spread if spread > _LEAST_SCALE else _FIRST_SCALE, middles)
    loss = _Loss(part, groups, scales)
    scales = scales.with_logs(_largest(loss, middles))
    for _ in range(_ROUNDS):
        scales = scales.with_ratios(_likely_ratios(runs, groups, scales))
        loss = _Loss(part, groups, scales)
        scales = scales.with_logs(_largest(loss, scales.logs))
    generator = np.random.default_rng(0)
    half = _half_covariance(loss, scales.logs, spreads)
    drawn_steps = generator.standard_normal((_PROCESSES // 2, len(middles)))
    drawn_steps /= np.sqrt((drawn_steps**2).mean(axis=0))  # so few would by chance scatter too little or too much
    steps = drawn_steps @ half.T
    farthest = _FARTHEST * spreads
    drawn = []
    for step in [*steps, *-steps]:
        one = scales.with_logs(np.clip(scales.logs + step, middles - farthest, middles + farthest))
        drawn.append(one.with_ratios(_drawn_ratios(runs, groups, one, generator)))
    return drawn


def _prior(groups: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Middles and standard deviations of the scales' logarithms."""
    parameters = int(groups.max()) + 1 if len(groups) else 0
    names = ["signal", "noise", "offset"] + ["length"] * parameters
    return np.log([_PRIORS[name][0] for name in names]), np.array([_PRIORS[name][1] for name in names])


def _largest(loss: "_Loss", start: np.ndarray) -> np.ndarray:
    """Where the posterior of the scales is largest."""
    middles, spreads = loss.prior
    bounds = list(zip(middles - _FARTHEST * spreads, middles + _FARTHEST * spreads, strict=True))
    return minimize(loss, start, jac=True, method="L-BFGS-B", bounds=bounds, options={"maxiter": 60}).x


def _half_covariance(loss: "_Loss", logs: np.ndarray, spreads: np.ndarray) -> np.ndarray:
    """A root of the covariance that the scales' logarithms have by the curvature of the posterior at its largest."""
    step = 0.1 * spreads
    rows = [
        (loss(logs + step[i] * one)[1] - loss(logs - step[i] * one)[1]) * spreads / (2 * step[i])
        for i, one in enumerate(np.eye(len(logs)))
    ]
    curvature = np.array(rows) * spreads[:, None]
    values, vectors = np.linalg.eigh((curvature + curvature.T) / 2)
    return spreads[:, None] * vectors / np.sqrt(np.maximum(values, 1 / _WIDEST**2))


def _squares_of_settings(runs: Runs, groups: np.ndarray, scales: Scales) -> tuple[Counter, Counter]:
    """How many measured runs each setting has, and the sum of the expected squares of their noise."""
    squares = Process(runs, groups, scales).noise_squares()
    counts, sums = Counter[SettingKey](), Counter[SettingKey]()
    for key, square, extra in zip(runs.setting_keys, squares, runs.extra, strict=True):
        if extra == 0:
            counts[key] += 1
            sums[key] += square
    return counts, sums


def _likely_ratios(runs: Runs, groups: np.ndarray, scales: Scales) -> dict[SettingKey, float]:
    """Each setting's variance of the noise, in units of the common one, with the scales as they are."""
    for _ in range(_STEPS):
        counts, sums = _squares_of_settings(runs, groups, scales)
        ratios = {key: (_NOISE_FREEDOM + sums[key]) / (_NOISE_FREEDOM + counts[key]) for key in counts}
        scales = scales.with_ratios(ratios)
    return scales.ratios


def _drawn_ratios(
    runs: Runs, groups: np.ndarray, scales: Scales, generator: np.random.Generator
) -> dict[SettingKey, float]:
    """The same, drawn from what the runs leave possible."""
    counts, sums = _squares_of_settings(runs, groups, scales)
    return {key: (_NOISE_FREEDOM + sums[key]) / generator.chisquare(_NOISE_FREEDOM + counts[key]) for key in counts}


class _Loss:
    """What the most likely scales minimize, of their logarithms; the settings' ratios of the noise stay as they are."""

    def __init__(self, runs: Runs, groups: np.ndarray, scales: Scales):
        self.prior = _prior(groups)
        self._standard, self._ratios = scales.standardized(runs), scales.ratios_of(runs)
        self._extra = runs.extra / scales.scale**2
        self._squares = squared_distances(runs.places, runs.places, groups)
        self._connected = connected(runs.islands, runs.islands)
        self._same_island = (runs.islands[:, None] == runs.islands[None, :]).astype(float)
        self._same_seed = (runs.seeds[:, None] == runs.seeds[None, :]).astype(float)

    def __call__(self, logs: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the loss and its gradient."""
        count, (middles, spreads) = len(self._standard), self.prior
        signal, noise, offset = np.exp(logs[:3])
        inverse_squares = np.exp(-2 * logs[3:])
        distance = np.sqrt(5 * np.einsum("p,pij->ij", inverse_squares, self._squares))
        decay = np.exp(-distance)
        alike = np.where(self._connected, (1 + distance + distance**2 / 3) * decay, self._same_island)
        matrix = signal * alike + offset * self._same_seed + MEAN_VARIANCE
        matrix[np.diag_indices(count)] += noise * self._ratios + self._extra + JITTER
        factor = cholesky(matrix, lower=True, check_finite=False)
        weights = cho_solve((factor, True), self._standard, check_finite=False)
        inverse = cho_solve((factor, True), np.eye(count), check_finite=False)
        value = 0.5 * self._standard @ weights + np.log(np.diag(factor)).sum()
        outer = inverse - np.outer(weights, weights)
        slope = np.where(self._connected, signal * (5 / 3) * (1 + distance) * decay, 0.0)
        gradient = np.concatenate(
            [
                [
                    0.5 * signal * np.sum(outer * alike),
                    0.5 * noise * np.sum(np.diag(outer) * self._ratios),
                    0.5 * offset * np.sum(outer * self._same_seed),
                ],
                0.5 * inverse_squares * np.einsum("ij,pij->p", outer * slope, self._squares),
            ]
        )
        away = (logs - middles) / spreads
        return value + 0.5 * away @ away, gradient + away / spreads


def draw(mean: np.ndarray, covariance: np.ndarray, count: int, generator: np.random.Generator) -> np.ndarray:
    """Return draws of a normal distribution, (count, settings), whose covariance may have lost rank by rounding."""
    try:
        half = cholesky(covariance, lower=True, check_finite=False)
    except np.linalg.LinAlgError:
        values, vectors = np.linalg.eigh(covariance)
        half = vectors * np.sqrt(np.maximum(values, 0.0))
    return mean + generator.standard_normal((count, len(mean))) @ half.T
