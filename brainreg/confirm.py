"""Confirm what a search found: train its best settings anew with fresh seeds, and measure them on the test images.

python -m brainreg.confirm results/NAME
python -m brainreg.confirm results/NAME --top=3 --seeds=5
python -m brainreg.confirm s3://BUCKET/NAME --address=auto --num-images=500

Beside the best settings, the published and the unregularized one are trained with the same seeds, and the latter once
more with its best epoch chosen by the search's objective; they are compared in pairs. Interrupted, it goes on where it
was when it is started again.
"""

import json
import os
import platform
import re
import socket
import tempfile
import time
import traceback
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any, NoReturn

import pandas as pd
import ray
import torch
from pydantic import BaseModel, ConfigDict, Field
from rich.console import Console

import brainreg.cluster  # sets Ray's variables before Ray is imported
from brainreg.attacks import Attack, Context
from brainreg.cli import Parser, given_values, run
from brainreg.cluster import check_nodes, start_ray, watch_own_node
from brainreg.data import find_dataset
from brainreg.errors import InputError, validated
from brainreg.evaluate import REPORT, Subject, measure
from brainreg.evaluation import TELLING, Evaluation, attacked_images, planned
from brainreg.fingerprints import TEST, UNKNOWN_DATA, check_same_data, part_name
from brainreg.hyperparameters import Hyperparameters
from brainreg.objective import EPOCH_OBJECTIVE, Objective
from brainreg.progress import SYMBOLS, duration, shown, time_left
from brainreg.records import CHECKPOINT, DRIVER, MANIFEST, UNFINISHED, Driver, driver_of, read_manifest, search_id
from brainreg.results import CONFIRMATION, load_results, ranked, settings_of, split_folders
from brainreg.search import (
    SearchOptions,
    claimed_share,
    differences,
    printer,
    say_dashboard,
    share_of_machines,
    stopped_by_sigterm,
    told,
)
from brainreg.seeds import fresh_seeds
from brainreg.spaces import EARLY_STOPPED, PUBLISHED, UNREGULARIZED, Space, shown_name
from brainreg.statistics import least_seeds
from brainreg.storage import Storage
from brainreg.study import front
from brainreg.tables import (
    COMPARED,
    FOUND,
    MEASURES,
    PROPOSED,
    STRENGTHS,
    confirmation_notes,
    confirmed,
    paired,
    said,
    shown_confirmed,
)
from brainreg.training import load_test_images, load_training_data, resumable_checkpoint, to_float, train
from brainreg.trial import may_pass, storage_failed

FOLDER = "confirmation"
_RESULT, _ERROR = "result.json", "error.txt"
_FORMAT = 1

# What a confirmation must find of itself to go on.
_KEPT = {"extent", "first_seeds", "order", "chosen", "evaluation", "started", "versions"}

# Given settings of a confirmation that does not say which it trains; earlier ones knew no other.
_FIRST_CONTROLS = (PUBLISHED, UNREGULARIZED)

# A limit that no attack reaches, in minutes.
_NO_LIMIT = 1e6

# Where nothing is redrawn, a line of progress is printed this often at least, in seconds.
_LINE_SECONDS = 60

# Files of a job that is remote go there this often at most while it is attacked, in seconds.
_SEND_SECONDS = 5

# Flags of a search that mean nothing here.
_OTHERS = ("num_samples", "name", "id", "storage_path", "study", "tensorboard")


class Extent(BaseModel):
    """How much is trained; both may grow when a confirmation goes on."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    top: int = Field(3, ge=1, description="how many of the search's best proposed settings are trained anew")
    seeds: int | None = Field(
        None,
        ge=2,
        description="fresh seeds of each setting (absent: the fewest with which a test that does not assume normal"
        " differences can find one, 7 or 8)",
    )


class TestEvaluation(Evaluation):
    """How a confirmation measures: as an evaluation does, around the search's eps and without a time limit."""

    __test__ = False  # pytest takes it for a test otherwise

    eps: Evaluation.__annotations__["eps"] = Field(
        None,
        description="strengths of the attacks that a norm bounds, in units of [0, 1] pixels, separated by commas"
        " (absent: half, once and one and a half times the search's)",
    )
    noise_eps: Evaluation.__annotations__["noise_eps"] | None = Field(
        None,
        description="strengths of noise that are measured beside those of its curves, separated by commas (absent: the"
        " search's)",
    )
    attack_minutes: float | None = Field(
        None,
        gt=0,
        description="time limit of an attack on one network (absent: no limit; with one, slower networks are"
        " measured on fewer images)",
    )


