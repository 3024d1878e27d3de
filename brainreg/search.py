"""The search: trials on Ray Tune's workers, settings proposed by Optuna, and nothing lost when any of it fails."""

import contextlib
import errno
import logging
import math
import os
import platform
import shlex
import signal
import tempfile
import time
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import FrameType
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
from ray.tune.search import ConcurrencyLimiter
from rich.console import Console

import brainreg.cluster  # sets Ray's variables before Ray is imported
from brainreg.attacks.parts import attack_within
from brainreg.bridge import AshaScheduler, Gauges, RecoveringScheduler, SearchCallback, StudySearch, WhenBroken
from brainreg.claims import claims_of_others, kept, make_claim, one_at_a_time
from brainreg.cli import DATA_DIR, check_writable, python_name, tool_name, train_command
from brainreg.cluster import check_nodes, machines, start_ray, visible_gpus, watch_own_node
from brainreg.data import nothing_written, to_download
from brainreg.errors import InputError, validated
from brainreg.evaluation import as_large_as_fits, row
from brainreg.fingerprints import UNKNOWN_DATA, check_same_data
from brainreg.hyperparameters import REGULARIZER, Hyperparameters
from brainreg.objective import Objective
from brainreg.progress import SearchProgress, duration, luck_lines, ranked_table
from brainreg.proposals import most_trials
from brainreg.records import (
    CHECKPOINT,
    DRIVER,
    FAILED,
    MANIFEST,
    STOPPED,
    UNFINISHED,
    Driver,
    TrialFiles,
    TrialRecord,
    check_no_driver,
    driver_of,
    mend_trials,
    read_manifest,
    read_trials,
    search_id,
    trial_name,
    trial_numbers,
    write_manifest,
)
from brainreg.results import BEST, FINAL_TABLE, TABLE, load_results, ranked, settings_of, write_tables
from brainreg.spaces import EARLY_STOPPED, UNREGULARIZED, Budget, Space, shown_name
from brainreg.storage import PATIENCE, Storage, StorageError, within
from brainreg.study import SearchStudy, Strategy, front, hypervolume, open_database, set_aside_if_damaged, taken
from brainreg.tensorboard import TensorBoardLogger
from brainreg.training import device_name, folded, load_classifier, load_training_data, to_float
from brainreg.trial import TrialJob, run_trial

_RAYS_FOLDER = "ray"  # what Ray Tune itself keeps of the search, and TensorBoard's logs; nothing is read from it
_DATABASE = "study.db"

# Ray Tune writes its own table this often, in seconds.
_RAYS_PERIOD = 10

# While the final attack runs, a line says so this often, in seconds.
_LINE_SECONDS = 30


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
    id: str | None = Field(
        None,
        min_length=1,
        max_length=200,
        description="what a confirmation draws its fresh seeds from (absent: another one for each search)",
    )
    storage_path: str = Field("results", description="folder of the searches' folders, or s3://BUCKET/PATH")
    study: str | None = Field(
        None, description="database of the study, such as postgresql+psycopg://USER@HOST/NAME (absent: SQLite)"
    )
    data_dir: str = Field(DATA_DIR, description="folder of the data sets, on each node")
    address: str | None = Field(None, description="address of a running Ray cluster, or auto (absent: start Ray here)")
    dashboard_host: str = Field("127.0.0.1", description="where the dashboard of a Ray that is started here listens")
    tensorboard: bool = Field(False, description="write logs for TensorBoard, too")

    @property
    def threads(self) -> int:
        """CPU threads of a trial."""
        return max(int(self.cpus_per_trial), 1)


