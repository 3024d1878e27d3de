"""How good the setting is that a search recommends, and how true what it says of it, in a table of real runs.

python benchmarks/recommendation.py --repetitions=40 --rules today oracle search "search, asha" \
    --save=benchmarks/results/recommendation_search.csv
python benchmarks/recommendation.py --save=benchmarks/results/recommendation.csv
python benchmarks/recommendation.py --table=benchmarks/results/mnist_runs.csv --space=narrow/mnist_mnist
python benchmarks/recommendation.py --noise
python benchmarks/recommendation.py --known-truth --save=benchmarks/results/recommendation_known.csv
python benchmarks/recommendation.py --show=benchmarks/results/recommendation_known.csv
python benchmarks/recommendation.py --rules today thompson "race, asha" "no repeats" "no seed offset" "best raw value"

The table (benchmarks/make_table.py) stands for the training: what a search proposes is looked up as the nearest setting
of the table, and takes the seconds that it took when the table was made; workers and time are virtual. In each
repetition, half of the table's seeds feed the search, and the other half are the truth, never the same ones; a part of
the settings is drawn anew, too. Samplers and schedulers are those of a search; `brainreg.recommendation` chooses and
recommends, as in a search.

* regret: how much better the best setting is than the recommended one, both by the truth: the posterior mean of a
  surrogate that saw the truth's runs alone. `plain` is the same by the recommended setting's mean over the truth's runs
  (noisier, and no surrogate has a part in it). Mean and standard error over the repetitions.
* trainings until a mean regret of 0.02 and 0.01: the seconds of so many trainings, shared by all workers.
* optimism: the objective that the search tells, less that mean over the truth's runs.
* coverage: how often the 95% interval that the search tells holds the truth, which is uncertain itself: its standard
  error widens the interval.
* calibration: of the recommendations that are told with a P(best) of 70 to 90%, how many are within 0.005 of the best
  setting that the search had tried, which is what P(best) is about.
* P(best), was best: over all recommendations, the mean of what is told, and how many are within 0.005 of that best.

With few seeds as the truth, which setting is the best is itself uncertain. `--known-truth` draws the runs of each
repetition anew, around settings' values that are known: a draw of what all runs of the table leave possible, by a
surrogate, and around it the table's own deviations from the settings' means, each setting's with replacement.
"""

import argparse
import math
import multiprocessing
import os
import sys
import time
from functools import partial
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
from run_table import RESULTS
from scipy.optimize import brentq
from scipy.special import polygamma
from simulated_search import RULES, load_table, repeat

from brainreg.recommendation.recommend import INDIFFERENCE
from brainreg.spaces.files import load_space
from brainreg.spaces.space import Space

_SHOWN = (10, 20, 40, 80)
_TOLD = (0, 0.3, 0.5, 0.7, 0.9, 1.01)  # by which P(best) recommendations are counted
_REGRETS = (0.02, 0.01)  # how soon a search's mean regret is as small


def summary(results: pd.DataFrame) -> str:
    """The figures of merit as tables."""
    lines = []
    for name, rows in results.groupby("rule", sort=False):
        line = {"rule": name}
        sizes = [size for size in _SHOWN if (rows.trainings == size).any()]
        for size in sizes:
            regret = rows[rows.trainings == size].regret
            line[f"regret after {size}"] = f"{regret.mean():.4f} ± {regret.sem():.4f}"
        curve = rows.groupby("trainings").regret.mean()
        for wanted in _REGRETS:
            line[f"trainings until {wanted}"] = _first_below(curve, wanted)
        last = rows[rows.trainings.isin([size for size in sizes if size >= min(40, sizes[-1])])]
        line["optimism"] = f"{(last.told - last.plain).mean():+.3f}"
        if "low" in last and last.low.notna().any():
            line["coverage"] = f"{held(last).mean():.3f}"
            sure = last[(last.best >= 0.7) & (last.best < 0.9)]
            line["calibration"] = (
                f"{(sure.tried_regret <= INDIFFERENCE).mean():.2f} of {len(sure)}" if len(sure) else "none"
            )
            line["P(best)"] = f"{last.best.mean():.2f}"
            line["was best"] = f"{(last.tried_regret <= INDIFFERENCE).mean():.2f}"
        else:
            line |= {"coverage": "", "calibration": "", "P(best)": "", "was best": ""}
        line["settings"] = f"{rows[rows.trainings == rows.trainings.max()].settings.mean():.0f}"
        line["ms"] = f"{rows.proposal_ms.mean():.0f}"
        lines.append(line)
    names = list(lines[0])
    table = [names, ["---"] * len(names), *([line[name] for name in names] for line in lines)]
    return "\n".join(f"| {' | '.join(line)} |" for line in table)


