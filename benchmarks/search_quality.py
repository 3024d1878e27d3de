"""How many seconds each sampler and scheduler needs to find a good setting, in a table of real runs.

python benchmarks/search_quality.py --save=benchmarks/results/search_quality.csv
python benchmarks/search_quality.py --trials=8 --workers=2 --objectives combined --samplers tpe random --seeds=100
python benchmarks/search_quality.py --tables=redrawn --first_seed=1000 --seeds=60 --samplers tpe oracle random
python benchmarks/search_quality.py --noise
python benchmarks/search_quality.py --retrain=5

The table (benchmarks/make_table.py) stands for the training: what the search's own study proposes is looked up as the
nearest setting that the search has not tried yet, and takes the seconds that it took when the table was made. The
scheduler is the search's own, too. Workers and time are virtual; time begins with the first trial, and the seconds
that proposals take are told beside it. Only networks that were trained to the end and attacked count as found.

* 95%: the best objective (or the hypervolume of clean and robust accuracy) reaches 95% of the table's.
* 95% of the way: it comes as far from the unregularized setting, which every search runs first, to the table's best.
* score: how much of that way the best so far has come, after the seconds in which a search without a scheduler ends 10,
  20 and 40 trials on average, and at the end of the search.
* left: how much better the best setting of the table is than what the search found, both without noise: as a Gaussian
  process smooths the table (the given settings, which it does not know, do not count). Of the combined objective only.

One table is one draw of much noise. With --tables=redrawn, each seed searches a table of its own, in which the
deviations of whole runs from the smoothed table are dealt anew among the settings; with --tables=half, a random half of
the settings. The sampler `oracle` is a bound: it knows the smoothed table, without each setting's own run, and
proposes its best first.
"""

import argparse
import copy
import heapq
import itertools
import math
import os
import sys
import time
import warnings
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
import torch
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from brainreg.search.scheduler import KEPT, RUNGS, AshaScheduler
from brainreg.search.strategy import Strategy
from brainreg.search.study import SearchStudy
from brainreg.spaces.files import load_space
from brainreg.spaces.names import EARLY_STOPPED, UNREGULARIZED
from brainreg.spaces.space import Space
from brainreg.statistics import hypervolume

RESULTS = Path(__file__).resolve().parent / "results"
SAMPLERS, SCHEDULERS = ("tpe", "gp", "nsga2", "random"), ("asha", "none")
ORACLE = "oracle"
TABLES = ("whole", "half", "redrawn")
BASELINE = ("random", "none")
EQUAL = (10, 20, 40)  # trials in whose seconds the searches are compared
_GOAL = 0.95
_ACCURACIES = ("clean_accuracy", "robust_accuracy")


@dataclass(frozen=True)
class Run:
    """One setting's training: of each epoch the seconds, those of its proxy, the validation cross-entropy and the
    proxy, and what was measured at the end."""

    training: list[float]
    proxying: list[float]
    cross_entropies: list[float]
    proxies: list[float]
    measured: dict[str, float]

    def report(self, epoch: int) -> dict[str, float]:
        """What the scheduler hears after an epoch."""
        known = {"valid_cross_entropy": self.cross_entropies[epoch - 1], "proxy_objective": self.proxies[epoch - 1]}
        return {"epoch": epoch, **known}

    @property
    def seconds(self) -> float:
        """Of the whole trial, without proxies."""
        return sum(self.training) + self.measured["attack_seconds"]