# ---------------------------------------------------------------------------------------------
# Plans
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class SearchPlan:
    """A search that can begin or go on: everything that could be checked beforehand was.

    Attributes:
        space, strategy, options: what the search is.
        seed: of everything that is drawn but the proposals, which have `strategy.sampler_seed`.
        id: tells it from every other search, also of the same space and seed; a confirmation draws its seeds from it.
        num_samples: trials, those that ended before the search is resumed too.
        slots: trials at a time.
        gpus_per_trial: 0 on a CPU.
        folder: of the search.
        records: trials that began before the search is resumed; none of a new one.
        resumed: whether it goes on.
        data: fingerprints of what the trials train on; see `brainreg.fingerprints`.
        missing: data sets that a search downloads first; of a dry run only, which then has not checked the data.
        notes: what to know beforehand.
        used_up: whether these trials are all that the space has.
    """

    space: Space
    strategy: Strategy
    options: SearchOptions
    seed: int
    id: str
    num_samples: int
    slots: int
    gpus_per_trial: float
    folder: Storage
    records: tuple[TrialRecord, ...] = field(default=(), repr=False)
    resumed: bool = False
    data: Mapping[str, str] = field(default_factory=dict)
    missing: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    used_up: bool = False

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
    def device(self) -> str:
        """What a trial runs on."""
        return "cuda" if self.gpus_per_trial else "cpu"


def plan_search(
    space: Space, options: SearchOptions, strategy: Strategy | None = None, dry_run: bool = False
) -> SearchPlan:
    """Check the data, the settings, the machine, the folder and the database, before anything is started.

    Args:
        space, options, strategy: what the search is.
        dry_run: neither download data nor keep what was decoded.

    Raises:
        InputError: what is wrong, in one line.
    """
    name = options.name or f"{space.name}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    if Path(name).name != name:
        raise InputError(f"--name={name}: must be the name of a folder, not a path; --storage_path says where it is")
    folder = _storage(options.storage_path).child(name)
    _answering(folder, partial(_check_new, folder, name))
    own = Path(folder.root) if folder.is_local else None
    if own is not None and own.exists() and not (own.is_dir() and {path.name for path in own.iterdir()} <= {DRIVER}):
        raise InputError(f"--name={name}: {folder} already holds something; choose another name")
    trials, _ = _trials(space, options)
    strategy = (strategy or Strategy()).completed(space, trials, _seed(space))
    return _plan(space, strategy, options, folder, options.id or uuid.uuid4().hex, dry_run=dry_run)


def _check_new(folder: Storage, name: str) -> None:
    """Raise InputError if a folder holds a search, or if one is being begun there."""
    driver = driver_of(folder)
    if driver is not None:
        raise InputError(
            f"--name={name}: process {driver['pid']} on {driver['host']} runs a search in {folder}; choose another name"
        )
    if folder.exists(MANIFEST):
        raise InputError(
            f"--name={name}: {folder} already holds a search; choose another name, or go on with it:"
            f" --resume={shlex.quote(name)}"
        )


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
    dry_run: bool = False,
) -> SearchPlan:
    """Check that a search can go on.

    Args:
        folder: of the search.
        options: fields of `SearchOptions` that are to be others than before.
        space: makes what the command line describes now of the stored space.
        strategy: fields of `Strategy` that the command line gives.
        dry_run: neither download data nor keep what was decoded.

    Raises:
        InputError: what is wrong, in one line: another process runs it, or it would be another search.
    """
    name = str(folder).rsplit("/", 1)[-1]
    manifest = read_manifest(folder)
    check_no_driver(folder)
    where = f"{folder.path(MANIFEST)}: "
    stored = validated(Space, manifest["space"], spell=lambda key: f"{where}space.{key}")
    stored_strategy = validated(
        Strategy,
        {"sampler_seed": manifest["seed"], **manifest["strategy"]},  # earlier versions drew proposals from the seed
        spell=lambda key: f"{where}strategy.{key}",
    )
    identity = search_id(manifest)
    if options.get("id") not in (None, identity):
        raise InputError(f"--id={options['id']}: this search has {identity}; resume it without the flag")
    now = space(stored).model_dump(mode="json")
    now_strategy = {**stored_strategy.model_dump(), **(strategy or {})}
    for old, new in ((stored.model_dump(mode="json"), now), (stored_strategy.model_dump(), now_strategy)):
        for key, before, after in differences(old, new):
            raise InputError(
                f"--resume={name}: {key}={told(after)}: this search has {told(before)}; resume it without the flag,"
                " or start another search"
            )
    merged = {**manifest["options"], **options, "num_samples": options.get("num_samples") or manifest["num_samples"]}
    if "***" in (merged["study"] or ""):
        raise InputError(
            f"--study: missing; this search keeps its study in {merged['study']}, and passwords are not stored"
        )
    records = tuple(read_trials(folder, damaged=[]))  # what is damaged is mended when the search goes on
    plan = _plan(stored, stored_strategy, SearchOptions(**merged), folder, identity, records, dry_run)
    check_same_data(plan.data, manifest.get("data"), f"--data_dir={plan.options.data_dir}", "this search")
    if plan.num_samples < len(records):
        raise InputError(f"--num_samples={plan.num_samples}: this search has begun {len(records)} trials already")
    return plan if manifest.get("data") else replace(plan, notes=(*plan.notes, UNKNOWN_DATA.format("search")))


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The keys in which two nested mappings differ, dotted, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield key, old, new