def intervals(results: pd.DataFrame) -> str:
    """After each number of trainings: how often the 95% interval holds the truth, and how wide it is."""
    told = results[results.low.notna()].assign(held=held, width=lambda rows: rows.high - rows.low)
    lines = []
    for rule, own in told.groupby("rule", sort=False):
        by_size = own.groupby("trainings")[["held", "width"]].mean()
        parts = [f"{size}: {row.held:.2f} ({row.width:.3f})" for size, row in by_size.iterrows()]
        both = own[own.trainings.isin((40, 80))].groupby("seed").held.mean()
        lines.append(f"{rule}: {', '.join(parts)}; after 40 and 80 {both.mean():.3f} ± {both.sem():.3f}")
    return "\n".join(["the 95% interval holds the truth (and its width), after so many trainings:", *lines])


def held(results: pd.DataFrame) -> pd.Series:
    """Whether each 95% interval that was told holds the truth, as 0 or 1; an uncertain truth widens it."""
    wide = 1.959964 * np.sqrt(((results.high - results.low) / 2 / 1.959964) ** 2 + results.truth_error**2)
    return ((results.plain - results.told).abs() <= wide).astype(float)


def differences(results: pd.DataFrame, of: str = "search") -> str:
    """A rule less each other one, over all budgets, in pairs of the same draws; how soon each is as good as today."""
    told = results.assign(held=held)
    own, lines = told[told.rule == of], [f"{of} less another rule, over all budgets, in pairs:"]
    for rule in results.rule.unique():
        pairs = own.merge(told[told.rule == rule], on=["seed", "trainings"], suffixes=("", "_other"))
        if rule == of or pairs.empty or pairs.low_other.isna().all():
            continue
        parts = []
        for name in ("held", "regret"):
            each = (pairs[name] - pairs[f"{name}_other"]).groupby(pairs.seed).mean()
            parts.append(f"{name} {each.mean():+.4f} ± {each.sem():.4f}")
        lines.append(f"{rule}: {', '.join(parts)}")
    curves = results.groupby(["rule", "trainings"], sort=False).regret.mean()
    if "today" in curves:
        wanted = curves["today"].iloc[-1]
        soon = [f"{rule} {_first_below(curves[rule], wanted)}" for rule in results.rule.unique()]
        lines.append(f"trainings until the regret that today ends with, {wanted:.4f}: {', '.join(soon)}")
    return "\n".join(lines)


def calibration(results: pd.DataFrame) -> str:
    """How often recommendations were within 0.005 of the best setting tried, by the P(best) that was told with them."""
    told = results[results.trainings.isin(_SHOWN[1:]) & results.best.notna()]
    lines = ["| rule | P(best) told | mean | was best | of |", "| --- | --- | --- | --- | --- |"]
    for rule, own in told.groupby("rule", sort=False):
        for part, rows in own.groupby(pd.cut(own.best, _TOLD, right=False), observed=True):
            right = (rows.tried_regret <= INDIFFERENCE).mean()
            ends = f"{part.left:g} to {min(part.right, 1):g}"
            lines.append(f"| {rule} | {ends} | {rows.best.mean():.2f} | {right:.2f} | {len(rows)} |")
    return "\n".join(lines)


TABLES = (summary, calibration, intervals, differences)


def _first_below(curve: pd.Series, wanted: float) -> str:
    """Where a curve first is as low as wanted, between its points on a straight line."""
    sizes, values = curve.index.to_numpy(float), curve.to_numpy()
    below = np.flatnonzero(values <= wanted)
    if not len(below):
        return f"> {sizes[-1]:.0f}"
    i = int(below[0])
    if i == 0:
        return f"< {sizes[0]:.0f}"
    part = (values[i - 1] - wanted) / (values[i - 1] - values[i])
    return f"{sizes[i - 1] + part * (sizes[i] - sizes[i - 1]):.0f}"


def noise_freedom(away: pd.DataFrame) -> float:
    """Return how much settings' variances of the noise resemble each other: degrees of freedom of the scaled inverse
    chi-squared distribution that their variances fit, infinite where they scatter no more than by chance.

    Args:
        away: (settings, seeds), the values without the settings' means and the seeds' offsets.

    Source: Smyth, Statistical Applications in Genetics and Molecular Biology 3 (2004), 6.2.
    """
    degrees = (away.shape[1] - 1) / 2
    scatter = float(np.log(away.var(axis=1)).var()) - float(polygamma(1, degrees))
    return 2 * brentq(lambda half: polygamma(1, half) - scatter, 1e-3, 1e6) if scatter > 1e-6 else math.inf


