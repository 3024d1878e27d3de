"""The search: trials on Ray Tune's workers, settings proposed by Optuna, and nothing lost when any of it fails."""

import contextlib
import math
import os
import platform
import shlex
import signal
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import FrameType, SimpleNamespace
from typing import Any, NoReturn

import optuna
import pandas as pd
import ray
import sqlalchemy
import torch
from pydantic import BaseModel, ConfigDict, Field
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.logger import JsonLoggerCallback
from ray.tune.schedulers import AsyncHyperBandScheduler, FIFOScheduler, TrialScheduler
from ray.tune.search import ConcurrencyLimiter, Searcher
from ray.tune.stopper import Stopper
from ray.util.metrics import Gauge
from rich.console import Console

import brainreg.cluster  # sets Ray's variables before Ray is imported
from brainreg.attacks.parts import attack_within
from brainreg.cli import check_writable, to_flags
from brainreg.cluster import check_nodes, machines, start_ray, watch_own_node
from brainreg.errors import InputError, validated
from brainreg.evaluation import row
from brainreg.hyperparameters import Hyperparameters
from brainreg.objective import Objective
from brainreg.progress import SearchProgress, duration, ranked_table
from brainreg.records import (
    CHECKPOINT,
    FAILED,
    MANIFEST,
    STOPPED,
    UNFINISHED,
    Driver,
    TrialFiles,
    TrialRecord,
    check_no_driver,
    read_manifest,
    read_trials,
    trial_name,
    write_manifest,
)
from brainreg.results import TABLE, load_results, raised, ranked, settings_of, write_tables
from brainreg.spaces import UNREGULARIZED, Budget, Space
from brainreg.storage import PATIENCE, Storage, StorageError, within
from brainreg.study import SearchStudy, Strategy, front, hypervolume, open_database
from brainreg.tensorboard import TensorBoardLogger
from brainreg.training import load_classifier, load_training_data, to_float
from brainreg.trial import BROKEN, HOPELESS, REPLAYED, TrialJob, run_trial

BEST = "best"
_FINAL_TABLE = "final_attack.csv"
_RAYS_FOLDER = "ray"  # what Ray Tune itself keeps of the search, and TensorBoard's logs; nothing is read from it
_DATABASE = "study.db"

# Ray Tune writes its own table this often, in seconds.
_RAYS_PERIOD = 10

# ASHA stops a trial that is not among the best third of those that came as far, after a ninth and a third of the
# epochs and before the full attack: see benchmarks/README.md.
_REDUCTION, _RUNGS = 3, 3


