"""What a search is and what it runs on, checked before anything is written or started."""

import contextlib
import os
import shlex
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy
from pydantic import BaseModel, ConfigDict, Field

from brainreg._utils.files import check_writable
from brainreg._utils.flags import DATA_DIR
from brainreg._utils.timeouts import call_with_timeout
from brainreg.data.files import nothing_written
from brainreg.data.fingerprints import check_same_data
from brainreg.data.sources import to_download
from brainreg.errors import InputError, validated
from brainreg.hyperparameters import Hyperparameters
from brainreg.records.driver import DRIVER, check_no_driver, driver_of
from brainreg.records.manifest import FORMAT, MANIFEST, read_manifest, search_id
from brainreg.records.trial import TrialRecord, read_trials
from brainreg.search.claims import claims_of_others
from brainreg.search.cluster import Machine, Machines, machines, visible_gpus
from brainreg.search.database import file_to_make, open_database, studies_of
from brainreg.search.proposals import most_trials
from brainreg.search.strategy import Strategy
from brainreg.search.study import taken
from brainreg.spaces.names import UNREGULARIZED
from brainreg.spaces.space import Space
from brainreg.storage import PATIENCE, Storage, StorageError
from brainreg.training.data import load_training_data

_DATABASE = "study.db"


# Options that end or name a search; what trains a fixed list of jobs has none of them.
SEARCH_ONLY = ("num_samples", "minutes", "gpu_hours", "tolerance", "name", "id", "study", "tensorboard")


# Trials of a search that another limit ends, at most.
_MOST_TRIALS = 1000


class SearchOptions(BaseModel):
    """How a search is run; none of it changes what a trial is, and all of it may change when it is resumed."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    num_samples: int | None = Field(
        None, ge=1, description="trials (absent: the space's own number; with another limit, that alone)"
    )
    minutes: float | None = Field(None, gt=0, description="begin no trial after these minutes (absent: no such limit)")
    gpu_hours: float | None = Field(
        None, gt=0, description="begin no trial after trials held GPUs so long, each counted (absent: no such limit)"
    )
    tolerance: float | None = Field(
        None,
        gt=0,
        description="begin no trial when the best setting is expected to be better than the recommended one by no more"
        " than this, in the objective (absent: no such limit)",
    )
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

    @property
    def open_ended(self) -> bool:
        """Whether time ends the search, and no number of trials."""
        return self.num_samples is None and (self.minutes is not None or self.gpu_hours is not None)


@dataclass(frozen=True)
class SearchPlan:
    """A search that can begin or go on: everything that could be checked beforehand was.

    Attributes:
        space, strategy, options: what the search is.
        seed: of everything that is drawn but the proposals, which have `strategy.sampler_seed`.
        id: tells it from every other search, also of the same space and seed; a confirmation draws its seeds from it.
        num_samples: trials at most, those that ended before the search is resumed too.
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
    _answering(folder, partial(check_new, folder, name))
    own = Path(folder.root) if folder.is_local else None
    if own is not None and own.exists() and not (own.is_dir() and {path.name for path in own.iterdir()} <= {DRIVER}):
        raise InputError(f"--name={name}: {folder} already holds something; choose another name")
    strategy = strategy or Strategy()
    trials, _ = _trials(space, options, strategy.seeds)
    strategy = strategy.completed(space, trials, _seed(space))
    return _plan(space, strategy, options, folder, options.id or uuid.uuid4().hex, dry_run=dry_run)