# ---------------------------------------------------------------------------------------------
# Plans
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Job:
    """One setting with one seed.

    Attributes:
        setting: found, published, unregularized or early_stopped.
        rank: of a found setting in the search, 1 for the best; 0 for the given ones.
        trial: of the search that had the setting; None where none did.
        settings: what is trained, with the fresh seed.
        objective: of the search, where the best epoch is chosen by it on validation images; else None.
    """

    setting: str
    rank: int
    trial: int | None
    settings: Hyperparameters
    objective: Objective | None = None

    @property
    def name(self) -> str:
        """Name of its folder."""
        setting = self.setting if not self.rank else f"trial_{self.trial:04d}"
        return f"{setting}-seed_{self.settings.seed}"

    def __str__(self) -> str:
        what = f"trial {self.trial}, rank {self.rank}" if self.rank else shown_name(self.setting)
        return f"{what}, seed {self.settings.seed}"


@dataclass(frozen=True)
class Plan:
    """A confirmation that can begin or go on: everything that could be checked beforehand was.

    Attributes:
        search: its folder.
        space: what was searched.
        extent: how much is trained.
        evaluation: how it is measured.
        measures: which rows of a job's robustness table stand for its clean, robust and noise accuracy.
        jobs: in the order in which they run: one seed after the other, so that pairs are whole early.
        chosen: how the best settings were chosen, a sentence.
        seed: the search's.
        options: the search's, with what the flags change.
        slots: jobs at a time.
        gpus_per_trial: 0 on a CPU.
        manifest: what the confirmation's folder says of it.
        notes: what to know beforehand.
        before: what the folder said until now; None where it is new.
    """

    search: Storage
    space: Space
    extent: Extent
    evaluation: Evaluation
    measures: dict[int, str]
    jobs: tuple[Job, ...]
    chosen: str
    seed: int
    options: SearchOptions
    slots: int
    gpus_per_trial: float
    manifest: dict[str, Any]
    notes: tuple[str, ...]
    before: dict[str, Any] | None

    @property
    def folder(self) -> Storage:
        """Where the confirmation keeps its files."""
        return self.search.child(FOLDER)

    @property
    def name(self) -> str:
        """The search's."""
        return str(self.search).rsplit("/", 1)[-1]

    @property
    def device(self) -> str:
        """What a job runs on."""
        return "cuda" if self.gpus_per_trial else "cpu"


