"""What a confirmation trains and how it measures, checked before anything is written."""

import math
import platform
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch

import brainreg.search.cluster
from brainreg.analysis.comparison import STRENGTHS, count_comparisons
from brainreg.attacks.base import Attack
from brainreg.attacks.registry import Context
from brainreg.confirmation.jobs import Job, make_jobs
from brainreg.confirmation.pilot import Pilot
from brainreg.confirmation.settings import Extent
from brainreg.data.datasets import find_dataset
from brainreg.data.fingerprints import TEST, UNKNOWN_DATA, check_same_data, part_name
from brainreg.errors import InputError, validated
from brainreg.evaluation.plan import plan_attacks_of_flags
from brainreg.evaluation.robustness import TELLING
from brainreg.evaluation.settings import NO_LIMIT, Evaluation
from brainreg.records.driver import DRIVER, check_no_driver
from brainreg.records.manifest import read_manifest, read_part, search_id, trials_asked
from brainreg.records.results import first_of_settings, load_results, rank_trials
from brainreg.records.resume import differences, format_value, read_begun, write_begun
from brainreg.records.searches import CONFIRMATION_FOLDER, split_folders
from brainreg.records.trial import FINISHED, UNFINISHED
from brainreg.search.cluster import share_of_machines
from brainreg.search.options import SearchOptions
from brainreg.seeds import fresh_seeds
from brainreg.spaces.names import PROPOSED, PUBLISHED, UNREGULARIZED, shown_name
from brainreg.spaces.objective import Objective
from brainreg.spaces.space import Space
from brainreg.statistics import front, least_seeds
from brainreg.storage import Storage
from brainreg.training.data import load_test_images, load_training_data

_FILE = "confirmation.json"
_FORMAT = 1

# What a confirmation must find of itself to go on.
_KEPT = {"format", "extent", "first_seeds", "order", "chosen", "evaluation", "started", "versions"}

# Given settings of a confirmation that does not say which it trains; earlier ones knew no other.
_FIRST_CONTROLS = (PUBLISHED, UNREGULARIZED)


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
        trial_seconds: what a trial of the search took, the median; missing where that is not known.
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
    trial_seconds: float = math.nan

    @property
    def folder(self) -> Storage:
        """Where the confirmation keeps its files."""
        return self.search.child(CONFIRMATION_FOLDER)

    @property
    def name(self) -> str:
        """The search's."""
        return str(self.search).rsplit("/", 1)[-1]

    @property
    def settings(self) -> int:
        """How many are trained, each with every seed."""
        return len(self.jobs) // len(self.manifest["seeds"])

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
    try:
        searches = split_folders(experiment)
    except InputError as error:
        raise InputError(f"EXPERIMENT={error}") from error
    if len(searches) > 1:
        raise InputError(f"EXPERIMENT={experiment}: {len(searches)} searches; confirm one at a time")
    (search,) = searches.values()
    manifest = read_manifest(search, ("seed", "strategy"))
    space = read_part(Space, search, manifest, "space")
    check_no_driver(search, flag=f"EXPERIMENT={search}")
    check_not_run(search.child(CONFIRMATION_FOLDER))
    results = load_results(search)
    order, chosen = _best_first(results, manifest["strategy"].get("objective"), space)
    if not order:
        raise InputError(f"EXPERIMENT={search}: no proposed trial has finished; let the search go on first")
    before = read_plan(search)
    asked = Extent(**{**(_begun_part(Extent, search, before, "extent") if before else {}), **extent})
    controls = before.get("controls", _FIRST_CONTROLS) if before else space.controls
    comparisons = count_comparisons(controls)
    least = least_seeds(comparisons)
    count = asked.seeds or least
    asked = asked.model_copy(update={"seeds": count})
    notes = []
    if count < least:
        notes.append(
            f"--seeds={asked.seeds}: no difference can be larger than the noise unless differences between seeds are"
            f" assumed to be normal; that takes {least} seeds or more"
        )
    ended, of = int((results.state != UNFINISHED).sum()), trials_asked(manifest)
    if of is None or ended < of:
        told = f"{ended} trials" if of is None else f"{ended} of {of} trials"
        notes.append(f"the search is not done, {told} are: its best may change")
    if given := rank_trials(results).setting.iloc[0]:
        notes.append(f"no proposed setting is expected to be better than the {shown_name(given)} one by the search")
    measured = _evaluation(space, evaluation, before, search)
    if before:
        now, order, chosen = order, before["order"], before["chosen"]
        if now[:1] != order[:1]:
            notes.append(
                f"the search has gone on, and trial {now[0]} is its best now; what is confirmed is trial {order[0]},"
                " its best when the confirmation began; to begin another one, remove"
                f" {search.path(CONFIRMATION_FOLDER)}"
            )
        for name, value in asked.model_dump().items():
            if value < before["extent"][name]:
                raise InputError(
                    f"--{name}={value}: this confirmation has {before['extent'][name]}, and none is left out once its"
                    " numbers may be known"
                )
        if count > before["first_seeds"]:
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
    seeds = fresh_seeds(search_id(manifest), count, used, begun)
    jobs = make_jobs(results, space, controls, order[: asked.top], seeds)
    stored = read_part(SearchOptions, search, manifest, "options").model_dump()
    merged = SearchOptions(**{**stored, "study": None, **options})
    slots, gpus = share_of_machines(merged, len(jobs))
    attacks, data, test_images = _check_data(jobs, measured, merged.data_dir)
    if before is None and (pilot := Pilot.of_search(results)) is not None:
        attacked = min(measured.num_images, test_images)
        notes.append(pilot.describe(count, attacked, comparisons, test_images))
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
    notes += [
        f"the objective is not compared: --attacks={','.join(measured.attacks)} does not measure its {part}"
        for part in _parts_not_measured(space.objective, measures)
    ]
    return Plan(
        *(search, space, asked, measured, measures, jobs, chosen, seed, merged, slots, gpus, content, tuple(notes)),
        before=before,
        trial_seconds=float(results.seconds[results.state == FINISHED].median()),
    )


