"""How long the report of a large search takes, and how large it is.

    python benchmarks/report.py --trials=1000
    python benchmarks/report.py --trials=200 --scheduler=asha --keep=looked_at

The search is made of real trainings (benchmarks/results/digits_table.csv): the search's own study proposes settings of
`digits_double` at random, and what each reached is that of the nearest tabulated one, which may serve several times.
Its folder is written as the search writes it; then the command of the report runs on it, as a user's would.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import pandas as pd
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from run_table import RESULTS, RunTable

from brainreg.records.manifest import write_manifest
from brainreg.records.trial import STOPPED, TrialFiles
from brainreg.search.scheduler import AshaScheduler
from brainreg.search.strategy import Strategy
from brainreg.search.study import SearchStudy
from brainreg.spaces.files import load_space
from brainreg.storage import Storage

ROOT = Path(__file__).resolve().parent.parent
TABLE = RESULTS / "digits_table.csv"
_METRICS = (
    *("epoch", "lr", "cross_entropy", "similarity_loss", "valid_cross_entropy", "valid_accuracy"),
    *("proxy_robust_accuracy", "proxy_objective"),
)


def nearest(table: RunTable, params: dict[str, Any], tried: set[int]) -> int:
    """Return the number of the nearest setting, of those that were not tried as long as there are such; now it is."""
    away = ((table.settings.places - table.places.place(params)) ** 2).sum(axis=1)
    away[0] = np.inf
    if len(tried) < len(away) - 1:
        away[list(tried)] = np.inf
    tried.add(number := int(away.argmin()))
    return number


def write_search(folder: Storage, trials: int, scheduler: str = "none", seed: int = 0) -> None:
    """Write the folder of a search that has ended, one trial after the other.

    Args:
        folder: empty.
        trials: how many.
        scheduler: none, or asha, which stops most.
        seed: of what is proposed.
    """
    space, strategy = (
        load_space("digits_double"),
        Strategy(sampler="random", scheduler=scheduler, sampler_seed=seed, seeds=1),
    )
    table, frame = RunTable(TABLE, space), pd.read_csv(TABLE)
    # the unregularized setting, -1 in the file, comes first in both
    epochs = [one[[*_METRICS]].to_dict("records") for _, one in frame.groupby("setting")]
    asha = AshaScheduler(len(epochs[0])) if scheduler == "asha" else FIFOScheduler()
    study = SearchStudy(space, strategy, "report")
    write_manifest(
        folder,
        {
            "space": space.model_dump(mode="json"),
            "strategy": strategy.model_dump(),
            "options": {"cpus_per_trial": 1, "data_dir": "data"},
            "seed": seed,
            "num_samples": trials,
            "started": "2026-11-24T12:00:00+0000",
            "versions": {},
            "device": "CPU (x86_64)",
        },
    )
    tried: set[int] = set()
    now = 1.8e9
    for _ in range(trials):
        trial = study.ask()
        record = study.propose(trial)
        number = 0 if record.setting else nearest(table, record.params, tried)
        run = table.runs[number][0]
        known = SimpleNamespace(
            trial_id=str(record.number),
            config={key: getattr(record, key) for key in ("number", "setting", "setting_number")},
        )
        done = next(
            (one["epoch"] for one in run.reports if asha.on_trial_result(None, known, one) == TrialScheduler.STOP), None
        )
        record.began, seconds = now, sum(run.training[:done]) + sum(run.proxying[:done])
        measured = {}
        if done is None:
            seconds += run.measured["attack_seconds"]
            objective = space.objective
            measured = {**run.measured, "clean_n": 360, "robust_n": objective.attack_image_num, "best_epoch": 10}
            study.tell_finished(trial, run.measured)
        else:
            record.ended = STOPPED
            study.tell_stopped(trial)
        now += seconds
        files = TrialFiles(folder, record.number)
        files.write_trial(record)
        begun = {"epoch": 0, "valid_accuracy": 0.1}
        files.write_progress(epochs=[begun, *epochs[number][:done]], measured=measured, seconds=seconds, node="node")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=1000)
    parser.add_argument("--scheduler", choices=("none", "asha"), default="none")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--keep", help="folder that the search is written to, and kept in")
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(flags.keep or Path(temporary, "search")).resolve()
        write_search(Storage(folder), flags.trials, flags.scheduler)
        for _ in range(flags.rounds):
            began, before = time.perf_counter(), os.times()
            command = [sys.executable, "-m", "brainreg", "report", str(folder)]
            subprocess.run(command, cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
            seconds, after = time.perf_counter() - began, os.times()
            worked = after.children_user + after.children_system - before.children_user - before.children_system
            size = (folder / "report.html").stat().st_size
            print(
                f"{flags.trials} trials, scheduler {flags.scheduler}: {seconds:.1f} s ({worked:.1f} s of a processor),"
                f" {size:,} bytes",
                flush=True,
            )


if __name__ == "__main__":
    main()