def told(value: Any) -> str:
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


def _seed(space: Space) -> int:
    return Hyperparameters(**space.setting(UNREGULARIZED)).seed


def _plan(
    space: Space,
    strategy: Strategy,
    options: SearchOptions,
    folder: Storage,
    identity: str,
    records: tuple[TrialRecord, ...] = (),
    dry_run: bool = False,
) -> SearchPlan:
    seed = _seed(space)
    if folder.is_local:
        check_writable("--storage_path", options.storage_path)
    missing = to_download((space.task, space.reg_data), options.data_dir) if dry_run else []
    with nothing_written() if dry_run else contextlib.nullcontext():
        space, data = (space, {}) if missing else _check_settings(space, options.data_dir, seed)
    num_samples, used_up = _trials(space, options, records)
    slots, gpus_per_trial = share_of_machines(options, num_samples)
    resumed = folder.exists(MANIFEST)
    plan = SearchPlan(
        space,
        strategy,
        options,
        seed,
        identity,
        num_samples,
        slots,
        gpus_per_trial,
        folder,
        records,
        resumed,
        data,
        tuple(missing),
        used_up=used_up,
    )
    if options.study is not None:
        _check_study(plan)
    return plan


def _trials(space: Space, options: SearchOptions, records: Sequence[TrialRecord] = ()) -> tuple[int, bool]:
    """How many trials a search has, and whether those are all that are left: with one seed, a second training of a
    setting gives the same numbers again.
    """
    asked = options.num_samples or space.budget.num_samples
    most = most_trials(space, records)
    return (asked, False) if most is None or asked <= most else (most, True)


