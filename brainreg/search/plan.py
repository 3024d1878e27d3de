"""What a search is and what it runs on, checked before anything is written or started."""

import contextlib
import os
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import optuna
import sqlalchemy

from brainreg._utils.files import check_writable
from brainreg._utils.flags import RESULTS_DIR
from brainreg.attacks.autoattack.settings import AutoAttackSettings
from brainreg.data.files import nothing_written
from brainreg.data.fingerprints import check_same_data
from brainreg.data.sources import to_download
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.records.driver import DRIVER, check_no_driver
from brainreg.records.manifest import FORMAT, MANIFEST, read_manifest, read_part, search_id
from brainreg.records.resume import differences, format_value
from brainreg.records.trial import TrialRecord, read_trials
from brainreg.search.cluster import share_of_machines
from brainreg.search.database import file_to_make, open_database, studies_of
from brainreg.search.folders import answer_of, check_new, find_search, storage_of
from brainreg.search.options import AUTO, MOST_TRIALS, SearchOptions
from brainreg.search.packing import try_packing
from brainreg.search.prior import CopiedTrial, copied_trials, missing_copies
from brainreg.search.proposals import most_trials
from brainreg.search.strategy import Strategy
from brainreg.search.study import study_exists_error
from brainreg.spaces.measurement import divide_images
from brainreg.spaces.names import UNREGULARIZED
from brainreg.spaces.space import Space
from brainreg.storage import Storage
from brainreg.training.data import OF_FEW_IMAGES, load_training_data, settings_of_few_images

_DATABASE = "study.db"


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
        records: trials that began before the search is resumed, and those that are copied.
        copies: those of another search that are to be copied before it begins.
        resumed: whether it goes on.
        data: fingerprints of what the trials train on; see `brainreg.data.fingerprints`.
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
    copies: tuple[CopiedTrial, ...] = field(default=(), repr=False)

    @property
    def name(self) -> str:
        """Name of the search's folder and of its study."""
        return str(self.folder).rsplit("/", 1)[-1]

    @property
    def database(self) -> str:
        """Address of the study's database: beside the results where they are on this machine."""
        if self.options.study is not None:
            return self.options.study
        folder = Path(self.folder.root) if self.folder.is_local else Path(RESULTS_DIR, self.name).resolve()
        folder.mkdir(parents=True, exist_ok=True)
        return sqlalchemy.URL.create("sqlite", database=str(folder / _DATABASE)).render_as_string()

    @property
    def end_in_words(self) -> str:
        """What ends it: trials, minutes, GPU hours."""
        options = self.options
        told = [] if options.open_ended else [f"{self.num_samples} trials"]
        told += [] if options.minutes is None else [f"{options.minutes:g} minutes"]
        told += [] if options.gpu_hours is None else [f"{options.gpu_hours:g} GPU hours"]
        return " or ".join(told)

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
    name = options.name or f"{space.name.rsplit('/', 1)[-1]}_{time.strftime('%Y-%m-%d_%H-%M-%S')}"
    if Path(name).name != name:
        raise InputError(f"--name={name}: must be the name of a folder, not a path; --storage_path says where it is")
    folder = storage_of(options.storage_path).child(name)
    answer_of(folder, partial(check_new, folder, name))
    own = Path(folder.root) if folder.is_local else None
    if own is not None and own.exists() and not (own.is_dir() and {path.name for path in own.iterdir()} <= {DRIVER}):
        raise InputError(f"--name={name}: {folder} already holds something; choose another name")
    strategy = strategy or Strategy()
    trials, _ = _trials(space, options, strategy.seeds)
    strategy = strategy.completed(space, trials, _seed(space))
    prior = None if options.prior is None else find_search(options.prior, options.storage_path, "--prior")
    return _plan(space, strategy, options, folder, options.id or uuid.uuid4().hex, dry_run=dry_run, prior=prior)


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
    manifest = read_manifest(folder, ("num_samples",))
    if manifest["format"] != FORMAT:
        raise InputError(
            f"search {name}: written in format {manifest['format']}, of which searches can be read but not gone on"
            f" with; this version goes on with format {FORMAT}"
        )
    check_no_driver(folder)
    stored = read_part(Space, folder, manifest, "space")
    stored_strategy = read_part(Strategy, folder, manifest, "strategy")
    stored_options = read_part(SearchOptions, folder, manifest, "options")
    identity = search_id(manifest)
    if options.get("id") not in (None, identity):
        raise InputError(f"--id={options['id']}: this search has {identity}; resume it without the flag")
    now = _as_stored(space(stored), stored).model_dump(mode="json")
    now_strategy = {**stored_strategy.model_dump(), **(strategy or {})}
    for old, new in ((stored.model_dump(mode="json"), now), (stored_strategy.model_dump(), now_strategy)):
        for key, before, after in differences(old, new):
            key = "space" if key == "name" else key
            raise InputError(
                f"search {name}: {key}={format_value(after)}: this search has {format_value(before)}; resume it"
                " without the flag, or start another search"
            )
    if options.get("prior") not in (None, prior := stored_options.prior):
        raise InputError(
            f"--prior={options['prior']}: this search began with {prior or 'no other one'}; resume it without the flag"
        )
    merged = {**stored_options.model_dump(), **options}
    if options.get("prior") is not None and options.get("num_samples") is not None:
        merged["num_samples"] += len(manifest["prior"]["trials"])  # the line that began the search, typed again
    if options.get("num_samples") is None:
        # A limit of time that is given now stands for itself.
        timed = any(options.get(key) is not None for key in ("minutes", "gpu_hours"))
        merged["num_samples"] = None if timed or stored_options.open_ended else manifest["num_samples"]
    if "***" in (merged["study"] or ""):
        raise InputError(
            f"--study: missing; this search keeps its study in {merged['study']}, and passwords are not stored"
        )
    records = tuple(read_trials(folder, damaged=[]))  # what is damaged is mended when the search goes on
    copies = missing_copies(folder, manifest, stored)
    records += tuple(copy.record for copy in copies)
    plan = _plan(stored, stored_strategy, SearchOptions(**merged), folder, identity, records, dry_run)
    plan = replace(plan, copies=copies)
    check_same_data(plan.data, manifest.get("data"), f"--data_dir={plan.options.data_dir}", "this search")
    if plan.num_samples < len(records):
        raise InputError(f"--num_samples={plan.num_samples}: this search has begun {len(records)} trials already")
    return plan


