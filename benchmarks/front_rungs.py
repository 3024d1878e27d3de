"""What early stopping costs a search for the front of clean and robust accuracy, in a table of real runs.

python benchmarks/front_rungs.py
python benchmarks/front_rungs.py --table benchmarks/results/mnist_runs.csv --seeds=4

The table is that of make_table.py. In each draw, half of the seeds are the truth (the means of each setting's runs),
and every setting is trained once, with a seed of the other half, in a random order, and judged at the rungs: by the
search's own scheduler, which takes the weighted sum of clean accuracy and proxy (`sum`); or by the front of the two
(`front`: a run goes on if none before it is better in both, or if it is among the best third in the order of NSGA-II).
Means over draws with 95% intervals:

* members: share of the settings of the true front that go on to their end.
* hypervolume: that of the settings that go on, by their true accuracies, beyond the unregularized setting, as a part of
  what all settings have.
* epochs: share of the epochs that are trained.
"""

import argparse
import math
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd

from brainreg.search.scheduler import KEPT, AshaScheduler
from brainreg.statistics import front, hypervolume

RESULTS = Path(__file__).resolve().parent / "results"
ACCURACIES = ["clean_accuracy", "robust_accuracy"]
REPORTED = ["epoch", "valid_cross_entropy", "valid_accuracy", "proxy_robust_accuracy", "proxy_objective"]


def front_order(clean: Iterable[float], robust: Iterable[float]) -> list[int]:
    """Return the places of (clean, robust) accuracies, 0 for the first: front by front, and in a front, those that are
    farthest from their neighbors first.

    Source: Deb et al., NSGA-II, IEEE Transactions on Evolutionary Computation 6 (2002): non-dominated sorting and
    crowding distance.

    """
    points = list(zip(clean, robust, strict=True))
    left, order = list(range(len(points))), []
    while left:
        on_front = [i for i, on in zip(left, front(*zip(*(points[i] for i in left), strict=True)), strict=True) if on]
        distances = dict.fromkeys(on_front, 0.0)
        for goal in (0, 1):
            along = sorted(on_front, key=lambda i: points[i][goal])
            span = points[along[-1]][goal] - points[along[0]][goal]
            for before, i, after in zip(along, along[1:], along[2:], strict=False):
                distances[i] += (points[after][goal] - points[before][goal]) / span if span else 0.0
            for end in (along[0], along[-1]):
                distances[end] = math.inf
        order += sorted(on_front, key=lambda i: -distances[i])
        left = [i for i in left if i not in distances]
    places = [0] * len(points)
    for place, i in enumerate(order):
        places[i] = place
    return places


class FrontScheduler(AshaScheduler):
    """ASHA that judges by the front of clean accuracy and the proxy of the robust one, instead of their sum.

    Source: Schmucker et al., arXiv 2106.12639.
    """

    def __init__(self, epochs: int):
        super().__init__(epochs)
        self._own: dict[int, tuple[float, int, tuple[float, float]]] = {}
        self._reached: dict[int, dict[int, tuple[float, float]]] = {epoch: {} for epoch in self.rungs}

    def decide(self, number: int, report: Mapping[str, Any]) -> bool:
        values = report["valid_accuracy"], report["proxy_robust_accuracy"]
        own = report["valid_cross_entropy"], report["epoch"], values
        self._own[number] = min(self._own.get(number, own), own)
        reached = self._reached.get(report["epoch"])
        if reached is None:
            return True
        others, mine = [*reached.values()], self._own[number][-1]
        reached[number] = mine
        beaten = any(other != mine and other[0] >= mine[0] and other[1] >= mine[1] for other in others)
        place = front_order(*zip(*others, mine, strict=True))[-1]
        return not beaten or place <= KEPT * (len(others) - 1)


RULES = {"sum": AshaScheduler, "front": FrontScheduler}


def judged(runs: dict[int, list[dict]], order: list[int], rule: str, epochs: int) -> tuple[set[int], int]:
    """Which settings go on to their end, and the epochs that are trained."""
    scheduler, kept, trained = RULES[rule](epochs), set(), 0
    for number in order:
        for report in runs[number]:
            trained += 1
            if not scheduler.decide(number, report):
                break
        else:
            kept.add(number)
    return kept, trained


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--table", type=Path, default=RESULTS / "digits_runs.csv", help="what make_table.py made")
    parser.add_argument("--seeds", type=int, help="use the first seeds of the table only (absent: all)")
    parser.add_argument("--draws", type=int, default=200)
    flags = parser.parse_args()
    table = pd.read_csv(flags.table)
    seeds = sorted(table.seed.unique())[: flags.seeds]
    table = table[table.seed.isin(seeds)]
    epochs = int(table.epoch.max())
    reports = {key: own[REPORTED].to_dict("records") for key, own in table.groupby(["setting", "seed"])}
    measured = table.groupby(["setting", "seed"])[ACCURACIES].first()
    numbers = [int(one) for one in sorted(table.setting.unique()) if one >= 0]
    generator, rows = np.random.default_rng(0), []
    for _ in range(flags.draws):
        mixed = generator.permutation(seeds)
        told, truth = mixed[: len(seeds) // 2], mixed[len(seeds) // 2 :]
        means = measured[measured.index.get_level_values("seed").isin(truth)].groupby("setting").mean()
        proposed, bare = means.loc[numbers], tuple(means.loc[-1])
        members = set(np.array(numbers)[front(*proposed.to_numpy().T)])
        whole = hypervolume(*proposed.to_numpy().T, bare)
        runs = {number: reports[number, generator.choice(told)] for number in numbers}
        order = generator.permutation(numbers).tolist()
        for rule in RULES:
            kept, trained = judged(runs, order, rule, epochs)
            own = proposed.loc[sorted(kept)].to_numpy().T
            rows.append(
                {
                    "rule": rule,
                    "members": len(members & kept) / len(members),
                    "hypervolume": hypervolume(*own, bare) / whole if whole else np.nan,
                    "epochs": trained / (epochs * len(numbers)),
                    "settings": len(kept) / len(numbers),
                }
            )
    frame = pd.DataFrame(rows)
    print(f"{len(numbers)} settings, {len(seeds)} seeds, {epochs} epochs, {flags.draws} draws: {flags.table.name}")
    for rule, own in frame.groupby("rule", sort=False):
        values = own.drop(columns="rule")
        errors = 1.96 * values.sem()
        print(f"{rule:>6}  " + "  ".join(f"{name} {values[name].mean():.3f} +- {errors[name]:.3f}" for name in values))
    both = (
        frame[frame.rule == "front"].drop(columns="rule").to_numpy()
        - frame[frame.rule == "sum"].drop(columns="rule").to_numpy()
    )
    columns = [name for name in frame if name != "rule"]
    mean, error = both.mean(axis=0), 1.96 * both.std(axis=0, ddof=1) / np.sqrt(len(both))
    print("difference  " + "  ".join(f"{n} {m:+.3f} +- {e:.3f}" for n, m, e in zip(columns, mean, error, strict=True)))


if __name__ == "__main__":
    main()
