"""Tables of real runs, which make_table.py made: what benchmarks search in, instead of training."""

import math
from collections import defaultdict
from collections.abc import Iterable
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainreg.recommendation.allocation import Settings
from brainreg.recommendation.places import Places
from brainreg.recommendation.process import Runs
from brainreg.recommendation.surrogate import Surrogate
from brainreg.spaces.names import UNREGULARIZED
from brainreg.spaces.space import Space

RESULTS = Path(__file__).resolve().parent / "results"
MEASURED = ("objective", "clean_accuracy", "robust_accuracy", "noise_accuracy", "attack_seconds")
ISLAND = 0


@dataclass(frozen=True)
class Run:
    """One training.

    Attributes:
        training: seconds of each epoch.
        proxying: seconds of each epoch's proxy.
        reports: what the scheduler hears after each epoch.
        measured: accuracies and the objective at the end, and the seconds of the attack.
    """

    training: list[float]
    proxying: list[float]
    reports: list[dict[str, float]]
    measured: dict[str, float]

    @property
    def objective(self) -> float:
        return self.measured["objective"]

    def seconds(self, uses_proxy: bool) -> float:
        return sum(self.training) + self.measured["attack_seconds"] + (sum(self.proxying) if uses_proxy else 0.0)


class RunTable:
    """Tabulated runs: `runs[setting][seed]`; setting 0 is the unregularized one, the others lie in the space.

    Of a table that is not whole yet, those seeds that all settings ran with.
    """

    def __init__(self, path: Path, space: Space):
        frame = pd.read_csv(path)
        if "seed" not in frame:
            frame["seed"] = 0
        complete = frame.groupby("seed").setting.nunique()
        frame = frame[frame.seed.isin(complete[complete == complete.max()].index)]
        self.space = space
        self.places = Places(space)
        self.seeds = sorted(frame.seed.unique())
        rows: dict[int, dict[int, Run]] = defaultdict(dict)
        params: dict[int, dict[str, Any]] = {}
        bare = -1 - space.given.index(UNREGULARIZED)
        for (number, seed), epochs in frame.groupby(["setting", "seed"]):
            first = epochs.iloc[0]
            reports = [
                {
                    "epoch": row.epoch,
                    "valid_cross_entropy": row.valid_cross_entropy,
                    "proxy_objective": row.proxy_objective,
                }
                for row in epochs.itertuples()
            ]
            seconds = np.diff(epochs.seconds, prepend=0).tolist()
            measured = {name: float(first[name]) for name in MEASURED}
            rows[number][seed] = Run(seconds, epochs.proxy_seconds.tolist(), reports, measured)
            params[number] = {name: first[name] for name in self.places.names if not pd.isna(first[name])}
        numbers = sorted(rows, key=lambda one: (one != bare, one))
        self.runs = [[rows[number][seed] for seed in self.seeds] for number in numbers]
        self.params = [params[number] for number in numbers]
        axes = self.places.place_all(self.params)
        axes[0] = 0.5
        islands = np.full(len(numbers), -1)
        islands[0] = ISLAND
        self.settings = Settings(axes, islands)

    def values(self) -> np.ndarray:
        """Objectives, (settings, seeds)."""
        return np.array([[run.objective for run in runs] for runs in self.runs])

    def runs_for_surrogate(self, own: Settings, settings: Iterable[int], seeds: Iterable[int]) -> Runs:
        """Return the runs of some of the settings, of which `own` are the places, with some of the seeds."""
        values = self.values()[np.ix_([*settings], [*seeds])]
        chosen = np.repeat(np.arange(values.shape[0]), values.shape[1])
        return Runs(
            own.places[chosen],
            own.islands[chosen],
            np.tile(np.arange(values.shape[1]), values.shape[0]),
            values.ravel(),
            np.zeros(values.size),
        )

    @cached_property
    def surrogate(self) -> Surrogate:
        """Fitted to all runs of the table."""
        everything = self.runs_for_surrogate(self.settings, range(len(self.settings)), range(len(self.seeds)))
        return Surrogate(everything, self.places.groups)

    def redrawn(self, generator: np.random.Generator) -> tuple["RunTable", np.ndarray]:
        """Return runs that are drawn anew around known values of the settings, and those values, (settings,).

        A drawn run is one of the table's runs of the same setting, moved: its proxies as far as its objective.
        """
        values = self.values()
        (count, seeds), means = values.shape, values.mean(axis=1)
        offsets = (values - means[:, None]).mean(axis=0)
        away = values - means[:, None] - offsets
        away *= math.sqrt(count * seeds / ((count - 1) * (seeds - 1)))
        truth = self.surrogate.sample(self.settings.places, self.settings.islands, 1, generator)[0]
        new_offsets = generator.choice(offsets, seeds)
        sources = generator.integers(seeds, size=(count, seeds))
        table = copy(self)
        del table.surrogate  # it knows the table's own runs
        table.runs = [
            [
                moved(self.runs[one][source], truth[one] + away[one, source] + new_offsets[seed])
                for seed, source in enumerate(sources[one])
            ]
            for one in range(count)
        ]
        return table, truth


def moved(run: Run, objective: float) -> Run:
    """Return a run that ends with another objective; its proxies are moved as far."""
    further = objective - run.objective
    reports = [one | {"proxy_objective": one["proxy_objective"] + further} for one in run.reports]
    return replace(run, reports=reports, measured=run.measured | {"objective": objective})