class SearchOptions(BaseModel):
    """How a search is run; none of it changes what a trial is, and all of it may change when it is resumed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_samples: int | None = Field(None, ge=1, description="trials (absent: the space's own number)")
    max_concurrent: int | None = Field(
        None, ge=1, description="trials at a time (absent: as many as the machine holds)"
    )
    cpus_per_trial: float = Field(1, ge=0.01, description="CPU cores that a trial takes")
    gpus_per_trial: float | None = Field(
        None, ge=0, description="GPUs that a trial takes, 0.5 for two trials a GPU (absent: 1 where there is one)"
    )
    max_retries: int = Field(
        3, ge=0, description="times that a trial is tried again after a lost worker or node, or for lack of memory"
    )
    name: str | None = Field(None, description="name of the search's folder (absent: space and time)")
    storage_path: str = Field("results", description="folder of the searches' folders, or s3://BUCKET/PATH")
    study: str | None = Field(
        None, description="database of the study, such as postgresql+psycopg://USER@HOST/NAME (absent: SQLite)"
    )
    data_dir: str = Field("data", description="folder of the data sets, on each node")
    address: str | None = Field(None, description="address of a running Ray cluster, or auto (absent: start Ray here)")
    dashboard_host: str = Field("127.0.0.1", description="where the dashboard of a Ray that is started here listens")
    tensorboard: bool = Field(False, description="write logs for TensorBoard, too")


# ---------------------------------------------------------------------------------------------
# What Ray Tune asks and tells: the searcher, the scheduler, the callback
# ---------------------------------------------------------------------------------------------


class StudySearch(Searcher):
    """Ray Tune's searcher: passes on what Optuna proposes, and tells Optuna the truth about trials.

    Ray Tune's own `OptunaSearch` tells whatever a trial reported last as its result, and remembers trials in memory.
    Here the study and the trials' files are the memory: trials that began before the search was resumed are handed
    out first, so that Ray Tune's table is whole, too.

    Attributes:
        broken: why the search cannot go on; empty as long as it can.
    """

    def __init__(self, study: SearchStudy, search: Storage, records: Sequence[TrialRecord]):
        super().__init__(metric="objective", mode="max")
        self.broken = ""
        self._study, self._search = study, search
        self._known = {record.number: record for record in records}
        self._again = deque(study.begun())
        self._running: dict[str, tuple[optuna.Trial, TrialRecord]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the next setting, with the number of its trial, and how it ended before, if it did."""
        if self.broken:
            return None
        with self._breaking():
            trial = self._again.popleft() if self._again else self._study.ask()
            record = self._known.get(trial.number)
            if record is None:
                record = self._study.propose(trial)
                record.began = time.time()
                TrialFiles(self._search, record.number).write_trial(record)
            self._running[trial_id] = trial, record
            return {
                "number": record.number,
                "setting": record.setting,
                "hyperparameters": record.hyperparameters,
                "ended": "" if record.state == UNFINISHED else record.state,
            }
        return None

    def report(self, trial_id: str, epoch: int, proxy_objective: float) -> None:
        """Tell Optuna the proxy of an epoch. (Ray Tune does not call `on_trial_result` for the last one.)"""
        with self._breaking():
            self._study.report(self._running[trial_id][0], epoch, proxy_objective)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: reports come by `report`."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: an end comes by `finish`, `stop` or `fail`, which know its reason."""

    def finish(self, trial_id: str, measured: dict[str, Any]) -> None:
        """A trial has been measured."""
        with self._breaking():
            self._study.tell_finished(self._running[trial_id][0], measured)

    def stop(self, trial_id: str) -> None:
        """A trial is not worth going on with."""
        self._end(trial_id, STOPPED, "")

    def fail(self, trial_id: str, error: str) -> None:
        """A trial failed for good."""
        self._end(trial_id, FAILED, error)

    def _end(self, trial_id: str, state: str, error: str) -> None:
        trial, record = self._running[trial_id]
        if self.broken:
            return  # not its own fault: it goes on when the search is resumed
        with self._breaking():
            if not record.ended:
                record.ended, record.error = state, error
                TrialFiles(self._search, record.number).write_trial(record)
            if state == STOPPED:
                self._study.tell_stopped(trial)
            else:
                self._study.tell_failed(trial, record.error)

    def retry(self, trial_id: str, reason: str) -> None:
        """A trial is tried again."""
        record = self._running[trial_id][1]
        with self._breaking():
            record.retries.append(reason)
            TrialFiles(self._search, record.number).write_trial(record)

    @contextlib.contextmanager
    def _breaking(self) -> Iterator[None]:
        """End the search, for now, where what must be kept cannot be kept."""
        try:
            yield
        except StorageError as error:
            self.broken = self.broken or str(error)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing of use: the study and the trials' files are the memory."""
        Path(checkpoint_path).write_text("see --resume\n", encoding="utf-8")

    def restore(self, checkpoint_path: str) -> NoReturn:
        """End the process: Ray Tune's own way to resume would only log an error, and wait for ever."""
        raise SystemExit(f"error: resume this search with: python tune_main.py --resume={self._search}")