class RunTable:
    """The tabulated runs: of the settings that a space proposes, and of those that it is given."""

    def __init__(self, path: Path, space: Space):
        frame = pd.read_csv(path)
        self._distributions = {space.parameter(key): one for key, one in space.search.items()}
        self.given: dict[str, Run] = {}
        self.proposed: list[Run] = []
        places = []
        for number, epochs in frame.groupby("setting"):
            first = epochs.iloc[0]
            names = ("objective", "clean_accuracy", "robust_accuracy", "noise_accuracy", "attack_seconds")
            run = Run(
                np.diff(epochs.seconds, prepend=0).tolist(),
                epochs.proxy_seconds.tolist(),
                epochs.valid_cross_entropy.tolist(),
                epochs.proxy_objective.tolist(),
                {name: float(first[name]) for name in names},
            )
            if number < 0:
                self.given[space.given[-1 - number]] = run
            else:
                self.proposed.append(run)
                places.append(self._place(first))
        self._places = np.array(places)
        self.smoothed: list[float] = []
        self.foretold: list[float] = []

    def of_given(self, setting: str) -> Run:
        """The run of a given setting; that of the unregularized one for the same with another best epoch."""
        return self.given[UNREGULARIZED if setting == EARLY_STOPPED else setting]

    def smooth(self) -> tuple[np.ndarray, np.ndarray]:
        """Fit what was measured of the settings: objectives without noise, and those foretold from the others' runs.

        Of all that `_measured` lists; the objectives follow from the accuracies, as they do in a trial.
        """
        measured = np.array([_measured(run) for run in self.proposed])
        fitted, foretold = self.smooth_columns(measured)
        self.smoothed, self.foretold = fitted[:, -2:].mean(axis=1).tolist(), foretold[:, -2:].mean(axis=1).tolist()
        return fitted, measured

    def smooth_columns(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return (settings, columns) values as a Gaussian process smooths each column, and as it foretells each value
        from the other settings."""
        scale = np.where([one.choices is None for one in self._distributions.values()], 1.0, 0.1)
        places, fitted, foretold = self._places * scale, np.empty_like(values), np.empty_like(values)
        for i, column in enumerate(values.T):
            kernel = ConstantKernel(2.0) * Matern(np.ones(places.shape[1]), (0.05, 50), nu=2.5)
            process = GaussianProcessRegressor(kernel + WhiteKernel(0.3, (1e-3, 10)), normalize_y=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ConvergenceWarning)  # of parameters that do not matter
                fitted[:, i] = process.fit(places, column).predict(places)
            # Leaving one out of a Gaussian process in closed form (Rasmussen & Williams, 5.4.2).
            inverse = np.linalg.inv(process.kernel_(places))
            centered = (column - column.mean()) / column.std()
            foretold[:, i] = (centered - inverse @ centered / np.diag(inverse)) * column.std() + column.mean()
        return fitted, foretold

    def parameter(self, name: str) -> np.ndarray:
        """Return where each setting lies in the range of a parameter, 0 to 1; of its logarithm, where that is drawn."""
        return self._places[:, list(self._distributions).index(name)]

    def half(self, seed: int) -> "RunTable":
        """Return a table of a random half of the settings."""
        return self._of(np.sort(np.random.default_rng(seed).permutation(len(self.proposed))[::2]).tolist())

    def redrawn(self, seed: int, fitted: np.ndarray, measured: np.ndarray) -> "RunTable":
        """Return a table whose noise is another draw: whole runs' deviations, dealt anew among the settings."""
        table = self._of(range(len(self.proposed)))
        dealt = fitted + np.random.default_rng(seed).permutation(measured - fitted)
        for i, (run, values) in enumerate(zip(self.proposed, dealt.tolist(), strict=True)):
            clean, robust = np.clip(values[-2:], 0, 1).tolist()
            own = {"clean_accuracy": clean, "robust_accuracy": robust, "objective": (clean + robust) / 2}
            entropies, proxies = np.exp(values[: len(run.training)]).tolist(), values[len(run.training) : -2]
            table.proposed[i] = replace(run, cross_entropies=entropies, proxies=proxies, measured=run.measured | own)
        table.foretold = self.smoothed  # which say nothing of this noise
        return table

    def _of(self, numbers: Any) -> "RunTable":
        table = copy.copy(self)
        table._places = self._places[list(numbers)]
        for name in ("proposed", "smoothed", "foretold"):
            setattr(table, name, [getattr(self, name)[i] for i in numbers])
        return table

    def _place(self, params: Any) -> list[float]:
        """Where a setting lies in the unit cube; two choices are farther apart than anything else."""
        place = []
        for name, one in self._distributions.items():
            value = params[name]
            if one.choices is not None:
                place.append(10.0 * one.choices.index(value))
            else:
                scale = math.log if one.log else float
                place.append((scale(value) - scale(one.low)) / (scale(one.high) - scale(one.low)))
        return place

    def nearest(self, params: dict[str, Any], tried: set[int], repeats: bool) -> int:
        """The number of the nearest setting, of those that were not tried unless that may be repeated."""
        distances = ((self._places - self._place(params)) ** 2).sum(axis=1)
        if not repeats and len(tried) < len(distances):
            distances[list(tried)] = np.inf
        return int(distances.argmin())

    def promising(self, tried: set[int]) -> int:
        """The number of the setting that the oracle proposes next."""
        return max(set(range(len(self.proposed))) - tried, key=lambda number: self.foretold[number])

    @property
    def runs(self) -> list[Run]:
        """All of them."""
        return [*self.given.values(), *self.proposed]

    def value(self, objective: str, runs: list[dict[str, float]]) -> float:
        """What a search that measured this has found."""
        if objective == "combined":
            return max(one["objective"] for one in runs)
        return hypervolume([one["clean_accuracy"] for one in runs], [one["robust_accuracy"] for one in runs])


def _measured(run: Run) -> list[float]:
    return [*np.log(run.cross_entropies), *run.proxies, *(run.measured[name] for name in _ACCURACIES)]


@dataclass
class Found:
    """What a search found: after each trial that finished, the seconds, the full attacks, and the value so far."""

    steps: list[tuple[float, int, float]]
    begun: int
    stopped: int
    driver_seconds: float
    lefts: list[tuple[float, float]]

    def reached(self, goal: float) -> tuple[float, float]:
        """Seconds and full attacks until the value is so large; infinite where it never was."""
        return next(((s, n) for s, n, value in self.steps if value >= goal - 1e-9), (math.inf, math.inf))

    def left(self, seconds: float) -> float:
        """What was left after so many seconds; NaN where nothing that was proposed had finished."""
        return next((left for s, left in reversed(self.lefts) if s <= seconds), math.nan)

    def after(self, seconds: float) -> float:
        """The value after so many seconds; 0 where no trial had finished."""
        return max([value for s, _, value in self.steps if s <= seconds], default=0.0)


def search(
    table: RunTable,
    space: Space,
    strategy: Strategy,
    scheduler: TrialScheduler,
    seed: int,
    trials: int,
    workers: int,
    repeats: bool = False,
    oracle: bool = False,
) -> Found:
    """Search the table: what the real search does with Optuna and the scheduler, in virtual time."""
    strategy = strategy.model_copy(update={"sampler_seed": seed, "seeds": 1})
    study = SearchStudy(space, strategy, "virtual")
    uses_proxy = strategy.scheduler == "asha"
    found, measured, best = Found([], 0, 0, 0.0, []), [], -math.inf
    order, tried, events = itertools.count(), set(), []
    left = {id(run): max(table.smoothed) - own for run, own in zip(table.proposed, table.smoothed, strict=True)}

    def begin(now: float) -> None:
        if found.begun == trials:
            return
        began = time.perf_counter()
        trial = study.ask()
        record = study.propose(trial)
        found.driver_seconds += time.perf_counter() - began
        found.begun += 1
        if record.setting:
            run = table.of_given(record.setting)
        else:
            number = table.promising(tried) if oracle else table.nearest(record.params, tried, repeats)
            tried.add(number)
            run = table.proposed[number]
        heapq.heappush(events, (now + seconds_of(run, 1), next(order), trial, record, run, 1))

    def seconds_of(run: Run, epoch: int) -> float:
        if epoch > len(run.training):
            return run.measured["attack_seconds"]
        return run.training[epoch - 1] + (run.proxying[epoch - 1] if uses_proxy else 0.0)

    for _ in range(workers):
        begin(0.0)
    while events:
        now, _, trial, record, run, epoch = heapq.heappop(events)
        if epoch > len(run.training):
            study.tell_finished(trial, run.measured)
            measured.append(run.measured)
            found.steps.append((now, len(measured), table.value(strategy.objective, measured)))
            if id(run) in left and run.measured["objective"] > best:
                best = run.measured["objective"]
                found.lefts.append((now, left[id(run)]))
            begin(now)
            continue
        report = run.report(epoch) if uses_proxy else {"epoch": epoch}
        if uses_proxy:
            study.report(trial, epoch, report["proxy_objective"])
        config = {"number": trial.number, "setting_number": trial.number, "setting": record.setting}
        known = SimpleNamespace(trial_id=str(trial.number), config=config)
        if scheduler.on_trial_result(None, known, report) == TrialScheduler.STOP:
            study.tell_stopped(trial)
            found.stopped += 1
            begin(now)
        else:
            heapq.heappush(events, (now + seconds_of(run, epoch + 1), next(order), trial, record, run, epoch + 1))
    return found


def measure(
    table: RunTable, space: Space, sampler: str, strategy: Strategy, flags: argparse.Namespace, seed: int
) -> dict[str, Any]:
    """One search: a row of the results."""
    epochs = len(table.runs[0].training)
    asha = strategy.scheduler == "asha"
    scheduler = AshaScheduler(epochs, rungs=flags.rungs, kept=flags.kept) if asha else FIFOScheduler()
    found = search(
        table, space, strategy, scheduler, seed, flags.trials, flags.workers, flags.repeats, sampler == ORACLE
    )
    best = table.value(strategy.objective, [run.measured for run in table.runs])
    bare = table.value(strategy.objective, [table.given["unregularized"].measured])
    full = float(np.mean([run.seconds for run in table.runs]))

    def score(value: float) -> float:
        return max(value - bare, 0.0) / (best - bare)

    row: dict[str, Any] = {**strategy.model_dump(), "sampler": sampler, "seed": seed}
    for name, goal in (("95", _GOAL * best), ("way", bare + _GOAL * (best - bare))):
        row[f"seconds_{name}"], row[f"attacks_{name}"] = found.reached(goal)
    row |= {f"score_{n}": score(found.after(n * full / flags.workers)) for n in EQUAL}
    if strategy.objective == "combined":
        row |= {f"left_{n}": found.left(n * full / flags.workers) for n in EQUAL}
    return row | {
        "score_end": score(found.steps[-1][2]),
        "seconds_end": found.steps[-1][0],
        "attacks_end": len(found.steps),
        "begun": found.begun,
        "stopped": found.stopped,
        "driver_seconds": found.driver_seconds,
    }


def _quartile(values: pd.Series, percent: int) -> float:
    """Of values that may be infinite: one of them, the larger where two are as near."""
    return sorted(values)[min(len(values) * percent // 100, len(values) - 1)]


def _quartiles(values: pd.Series) -> str:
    low, middle, high = (_quartile(values, percent) for percent in (25, 50, 75))
    return f"{_number(middle)} ({_number(low)} to {_number(high)})"


def _number(value: float, digits: int = 0) -> str:
    return f"{value:.{digits}f}" if math.isfinite(value) else "never"


def _ratio(baseline: pd.Series, own: pd.Series) -> str:
    """How many times fewer seconds, of the medians, with the 95% interval of a bootstrap of the seeds, in pairs."""
    if not math.isfinite(_quartile(own, 50)):
        return ""
    draws = np.random.default_rng(0).integers(len(own), size=(2000, len(own)))
    medians = [np.sort(column.to_numpy()[draws], axis=1)[:, len(own) // 2] for column in (baseline, own)]
    with np.errstate(invalid="ignore"):
        low, high = np.nanpercentile(medians[0] / medians[1], (2.5, 97.5), method="nearest")
    middle = _quartile(baseline, 50) / _quartile(own, 50)
    return " to ".join(_number(one, 2).replace("never", "more") for one in (low, high)).join(
        (f"{_number(middle, 2).replace('never', 'more')} (", ")")
    )


def _markdown(rows: list[dict[str, str]]) -> str:
    lines = [list(rows[0]), ["---"] * len(rows[0]), *(list(row.values()) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(results: pd.DataFrame, objective: str) -> str:
    """Two tables of one objective: how soon the goals were reached, and what equal seconds found."""
    own = results[results.objective == objective]
    baseline = own[(own.sampler == BASELINE[0]) & (own.scheduler == BASELINE[1])]
    speed, quality = [], []
    for (sampler, scheduler), rows in own.groupby(["sampler", "scheduler"], sort=False):
        line = {"sampler": sampler, "scheduler": scheduler}
        for name, title in (("95", "95%"), ("way", "95% of the way")):
            seconds = rows[f"seconds_{name}"]
            line[f"{title}: seconds"] = _quartiles(seconds)
            line[f"{title}: attacks"] = _quartiles(rows[f"attacks_{name}"])
            if len(baseline):
                line[f"{title}: times fewer seconds"] = _ratio(baseline[f"seconds_{name}"], seconds)
            line[f"{title}: reached"] = f"{np.isfinite(seconds).sum()} of {len(rows)}"
        speed.append(line)
        quality.append(
            {
                "sampler": sampler,
                "scheduler": scheduler,
                **{f"after {n} trials' seconds": f"{rows[f'score_{n}'].mean():.3f}" for n in EQUAL},
                "at the end": f"{rows.score_end.mean():.3f}",
                **(
                    {f"left after {n}": f"{rows[f'left_{n}'].mean():.4f}" for n in EQUAL}
                    if objective == "combined"
                    else {}
                ),
                "seconds": f"{rows.seconds_end.mean():.0f}",
                "attacks": f"{rows.attacks_end.mean():.1f} of {rows.begun.mean():.0f}",
                "a proposal takes, ms": f"{1000 * (rows.driver_seconds / rows.begun).mean():.0f}",
            }
        )
    return f"{_markdown(speed)}\n\nmean score\n\n{_markdown(quality)}"


def tell_noise(table: RunTable, fitted: np.ndarray, measured: np.ndarray) -> None:
    """How much of the table is noise, and how many of its settings reach the goals."""
    objectives = np.array([run.measured["objective"] for run in table.proposed])
    smoothed, foretold = np.array(table.smoothed), np.array(table.foretold)
    explained = 1 - ((objectives - foretold) ** 2).sum() / ((objectives - objectives.mean()) ** 2).sum()
    rest = (objectives - smoothed).std()
    print(f"objective: standard deviation {objectives.std():.3f}, from the smoothed table {rest:.3f}")
    print(f"foretold from the other settings: {explained:.2f} of the variance")
    print(f"largest {objectives.max():.3f}, smoothed {smoothed.max():.3f}; the best three, measured and foretold:")
    for number in objectives.argsort()[:-4:-1]:
        rank = int((foretold > foretold[number]).sum()) + 1
        print(f"  setting {number}: {objectives[number]:.3f} and {foretold[number]:.3f}, rank {rank}")
    bare = table.given["unregularized"].measured["objective"]
    for title, goal in (("95%", _GOAL * max(objectives)), ("95% of the way", bare + _GOAL * (max(objectives) - bare))):
        print(f"{title}: {goal:.3f}, reached by {(objectives >= goal).sum()}, smoothed {(smoothed >= goal).sum()}")


def retrain(flags: argparse.Namespace, table: RunTable) -> None:
    """Train the table's best settings and the unregularized one with other seeds."""
    from make_table import settings_of, tabulate

    space = load_space(flags.space)
    objectives = [run.measured["objective"] for run in table.proposed]
    for row in settings_of(space, len(objectives), seed=0):  # as make_table.py drew them
        number = row["setting"]
        if number >= 0 and objectives[number] < sorted(objectives)[-3]:
            continue
        known = objectives[number] if number >= 0 else table.given["unregularized"].measured["objective"]
        others = []
        for seed in range(1, flags.retrain + 1):
            own = {**row, "hyperparameters": {**row["hyperparameters"], "seed": seed}}
            others.append(tabulate(own, space, flags.data_dir)[-1]["objective"])
        shown = " ".join(f"{one:.3f}" for one in others)
        print(
            f"setting {number}: {known:.3f} in the table; other seeds {shown}, mean {np.mean(others):.3f}", flush=True
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=RESULTS / "digits_table.csv", help="what make_table.py made")
    parser.add_argument("--space", default="digits_double", help="space of the table")
    parser.add_argument("--objectives", nargs="+", default=["combined", "pareto"])
    parser.add_argument("--samplers", nargs="+", choices=(*SAMPLERS, ORACLE), default=SAMPLERS, help="gp takes longest")
    parser.add_argument("--schedulers", nargs="+", choices=SCHEDULERS, default=SCHEDULERS)
    parser.add_argument("--rungs", type=float, nargs="+", default=RUNGS, help="of ASHA, parts of the epochs")
    parser.add_argument("--kept", type=float, default=KEPT, help="part of the trials that go on from a rung")
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first_seed", type=int, default=0)
    parser.add_argument("--tables", choices=TABLES, default="whole", help="what each seed searches")
    parser.add_argument("--noise", action="store_true", help="only tell how much of the table is noise")
    parser.add_argument("--retrain", type=int, metavar="SEEDS", help="only train the best settings with other seeds")
    parser.add_argument("--data_dir", default="data", help="of --retrain")
    parser.add_argument("--trials", type=int, default=150, help="of each search")
    parser.add_argument("--workers", type=int, default=4)
    parser.add_argument("--repeats", action="store_true", help="let a search find the same run again and again")
    parser.add_argument("--save", type=Path, help="CSV file: a row for each search")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    space = load_space(flags.space)
    table = RunTable(flags.table, space)
    if flags.retrain:
        return retrain(flags, table)
    fitted, measured = table.smooth()
    if flags.noise:
        return tell_noise(table, fitted, measured)
    tables = {seed: table for seed in range(flags.first_seed, flags.first_seed + flags.seeds)}
    if flags.tables != "whole":
        drawn = partial(table.redrawn, fitted=fitted, measured=measured) if flags.tables == "redrawn" else table.half
        tables = {seed: drawn(seed) for seed in tables}
    best, bare = (
        {name: table.value(name, [run.measured for run in runs]) for name in flags.objectives}
        for runs in (table.runs, [table.given["unregularized"]])
    )
    print(f"{len(table.proposed)} settings, {flags.workers} workers, {flags.trials} trials, {flags.seeds} seeds")
    began, rows = time.monotonic(), []
    for objective in flags.objectives:
        for sampler, scheduler in itertools.product(flags.samplers, flags.schedulers):
            strategy = Strategy(
                objective=objective, sampler="random" if sampler == ORACLE else sampler, scheduler=scheduler
            )
            rows += [measure(own, space, sampler, strategy, flags, seed) for seed, own in tables.items()]
        known = f"best {best[objective]:.3f}, of the unregularized setting {bare[objective]:.3f}"
        print(f"\n{objective}: {known if flags.tables == 'whole' else f'tables {flags.tables}'}")
        print(summary(pd.DataFrame(rows), objective), flush=True)
        if flags.save:
            pd.DataFrame(rows).replace(math.inf, np.nan).round(4).to_csv(flags.save, index=False)
    print(f"\nmade in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
