"""Whether ASHA is biased against strong regularization, in a table of real runs.

python benchmarks/asha_bias.py
python benchmarks/asha_bias.py --rungs 0.25 0.5 1 --judged=last --groups=3

The table is that of make_table.py, the rule the search's own scheduler. For each rung:

* proxy: slope on log alpha of the proxy that a trial is judged by, at equal final objective; each in standard
  deviations. Settings of equal objective are not equally good: where a higher alpha is worse, the run with the higher
  one was the luckier. Luck that comes after a rung is not in its proxy, and so an unbiased proxy has a negative slope,
  too.
* unbiased: the slope of proxies made to be unbiased: they depend on the objective alone, both as a Gaussian process
  smooths the table, and the deviations of whole runs from the smoothed table are dealt anew (mean and standard
  deviation over --draws).
* excess: the difference of the two, in those standard deviations.
* objective: slope on log alpha of the final objective, at equal proxy. Above 0, the rung stops what would have been
  worth going on with; below, it lets go on what was not.
* pass: of the best third of the settings, by their objectives, the share of those of high and of low alpha that go on
  from a rung that they reach, and at last from all of them, over --draws orders of the trials.
"""

import argparse
import os
import sys
import warnings
from pathlib import Path
from typing import Any, NamedTuple

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
from run_table import RESULTS, Run, RunTable
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from brainreg.search.scheduler import KEPT, RUNGS, AshaScheduler
from brainreg.spaces.files import load_space


def proposed(table: RunTable) -> list[Run]:
    """Return the first run of each setting but the unregularized one."""
    return [runs[0] for runs in table.runs[1:]]


