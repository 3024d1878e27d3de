"""The search: trials on Ray Tune's workers, settings proposed by Optuna. The one module that knows Ray."""

import contextlib
import logging
import os
import platform
import shlex
import shutil
import socket
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing goes to Ray's makers unless the user wants it
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's own tables would repeat ours
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # an epoch's report has no objective yet

import optuna
import pandas as pd
import ray
import sqlalchemy
import torch
from pydantic import BaseModel, ConfigDict, Field
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.search import ConcurrencyLimiter
from ray.tune.search.optuna import OptunaSearch
from rich.console import Console

import brainreg
from brainreg.attacks.parts import attack_within
from brainreg.cli import check_writable, to_flags
from brainreg.errors import InputError
from brainreg.evaluation import row
from brainreg.hyperparameters import Hyperparameters
from brainreg.objective import Objective
from brainreg.progress import SearchProgress, duration, ranked_table
from brainreg.results import TABLE, load_results, raised, ranked, settings_of, write_manifest, write_tables
from brainreg.spaces import UNREGULARIZED, Budget, Space
from brainreg.training import load_classifier, load_training_data, to_float, train

BEST = "best"
_FINAL_TABLE = "final_attack.csv"
_CHECKPOINT = "checkpoint.pt"

# Optuna's TPE proposes at random until it has seen this many trials, a third of a shorter search.
_RANDOM_TRIALS = 10


class SearchOptions(BaseModel):
    """How a search is run; none of it changes what a trial is."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_samples: int | None = Field(None, ge=1, description="trials (absent: the space's own number)")
    max_concurrent: int | None = Field(
        None, ge=1, description="trials at a time (absent: as many as the machine holds)"
    )
    cpus_per_trial: float = Field(1, ge=0.01, description="CPU cores that a trial takes")
    gpus_per_trial: float | None = Field(
        None, ge=0, description="GPUs that a trial takes, 0.5 for two trials a GPU (absent: 1 where there is one)"
    )
    name: str | None = Field(None, description="name of the search's folder (absent: space and time)")
    storage_path: str = Field("results", description="folder of the searches' folders")
    data_dir: str = Field("data", description="folder of the data sets")
    address: str | None = Field(None, description="address of a running Ray cluster, or auto (absent: start Ray here)")


# ---------------------------------------------------------------------------------------------
# One trial, on a worker
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrialJob:
    """What all trials of a search share."""

    objective: Objective
    data_dir: str
    seed: int
    threads: int
    device: str


def run_trial(config: dict[str, Any], job: TrialJob) -> None:
    """Train one setting and measure it: the function that Ray Tune runs.

    Reports each epoch's metrics with a checkpoint, and at last the objective and its parts.
    """
    torch.set_num_threads(job.threads)
    settings = Hyperparameters(**config["hyperparameters"])
    data = load_training_data(settings, job.data_dir, job.device)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / _CHECKPOINT

        def report(metrics: dict[str, float]) -> None:
            tune.report(metrics, checkpoint=tune.Checkpoint.from_directory(folder) if path.exists() else None)

        result = train(settings, data, device=job.device, checkpoint=path, on_epoch=report)
    images, labels = to_float(data.valid_images.to(job.device)), data.valid_labels.to(job.device)
    measured = job.objective.measure(result.classifier, images, labels, job.seed)
    tune.report({"epoch": settings.epoch_num, "best_epoch": result.best_epoch, **measured})


# ---------------------------------------------------------------------------------------------
# The search algorithm: Ray Tune's bridge to Optuna, told the truth about trials
# ---------------------------------------------------------------------------------------------


class StudySearch(OptunaSearch):
    """Ray Tune's `OptunaSearch`, with three differences.

    The space returns the whole setting, so nothing is collected from Optuna's calls. Reports of an epoch are
    not passed on: they carry no objective, for which `OptunaSearch` raises KeyError. And only a measured
    objective is told as complete; `OptunaSearch` would tell whatever was reported last.
    """

    def suggest(self, trial_id: str) -> dict[str, Any]:
        """Return the next setting, with the number of its trial in the study, and its name if it is a given one."""
        trial = self._ot_study.ask()
        self._ot_trials[trial_id] = trial
        return {
            "number": trial.number,
            "setting": trial.user_attrs.get("setting", ""),
            "hyperparameters": self._space(trial),
        }

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Ignore reports that come before the end."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell Optuna the objective of a measured trial, and of any other that it failed."""
        trial = self._ot_trials.pop(trial_id)
        if error or not result or "objective" not in result:
            self._ot_study.tell(trial, state=optuna.trial.TrialState.FAIL)
            return
        for name in ("clean_accuracy", "robust_accuracy", "noise_accuracy"):
            trial.set_user_attr(name, result[name])
        self._ot_study.tell(trial, result["objective"])