def plan_confirmation(
    experiment: str | Path | Storage,
    extent: Mapping[str, Any],
    evaluation: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Plan:
    """Check the search, the data, the attacks, the machine and what was confirmed before; nothing is written.

    Args:
        experiment: folder of a search.
        extent, evaluation, options: those fields of `Extent`, `TestEvaluation` and `SearchOptions` that were given.

    Raises:
        InputError: what is wrong, in one line.
    """
    searches = split_folders(experiment)
    if len(searches) > 1:
        raise InputError(f"EXPERIMENT={experiment}: {len(searches)} searches; confirm one at a time")
    (search,) = searches.values()
    manifest = read_manifest(search)
    space = validated(Space, manifest["space"], spell=lambda key: f"{search.path(MANIFEST)}: space.{key}")
    _check_not_run(search, what="this search")
    _check_not_run(search.child(FOLDER))
    results = load_results(search)
    order, chosen = _best_first(results, manifest["strategy"]["objective"], space)
    if not order:
        raise InputError(f"EXPERIMENT={search}: no proposed trial has finished; let the search go on first")
    before = _read_manifest(search)
    asked = Extent(**{**(before["extent"] if before else {}), **extent})
    controls = before.get("controls", _FIRST_CONTROLS) if before else space.given
    least = least_seeds(sum({*pair} <= {FOUND, *controls} for pair in COMPARED))
    asked = asked.model_copy(update={"seeds": asked.seeds or least})
    notes = []
    if asked.seeds < least:
        notes.append(
            f"--seeds={asked.seeds}: no difference can be larger than the noise unless differences between seeds are"
            f" assumed to be normal; that takes {least} seeds or more"
        )
    ended, of = int((results.state != UNFINISHED).sum()), manifest["num_samples"]
    if ended < of:
        notes.append(f"the search is not done, {ended} of {of} trials are: its best may change")
    if given := ranked(results).setting.iloc[0]:
        notes.append(f"no proposed setting has a better objective in the search than the {given} one")
    measured = _evaluation(space, evaluation, before, search)
    if before:
        now, order, chosen = order, before["order"], before["chosen"]
        if now[:1] != order[:1]:
            notes.append(
                f"the search has gone on, and trial {now[0]} is its best now; what is confirmed is trial {order[0]},"
                f" its best when the confirmation began; to begin another one, remove {search.path(FOLDER)}"
            )
        for name, value in asked.model_dump().items():
            if value < before["extent"][name]:
                raise InputError(
                    f"--{name}={value}: this confirmation has {before['extent'][name]}, and none is left out once its"
                    " numbers may be known"
                )
        if asked.seeds > before["first_seeds"]:
            notes.append(
                f"it began with {before['first_seeds']} seeds: whoever adds seeds until a difference shows finds one by"
                " chance"
            )
    if asked.top > len(order):
        raise InputError(f"--top={asked.top}: there {_are(len(order), 'proposed setting')} to choose from ({chosen})")
    versions = {"brainreg": brainreg.__version__, "python": platform.python_version()}
    versions |= {name: version(name) for name in ("torch", "pyautoattack")}
    for name, then in (before["versions"] if before else {}).items():
        if versions[name] != then:
            notes.append(f"it began with {name} {then}; this is {versions[name]}")
    seed = manifest["seed"]
    used, begun = [seed, *results.seed.dropna()], (before or {}).get("seeds", ())
    seeds = fresh_seeds(search_id(manifest), asked.seeds, used, begun)
    jobs = _jobs(results, space, controls, order[: asked.top], seeds)
    merged = SearchOptions(**{**manifest["options"], "study": None, **options})
    slots, gpus = share_of_machines(merged, len(jobs))
    attacks, data = _check_data(jobs, measured, merged.data_dir)
    for whose, then in (("this confirmation", before), ("the search", manifest)):
        check_same_data(data, (then or {}).get("data"), f"--data_dir={merged.data_dir}", whose)
    if before and not before.get("data"):
        notes.append(UNKNOWN_DATA.format("confirmation"))
    content = {
        "format": _FORMAT,
        "search": str(search),
        "extent": asked.model_dump(),
        "first_seeds": before["first_seeds"] if before else asked.seeds,
        "order": order,
        "chosen": chosen,
        "controls": list(controls),
        "seeds": seeds,
        "evaluation": measured.model_dump(mode="json"),
        "started": before["started"] if before else time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "versions": before["versions"] if before else versions,
        "data": data,
    }
    measures = _measures(attacks, space.objective)
    return Plan(
        search, space, asked, measured, measures, jobs, chosen, seed, merged, slots, gpus, content, tuple(notes), before
    )


def _check_not_run(folder: Storage, file: str = DRIVER, what: str = "this confirmation") -> None:
    """Raise InputError if another process writes to a folder."""
    if (driver := driver_of(folder, file)) is not None:
        raise InputError(
            f"EXPERIMENT={folder}: process {driver['pid']} on {driver['host']} runs {what}; wait for its end"
        )


def _are(count: int, what: str) -> str:
    return f"is {count} {what}" if count == 1 else f"are {count} {what}s"


def _best_first(results: pd.DataFrame, objective: str, space: Space) -> tuple[list[int], str]:
    """The numbers of the proposed trials that can be confirmed, best first, and how they were chosen."""
    finished = ranked(results)
    finished = finished[finished.setting == PROPOSED]
    rule = f"{space.objective.weight:g} clean + {1 - space.objective.weight:g} robust accuracy"
    chosen = f"the best objective, {rule}, on the search's validation images"
    if objective == "pareto" and len(finished):
        finished = finished[front(finished.clean_accuracy, finished.robust_accuracy)]
        chosen = f"of the front of clean and robust accuracy, {chosen}"
    return finished.trial.tolist(), chosen


def _evaluation(
    space: Space, given: Mapping[str, Any], before: Mapping[str, Any] | None, search: Storage
) -> Evaluation:
    """How everything is measured; what was begun otherwise cannot go on."""
    eps, noise_eps = space.objective.eps, space.objective.noise_eps
    strengths = sorted({min(factor * eps, 1.0) for factor in (1.0, *STRENGTHS.values())})
    values = {
        "eps": tuple(float(f"{one:.6g}") for one in strengths),
        "noise_eps": (noise_eps,),
        "attack_minutes": _NO_LIMIT,
    }
    if before is not None:
        values = {"noise_eps": []} | before["evaluation"]  # earlier ones took the nearest strength of the curve
    asked = {name: value for name, value in given.items() if value is not None}
    now = Evaluation(**{**values, **asked})
    if before is None:  # whatever else is measured, noise is as the search had it
        now = now.model_copy(update={"noise_eps": tuple(sorted({*now.noise_eps, space.objective.noise_eps}))})
    if before is not None:
        free = {"attack_batch_size": None}  # one seed gives one result, in batches of any size
        for name, old, new in differences(values | free, now.model_dump(mode="json") | free):
            old, new = (_said(one) for one in (old, new))
            raise InputError(
                f"--{name}={new}: this confirmation measures with {old}; go on without the flag, or remove"
                f" {search.path(FOLDER)} to begin another one"
            )
    return now


def _said(value: Any) -> str:
    """A field of an evaluation as a flag gives it."""
    if value == _NO_LIMIT:
        return "no limit"
    return ",".join(map(told, value)) if isinstance(value, list) else told(value)


def _read_manifest(search: Storage) -> dict[str, Any] | None:
    """What a confirmation that was begun says of itself; None where none was."""
    where = search.child(FOLDER)
    content = where.read(f"{FOLDER}.json")
    if content is None:
        return None
    try:
        manifest = json.loads(content)
        if manifest["format"] != _FORMAT:
            raise ValueError(f"format {manifest['format']}; this version reads format {_FORMAT}")
        if missing := _KEPT - manifest.keys():
            raise ValueError(f"{', '.join(sorted(missing))}: missing")
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{where.path(f'{FOLDER}.json')}: not of this version, or damaged ({error}); remove {where} to begin anew"
        ) from error
    return manifest