def share_of_machines(options: SearchOptions, jobs: int) -> tuple[int, float]:
    """Return how many of the jobs run at a time, and the GPUs that each takes.

    On this machine, that is what other searches leave, and one at least; `max_concurrent` overrules them.

    Raises:
        InputError: a job takes more than there is; no cluster answers.
    """
    there = machines(options.address, options.dashboard_host)
    gpus = options.gpus_per_trial if options.gpus_per_trial is not None else float(there.gpus > 0)
    for name, value, most, what in (
        ("gpus_per_trial", gpus, there.gpus, "GPUs"),
        ("cpus_per_trial", options.cpus_per_trial, there.cpus, "CPU cores"),
    ):
        if value > most:
            raise InputError(f"--{name}={value:g}: there are {most:g} {what}")
    others = claims_of_others() if options.address is None and options.max_concurrent is None else []
    cores = there.cpus - sum(claim.cores for claim in others)
    slots = int(cores // options.cpus_per_trial)
    if gpus:
        left = there.gpus - len({gpu for claim in others for gpu in claim.gpus} & {*visible_gpus()})
        slots = min(slots, int((left if others else there.gpus) // gpus))
    slots = max(slots, 1)
    return min(slots, options.max_concurrent or slots, jobs), gpus


@contextlib.contextmanager
def claimed_share(options: SearchOptions, jobs: int, name: str, say: Callable[[str], None]) -> Iterator[int]:
    """Take a share of this machine, until the end of the block; yields how many of the jobs run at a time.

    Of a cluster, nothing is taken: all its drivers share one Ray.
    """
    if options.address is not None:
        yield share_of_machines(options, jobs)[0]
        return
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    with contextlib.ExitStack() as stack:
        with one_at_a_time():
            slots, gpus_per_trial = share_of_machines(options, jobs)
            others = claims_of_others()
            gpus: list[str] = []
            if gpus_per_trial:
                taken = {gpu for claim in others for gpu in claim.gpus}
                free = [gpu for gpu in visible_gpus() if gpu not in taken]
                count = math.ceil(slots * gpus_per_trial)
                gpus = (free if len(free) >= count else visible_gpus())[:count]
            stack.enter_context(kept(make_claim(name, slots * options.cpus_per_trial, gpus)))
        if others:
            said = ", ".join(f"{claim.name} (process {claim.pid}, {claim.cores:g} CPU cores)" for claim in others)
            say(f"on this machine runs {said}: {slots} at a time here; --max-concurrent overrules that")
        if gpus:
            os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(gpus)  # of all, Ray would hand out the first ones again
        try:
            yield slots
        finally:
            if gpus:
                os.environ.pop("CUDA_VISIBLE_DEVICES")
                if before is not None:
                    os.environ["CUDA_VISIBLE_DEVICES"] = before


def _check_study(plan: SearchPlan) -> None:
    """Raise InputError if the database does not answer, or holds another study of this name."""
    storage = open_database(plan.options.study)
    shown = sqlalchemy.make_url(plan.options.study).render_as_string(hide_password=True)
    try:
        names = {summary.study_name for summary in optuna.get_all_study_summaries(storage, include_best_trial=False)}
    except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
        raise InputError(f"--study={shown}: no database answers there ({type(error).__name__})") from error
    if plan.name in names and not plan.resumed:
        raise taken(plan.options.study, plan.name)


def _check_settings(space: Space, data_dir: str, seed: int) -> tuple[Space, dict[str, str]]:
    """Load the data of the given settings and of the largest that can be proposed; this fills the cache, too.

    Returns:
        The space, with the attacks that its number of classes allows, and the data's fingerprints.
    """
    found: dict[str, str] = {}
    for name in space.given:
        data = load_training_data(Hyperparameters(**space.setting(name)), data_dir, "cpu")
        found |= data.fingerprints
    space.objective.divide(len(data.valid_labels), seed)
    attack, final = (one.for_classes(data.num_classes) for one in (space.objective.attack, space.budget.final_attack))
    attack.check_classes(data.num_classes, "objective.attack")
    if space.budget.final_attack_seconds > 0:
        final.check_classes(data.num_classes, "budget.final_attack")
    objective, budget = space.objective, space.budget
    space = space.model_copy(
        update={
            "objective": objective.model_copy(update={"attack": attack}),
            "budget": budget.model_copy(update={"final_attack": final}),
        }
    )
    problem = None
    for setting in space.corners():
        try:
            found |= load_training_data(Hyperparameters(**setting), data_dir, "cpu").fingerprints
            return space, found
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
    with claimed_share(plan.options, plan.num_samples, plan.name, printer(console)) as slots:
        return _run(replace(plan, slots=slots), console)


def _run(plan: SearchPlan, console: Console) -> pd.DataFrame:
    """Run a search on its share of the machine."""
    folder, options = plan.folder, plan.options
    say = printer(console)
    known = f"{_ended(plan.records)} of them done before, " if plan.resumed else ""
    ray = "starting Ray" if options.address is None else f"connecting to Ray at {options.address}"
    say(f"{ray} for {plan.num_samples} trials, {known}{plan.slots} at a time, in {folder}")
    if plan.used_up:
        say(f"the space has no more than {_trials_told(plan)}, each of which is trained once")
    say(f"seed {plan.seed}; its proposals are drawn from {plan.strategy.sampler_seed} (--sampler_seed)")
    for note in plan.notes:
        say(f"note: {note}")
    say_dashboard(start_ray(options.address, options.dashboard_host), say)
    if options.tensorboard:
        missing = "" if find_spec("tensorboard") else f" (after: {python_name()} -m pip install tensorboard)"
        say(f"TensorBoard: {tool_name('tensorboard')} --logdir={shlex.quote(folder.path(_RAYS_FOLDER))}{missing}")
    check = check_no_driver if plan.resumed else lambda folder, file: _check_new(folder, plan.name)
    with Driver(folder, plan.slots, check) as driver:
        # Another process may have gone on with it until now.
        if plan.resumed:
            for note in mend_trials(folder):
                say(f"note: {note}")
            plan = replace(plan, records=tuple(read_trials(folder)))
        try:
            return _drive(plan, driver, console)
        except StorageError as error:
            done = _ended(_readable(folder))
            raise InputError(
                f"{error}; {done} of {plan.num_samples} trials are done. When that is mended, go on:"
                f" --resume={shlex.quote(plan.name)}"
            ) from error


def _ended(records: Sequence[TrialRecord]) -> int:
    return sum(record.state != UNFINISHED for record in records)


def _trials_told(plan: SearchPlan) -> str:
    return "one setting" if plan.num_samples == 1 else f"{plan.num_samples} settings, the given ones counted"


def _readable(folder: Storage) -> Sequence[TrialRecord]:
    """Those trials that can be read, where the storage may have failed."""
    with contextlib.suppress(StorageError):
        return read_trials(folder, damaged=[])
    return ()


def _drive(plan: SearchPlan, driver: Driver, console: Console) -> pd.DataFrame:
    """Run a search as the one process that writes to its folder.

    Raises:
        StorageError: what must be kept cannot be.
    """
    space, folder, options, say = plan.space, plan.folder, plan.options, printer(console)
    write_manifest(folder, _manifest(plan))
    data_dir = str(Path(options.data_dir).resolve())
    job = TrialJob(
        *(space.objective, folder.uri, data_dir, plan.data, plan.seed, options.threads, plan.device),
        proxy=plan.strategy.scheduler == "asha",
    )
    final_attacks = -(-3 // plan.slots) * space.budget.final_attack_seconds  # on three trials
    progress = SearchProgress(plan.num_samples, plan.slots, space.search, console, afterwards=final_attacks)
    progress.resume(plan.records)
    if options.address is not None:
        check_nodes(Hyperparameters(**space.setting(space.given[0])), data_dir, folder, MANIFEST, data=plan.data)
    lost = trial_numbers(folder) - {record.number for record in plan.records}
    study = _study(plan, lost, say)
    search = StudySearch(study, folder, plan.records, lost)
    driver.on_lost = partial(setattr, search, "broken")
    if _ended(plan.records) < plan.num_samples:
        tuner = _tuner(plan, job, search, progress)
        watch_own_node(partial(_end_at_once, plan, progress, console))
        with progress, stopped_by_sigterm(), _full_disks_named():
            tuner.fit()
    if search.broken:
        raise StorageError(search.broken)
    results = load_results(folder)
    done = int((results.state != UNFINISHED).sum())
    write_tables(folder, results)
    if done < plan.num_samples:
        say(
            f"\ninterrupted: {done} of {plan.num_samples} trials are done; go on with --resume={shlex.quote(plan.name)}"
        )
    _conclude(plan, results, console, interrupted=done < plan.num_samples)
    return results


@contextlib.contextmanager
def _full_disks_named() -> Iterator[None]:
    """Turn what Ray Tune makes of a full disk, in a folder of its own too, into StorageError."""
    try:
        yield
    except (OSError, tune.TuneError) as error:
        full = [line for line in str(error).splitlines() if os.strerror(errno.ENOSPC) in line]
        if not full:
            raise
        raise StorageError(full[-1].strip()) from error


def _study(plan: SearchPlan, lost: Collection[int], say: Callable[[str], None]) -> SearchStudy:
    own = plan.options.study is None
    if own and (aside := set_aside_if_damaged(plan.database)):
        say(f"the study's database is damaged; it is made again from the trials' records, and kept as {aside}")
    return SearchStudy(
        *(plan.space, plan.strategy, plan.num_samples, plan.strategy.sampler_seed),
        *(plan.name, plan.database, plan.records),
        own=own,
        lost=lost,
        new=not plan.resumed,
    )


def _tuner(plan: SearchPlan, job: TrialJob, search: StudySearch, progress: SearchProgress) -> tune.Tuner:
    options = plan.options
    os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # two of its three formats nobody asked for
    for name in ("ray.tune.execution.tune_controller", "ray.tune.tune"):
        logging.getLogger(name).setLevel(logging.CRITICAL)  # a failed trial's traceback stands in its error.txt
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
            stop=WhenBroken(search),
            callbacks=[SearchCallback(search, scheduler, progress, Gauges(plan.name)), *loggers],
            failure_config=tune.FailureConfig(max_failures=options.max_retries),
            sync_config=tune.SyncConfig(sync_period=_RAYS_PERIOD),
            verbose=0,
        ),
    )


def _end_at_once(plan: SearchPlan, progress: SearchProgress, console: Console, reason: str) -> NoReturn:
    """End the process where Ray Tune would wait for ever. All that is known is in files already."""
    progress.__exit__()
    printer(console)(f"error: {reason}; nothing is lost, go on with --resume={shlex.quote(plan.name)}")
    console.file.flush()
    os._exit(1)


def _most_epochs(space: Space) -> int:
    searched = space.search.get("epoch_num")
    return int(max(searched.extremes())) if searched else Hyperparameters(**space.setting(UNREGULARIZED)).epoch_num


def _ray_name(trial: Trial) -> str:
    return trial_name(trial.config["number"])


@contextlib.contextmanager
def stopped_by_sigterm() -> Iterator[None]:
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
    options = plan.options.model_dump(exclude={"id"})
    if options["study"] is not None:
        options["study"] = sqlalchemy.make_url(options["study"]).render_as_string(hide_password=True)
    content = {
        "id": plan.id,
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
        "data": dict(plan.data),
    }
    if plan.resumed:
        before = read_manifest(plan.folder)
        content["started"] = before["started"]
        content["resumed"] = [*before.get("resumed", []), time.strftime("%Y-%m-%dT%H:%M:%S%z")]
    return content


def _device_name(plan: SearchPlan) -> str:
    if not plan.gpus_per_trial:
        return device_name("cpu")
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "CUDA, on other machines than the driver's"


def say_dashboard(dashboard: str, say: Callable[[str], None]) -> None:
    """Say where Ray's dashboard is, and how it is opened; nothing where there is none."""
    if dashboard:
        asks = f"it asks for a token, which `{tool_name('ray')} get-auth-token` prints"
        if os.environ.get("RAY_AUTH_MODE") == "disabled":
            asks = "open to whoever reaches it, and so is running code: RAY_AUTH_MODE=disabled"
        say(f"Ray dashboard: http://{dashboard} ({asks})")


def printer(console: Console) -> Callable[[str], None]:
    """A function that prints text as it is, in long lines."""
    return partial(console.print, soft_wrap=True, highlight=False, markup=False)


def _conclude(plan: SearchPlan, results: pd.DataFrame, console: Console, interrupted: bool) -> None:
    """Show the ranked trials, save the best, and attack it and the unregularized one in full."""
    say = printer(console)
    finished = ranked(results)
    if finished.empty:
        failed = results[results.state == FAILED]
        reason = f"; trial {failed.trial.iloc[0]}: {failed.error.iloc[0]}" if len(failed) else ""
        say(f"\nno trial finished{reason}")
        return
    if plan.used_up and not interrupted:
        say(f"\nthe space is used up: it has no more than {_trials_told(plan)}")
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
        bare = finished[finished.setting == UNREGULARIZED]
        reference = (bare.clean_accuracy.iloc[0], bare.robust_accuracy.iloc[0]) if len(bare) else None
        gained = (
            "" if reference is None else f"; hypervolume beyond unregularized {hypervolume(*points, reference):.3f}"
        )
        say(f"front of clean and robust accuracy: trials {members}{gained}")
    for name in plan.space.given:
        given = finished[finished.setting == name]
        if not given.empty and best.setting != name:
            gain = best.objective - given.objective.iloc[0]
            trials = f"trial {best.trial} against {given.trial.iloc[0]}"
            say(f"best against {shown_name(name)}: objective {gain:+.3f} ({trials})")
    if others := [name for name in plan.space.search if name not in REGULARIZER]:
        shared = settings_of(best).model_copy(update={"reg_alpha": 0.0})
        say(
            f"searched beside the regularizer: {', '.join(others)}; the given settings have other values, so a gain"
            " over them is not the regularizer's alone. The unregularized network with the best's values:"
        )
        say(f"  {_command(shared, plan)}")
    if best.setting and not interrupted and (finished.setting == "").any():
        say(f"the {shown_name(best.setting)} setting is the best of this search: no proposed one beats it")
    if changes := plan.space.departures():
        listed = ", ".join(f"{key} {value}" for key, value in changes.items())
        say(f"the published trial departs from what was published: {listed}")
    _save_best(plan, best)
    if plan.space.budget.final_attack_seconds > 0 and not interrupted:
        _attack_finally(plan, finished, console)
    say(f"\ntrials: {plan.folder.path(TABLE)}")
    say(f"best:   {plan.folder.path(f'{BEST}/{CHECKPOINT}')}")
    if not interrupted:
        for line in luck_lines(finished, plan.folder.uri):
            say(line)
    say("next, the best setting on the test images:")
    say(f"  {_train_command(best, plan)}")


def _train_command(trial: pd.Series, plan: SearchPlan) -> str:
    if trial.setting == EARLY_STOPPED:  # train.py chooses the best epoch otherwise: its network is measured as it is
        checkpoint = shlex.quote(plan.folder.path(f"{BEST}/{CHECKPOINT}"))
        return f"{python_name()} -m brainreg.evaluate --checkpoint={checkpoint} --split=test"
    return _command(settings_of(trial), plan)


def _command(settings: Hyperparameters, plan: SearchPlan) -> str:
    return train_command(settings, None if plan.gpus_per_trial else plan.options.threads, plan.options.data_dir)


def _save_best(plan: SearchPlan, best: pd.Series) -> None:
    content = plan.folder.read(f"{trial_name(best.trial)}/{CHECKPOINT}")
    if content is None:
        raise StorageError(f"{plan.folder.path(f'{trial_name(best.trial)}/{CHECKPOINT}')}: is gone")
    plan.folder.write(f"{BEST}/{CHECKPOINT}", content)
    plan.folder.write(f"{BEST}/command.txt", _train_command(best, plan) + "\n")


# ---------------------------------------------------------------------------------------------
# The final attack
# ---------------------------------------------------------------------------------------------


def _attack_finally(plan: SearchPlan, finished: pd.DataFrame, console: Console) -> None:
    """Attack the best and the unregularized settings in full, side by side, on as many images as the time allows."""
    say = printer(console)
    budget, objective = plan.space.budget, plan.space.objective
    compared = finished[finished.setting.isin([UNREGULARIZED, EARLY_STOPPED])]
    chosen = pd.concat([finished.iloc[:1], compared]).drop_duplicates("trial")
    limit = duration(budget.final_attack_seconds)
    say(f"\n{budget.final_attack.title}, eps {objective.eps:g}, for {limit} on each of {len(chosen)} trials ...")
    remote = ray.remote(num_cpus=plan.options.cpus_per_trial, num_gpus=plan.gpus_per_trial)(final_attack)
    data_dir = str(Path(plan.options.data_dir).resolve())
    waiting = [
        remote.remote(
            plan.folder.uri, number, data_dir, objective, budget, plan.seed, plan.options.threads, plan.device
        )
        for number in chosen.trial.tolist()
    ]
    began, left = time.monotonic(), waiting
    while left:
        _, left = ray.wait(left, num_returns=len(left), timeout=_LINE_SECONDS)
        if left:
            say(f"  {len(waiting) - len(left)} of {len(waiting)} done after {duration(time.monotonic() - began)}")
    rows = [
        {"trial": trial.trial, "setting": trial.setting, **outcome}
        for trial, outcome in zip(chosen.itertuples(), ray.get(waiting), strict=True)
    ]
    plan.folder.write(FINAL_TABLE, pd.DataFrame(rows).to_csv(index=False))
    for outcome in rows:
        attacked = "did not attack" if outcome["fresh"] else "attacked, too"
        say(
            f"  trial {outcome['trial']} ({shown_name(outcome['setting']) or 'the best'}): robust accuracy"
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
    searched = read_manifest(Storage(search)).get("data")
    check_same_data(data.fingerprints, searched, f"--data_dir={data_dir}", "this search")
    seen, unseen = objective.divide(len(data.valid_labels), seed)
    order = unseen if len(unseen) else seen
    attacked = partial(
        attack_within,
        budget.final_attack,
        folded(classifier).to(device),
        to_float(data.valid_images[order]).to(device),
        data.valid_labels[order].to(device),
        [objective.eps],
        seconds=budget.final_attack_seconds,
        seed=seed,
    )
    measured = as_large_as_fits(lambda size: attacked(batch_size=size), budget.final_attack_batch_size)
    outcome = row(budget.final_attack.title, objective.eps, measured.correct[0], measured.seconds, seed)
    return {**outcome, "fresh": bool(len(unseen))}