def _create_study(space: Space, folder: Path, num_samples: int, seed: int) -> StudySearch:
    """Create the study in a database beside the results, with the given settings first in its queue."""
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    warnings.filterwarnings("ignore", category=optuna.exceptions.ExperimentalWarning)
    sampler = optuna.samplers.TPESampler(
        n_startup_trials=min(_RANDOM_TRIALS, max(num_samples // 3, 1)),
        multivariate=True,  # alpha and Th act together
        group=True,  # Th_2 exists in the range double only
        constant_liar=True,  # trials that run at the same time should differ
        seed=seed,
    )
    database = sqlalchemy.URL.create("sqlite", database=str(folder / "study.db"))
    storage = optuna.storages.RDBStorage(database.render_as_string())
    study = optuna.create_study(storage=storage, study_name=folder.name, direction="maximize")
    study.set_metric_names(["objective"])
    for name in space.given:
        study.enqueue_trial(space.parameters(name), user_attrs={"setting": name})
    return StudySearch(space, metric="objective", mode="max", sampler=sampler, study_name=folder.name, storage=storage)


class _ProgressCallback(tune.Callback):
    """Passes on what Ray Tune says of trials."""

    def __init__(self, progress: SearchProgress):
        self.progress = progress

    def __getstate__(self) -> dict[str, Any]:
        """Ray stores its callbacks with the search; a terminal cannot be stored."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        config = trial.config
        self.progress.started(trial.trial_id, config["number"], config["setting"], config["hyperparameters"])

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if "objective" in result:
            self.progress.finished(trial.trial_id, result)
        else:
            epochs = Hyperparameters(**trial.config["hyperparameters"]).epoch_num
            self.progress.trained(trial.trial_id, result["epoch"], epochs, result["valid_accuracy"])

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        self.progress.failed(trial.trial_id, raised(trial.get_error() or ""))

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self.progress.tick()


# ---------------------------------------------------------------------------------------------
# The search as a whole
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchPlan:
    """A search that can begin: everything that could be checked beforehand was."""

    space: Space
    options: SearchOptions
    seed: int
    num_samples: int
    slots: int
    gpus_per_trial: float
    folder: Path


def plan_search(space: Space, options: SearchOptions) -> SearchPlan:
    """Check the data, the settings, the machine and the folder, before anything is written or started.

    Raises:
        InputError: what is wrong, in one line.
    """
    seed = Hyperparameters(**space.setting(UNREGULARIZED)).seed
    name = options.name or f"{space.name}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    if Path(name).name != name:
        raise InputError(f"--name={name}: must be the name of a folder, not a path; --storage_path says where it is")
    folder = Path(options.storage_path).resolve() / name
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        raise InputError(f"--name={name}: {folder} already holds something; choose another name")
    check_writable("--storage_path", options.storage_path)
    _check_settings(space, options.data_dir, seed)
    cpus, gpus = _machine(options.address)
    gpus_per_trial = options.gpus_per_trial if options.gpus_per_trial is not None else float(gpus > 0)
    if gpus_per_trial > gpus:
        raise InputError(f"--gpus_per_trial={gpus_per_trial:g}: there are {gpus:g} GPUs")
    if options.cpus_per_trial > cpus:
        raise InputError(f"--cpus_per_trial={options.cpus_per_trial:g}: there are {cpus:g} CPU cores")
    num_samples = options.num_samples or space.budget.num_samples
    slots = int(cpus // options.cpus_per_trial)
    if gpus_per_trial:
        slots = min(slots, int(gpus // gpus_per_trial))
    slots = min(slots, options.max_concurrent or slots, num_samples)
    return SearchPlan(space, options, seed, num_samples, slots, gpus_per_trial, folder)


def _check_settings(space: Space, data_dir: str, seed: int) -> None:
    """Load the data of the given settings and of the largest that can be proposed; this fills the cache, too."""
    for name in space.given:
        data = load_training_data(Hyperparameters(**space.setting(name)), data_dir, "cpu")
    space.objective.divide(len(data.valid_labels), seed)
    for attack in (space.objective.attack, space.budget.final_attack):
        attack.check_classes(data.num_classes)
    problem = None
    for setting in space.corners():
        try:
            load_training_data(Hyperparameters(**setting), data_dir, "cpu")
            return
        except InputError as error:
            problem = error
    raise problem


def _machine(address: str | None) -> tuple[float, float]:
    """Number of CPU cores and GPUs of this machine, or of the Ray cluster at an address."""
    if address is None:
        return float(len(os.sched_getaffinity(0))), float(torch.cuda.device_count())
    _start_ray(address)
    resources = ray.cluster_resources()
    return resources.get("CPU", 0.0), resources.get("GPU", 0.0)


def _start_ray(address: str | None) -> str:
    """Start Ray on this machine, or connect to a cluster; return the dashboard's address, empty where there is none."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR, "ignore_reinit_error": True}
    if address is None:
        # "local" starts one even where another cluster runs on this machine.
        return ray.init(address="local", num_cpus=len(os.sched_getaffinity(0)), **quiet).dashboard_url
    try:
        _knock(address)
        return ray.init(address=address, **quiet).dashboard_url
    except (OSError, ValueError, RuntimeError) as error:  # a ConnectionError is an OSError
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--address={address}: no Ray cluster answers there ({reason})") from error


def _knock(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def run_search(plan: SearchPlan, console: Console) -> pd.DataFrame:
    """Run a search to its end; show it, save what it found, and return its trials.

    Returns:
        `brainreg.results.load_results` of the search's folder.
    """
    space, folder = plan.space, plan.folder
    say = _printer(console)
    say(f"starting Ray for {plan.num_samples} trials, {plan.slots} at a time, in {folder}")
    dashboard = _start_ray(plan.options.address)
    if dashboard:
        say(f"Ray dashboard: http://{dashboard} (it asks for a token, which `ray get-auth-token` prints)")
    write_manifest(folder, _manifest(plan))
    search = _create_study(space, folder, plan.num_samples, plan.seed)
    job = TrialJob(
        space.objective, str(Path(plan.options.data_dir).resolve()), plan.seed, _threads(plan), _device(plan)
    )
    final_attacks = -(-2 // plan.slots) * space.budget.final_attack_seconds  # on two trials
    progress = SearchProgress(plan.num_samples, plan.slots, space.search, console, afterwards=final_attacks)
    tuner = tune.Tuner(
        tune.with_resources(
            partial(run_trial, job=job), {"cpu": plan.options.cpus_per_trial, "gpu": plan.gpus_per_trial}
        ),
        tune_config=tune.TuneConfig(
            # A proposal waits for a free worker, so that it knows every result there is.
            search_alg=ConcurrencyLimiter(search, max_concurrent=plan.slots),
            num_samples=plan.num_samples,
            reuse_actors=True,  # a new process would import torch again
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name=folder.name,
            storage_path=str(folder.parent),
            callbacks=[_ProgressCallback(progress)],
            checkpoint_config=tune.CheckpointConfig(num_to_keep=1),
            sync_config=tune.SyncConfig(sync_period=10),
            verbose=0,
        ),
    )
    with progress:
        tuner.fit()
    results = load_results(folder)
    write_tables(folder, results)
    done = int(results.state.isin(["finished", "failed"]).sum())
    if done < plan.num_samples:
        say(f"\ninterrupted: {done} of {plan.num_samples} trials are done")
    _conclude(plan, results, console, interrupted=done < plan.num_samples)
    return results


def _trial_name(trial: Trial) -> str:
    return f"trial_{trial.config['number']:04d}"


def _manifest(plan: SearchPlan) -> dict[str, Any]:
    packages = ("torch", "torchvision", "ray", "optuna", "pyautoattack", "numpy")
    return {
        "space": plan.space.model_dump(mode="json"),
        "options": plan.options.model_dump(),
        "seed": plan.seed,
        "num_samples": plan.num_samples,
        "started": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": {
            "brainreg": brainreg.__version__,
            "python": platform.python_version(),
            **{package: version(package) for package in packages},
        },
        "device": _device_name(plan),
    }


def _device_name(plan: SearchPlan) -> str:
    if not plan.gpus_per_trial:
        return f"CPU ({platform.machine()})"
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CUDA, on other machines than the driver's"


def _printer(console: Console) -> Callable[[str], None]:
    """A function that prints text as it is, in long lines."""
    return partial(console.print, soft_wrap=True, highlight=False, markup=False)


def _conclude(plan: SearchPlan, results: pd.DataFrame, console: Console, interrupted: bool) -> None:
    """Show the ranked trials, save the best, and attack it and the unregularized one in full."""
    say = _printer(console)
    finished = ranked(results)
    if finished.empty:
        failed = results[results.state == "failed"]
        reason = f"; trial {failed.trial.iloc[0]}: {failed.error.iloc[0]}" if len(failed) else ""
        say(f"\nno trial finished{reason}")
        return
    objective, best = plan.space.objective, finished.iloc[0]
    say(
        f"\nobjective = {objective.weight:g} clean + {1 - objective.weight:g} robust accuracy, on validation images"
        f" ({best.clean_n} clean, {best.robust_n} attacked)"
    )
    say(f"robust: {objective.attack.title}, eps {objective.eps:g}")
    say(f"noise (not optimized): {objective.noise}, eps {objective.noise_eps:g}")
    console.print(ranked_table(finished, plan.space.search))
    for name in plan.space.given:
        given = finished[finished.setting == name]
        if not given.empty and best.setting != name:
            gain = best.objective - given.objective.iloc[0]
            say(f"best against {name}: objective {gain:+.3f} (trial {best.trial} against {given.trial.iloc[0]})")
    if best.setting and not interrupted and (finished.setting == "").any():
        say(f"the {best.setting} setting is the best of this search: no proposed one beats it")
    if changes := plan.space.departures():
        listed = ", ".join(f"{key} {value}" for key, value in changes.items())
        say(f"the published trial is the published one in alpha, Th and range only: {listed}")
    _save_best(plan, best)
    if plan.space.budget.final_attack_seconds > 0 and not interrupted:
        _attack_finally(plan, finished, console)
    say(f"\ntrials: {plan.folder / TABLE}")
    say(f"best:   {plan.folder / BEST / _CHECKPOINT}")
    say("next, the best setting on the test images:")
    say(f"  {train_command(settings_of(best), plan)}")


def train_command(settings: Hyperparameters, plan: SearchPlan) -> str:
    """Return the command that trains a setting again, exactly so on a CPU, and evaluates it on the test images."""
    parts = [f"{shlex.quote(_python())} train.py", to_flags(settings)]
    if not plan.gpus_per_trial:
        parts.append(f"--threads={_threads(plan)}")
    if plan.options.data_dir != SearchOptions.model_fields["data_dir"].default:
        parts.append(f"--data_dir={shlex.quote(plan.options.data_dir)}")
    return " ".join(parts)


def _python() -> str:
    """What this Python is called on the command line: by its path, where that lies below the working folder."""
    with contextlib.suppress(ValueError):
        return str(Path(sys.executable).relative_to(Path.cwd()))
    return "python"


def _save_best(plan: SearchPlan, best: pd.Series) -> None:
    folder = plan.folder / BEST
    folder.mkdir(exist_ok=True)
    shutil.copy(best.checkpoint, folder / _CHECKPOINT)
    (folder / "command.txt").write_text(train_command(settings_of(best), plan) + "\n", encoding="utf-8")


# ---------------------------------------------------------------------------------------------
# The final attack
# ---------------------------------------------------------------------------------------------


def _attack_finally(plan: SearchPlan, finished: pd.DataFrame, console: Console) -> None:
    """Attack the best and the unregularized setting in full, side by side, on as many images as the time allows."""
    say = _printer(console)
    budget, objective = plan.space.budget, plan.space.objective
    chosen = pd.concat([finished.iloc[:1], finished[finished.setting == UNREGULARIZED]]).drop_duplicates("trial")
    limit = duration(budget.final_attack_seconds)
    say(f"\n{budget.final_attack.title}, eps {objective.eps:g}, for {limit} on each of {len(chosen)} trials ...")
    remote = ray.remote(num_cpus=plan.options.cpus_per_trial, num_gpus=plan.gpus_per_trial)(final_attack)
    data_dir = str(Path(plan.options.data_dir).resolve())
    waiting = [
        remote.remote(checkpoint, data_dir, objective, budget, plan.seed, _threads(plan), _device(plan))
        for checkpoint in chosen.checkpoint
    ]
    rows = [
        {"trial": trial.trial, "setting": trial.setting, **outcome}
        for trial, outcome in zip(chosen.itertuples(), ray.get(waiting), strict=True)
    ]
    pd.DataFrame(rows).to_csv(plan.folder / _FINAL_TABLE, index=False)
    for outcome in rows:
        attacked = "did not attack" if outcome["fresh"] else "attacked, too"
        say(
            f"  trial {outcome['trial']} ({outcome['setting'] or 'the best'}): robust accuracy"
            f" {outcome['accuracy']:.3f}, 95% interval {outcome['low']:.3f} to {outcome['high']:.3f},"
            f" on {outcome['n']} validation images that the search {attacked}"
        )


def _threads(plan: SearchPlan) -> int:
    return max(int(plan.options.cpus_per_trial), 1)


def _device(plan: SearchPlan) -> str:
    return "cuda" if plan.gpus_per_trial else "cpu"


def final_attack(
    checkpoint: str, data_dir: str, objective: Objective, budget: Budget, seed: int, threads: int, device: str
) -> dict[str, Any]:
    """Attack a checkpoint's best network on validation images; those that the objective did not see come first.

    Returns:
        A row of a robustness table, and `fresh`: whether none of the images was attacked for an objective. (All
        validation images have a part in clean accuracy and in the choice of the best epoch.)
    """
    torch.set_num_threads(threads)
    classifier, settings = load_classifier(checkpoint)
    data = load_training_data(settings.model_copy(update={"reg_alpha": None}), data_dir)
    seen, unseen = objective.divide(len(data.valid_labels), seed)
    order = unseen if len(unseen) else seen
    measured = attack_within(
        budget.final_attack,
        classifier.to(device),
        to_float(data.valid_images[order]).to(device),
        data.valid_labels[order].to(device),
        [objective.eps],
        seconds=budget.final_attack_seconds,
        batch_size=budget.final_attack_batch_size,
        seed=seed,
    )
    outcome = row(budget.final_attack.title, objective.eps, measured.correct[0], measured.seconds, seed)
    return {**outcome, "fresh": bool(len(unseen))}