def smooth_columns(table: RunTable, values: np.ndarray) -> np.ndarray:
    """Return (settings, columns) values as a Gaussian process smooths each column over the space."""
    places, fitted = table.settings.places[1:], np.empty_like(values)
    for i, column in enumerate(values.T):
        kernel = ConstantKernel(2.0) * Matern(np.ones(places.shape[1]), (0.05, 50), nu=2.5)
        process = GaussianProcessRegressor(kernel + WhiteKernel(0.3, (1e-3, 10)), normalize_y=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # of parameters that do not matter
            fitted[:, i] = process.fit(places, column).predict(places)
    return fitted


class Share(NamedTuple):
    """A share of so many settings, with its standard error."""

    value: float
    error: float
    settings: int

    def __str__(self) -> str:
        return f"{self.value:.2f} +- {self.error:.2f} of {self.settings:2d}"


def slope(values: np.ndarray, other: np.ndarray, alpha: np.ndarray) -> tuple[float, float]:
    """Return the slope of `values` on `alpha` at equal `other`, in standard deviations, and its standard error."""
    own, *others = ((one - one.mean()) / one.std() for one in (values, other, alpha))
    design = np.column_stack(others)
    coefficients = np.linalg.lstsq(design, own, rcond=None)[0]
    variance = ((own - design @ coefficients) ** 2).sum() / (len(own) - 3)
    return coefficients[1], np.sqrt(variance * np.linalg.inv(design.T @ design)[1, 1])


def judge(
    table: RunTable, rule: dict[str, Any], last: bool, order: np.ndarray, stopping: bool
) -> tuple[np.ndarray, np.ndarray]:
    """Let the scheduler judge the settings one after the other.

    Returns:
        (settings, rungs): the proxies that they are judged by, and whether they go on; NaN where they did not come.
    """
    runs = proposed(table)
    scheduler = AshaScheduler(len(runs[0].training), **rule)
    going_on = np.full((len(order), len(scheduler.rungs)), np.nan)
    for number in order.tolist():
        for epoch, report in enumerate(runs[number].reports, 1):
            if last:
                report = report | {"valid_cross_entropy": -epoch}
            goes_on = scheduler.decide(number, report)
            if epoch in scheduler.rungs:
                going_on[number, list(scheduler.rungs).index(epoch)] = goes_on
            if stopping and not goes_on:
                break
    judged = [[reached.get(number, np.nan) for number in range(len(order))] for reached in scheduler.rungs.values()]
    return np.array(judged).T, going_on


def unbiased(table: RunTable, judged: np.ndarray, objective: np.ndarray, alpha: np.ndarray, draws: int) -> np.ndarray:
    """Return (draws, rungs) slopes of proxies that depend on the objective alone, and on luck."""
    measured = np.column_stack([judged, objective])
    fitted = smooth_columns(table, measured)
    deviations, smoothed, generator = measured - fitted, fitted[:, -1], np.random.default_rng(0)
    proxies = np.column_stack([np.polyval(np.polyfit(smoothed, one, 3), smoothed) for one in fitted[:, :-1].T])
    made = np.column_stack([proxies, smoothed])
    return np.array(
        [
            [slope(proxy, dealt[:, -1], alpha)[0] for proxy in dealt[:, :-1].T]
            for dealt in (made + generator.permutation(deviations) for _ in range(draws))
        ]
    )


def bias(
    table: RunTable, rule: dict[str, Any], last: bool = False, groups: int = 2, draws: int = 200
) -> tuple[pd.DataFrame, dict[str, Share]]:
    """Return a row for each rung, the slopes and the shares of the best third that go on; and those of all rungs."""
    objective = np.array([run.objective for run in proposed(table)])
    (axis,) = np.flatnonzero(table.places.groups == table.places.names.index("reg_alpha"))
    alpha = table.settings.places[1:, axis]
    generator = np.random.default_rng(0)
    judged, _ = judge(table, rule, last, np.arange(len(objective)), stopping=False)
    orders = [generator.permutation(len(objective)) for _ in range(draws)]
    going_on = np.array([judge(table, rule, last, order, stopping=True)[1] for order in orders])
    made = unbiased(table, judged, objective, alpha, draws)
    best = objective >= np.quantile(objective, 2 / 3)
    parts = {"low": alpha <= np.quantile(alpha, 1 / groups), "high": alpha > np.quantile(alpha, 1 - 1 / groups)}
    rows = []
    for i, epoch in enumerate(AshaScheduler(len(table.runs[0][0].training), **rule).rungs):
        row = {"epoch": epoch}
        row["proxy"], row["proxy_se"] = slope(judged[:, i], objective, alpha)
        row["unbiased"], row["unbiased_sd"] = made[:, i].mean(), made[:, i].std()
        row["excess"] = (row["proxy"] - row["unbiased"]) / row["unbiased_sd"]
        row["objective"], row["objective_se"] = slope(objective, judged[:, i], alpha)
        row |= {name: _share(going_on[:, best & part, i]) for name, part in parts.items()}
        rows.append(row)
    finished = (going_on[:, :, -1] == 1).astype(float)
    return pd.DataFrame(rows), {name: _share(finished[:, best & part]) for name, part in parts.items()}


def _share(goes_on: np.ndarray) -> Share:
    """Of (orders, settings), NaN where one did not come so far."""
    reached = np.isfinite(goes_on)
    value = np.nansum(goes_on) / reached.sum()
    # Settings differ, not orders: each counts as often as it came so far.
    scatter = np.nansum(goes_on - value * reached, axis=0) / reached.sum()
    return Share(value, np.sqrt((scatter**2).sum()), goes_on.shape[1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=RESULTS / "digits_table.csv", help="what make_table.py made")
    parser.add_argument("--space", default="digits_double", help="space of the table")
    parser.add_argument("--rungs", type=float, nargs="+", default=RUNGS, help="parts of the epochs")
    parser.add_argument("--kept", type=float, default=KEPT, help="part of the trials that go on from a rung")
    parser.add_argument("--judged", choices=("best", "last"), default="best", help="epoch of a trial")
    parser.add_argument("--groups", type=int, default=2, help="high and low alpha are the outer ones of so many groups")
    parser.add_argument("--draws", type=int, default=200, help="of unbiased proxies, and orders of the trials")
    flags = parser.parse_args()
    rule = {"rungs": flags.rungs, "kept": flags.kept}
    table = RunTable(flags.table, load_space(flags.space))
    rows, ends = bias(table, rule, flags.judged == "last", flags.groups, flags.draws)
    print("epoch           proxy        unbiased  excess       objective   pass: high alpha          low alpha")
    for row in rows.itertuples():
        slopes = (
            f"{row.proxy:+.2f} +- {row.proxy_se:.2f}  {row.unbiased:+.2f} +- {row.unbiased_sd:.2f}  {row.excess:+6.1f}"
        )
        print(f"{row.epoch:5d}  {slopes}  {row.objective:+.2f} +- {row.objective_se:.2f}  {row.high}  {row.low}")
    print(f"{'all':>5}{'':55}{ends['high']}  {ends['low']}")


if __name__ == "__main__":
    main()
