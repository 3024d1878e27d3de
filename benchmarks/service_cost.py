"""What the search service costs beside Ray Tune and Optuna themselves, with trials that do nothing.

python benchmarks/service_cost.py --save=benchmarks/results/service_cost.csv

Three measurements; each part can be left out by naming others with --parts.

* rate: trials a second between the first trial's end and the last one's, of bare Ray Tune with its own `OptunaSearch`
  (study in memory; in SQLite; in SQLite that does not wait for the disk) and of this project's search (study in SQLite
  that does not wait, a record of each trial on the disk, written by the driver and by the worker), in turns, in one
  process. The same sampler, workers and `reuse_actors`.
* proposal: seconds of the next proposal where so many trials have finished, in SQLite, for each sampler.
* start: seconds from a process's begin to the first line of its first trial, of `tune_main.py` and of the shortest
  program that does the same with Ray Tune; and where they go.
"""

import argparse
import contextlib
import io
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
import warnings
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np
import optuna
import pandas as pd
from optuna.distributions import distribution_to_json
from ray import tune
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

import brainreg.search.run
from brainreg.records.trial import TrialRecord
from brainreg.search.callbacks import Gauges, SearchCallback
from brainreg.search.cluster import start_ray
from brainreg.search.database import open_database
from brainreg.search.limits import Limits
from brainreg.search.options import SearchOptions
from brainreg.search.plan import plan_search
from brainreg.search.progress import SearchProgress
from brainreg.search.samplers import make_sampler
from brainreg.search.searcher import StudySearch
from brainreg.search.strategy import SURROGATE, Strategy
from brainreg.search.study import SearchStudy
from brainreg.search.trial import TrialJob
from brainreg.spaces.files import load_space
from brainreg.storage import Storage

ROOT = Path(__file__).resolve().parent.parent
SAMPLERS = ("tpe", "gp", "nsga2", "random")
PARTS = ("rate", "proposal", "start")
SPACE = "digits_double"


# ---------------------------------------------------------------------------------------------
# Trials a second
# ---------------------------------------------------------------------------------------------


def measured_of(alpha: float) -> dict[str, Any]:
    """What a trial that does nothing reports: some function of its setting."""
    objective = 0.9 - abs(alpha - 0.1)
    return {
        "objective": objective,
        "clean_accuracy": objective,
        "clean_n": 360,
        "robust_accuracy": objective,
        "robust_n": 200,
        "noise_accuracy": objective,
        "attack_seconds": 0.0,
        "best_epoch": 10,
    }


def bare_trial(config: dict[str, Any]) -> None:
    tune.report({"epoch": 10, **measured_of(config["reg_alpha"])})


def own_trial(config: dict[str, Any], job: TrialJob) -> None:
    """In place of `brainreg.search.trial.run_trial`, with its last record."""
    from brainreg.records.trial import TrialFiles

    measured = measured_of(config["hyperparameters"]["reg_alpha"])
    files = TrialFiles(Storage(job.storage), config["number"])
    files.write_progress(epochs=[], measured=measured, seconds=0.0, node="")
    tune.report({"epoch": 10, **measured})


class _Ends(tune.Callback):
    """Writes down when trials end."""

    def __init__(self):
        self.times: list[float] = []

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self.times.append(time.perf_counter())

    def rate(self) -> float:
        return (len(self.times) - 1) / (self.times[-1] - self.times[0])


def bare_rate(folder: Path, trials: int, sampler: str, seed: int, durable: bool | None) -> float:
    """Ray Tune with its own OptunaSearch; loggers as this project has them. `durable` None: the study in memory."""
    ends, space = _Ends(), load_space(SPACE)
    storage = None if durable is None else open_database(f"sqlite:///{folder}/study.db", durable)
    tuner = tune.Tuner(
        tune.with_resources(bare_trial, {"cpu": 1, "gpu": 0}),
        tune_config=tune.TuneConfig(
            search_alg=OptunaSearch(
                space,
                metric="objective",
                mode="max",
                sampler=make_sampler(sampler, seed),
                storage=storage,
            ),
            num_samples=trials,
            reuse_actors=True,
        ),
        run_config=tune.RunConfig(
            name="bare", storage_path=str(folder), callbacks=[ends, tune.logger.JsonLoggerCallback()], verbose=0
        ),
    )
    tuner.fit()
    return ends.rate()