class RecoveringScheduler(FIFOScheduler):
    """First come, first served; and a trial whose worker dies while the trial is handed to it is tried again.

    Ray Tune itself tries again only trials that run already.

    Attributes:
        stopped: numbers of the trials that were stopped.
    """

    def __init__(self):
        super().__init__()
        self.stopped: set[int] = set()
        self._lost: dict[str, Any] = {}

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        if trial.status == Trial.PENDING and trial.should_recover():
            self._lost[trial.trial_id] = tune_controller

    def recover(self, trial: Trial) -> bool:
        """Put a trial that Ray Tune has given up back into its queue, if it was never begun; return whether it was."""
        controller = self._lost.pop(trial.trial_id, None)
        if controller is not None:
            controller._requeue_trial(trial)  # what Ray Tune does with trials that run
        return controller is not None


class AshaScheduler(RecoveringScheduler):
    """Ray Tune's ASHA over the proxy of the objective, for a search that may be resumed.

    Trials are known by their numbers, and what they reported before the search was resumed counts. Given settings
    are never stopped: the others are compared with them.

    Args:
        epochs: most epochs of a trial.
        records: what trials reported before.

    Source: Li et al., arXiv 1810.05934.
    """

    def __init__(self, epochs: int, records: Sequence[TrialRecord] = ()):
        super().__init__()
        # A little less than the whole numbers, so that the last rung lies at the last epoch, before the full attack.
        rungs = min(_RUNGS, 1 + int(math.log(epochs, _REDUCTION) + 1e-6))
        self._asha = AsyncHyperBandScheduler(
            time_attr="epoch",
            metric="proxy_objective",
            mode="max",
            max_t=epochs + 0.5,
            grace_period=(epochs - 0.25) / _REDUCTION ** (rungs - 1),
            reduction_factor=_REDUCTION,
        )
        self._added: set[int] = set()
        for record in records:
            # Of an unfinished trial, the last epoch is reported again.
            epochs_before = record.epochs if record.state != UNFINISHED else record.epochs[:-1]
            for epoch in epochs_before:
                self.decide(record.number, epoch)

    def decide(self, number: int, report: Mapping[str, Any]) -> bool:
        """Return whether a trial goes on after an epoch's report, and remember the report."""
        if "proxy_objective" not in report:
            return True
        trial = SimpleNamespace(trial_id=str(number))
        if number not in self._added:
            self._added.add(number)
            self._asha.on_trial_add(None, trial)
        return self._asha.on_trial_result(None, trial, dict(report)) == TrialScheduler.CONTINUE

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number = trial.config["number"]
        if self.decide(number, result) or trial.config["setting"]:
            return TrialScheduler.CONTINUE
        self.stopped.add(number)
        return TrialScheduler.STOP