def _as_stored(space: Space, stored: Space) -> Space:
    """A space as a search of it is stored: where its data decided, by what they decided; see `_check_settings`."""

    def decided(attack: AutoAttackSettings, then: AutoAttackSettings) -> AutoAttackSettings:
        return then if then in [attack.for_classes(classes) for classes in (2, 3, 4)] else attack

    objective, budget = space.objective, space.budget
    images = objective.attack_image_num or stored.objective.attack_image_num
    attack, final = (
        decided(objective.attack, stored.objective.attack),
        decided(budget.final_attack, stored.budget.final_attack),
    )
    fitting = {
        key: stored.fixed[key]
        for key in OF_FEW_IMAGES
        if key in stored.fixed and key not in {*space.fixed, *space.search}
    }
    return space.model_copy(
        update={
            "fixed": {**space.fixed, **fitting},
            "objective": objective.model_copy(update={"attack": attack, "attack_image_num": images}),
            "budget": budget.model_copy(update={"final_attack": final}),
        }
    )


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
    prior: Storage | None = None,
) -> SearchPlan:
    seed, resumed = _seed(space), folder.exists(MANIFEST)
    if strategy.objective == "pareto" and space.objective.noise_weight:
        raise InputError(
            f"--noise_weight={space.objective.noise_weight:g}: with --objective=pareto must be 0: the front is of clean"
            " and robust accuracy, and noise has no part in it"
        )
    if folder.is_local:
        check_writable("--storage_path", options.storage_path)
    missing = to_download((space.task, space.reg_data), options.data_dir) if dry_run else []
    with nothing_written() if dry_run else contextlib.nullcontext():
        space, data = (space, {}) if missing else _check_settings(space, options.data_dir, seed, new=not resumed)
    copies: tuple[CopiedTrial, ...] = ()
    notes: list[str] = []
    if prior is not None:
        if missing:
            raise InputError(f"--prior={options.prior}: needs {missing[0]}, which is not downloaded yet")
        copies, note = copied_trials(prior, space, data, options.data_dir)
        records = tuple(copy.record for copy in copies)
        notes.append(note)
        if not options.open_ended:
            asked = options.num_samples or space.budget.num_samples
            options = options.model_copy(update={"num_samples": asked + len(copies)})
    num_samples, used_up = _trials(space, options, strategy.seeds, records)
    if options.gpus_per_trial == AUTO:
        if missing:
            raise InputError(f"--gpus_per_trial={AUTO}: needs {missing[0]}, which is not downloaded yet")
        tried = try_packing(space, options, num_samples)
        notes.append(str(tried))
        options = options.model_copy(update={"gpus_per_trial": 1 / tried.best})
    slots, gpus_per_trial = share_of_machines(options, num_samples)
    if options.gpu_hours is not None and not gpus_per_trial:
        raise InputError(f"--gpu_hours={options.gpu_hours:g}: trials take no GPU; limit the search with --minutes")
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
        notes=tuple(notes),
        copies=copies,
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
    asked = MOST_TRIALS if options.open_ended else options.num_samples or space.budget.num_samples
    most = most_trials(space, seeds, records)
    return (asked, False) if most is None or asked <= most else (most, True)


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
        raise study_exists_error(url, plan.name)


def _check_settings(space: Space, data_dir: str, seed: int, new: bool) -> tuple[Space, dict[str, str]]:
    """Load the data of the given settings and of the largest that can be proposed; this fills the cache, too.

    Args:
        new: whether the search begins; one that goes on keeps the numbers of images that it has.

    Returns:
        The space, with the attacks that its number of classes allows and the numbers of attacked, validation and
        regularization images that fit its data, and the data's fingerprints.
    """
    found: dict[str, str] = {}
    if new:
        first = Hyperparameters(**space.setting(space.given[0]))
        fitting = settings_of_few_images(first, data_dir, {*space.fixed, *space.search})
        space = space.model_copy(update={"fixed": {**space.fixed, **fitting}})
    for name in space.given:
        data = load_training_data(Hyperparameters(**space.setting(name)), data_dir, "cpu")
        found |= data.fingerprints
    divide_images(space.objective, len(data.valid_labels), seed)
    attack, final = (one.for_classes(data.num_classes) for one in (space.objective.attack, space.budget.final_attack))
    attack.check_classes(data.num_classes, "objective.attack")
    if space.budget.final_attack_seconds > 0:
        final.check_classes(data.num_classes, "budget.final_attack")
    objective, budget = space.objective, space.budget
    space = space.model_copy(
        update={
            "objective": objective.model_copy(
                update={"attack": attack, "attack_image_num": objective.attacked_of(len(data.valid_labels))}
            ),
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