def own_rate(folder: Path, trials: int, sampler: str, seed: int) -> float:
    """This project's Tuner, put together as `brainreg.search.run.run_search` does."""
    ends, space = _Ends(), load_space(SPACE)
    strategy = Strategy(sampler=sampler, sampler_seed=seed, seeds=1)
    options = SearchOptions(name="own", storage_path=str(folder), num_samples=trials, data_dir=str(ROOT / "data"))
    plan = plan_search(space, options, strategy)
    study = SearchStudy(space, strategy, plan.name, plan.database, own=True)
    search = StudySearch(study, plan.folder, (), limits=Limits(trials))
    progress = SearchProgress(trials, plan.slots, space, Console(file=io.StringIO(), width=120))
    job = TrialJob(space.objective, plan.folder.uri, options.data_dir, {}, 1, "cpu", proxy=True)
    scheduler = brainreg.search.run._scheduler(plan)
    own = SearchCallback(search, scheduler, progress, Gauges(plan.name))
    callbacks = [own, tune.logger.JsonLoggerCallback(), ends]
    tuner = brainreg.search.run._tuner(plan, job, search, scheduler, callbacks)
    with progress:
        tuner.fit()
    return ends.rate()


def measure_rates(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """All ways in turns."""
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"
    brainreg.search.run.run_trial = own_trial
    start_ray(None, "127.0.0.1")
    ways = {
        "bare, study in memory": partial(bare_rate, durable=None),
        "bare, study in SQLite": partial(bare_rate, durable=True),
        "bare, study in SQLite, not synced": partial(bare_rate, durable=False),
        "brainreg": own_rate,
    }
    rows = []
    for turn in range(flags.rounds):
        for way, rate in ways.items():
            with tempfile.TemporaryDirectory() as folder, _quiet():
                value = rate(Path(folder), flags.trials, flags.sampler, turn)
            rows.append({"part": "rate", "what": way, "turn": turn, "value": value, "unit": "trials/s"})
            print(f"  turn {turn}, {way}: {value:.2f} trials a second", flush=True)
    return rows


@contextlib.contextmanager
def _quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        yield


# ---------------------------------------------------------------------------------------------
# The next proposal in a long study
# ---------------------------------------------------------------------------------------------


def finished_records(count: int) -> list[TrialRecord]:
    """Trials as a search leaves them: settings drawn at random, measured somehow."""
    space, study = load_space(SPACE), optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    draws = np.random.default_rng(0)
    records = [
        TrialRecord(number, name, space.setting(name), measured=measured_of(0.0))
        for number, name in enumerate(space.given)
    ]
    for number in range(len(records), count):
        trial = study.ask()
        setting = space(trial)
        clean, robust = 0.99 - setting["reg_alpha"] * 0.1, 0.5 - abs(setting["reg_alpha"] - 0.1)
        clean, robust = (value + draws.normal(0, 0.02) for value in (clean, robust))
        values = {"clean_accuracy": clean, "robust_accuracy": robust, "objective": (clean + robust) / 2}
        distributions = {name: distribution_to_json(one) for name, one in trial.distributions.items()}
        measured = {**measured_of(0.1), **values}
        records.append(TrialRecord(number, "", setting, trial.params, distributions, measured=measured))
    return records


def measure_proposals(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """Propose a few times, each proposal told as finished before the next one."""
    rows, records = [], finished_records(flags.finished)
    for objective, sampler in itertools.product(("combined", "pareto"), flags.samplers):
        with tempfile.TemporaryDirectory() as folder, _quiet():
            seeds = None if sampler == SURROGATE else 1  # so that each trial is a proposal
            strategy = Strategy(objective=objective, sampler=sampler, sampler_seed=0, seeds=seeds)
            database = f"sqlite:///{folder}/study.db"
            study = SearchStudy(load_space(SPACE), strategy, "long", database, records, own=True)
            search = StudySearch(study, Storage(folder), records)
            search._again.clear()  # what a resumed search would hand out first
            seconds = []
            for turn in range(flags.proposals):
                began = time.perf_counter()
                config = search.suggest(str(turn))
                seconds.append(time.perf_counter() - began)
                search.on_trial_complete(str(turn), measured_of(config["hyperparameters"]["reg_alpha"]))
        rows += [
            {"part": "proposal", "what": f"{sampler}, {objective}", "turn": turn, "value": value, "unit": "s"}
            for turn, value in enumerate(seconds)
        ]
        print(
            f"  {sampler}, {objective}: median {np.median(seconds):.3f} s, first {seconds[0]:.3f},"
            f" longest {max(seconds):.3f}",
            flush=True,
        )
    return rows


# ---------------------------------------------------------------------------------------------
# Starting up
# ---------------------------------------------------------------------------------------------

_BARE_PROGRAM = """
import sys, time
stamps = {}
import torch, ray
from ray import tune
stamps["imports"] = time.time()
ray.init(log_to_driver=False)
stamps["Ray's own start"] = time.time()
def trial(config, stamp=sys.argv[1]):
    import torch
    open(stamp, "a").write(f"{time.time()}\\n")
    tune.report({"objective": 0.5})
tune.Tuner(
    tune.with_resources(trial, {"cpu": 1}),
    tune_config=tune.TuneConfig(num_samples=2, reuse_actors=True, metric="objective", mode="max"),
    run_config=tune.RunConfig(name="bare", storage_path=sys.argv[2], verbose=0),
).fit()
stamps["the first trial"] = min(float(line) for line in open(sys.argv[1]))
import json
print("STAMPS" + json.dumps(stamps))
"""

# tune_main.py, with a trial that says when it began and does nothing, and without what comes after the trials.
_OWN_PROGRAM = """
import json, sys, time
stamps = {}
from brainreg.commands import tune
from brainreg.search import run as search
stamps["imports"] = time.time()
def wrap(name, title):
    inner = getattr(search, name)
    def outer(*arguments, **options):
        value = inner(*arguments, **options)
        stamps[title] = time.time()
        return value
    setattr(search, name, outer)
from brainreg.search import plan as plans
plan_search = plans.plan_search
def planned(*arguments, **options):
    plan = plan_search(*arguments, **options)
    stamps["checks"] = time.time()
    return plan
plans.plan_search = planned
wrap("start_ray", "Ray's own start")
wrap("_tuner", "the study and the Tuner")
search.conclude = lambda *arguments, **options: None
def trial(config, job, stamp=sys.argv[1]):
    from ray import tune
    open(stamp, "a").write(f"{time.time()}\\n")
    tune.report({"epoch": 1, "objective": 0.5, "clean_accuracy": 0.5, "robust_accuracy": 0.5, "noise_accuracy": 0.5})
search.run_trial = trial
tune.main(["--space=digits_double", "--num-samples=2", f"--storage-path={sys.argv[2]}", "--name=own"])
stamps["the first trial"] = min(float(line) for line in open(sys.argv[1]))
print("STAMPS" + json.dumps(stamps))
"""


def start(program: str) -> dict[str, float]:
    """Seconds of each step until the first trial begins."""
    with tempfile.TemporaryDirectory() as folder:
        began = time.time()
        ended = subprocess.run(
            [sys.executable, "-c", program, f"{folder}/stamps", folder], cwd=ROOT, capture_output=True, text=True
        )
    lines = [line for line in ended.stdout.splitlines() if line.startswith("STAMPS")]
    if not lines:
        raise RuntimeError(ended.stderr)
    stamps = json.loads(lines[0].removeprefix("STAMPS"))
    times = [began, *stamps.values()]
    steps = {name: times[i + 1] - times[i] for i, name in enumerate(stamps)}
    return {**steps, "together": times[-1] - began}


def measure_starts(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """Both programs in turns."""
    rows = []
    for turn in range(flags.rounds):
        for name, program in (("Ray Tune", _BARE_PROGRAM), ("tune_main.py", _OWN_PROGRAM)):
            steps = start(program)
            rows += [
                {"part": "start", "what": f"{name}: {step}", "turn": turn, "value": value, "unit": "s"}
                for step, value in steps.items()
            ]
            print(f"  turn {turn}, {name}: " + ", ".join(f"{k} {v:.2f}" for k, v in steps.items()), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--trials", type=int, default=200, help="of each search whose rate is measured")
    parser.add_argument("--rounds", type=int, default=3, help="turns of rate and start")
    parser.add_argument("--sampler", choices=SAMPLERS, default="tpe", help="of the rates")
    parser.add_argument("--finished", type=int, default=1000, help="trials in the study of the proposals")
    parser.add_argument("--proposals", type=int, default=5)
    parser.add_argument("--samplers", nargs="+", choices=SAMPLERS, default=SAMPLERS, help="of the proposals")
    parser.add_argument("--save", type=Path, help="CSV file of all numbers")
    flags = parser.parse_args()
    measures = {"rate": measure_rates, "proposal": measure_proposals, "start": measure_starts}
    rows = []
    for part in ("start", "proposal", "rate"):  # what runs in this process comes last
        if part in flags.parts:
            print(part, flush=True)
            rows += measures[part](flags)
    frame = pd.DataFrame(rows)
    print()
    print(f"{'median':>10} {'min':>8} {'max':>8}")
    for (part, what, unit), values in frame.groupby(["part", "what", "unit"], sort=False).value:
        print(f"{values.median():10.3f} {values.min():8.3f} {values.max():8.3f} {unit:<9} {part}: {what}")
    if flags.save:
        frame.round(4).to_csv(flags.save, index=False)


if __name__ == "__main__":
    main()