def check_new(folder: Storage, name: str) -> None:
    """Raise InputError if a folder holds a search, or if one is being begun there."""
    holds = folder.exists(MANIFEST)  # asked first: a storage that does not answer is named with this file
    driver = driver_of(folder)
    if driver is not None:
        raise InputError(
            f"--name={name}: process {driver['pid']} on {driver['host']} runs a search in {folder}; choose another name"
        )
    if holds:
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
    if manifest["format"] != FORMAT:
        raise InputError(
            f"--resume={name}: written in format {manifest['format']}, of which searches can be read but not gone on"
            f" with; this version goes on with format {FORMAT}"
        )
    check_no_driver(folder)
    where = f"{folder.path(MANIFEST)}: "
    stored = validated(Space, manifest["space"], spell=lambda key: f"{where}space.{key}")
    stored_strategy = validated(
        Strategy,
        manifest["strategy"],
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
                f"--resume={name}: {key}={format_value(after)}: this search has {format_value(before)}; resume it"
                " without the flag, or start another search"
            )
    merged = {**manifest["options"], **options}
    if options.get("num_samples") is None:
        # A limit of time that is given now stands for itself.
        timed = any(options.get(key) is not None for key in ("minutes", "gpu_hours"))
        before = SearchOptions(**manifest["options"])
        merged["num_samples"] = None if timed or before.open_ended else manifest["num_samples"]
    if "***" in (merged["study"] or ""):
        raise InputError(
            f"--study: missing; this search keeps its study in {merged['study']}, and passwords are not stored"
        )
    records = tuple(read_trials(folder, damaged=[]))  # what is damaged is mended when the search goes on
    plan = _plan(stored, stored_strategy, SearchOptions(**merged), folder, identity, records, dry_run)
    check_same_data(plan.data, manifest.get("data"), f"--data_dir={plan.options.data_dir}", "this search")
    if plan.num_samples < len(records):
        raise InputError(f"--num_samples={plan.num_samples}: this search has begun {len(records)} trials already")
    return plan


def differences(old: Any, new: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """The keys in which two nested mappings differ, dotted, with both values."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        for name in [*old, *(name for name in new if name not in old)]:
            yield from differences(old.get(name), new.get(name), f"{key}.{name}" if key else name)
    elif old != new:
        yield key, old, new


def format_value(value: Any) -> str:
    """Return a value of a flag as it is typed."""
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
        return action() if storage.is_local else call_with_timeout(PATIENCE, action)
    except (TimeoutError, StorageError) as error:
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
    num_samples, used_up = _trials(space, options, strategy.seeds, records)
    slots, gpus_per_trial = share_of_machines(options, num_samples)
    if options.gpu_hours is not None and not gpus_per_trial:
        raise InputError(f"--gpu_hours={options.gpu_hours:g}: trials take no GPU; limit the search with --minutes")
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
        _check_study(plan, dry_run)
    return plan


def _trials(
    space: Space, options: SearchOptions, seeds: int | None, records: Sequence[TrialRecord] = ()
) -> tuple[int, bool]:
    """How many trials a search has, and whether those are all that are left: with one seed, a second training of a
    setting gives the same numbers again.
    """
    asked = _MOST_TRIALS if options.open_ended else options.num_samples or space.budget.num_samples
    most = most_trials(space, seeds, records)
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
    if gpus > 1 and gpus != int(gpus):
        raise InputError(f"--gpus_per_trial={gpus:g}: must be a part of one GPU, up to 1, or a whole number of GPUs")
    if not there.slots(options.cpus_per_trial, gpus):
        raise InputError(
            f"--gpus_per_trial={gpus:g}: no machine has so many, with --cpus_per_trial={options.cpus_per_trial:g}"
        )
    others = claims_of_others() if options.address is None and options.max_concurrent is None else []
    if others:
        taken = {gpu for claim in others for gpu in claim.gpus} & {*visible_gpus()}
        there = Machines((Machine(there.cpus - sum(claim.cores for claim in others), there.gpus - len(taken)),))
    slots = max(there.slots(options.cpus_per_trial, gpus), 1)
    return min(slots, options.max_concurrent or slots, jobs), gpus


def _check_study(plan: SearchPlan, dry_run: bool = False) -> None:
    """Raise InputError if the database does not answer, or holds another study of this name.

    A dry run makes no database, and nothing in one.
    """
    url = plan.options.study
    assert url is not None
    new = file_to_make(url) if dry_run else None
    if new is not None:
        if not os.access(new.parent, os.W_OK | os.X_OK):
            raise InputError(f"--study={url}: {new.parent} is no folder that can be written to")
        return
    if dry_run:
        names = studies_of(url)
    else:
        storage = open_database(url)
        try:
            names = {one.study_name for one in optuna.get_all_study_summaries(storage, include_best_trial=False)}
        except (sqlalchemy.exc.SQLAlchemyError, optuna.exceptions.StorageInternalError) as error:
            shown = sqlalchemy.make_url(url).render_as_string(hide_password=True)
            raise InputError(f"--study={shown}: no database answers there ({type(error).__name__})") from error
    if plan.name in names and not plan.resumed:
        raise taken(url, plan.name)


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
    problem = InputError("search: no setting can be trained")
    for setting in space.corners():
        try:
            found |= load_training_data(Hyperparameters(**setting), data_dir, "cpu").fingerprints
            return space, found
        except InputError as error:
            problem = error
    raise problem