def _jobs(
    results: pd.DataFrame, space: Space, controls: Sequence[str], order: Sequence[int], seeds: Sequence[int]
) -> tuple[Job, ...]:
    by_number = results.set_index("trial", drop=False)
    settings = [(FOUND, rank, number, settings_of(by_number.loc[number])) for rank, number in enumerate(order, start=1)]
    for name in (name for name in space.given if name in controls):
        numbers = results.trial[results.setting == name].tolist()
        settings.append((name, 0, numbers[0] if numbers else None, Hyperparameters(**space.setting(name))))
    return tuple(
        Job(
            setting,
            rank,
            number,
            one.model_copy(update={"seed": seed}),
            space.objective if setting == EARLY_STOPPED else None,
        )
        for seed in seeds
        for setting, rank, number, one in settings
    )


def _check_data(
    jobs: Sequence[Job], evaluation: Evaluation, data_dir: str
) -> tuple[dict[str, tuple[Attack, list[float]]], dict[str, str]]:
    """Load everything that jobs train on and are measured on; this fills the cache, too.

    Returns:
        The attacks, and the fingerprints of the data.
    """
    settings, found = jobs[0].settings, {}
    for job in jobs:
        if job.settings.seed == settings.seed:
            data = load_training_data(job.settings, data_dir, "cpu")
            found |= data.fingerprints
    test = load_test_images(settings, data_dir)
    found[part_name(TEST, settings.rgb)] = test.fingerprint
    images = test.images
    if images.shape[1:] != data.valid_images.shape[1:]:
        size, other = ("x".join(map(str, one.shape[1:])) for one in (data.valid_images, images))
        raise InputError(f"task={settings.task}: training images of {size}, test images of {other}")
    context = Context(data.num_classes, surrogate=torch.nn.Identity())
    try:
        return planned(evaluation, find_dataset(settings.task), images.shape[1:], context)[0], found
    except InputError as error:
        flag = "--" if str(error).startswith("eps=") else f"--attacks={','.join(evaluation.attacks)}: "
        raise InputError(f"{flag}{error}") from error


def _measures(attacks: Mapping[str, tuple[Attack, list[float]]], objective: Objective) -> dict[int, str]:
    """Which rows of a robustness table stand for clean, robust and noise accuracy: the attack that says most, and the
    search's noise, each at the strength that is nearest to the search's.
    """
    telling = next((name for name in TELLING if name in attacks), None)
    wanted = {telling: ("robust", objective.eps), objective.noise.lower(): ("noise", objective.noise_eps)}
    measures, row = {0: "clean"}, 1
    for name, (_, strengths) in attacks.items():
        if name in wanted:
            measure, strength = wanted[name]
            nearest_one = min(range(len(strengths)), key=lambda i: abs(strengths[i] - strength))
            measures[row + nearest_one] = measure
        row += len(strengths)
    return measures