class _Gauges:
    """What Ray exports to Prometheus of the search."""

    def __init__(self, name: str):
        self._tags = {"search": name}
        self._gauges = {
            key: Gauge(f"brainreg_{key}", description=description, tag_keys=("search",))
            for key, description in {
                "best_objective": "largest objective of a finished trial",
                "best_clean_accuracy": "clean accuracy of that trial, a fraction of the validation images",
                "best_robust_accuracy": "robust accuracy of that trial, a fraction of the attacked images",
                "trials_done": "trials that ended: finished, stopped or failed",
                "trials_stopped": "trials that were stopped early",
                "trials_failed": "trials that failed",
                "trials_running": "trials that run",
            }.items()
        }

    def set(self, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._gauges[key].set(value, tags=self._tags)


class _SearchCallback(tune.Callback):
    """Passes on what Ray Tune says of trials."""

    def __init__(self, search: StudySearch, scheduler: RecoveringScheduler, progress: SearchProgress, gauges: _Gauges):
        self.search, self.scheduler, self.progress, self.gauges = search, scheduler, progress, gauges

    def __getstate__(self) -> dict[str, Any]:
        """Ray stores its callbacks with the search; a terminal cannot be stored."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        config = trial.config
        if not config["ended"]:
            self.progress.started(config["number"], config["setting"], config["hyperparameters"])
        self._show()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if BROKEN in result:
            self.search.broken = self.search.broken or result[BROKEN]
        elif HOPELESS in result:
            trial.max_failures = 0
        elif REPLAYED in result:
            pass
        elif "objective" in result:
            self.progress.finished(trial.config["number"], result)
        elif "valid_accuracy" in result:
            epochs = Hyperparameters(**trial.config["hyperparameters"]).epoch_num
            self.progress.trained(trial.config["number"], result["epoch"], epochs, result["valid_accuracy"])
            if "proxy_objective" in result:
                self.search.report(trial.trial_id, result["epoch"], result["proxy_objective"])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        number = trial.config["number"]
        result = trial.last_result or {}
        if "objective" in result:
            self.search.finish(trial.trial_id, result)
        elif number in self.scheduler.stopped or trial.config["ended"] == STOPPED:
            self.search.stop(trial.trial_id)
            self.progress.stopped(number)
        self._show()

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if not self.search.broken:
            reason = _reason(trial)
            self.search.retry(trial.trial_id, reason)
            self.progress.retried(trial.config["number"], reason)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self.search.broken:
            return
        if self.scheduler.recover(trial):
            self.on_trial_recover(iteration, trials, trial)
            return
        config, reason = trial.config, _reason(trial)
        self.search.fail(trial.trial_id, reason)
        if not config["ended"]:
            self.progress.started(config["number"], config["setting"], config["hyperparameters"])
            self.progress.failed(config["number"], reason)
        self._show()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self.progress.tick()

    def _show(self) -> None:
        self.gauges.set(self.progress.counts())


def _reason(trial: Trial) -> str:
    """The last error of a trial, in one line. (Ray Tune's `get_error` looks for it where it is copied to later.)"""
    path = Path(trial.error_file) if trial.error_file else None
    return raised(path.read_text(encoding="utf-8") if path is not None and path.is_file() else "")


class _WhenBroken(Stopper):
    """Ends the search where it cannot go on."""

    def __init__(self, search: StudySearch):
        self._search = search

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return bool(self._search.broken)


# ---------------------------------------------------------------------------------------------
# Plans
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchPlan:
    """A search that can begin or go on: everything that could be checked beforehand was.

    Attributes:
        space, strategy, options: what the search is.
        seed: of everything that is drawn.
        num_samples: trials, those that ended before the search is resumed too.
        slots: trials at a time.
        gpus_per_trial: 0 on a CPU.
        folder: of the search.
        records: trials that began before the search is resumed; none of a new one.
        resumed: whether it goes on.
    """

    space: Space
    strategy: Strategy
    options: SearchOptions
    seed: int
    num_samples: int
    slots: int
    gpus_per_trial: float
    folder: Storage
    records: tuple[TrialRecord, ...] = field(default=(), repr=False)
    resumed: bool = False

    @property
    def name(self) -> str:
        """Name of the search's folder and of its study."""
        return str(self.folder).rsplit("/", 1)[-1]

    @property
    def database(self) -> str:
        """Address of the study's database: beside the results where they are on this machine."""
        if self.options.study is not None:
            return self.options.study
        folder = Path(self.folder.root) if self.folder.is_local else Path("results", self.name).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return sqlalchemy.URL.create("sqlite", database=str(folder / _DATABASE)).render_as_string()

    @property
    def threads(self) -> int:
        """CPU threads of a trial."""
        return max(int(self.options.cpus_per_trial), 1)

    @property
    def device(self) -> str:
        """What a trial runs on."""
        return "cuda" if self.gpus_per_trial else "cpu"


def plan_search(space: Space, options: SearchOptions, strategy: Strategy | None = None) -> SearchPlan:
    """Check the data, the settings, the machine, the folder and the database, before anything is written or started.

    Raises:
        InputError: what is wrong, in one line.
    """
    name = options.name or f"{space.name}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    if Path(name).name != name:
        raise InputError(f"--name={name}: must be the name of a folder, not a path; --storage_path says where it is")
    folder = _storage(options.storage_path).child(name)
    if _answering(folder, lambda: folder.exists(MANIFEST)):
        raise InputError(
            f"--name={name}: {folder} already holds a search; choose another name, or go on with it: --resume={name}"
        )
    own = Path(folder.root) if folder.is_local else None
    if own is not None and own.exists() and not (own.is_dir() and not any(own.iterdir())):
        raise InputError(f"--name={name}: {folder} already holds something; choose another name")
    return _plan(space, strategy or Strategy(), options, folder)


def find_search(name: str, storage_path: str, flag: str) -> Storage:
    """Return the folder of a search by its name in `storage_path`, or by its path.

    Raises:
        InputError: there is none; the line begins with `flag`.
    """
    below = _storage(storage_path).child(name) if "/" not in name else None
    for folder in (below, Storage(name)):
        if folder is not None and _answering(folder, partial(folder.exists, MANIFEST)):
            return folder
    where = _storage(storage_path)
    known = [one for one in _answering(where, where.names) if where.child(one).exists(MANIFEST)]
    there = f"there {'is' if len(known) == 1 else 'are'} {', '.join(known)}" if known else "there is none"
    raise InputError(f"{flag}={name}: no such search in {where}; {there}")


def plan_resume(
    folder: Storage,
    options: Mapping[str, Any],
    space: Callable[[Space], Space] = lambda stored: stored,
    strategy: Mapping[str, Any] | None = None,
) -> SearchPlan:
    """Check that a search can go on.

    Args:
        folder: of the search.
        options: fields of `SearchOptions` that are to be others than before.
        space: makes what the command line describes now of the stored space.
        strategy: fields of `Strategy` that the command line gives.

    Raises:
        InputError: what is wrong, in one line: another process runs it, or it would be another search.
    """
    name = str(folder).rsplit("/", 1)[-1]
    manifest = read_manifest(folder)
    check_no_driver(folder)
    where = f"{folder.path(MANIFEST)}: "
    stored = validated(Space, manifest["space"], spell=lambda key: f"{where}space.{key}")
    stored_strategy = validated(Strategy, manifest["strategy"], spell=lambda key: f"{where}strategy.{key}")
    now = space(stored).model_dump(mode="json")
    now_strategy = {**stored_strategy.model_dump(), **(strategy or {})}
    for old, new in ((stored.model_dump(mode="json"), now), (stored_strategy.model_dump(), now_strategy)):
        for key, before, after in _differences(old, new):
            raise InputError(
                f"--resume={name}: {key}={_shown(after)}: this search has {_shown(before)}; resume it without the flag,"
                " or start another search"
            )
    merged = {**manifest["options"], **options, "num_samples": options.get("num_samples") or manifest["num_samples"]}
    if "***" in (merged["study"] or ""):
        raise InputError(
            f"--study: missing; this search keeps its study in {merged['study']}, and passwords are not stored"
        )
    records = tuple(read_trials(folder))
    plan = _plan(stored, stored_strategy, SearchOptions(**merged), folder, records)
    if plan.num_samples < len(records):
        raise InputError(f"--num_samples={plan.num_samples}: this search has begun {len(records)} trials already")
    return plan


def _differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The keys in which two nested mappings differ, dotted, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from _differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield key, old, new


def _shown(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _storage(path: str) -> Storage:
    if not path.startswith("s3://") and "://" in path:
        raise InputError(f"--storage_path={path}: must be a folder or s3://BUCKET/PATH")
    return Storage(path)


def _answering(storage: Storage, action: Callable[[], Any]) -> Any:
    """Do something that needs an answer of the storage.

    Raises:
        InputError: it does not answer.
    """
    try:
        return action() if storage.is_local else within(PATIENCE, action)
    except (TimeoutError, InputError) as error:
        raise InputError(f"--storage_path={storage}: {error}") from error


def _plan(
    space: Space, strategy: Strategy, options: SearchOptions, folder: Storage, records: tuple[TrialRecord, ...] = ()
) -> SearchPlan:
    seed = Hyperparameters(**space.setting(UNREGULARIZED)).seed
    if folder.is_local:
        check_writable("--storage_path", options.storage_path)
    _check_settings(space, options.data_dir, seed)
    there = machines(options.address, options.dashboard_host)
    gpus_per_trial = options.gpus_per_trial if options.gpus_per_trial is not None else float(there.gpus > 0)
    if gpus_per_trial > there.gpus:
        raise InputError(f"--gpus_per_trial={gpus_per_trial:g}: there are {there.gpus:g} GPUs")
    if options.cpus_per_trial > there.cpus:
        raise InputError(f"--cpus_per_trial={options.cpus_per_trial:g}: there are {there.cpus:g} CPU cores")
    num_samples = options.num_samples or space.budget.num_samples
    slots = int(there.cpus // options.cpus_per_trial)
    if gpus_per_trial:
        slots = min(slots, int(there.gpus // gpus_per_trial))
    slots = min(slots, options.max_concurrent or slots, num_samples)
    resumed = folder.exists(MANIFEST)
    plan = SearchPlan(space, strategy, options, seed, num_samples, slots, gpus_per_trial, folder, records, resumed)
    if options.study is not None:
        _check_study(plan)
    return plan


def _check_study(plan: SearchPlan) -> None:
    """Raise InputError if the database does not answer, or holds another study of this name."""
    storage = open_database(plan.options.study)
    names = {summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)}
    if plan.name in names and not plan.resumed:
        shown = sqlalchemy.make_url(plan.options.study).render_as_string(hide_password=True)
        raise InputError(f"--study={shown}: already holds a study {plan.name}; choose another --name")


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


# ---------------------------------------------------------------------------------------------
# The search as a whole
# ---------------------------------------------------------------------------------------------


def run_search(plan: SearchPlan, console: Console) -> pd.DataFrame:
    """Run a search to its end, or go on with it; show it, save what it found, and return its trials.

    Returns:
        `brainreg.results.load_results` of the search's folder.

    Raises:
        InputError: another process runs it, a node cannot run trials, or what must be kept cannot be.
    """
    space, folder, options = plan.space, plan.folder, plan.options
    say = _printer(console)
    ended = sum(record.state != UNFINISHED for record in plan.records)
    known = f"{ended} of them done before, " if plan.resumed else ""
    say(f"starting Ray for {plan.num_samples} trials, {known}{plan.slots} at a time, in {folder}")
    dashboard = start_ray(options.address, options.dashboard_host)
    if dashboard:
        say(f"Ray dashboard: http://{dashboard} (it asks for a token, which `{_tool('ray')} get-auth-token` prints)")
    if options.tensorboard:
        missing = "" if find_spec("tensorboard") else f" (after: {_python()} -m pip install tensorboard)"
        say(f"TensorBoard: {_tool('tensorboard')} --logdir={shlex.quote(folder.path(_RAYS_FOLDER))}{missing}")
    data_dir = str(Path(options.data_dir).resolve())
    job = TrialJob(
        space.objective,
        folder.uri,
        data_dir,
        plan.seed,
        plan.threads,
        plan.device,
        proxy=plan.strategy.scheduler == "asha",
    )
    final_attacks = -(-2 // plan.slots) * space.budget.final_attack_seconds  # on two trials
    progress = SearchProgress(plan.num_samples, plan.slots, space.search, console, afterwards=final_attacks)
    progress.resume(plan.records)
    write_manifest(folder, _manifest(plan))
    with Driver(folder, plan.slots) as driver:
        if options.address is not None:
            check_nodes(Hyperparameters(**space.setting(space.given[0])), data_dir, folder, MANIFEST)
        study = SearchStudy(space, plan.strategy, plan.num_samples, plan.seed, plan.name, plan.database, plan.records)
        search = StudySearch(study, folder, plan.records)
        driver.on_lost = partial(setattr, search, "broken")
        if ended < plan.num_samples:
            tuner = _tuner(plan, job, search, progress)
            watch_own_node(partial(_end_at_once, plan, progress, console))
            with progress, _stopped_by_sigterm():
                tuner.fit()
        results = load_results(folder)
        write_tables(folder, results)
        done = int((results.state != UNFINISHED).sum())
        if search.broken:
            raise InputError(
                f"{search.broken}; {done} of {plan.num_samples} trials are done. When that is mended, go on:"
                f" --resume={plan.name}"
            )
        if done < plan.num_samples:
            say(f"\ninterrupted: {done} of {plan.num_samples} trials are done; go on with --resume={plan.name}")
        _conclude(plan, results, console, interrupted=done < plan.num_samples)
    return results


def _tuner(plan: SearchPlan, job: TrialJob, search: StudySearch, progress: SearchProgress) -> tune.Tuner:
    options = plan.options
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # two of its three formats nobody asked for
    loggers: list[tune.Callback] = [JsonLoggerCallback()]
    if options.tensorboard:
        loggers.append(TensorBoardLogger(plan.space.search, plan.records))
    scheduler = RecoveringScheduler()
    if plan.strategy.scheduler == "asha":
        scheduler = AshaScheduler(_most_epochs(plan.space), plan.records)
    rays = plan.folder.child(_RAYS_FOLDER)
    trainable = partial(run_trial, job=job)
    trainable.__name__ = run_trial.__name__  # which the dashboard shows
    return tune.Tuner(
        tune.with_resources(trainable, {"cpu": options.cpus_per_trial, "gpu": plan.gpus_per_trial}),
        tune_config=tune.TuneConfig(
            # A proposal waits for a free worker, so that it knows every result there is.
            search_alg=ConcurrencyLimiter(search, max_concurrent=plan.slots),
            scheduler=scheduler,
            num_samples=plan.num_samples,
            reuse_actors=True,  # a new process would import torch again
            trial_name_creator=_ray_name,
            trial_dirname_creator=_ray_name,
        ),
        run_config=tune.RunConfig(
            name=_RAYS_FOLDER,
            storage_path=rays.root.rsplit("/", 1)[0],
            storage_filesystem=rays.filesystem,
            stop=_WhenBroken(search),
            callbacks=[_SearchCallback(search, scheduler, progress, _Gauges(plan.name)), *loggers],
            failure_config=tune.FailureConfig(max_failures=options.max_retries),
            sync_config=tune.SyncConfig(sync_period=_RAYS_PERIOD),
            verbose=0,
        ),
    )


def _end_at_once(plan: SearchPlan, progress: SearchProgress, console: Console, reason: str) -> NoReturn:
    """End the process where Ray Tune would wait for ever. All that is known is in files already."""
    progress.__exit__()
    _printer(console)(f"error: {reason}; nothing is lost, go on with --resume={plan.name}")
    console.file.flush()
    os._exit(1)


def _most_epochs(space: Space) -> int:
    searched = space.search.get("epoch_num")
    return int(max(searched.extremes())) if searched else Hyperparameters(**space.setting(UNREGULARIZED)).epoch_num


def _ray_name(trial: Trial) -> str:
    return trial_name(trial.config["number"])


@contextlib.contextmanager
def _stopped_by_sigterm() -> Iterator[None]:
    """Let SIGTERM, with which a cluster takes a machine back, do what Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        os.kill(os.getpid(), signal.SIGINT)

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not in the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _manifest(plan: SearchPlan) -> dict[str, Any]:
    packages = ("torch", "torchvision", "ray", "optuna", "pyautoattack", "numpy")
    options = plan.options.model_dump()
    if options["study"] is not None:
        options["study"] = sqlalchemy.make_url(options["study"]).render_as_string(hide_password=True)
    content = {
        "space": plan.space.model_dump(mode="json"),
        "strategy": plan.strategy.model_dump(),
        "options": options,
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
    if plan.resumed:
        before = read_manifest(plan.folder)
        content["started"] = before["started"]
        content["resumed"] = [*before.get("resumed", []), time.strftime("%Y-%m-%dT%H:%M:%S%z")]
    return content


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
        failed = results[results.state == FAILED]
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
    stopped = int((results.state == STOPPED).sum())
    if stopped:
        say(f"stopped early, and not ranked: {stopped} of {len(results)} trials")
    console.print(ranked_table(finished, plan.space.search))
    if plan.strategy.objective == "pareto":
        points = finished.clean_accuracy, finished.robust_accuracy
        members = ", ".join(map(str, sorted(finished.trial[front(*points)])))
        say(f"front of clean and robust accuracy: trials {members}; hypervolume {hypervolume(*points):.3f}")
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
    say(f"\ntrials: {plan.folder.path(TABLE)}")
    say(f"best:   {plan.folder.path(f'{BEST}/{CHECKPOINT}')}")
    say("next, the best setting on the test images:")
    say(f"  {train_command(settings_of(best), plan)}")


def train_command(settings: Hyperparameters, plan: SearchPlan) -> str:
    """Return the command that trains a setting again, exactly so on a CPU, and evaluates it on the test images."""
    parts = [f"{shlex.quote(_python())} train.py", to_flags(settings)]
    if not plan.gpus_per_trial:
        parts.append(f"--threads={plan.threads}")
    if plan.options.data_dir != SearchOptions.model_fields["data_dir"].default:
        parts.append(f"--data_dir={shlex.quote(plan.options.data_dir)}")
    return " ".join(parts)


def _python() -> str:
    """What this Python is called on the command line: by its path, where that lies below the working folder."""
    with contextlib.suppress(ValueError):
        return str(Path(sys.executable).relative_to(Path.cwd()))
    return "python"


def _tool(name: str) -> str:
    """What a command of this Python's environment is called on the command line."""
    return str(Path(_python()).with_name(name))


def _save_best(plan: SearchPlan, best: pd.Series) -> None:
    content = plan.folder.read(f"{trial_name(best.trial)}/{CHECKPOINT}")
    plan.folder.write(f"{BEST}/{CHECKPOINT}", content)
    plan.folder.write(f"{BEST}/command.txt", train_command(settings_of(best), plan) + "\n")


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
        remote.remote(plan.folder.uri, number, data_dir, objective, budget, plan.seed, plan.threads, plan.device)
        for number in chosen.trial.tolist()
    ]
    rows = [
        {"trial": trial.trial, "setting": trial.setting, **outcome}
        for trial, outcome in zip(chosen.itertuples(), ray.get(waiting), strict=True)
    ]
    plan.folder.write(_FINAL_TABLE, pd.DataFrame(rows).to_csv(index=False))
    for outcome in rows:
        attacked = "did not attack" if outcome["fresh"] else "attacked, too"
        say(
            f"  trial {outcome['trial']} ({outcome['setting'] or 'the best'}): robust accuracy"
            f" {outcome['accuracy']:.3f}, 95% interval {outcome['low']:.3f} to {outcome['high']:.3f},"
            f" on {outcome['n']} validation images that the search {attacked}"
        )


def final_attack(
    search: str, number: int, data_dir: str, objective: Objective, budget: Budget, seed: int, threads: int, device: str
) -> dict[str, Any]:
    """Attack a trial's best network on validation images; those that the objective did not see come first.

    Returns:
        A row of a robustness table, and `fresh`: whether none of the images was attacked for an objective. (All
        validation images have a part in clean accuracy and in the choice of the best epoch.)
    """
    torch.set_num_threads(threads)
    with tempfile.TemporaryDirectory() as temporary:
        path = TrialFiles(Storage(search), number).folder.fetch(CHECKPOINT, temporary)
        classifier, settings = load_classifier(path)
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