def check_not_run(folder: Storage, file: str = DRIVER) -> None:
    """Raise InputError if another process runs the confirmation of a folder."""
    check_no_driver(folder, file, flag=f"EXPERIMENT={folder}", runs="runs this confirmation")


def _are(count: int, what: str) -> str:
    return f"is {count} {what}" if count == 1 else f"are {count} {what}s"


def _best_first(results: pd.DataFrame, objective: str | None, space: Space) -> tuple[list[int], str]:
    """The numbers of the first trials of the proposed settings that can be confirmed, best first, and how they were
    chosen.
    """
    finished = first_of_settings(rank_trials(results))
    finished = finished[finished.setting == PROPOSED]
    chosen = f"the best expected objective, {space.objective.rule} accuracy, on the search's validation images"
    if objective == "pareto" and len(finished):
        finished = finished[front(finished.expected_clean_accuracy, finished.expected_robust_accuracy)]
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
        "attack_minutes": NO_LIMIT,
    }
    if before is not None:
        _begun_part(Evaluation, search, before, "evaluation")
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
                f" {search.path(CONFIRMATION_FOLDER)} to begin another one"
            )
    return now


def _said(value: Any) -> str:
    """A field of an evaluation as a flag gives it."""
    return "no limit" if value == NO_LIMIT else format_value(value)


def read_plan(search: Storage) -> dict[str, Any] | None:
    """What a confirmation that was begun says of itself; None where none was."""
    where = search.child(CONFIRMATION_FOLDER)
    anew = f"remove {where} to begin anew"
    manifest = read_begun(where, _FILE, _KEPT, anew)
    if manifest is not None and manifest["format"] != _FORMAT:
        raise InputError(
            f"{where.path(_FILE)}: written in format {manifest['format']}; this version goes on with format {_FORMAT};"
            f" {anew}"
        )
    return manifest


def _begun_part(
    model: type[Extent] | type[Evaluation], search: Storage, begun: Mapping[str, Any], key: str
) -> dict[str, Any]:
    """One part of what a confirmation that was begun says, if this version understands it."""
    where = f"{search.child(CONFIRMATION_FOLDER).path(_FILE)}: "
    return validated(model, begun[key], spell=lambda name: f"{key}.{name}", where=where).model_dump()


def write_plan(plan: Plan) -> None:
    """Write what a confirmation says of itself."""
    write_begun(plan.folder, _FILE, plan.manifest)


def _check_data(
    jobs: Sequence[Job], evaluation: Evaluation, data_dir: str
) -> tuple[dict[str, tuple[Attack, list[float]]], dict[str, str], int]:
    """Load everything that jobs train on and are measured on; this fills the cache, too.

    Returns:
        The attacks, the fingerprints of the data, and the number of test images.
    """
    settings = jobs[0].settings
    found: dict[str, str] = {}
    for job in jobs:
        if job.settings.seed == settings.seed:
            data = load_training_data(job.settings, data_dir, "cpu")
            found |= data.fingerprints
    test = load_test_images(settings, data_dir)
    found[part_name(TEST, settings)] = test.fingerprint
    images = test.tensor
    if images.shape[1:] != data.valid_images.shape[1:]:
        size, other = ("x".join(map(str, one.shape[1:])) for one in (data.valid_images, images))
        raise InputError(f"task={settings.task}: training images of {size}, test images of {other}")
    context = Context(data.num_classes, surrogate=torch.nn.Identity())
    attacks, _ = plan_attacks_of_flags(evaluation, find_dataset(settings.task), images.shape[1:], context)
    return attacks, found, len(images)


def _parts_not_measured(objective: Objective, measures: Mapping[int, str]) -> list[str]:
    """Parts of the objective without which it cannot be compared."""
    parts = {"robust": "robust accuracy"}
    if objective.noise_weight:
        parts["noise"] = f"accuracy under {objective.noise} noise"
    return [part for measure, part in parts.items() if measure not in measures.values()]


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
            nearest = min(range(len(strengths)), key=lambda i: abs(strengths[i] - strength))
            measures[row + nearest] = measure
        row += len(strengths)
    return measures