# ---------------------------------------------------------------------------------------------
# One job, on a worker
# ---------------------------------------------------------------------------------------------


class _Workplace:
    """A job's folder on this machine: its own, or a copy of a remote one whose files go back when they change.

    Attributes:
        path: where its files lie here.
    """

    def __init__(self, folder: Storage, temporary: str):
        self._remote = None if folder.is_local else folder
        self.path = Path(folder.root if folder.is_local else temporary)
        self.path.mkdir(parents=True, exist_ok=True)
        self._sent: dict[str, int] = {}
        self._when = 0.0
        for below in ("", "parts") if self._remote else ():
            there = folder.child(below) if below else folder
            for name in there.names():
                if (content := there.read(name)) is not None and name != "parts":
                    own = self.path / below / name
                    own.parent.mkdir(exist_ok=True)
                    own.write_bytes(content)
                    self._sent[str(own.relative_to(self.path))] = own.stat().st_mtime_ns

    def send(self, at_once: bool = True) -> None:
        """Send what has changed, now or if it was not done for a while."""
        if self._remote is None or (not at_once and time.monotonic() - self._when < _SEND_SECONDS):
            return
        for own in sorted(path for path in self.path.rglob("*") if path.is_file() and path.suffix != ".part"):
            name, changed = str(own.relative_to(self.path)), own.stat().st_mtime_ns
            if self._sent.get(name) != changed:
                self._remote.write(name, own.read_bytes())
                self._sent[name] = changed
        self._when = time.monotonic()


def run_job(
    job: Job,
    evaluation: Evaluation,
    confirmation: str,
    data_dir: str,
    data: Mapping[str, str],
    threads: int,
    device: str,
) -> dict[str, Any]:
    """Train a setting and measure it on the test images; go on from what its folder holds.

    Args:
        job: what is trained.
        evaluation: how it is measured.
        confirmation: URI of the confirmation's folder, in which the job has one of its own.
        data_dir: folder of the data sets.
        data: fingerprints of the confirmation's; a node that has others is refused.
        threads: that PyTorch uses.
        device: cpu or cuda.

    Returns:
        `notes`, what the user should know, where all went well and the result stands in its file; else `error`, in one
        line, `again`, whether it may go well another time, and `broken`, whether the storage failed.
    """
    torch.set_num_threads(threads)
    folder = Storage(confirmation).child(job.name)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            notes: list[str] = []
            _run(job, evaluation, folder, _Workplace(folder, temporary), data_dir, data, device, notes)
        return {"notes": notes}
    except Exception as error:
        text = " ".join(str(error).split())
        outcome = {"error": f"{type(error).__name__}: {text}", "again": may_pass(error), "broken": False}
        if storage_failed(error):
            return outcome | {"error": text, "broken": True}
        try:
            folder.write(_ERROR, traceback.format_exc())
        except InputError as broken:
            return outcome | {"error": str(broken), "broken": True}
        return outcome


def _run(
    job: Job,
    evaluation: Evaluation,
    folder: Storage,
    place: _Workplace,
    data_dir: str,
    data: Mapping[str, str],
    device: str,
    notes: list[str],
) -> None:
    training, test = load_training_data(job.settings, data_dir, device), load_test_images(job.settings, data_dir)
    found = {**training.fingerprints, part_name(TEST, job.settings.rgb): test.fingerprint}
    check_same_data(found, data, f"--data_dir={data_dir}", f"this confirmation, on {socket.gethostname()}")
    checkpoint = place.path / CHECKPOINT
    choice = {}
    if job.objective is not None:
        valid_images, valid_labels = to_float(training.valid_images.to(device)), training.valid_labels.to(device)
        before = resumable_checkpoint(checkpoint, notes.append)
        history = before["history"] if before else ()
        by_epoch = job.objective.by_epoch(valid_images, valid_labels, job.settings.seed, history)
        choice = {"measure": by_epoch, "choose_by": EPOCH_OBJECTIVE}
    result = train(
        job.settings,
        training,
        device=device,
        checkpoint=checkpoint,
        on_epoch=lambda metrics: place.send(),
        **choice,
        on_damaged=notes.append,
    )
    robustness = measure(
        Subject(result.classifier, job.settings, test.images, test.labels, "test", job.settings.seed),
        evaluation,
        place.path,
        data_dir,
        source=folder.path(CHECKPOINT),
        device=device,
        on_progress=lambda title, known, total: place.send(at_once=False),
    )
    place.send()
    rows = robustness.table.astype(object).where(robustness.table.notna(), None)
    content = {
        "rows": rows.to_dict("records"),
        # Of each row; those of attacks are of `attacked`, as many of them as there are outcomes.
        "outcomes": robustness.outcomes,
        "attacked": attacked_images(len(test.labels), evaluation.num_images, job.settings.seed).tolist(),
        "warnings": robustness.warnings,
        "best_epoch": result.best_epoch,
        "training_seconds": result.seconds,
        "node": socket.gethostname(),
        "data": found,
    }
    folder.write(_RESULT, json.dumps(content))