def describe_noise(path: Path, space: Space) -> str:
    """Return where the variance of the objective around its setting's mean comes from, over settings with all seeds.

    That of images is what independent images give, p (1 - p) / n; the rest is that of training and split.
    """
    runs = pd.read_csv(path).drop_duplicates(["setting", "seed"])
    whole = runs.groupby("seed").setting.transform("size")
    runs = runs[whole == whole.max()]
    values = runs.pivot(index="setting", columns="seed", values="objective")
    count, seeds = values.shape
    away = values.sub(values.mean(axis=1), axis=0)
    variance = float((away**2).to_numpy().sum() / (count * (seeds - 1)))
    rest = away - away.mean(axis=0)
    own = float((rest**2).to_numpy().sum() / ((count - 1) * (seeds - 1)))
    offset = max(float((away.mean(axis=0) ** 2).sum() / (seeds - 1)) - own / count, 0.0)
    weight, others, attacked = space.objective.weight, space.objective.robust_weight, space.objective.attack_image_num
    robust, clean = runs.robust_accuracy, runs.clean_accuracy
    valid = attacked + int(runs.rest_n.iloc[0])
    of_attacked = float(others**2 * (robust * (1 - robust)).mean() / attacked)
    of_clean = float(weight**2 * (clean * (1 - clean)).mean() / valid)
    fewer = float(others**2 * (robust * (1 - robust)).mean() / valid)
    lines = [
        f"{count} settings, {seeds} seeds; standard deviation of a run {math.sqrt(variance):.4f}, of settings' means"
        f" {values.mean(axis=1).std():.4f}",
        f"variance: {offset / variance:.2f} offsets that all settings share,"
        f" {of_attacked / variance:.2f} the {attacked} attacked images,"
        f" {of_clean / variance:.2f} the {valid} clean ones,"
        f" {1 - (offset + of_attacked + of_clean) / variance:.2f} training and split",
        f"settings' own variances: as of {noise_freedom(rest):.1f} degrees of freedom",
        f"with all {valid} images attacked, the attacked images' part would be {fewer / variance:.2f}",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=RESULTS / "digits_runs.csv", help="what make_table.py made")
    parser.add_argument("--space", default="digits_double", help="space of the table")
    parser.add_argument("--rules", nargs="+", choices=RULES, default=list(RULES), metavar="RULE")
    parser.add_argument("--repetitions", type=int, default=100)
    parser.add_argument("--first", type=int, default=0, help="seed of the first repetition")
    parser.add_argument("--workers", type=int, default=4, help="virtual ones")
    parser.add_argument("--budget", type=int, default=80, help="trainings of each search")
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--save", type=Path, help="CSV file: a row for each search and budget")
    parser.add_argument("--show", type=Path, metavar="FILE", help="only show what an earlier run saved")
    parser.add_argument("--known-truth", action="store_true", help="draw the runs anew, around values that are known")
    parser.add_argument("--noise", action="store_true", help="only tell where the noise of a run comes from")
    flags = parser.parse_args()
    if flags.noise:
        return print(describe_noise(flags.table, load_space(flags.space)))
    if flags.show:
        results = pd.read_csv(flags.show)
        if missing := {"best", "tried_regret"} - {*results}:
            parser.error(
                f"--show={flags.show}: has no columns {', '.join(sorted(missing))}; an earlier version made it"
            )
        return print(*(show(results) for show in TABLES), sep="\n\n")
    action = partial(
        repeat,
        path=flags.table,
        space_name=flags.space,
        names=flags.rules,
        workers=flags.workers,
        budget=flags.budget,
        known_truth=flags.known_truth,
    )
    began, rows = time.monotonic(), []
    with multiprocessing.get_context("spawn").Pool(flags.processes) as pool:
        for lines in pool.imap(action, range(flags.first, flags.first + flags.repetitions)):
            rows += lines
    results = pd.DataFrame(rows)
    if flags.save:
        results.round(5).to_csv(flags.save, index=False)
    table = load_table(flags.table, flags.space)
    print(
        f"{len(table.runs) - 1} settings, {len(table.seeds)} seeds, {flags.workers} workers,"
        f" {flags.repetitions} repetitions"
    )
    full = np.mean([run.seconds(False) for runs in table.runs for run in runs])
    print(
        f"standard error of a setting's truth {results.truth_error.mean():.4f};"
        f" a training takes {full:.1f} s of one core"
    )
    print(*(show(results) for show in (TABLES if "best" in results else TABLES[:1])), sep="\n\n")
    print(f"made in {time.monotonic() - began:.0f} s")


if __name__ == "__main__":
    main()