def _read_result(confirmation: Storage, job: Job) -> dict[str, Any] | None:
    """What a finished job left; None where it did not finish, or where that is damaged, so that it is made again."""
    content = confirmation.child(job.name).read(_RESULT)
    try:
        return None if content is None else json.loads(content)
    except ValueError:
        return None


# ---------------------------------------------------------------------------------------------
# The confirmation as a whole
# ---------------------------------------------------------------------------------------------


def run_confirmation(plan: Plan, console: Console) -> pd.DataFrame:
    """Run a confirmation to its end, or go on with it; show and save what it measured.

    Returns:
        The rows of `confirmation.csv`.

    Raises:
        InputError: another process runs it, a node cannot run jobs, or what must be kept cannot be.
        KeyboardInterrupt: it was interrupted, after what is known was shown.
    """
    return _Confirmation(plan, console).run()


class _Confirmation:
    """A confirmation while it runs: what is done, what failed, and what is shown of it."""

    def __init__(self, plan: Plan, console: Console):
        self.plan, self.say, self.console = plan, printer(console), console
        self.results: dict[Job, dict[str, Any]] = {}
        self.failed: dict[Job, str] = {}
        self.broken = ""
        self.began = self.said = time.monotonic()
        self.spent: list[float] = []

    def run(self) -> pd.DataFrame:
        with claimed_share(self.plan.options, len(self.plan.jobs), f"{self.plan.name}/{FOLDER}", self.say) as slots:
            self.plan = replace(self.plan, slots=slots)
            return self._run()

    def _run(self) -> pd.DataFrame:
        plan, folder = self.plan, self.plan.folder
        with Driver(folder, plan.slots, _check_not_run) as driver:
            if _read_manifest(plan.search) != plan.before:
                raise InputError(
                    f"EXPERIMENT={plan.search}: another process has just begun this confirmation, or gone on with it;"
                    " the same command goes on with that"
                )
            driver.on_lost = partial(setattr, self, "broken")
            for job in plan.jobs:
                if (result := _read_result(folder, job)) is not None:
                    self.results[job] = result
            self._begin()
            todo = deque(job for job in plan.jobs if job not in self.results)
            folder.write(f"{FOLDER}.json", json.dumps(plan.manifest, indent=2) + "\n")
            if todo:
                say_dashboard(start_ray(plan.options.address, plan.options.dashboard_host), self.say)
                data_dir = str(Path(plan.options.data_dir).resolve())
                if plan.options.address is not None:
                    for job in plan.jobs[: len(plan.jobs) // plan.extent.seeds]:
                        data = plan.manifest["data"]
                        check_nodes(job.settings, data_dir, plan.search, MANIFEST, ("train", "test"), data)
                watch_own_node(self._end_at_once)
                try:
                    with stopped_by_sigterm():
                        self._work(todo, data_dir)
                except KeyboardInterrupt:
                    self._write()
                    self.say(f"\ninterrupted: {self._done()}; started again, it goes on")
                    self._conclude()
                    raise
            table = self._write()
        self._conclude()
        return table

    def _begin(self) -> None:
        plan = self.plan
        count = len(plan.jobs) // plan.extent.seeds
        self.say(
            f"confirming {plan.name}: {count} settings with {plan.extent.seeds} fresh seeds each, {len(plan.jobs)}"
            f" trainings, {len(self.results)} of them done before, {plan.slots} at a time, in {plan.folder}"
        )
        for job in plan.jobs[:count]:
            settings = [f"{SYMBOLS[name]} {text}" for name, text in _symbols(job).items() if text]
            given = shown_name(job.setting) if not job.rank else f"rank {job.rank}, trial {job.trial}"
            self.say(f"  {given} ({', '.join(settings)})")
        self.say(f"chosen by {plan.chosen}; compared is rank 1, fixed before any test image is seen")
        self.say(f"seeds, drawn from the search's id (search.json): {', '.join(map(str, plan.manifest['seeds']))}")
        for note in plan.notes:
            self.say(f"note: {note}")

    def _work(self, todo: deque[Job], data_dir: str) -> None:
        plan = self.plan
        remote = ray.remote(num_cpus=plan.options.cpus_per_trial, num_gpus=plan.gpus_per_trial, max_retries=0)(run_job)
        running: dict[ray.ObjectRef, tuple[Job, float]] = {}
        tries = dict.fromkeys(plan.jobs, 0)
        try:
            while (todo or running) and not self.broken:
                while todo and len(running) < plan.slots:
                    job = todo.popleft()
                    place = plan.folder.uri, data_dir, plan.manifest["data"]
                    arguments = (job, plan.evaluation, *place, plan.options.threads, plan.device)
                    running[remote.remote(*arguments)] = job, time.monotonic()
                for done in ray.wait([*running], timeout=1)[0]:
                    job, began = running.pop(done)
                    self._ended(job, began, _outcome(done), todo, tries)
                if time.monotonic() - self.said > _LINE_SECONDS:
                    self._say_how_far([began for _, began in running.values()])
        finally:
            for one in running:
                ray.cancel(one, force=True)
        if self.broken:
            self._write()
            raise InputError(f"{self.broken}; {self._done()}. When that is mended, the same command goes on")

    def _ended(self, job: Job, began: float, outcome: Mapping[str, Any], todo: deque[Job], tries: dict) -> None:
        for note in outcome.get("notes", ()):
            self.say(f"{job}: {note}")
        if outcome.get("broken"):
            self.broken = self.broken or outcome["error"]
        elif outcome.get("again") and tries[job] < self.plan.options.max_retries:
            tries[job] += 1
            self.say(f"{job}: tried again after {outcome['error']}")
            todo.appendleft(job)
        elif outcome.get("error"):
            self.failed[job] = outcome["error"]
            self.spent.append(time.monotonic() - began)
            self.say(f"{job}: failed: {outcome['error']}")
        elif (result := _read_result(self.plan.folder, job)) is None:
            self._ended(job, began, {"error": "its result cannot be read", "again": True}, todo, tries)
        else:
            self.results[job] = result
            self.spent.append(time.monotonic() - began)
            rows = sorted(self.plan.measures.items(), key=lambda item: MEASURES.index(item[1]))
            found = [f"{name} {self.results[job]['rows'][i]['accuracy']:.3f}" for i, name in rows]
            self.say(f"{job}: {', '.join(found)} on the test images; {duration(self.spent[-1])}")
            self._write()

    def _done(self) -> str:
        return f"{len(self.results)} of {len(self.plan.jobs)} trainings are done"

    def _say_how_far(self, running: Sequence[float]) -> None:
        self.said = time.monotonic()
        rest = len(self.plan.jobs) - len(self.results) - len(self.failed) + len(self.spent)
        left = time_left(rest, self.plan.slots, self.spent, [self.said - one for one in running])
        so_far = f"{duration(self.said - self.began)} so far"
        self.say(f"{self._done()}; {so_far}" + ("" if left is None else f"; about {duration(left)} left"))

    def _write(self) -> pd.DataFrame:
        rows = [
            row for job in self.plan.jobs if job in self.results for row in _rows(self.plan, job, self.results[job])
        ]
        table = pd.DataFrame(rows, columns=COLUMNS).astype({"trial": "Int64"})
        self.plan.search.write(CONFIRMATION, table.to_csv(index=False))
        return table

    def _end_at_once(self, reason: str) -> NoReturn:
        """End the process where Ray would wait for ever. All that is known is in files already."""
        self.say(f"error: {reason}; nothing is lost, started again it goes on")
        self.console.file.flush()
        os._exit(1)

    def _conclude(self) -> None:
        """Show the table, the comparisons, and what to know of them."""
        plan, say = self.plan, self.say
        for job, reason in self.failed.items():
            say(f"failed: {job}: {reason}; started again, it is tried again")
            say(f"  its traceback: {plan.folder.path(f'{job.name}/{_ERROR}')}")
        if not self.results:
            say("\nnothing is measured yet")
            return
        table = self._write().assign(search=plan.name)
        say("")
        self.console.print(shown_confirmed(confirmed(table)).to_string(index=False), soft_wrap=True, highlight=False)
        for line in confirmation_notes(table):
            say(line)
        say("")
        for line in said(paired(table)):
            say(line)
        warnings: dict[str, list[str]] = {}
        for result in self.results.values():
            for warning in result["warnings"]:  # of one kind are those that begin alike
                warnings.setdefault(re.split(r"[:(]", warning)[0], []).append(warning)
        for alike in warnings.values():
            say(f"warning: {alike[0]} (this or the like in {len(alike)} of {len(self.results)} networks)")
        say(f"\ntable:   {plan.search.path(CONFIRMATION)}")
        say(f"reports: {plan.folder.path(f'*/{REPORT}')}")


def _outcome(done: ray.ObjectRef) -> dict[str, Any]:
    try:
        return ray.get(done)
    except ray.exceptions.RayTaskError as error:
        return {"error": str(error).strip().splitlines()[-1], "again": False}
    except ray.exceptions.RayError as error:  # a lost worker, a lost node, memory that Ray took back
        return {"error": f"{type(error).__name__}: {str(error).strip().splitlines()[0]}", "again": True}


# The columns of `confirmation.csv`, a row for each setting, seed, attack and strength. `setting`: found, published,
# unregularized or early_stopped. `rank` in the search, 0 of the given ones. `measure`: clean, robust or noise where a
# row stands for that in summaries. `seeds`: how many are to be measured. `weight`: of the clean accuracy in the
# objective. `outcomes`: which images are classified correctly (`brainreg.statistics.unpacked`), where it is compared.
COLUMNS = (
    *("setting", "rank", "trial", *SYMBOLS, "seed", "split", "measure"),
    *("attack", "eps", "norm", "n", "correct", "accuracy", "low", "high", "seconds"),
    *("weight", "seeds", "best_epoch", "training_seconds", "versions", "outcomes"),
)


def _symbols(job: Job) -> dict[str, Any]:
    """What a table says of a setting."""
    settings = job.settings.model_dump()
    if not job.settings.regularized:
        return dict.fromkeys(SYMBOLS, "") | {"reg_alpha": "0"}
    return {name: shown(settings[name]) if settings[name] is not None else "" for name in SYMBOLS}


def _rows(plan: Plan, job: Job, result: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The rows of one job; all or none of them are in the table."""
    settings = job.settings.model_dump()
    hidden = {} if job.settings.regularized else {**dict.fromkeys(SYMBOLS), "reg_alpha": 0.0}
    facts = {
        "setting": job.setting,
        "rank": job.rank,
        "trial": job.trial,
        **{name: settings[name] for name in SYMBOLS},
        **hidden,
        "split": "test",
        "weight": plan.space.objective.weight,
        "seeds": plan.extent.seeds,
        "best_epoch": result["best_epoch"],
        "training_seconds": result["training_seconds"],
    }
    rows, outcomes = result["rows"], result.get("outcomes") or [None] * len(result["rows"])
    measured = {row["attack"] for i, row in enumerate(rows) if plan.measures.get(i) == "robust"}
    return [
        {
            **facts,
            **row,
            "measure": plan.measures.get(i, ""),
            "outcomes": outcomes[i] if i in plan.measures or row["attack"] in measured else None,
        }
        for i, row in enumerate(rows)
    ]


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = Parser(__doc__)
    parser.add_argument("experiment", nargs="?", metavar="EXPERIMENT", help="folder of a search, or s3://BUCKET/PATH")
    parser.add_flags(Extent, "how much is trained; what was begun goes on as it began")
    parser.add_flags(TestEvaluation, "what is measured on the test images", skip=("attack",))
    parser.add_flags(SearchOptions, "the machine", skip=_OTHERS, default="the search's")
    flags = parser.parse_args(arguments)
    if flags.experiment is None:
        raise InputError("EXPERIMENT: missing; name the folder of a search, results/NAME or s3://BUCKET/PATH")
    given = (given_values(model, flags) for model in (Extent, TestEvaluation, SearchOptions))
    console = Console()
    if not console.is_terminal:
        console = Console(width=120)
    plan = plan_confirmation(flags.experiment, *given)
    table = run_confirmation(plan, console)
    return 0 if table.groupby(["setting", "rank", "seed"]).ngroups == len(plan.jobs) else 1


if __name__ == "__main__":
    run(main)
