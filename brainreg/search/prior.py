"""Another search's trials as the first ones of a new search."""

import itertools
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.trial import FixedTrial

import brainreg
from brainreg.data.fingerprints import check_same_data
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.records.manifest import FORMAT, read_manifest
from brainreg.records.results import read_space
from brainreg.records.resume import differences, format_value
from brainreg.records.trial import CHECKPOINT, FINISHED, STOPPED, TrialFiles, TrialRecord, read_trials, trial_name
from brainreg.search._compat import first_generation
from brainreg.search.proposals import setting_content, setting_key
from brainreg.spaces.names import PROPOSED, PUBLISHED
from brainreg.spaces.space import Space
from brainreg.storage import Storage, StorageError


@dataclass(frozen=True)
class CopiedTrial:
    """A trial of another search.

    Attributes:
        record: what the new search knows of it.
        search: the other search.
        number: of the trial there.
    """

    record: TrialRecord
    search: Storage
    number: int

    def write(self, folder: Storage) -> None:
        """Copy it into the new search's folder; its own part comes last, so that it is there wholly or not at all.

        Raises:
            StorageError: its network is gone, or cannot be read or written.
        """
        files, record = TrialFiles(folder, self.record.number), self.record
        source = self.search.child(trial_name(self.number))
        checkpoint = source.read(CHECKPOINT)
        if checkpoint is not None:
            files.folder.write(CHECKPOINT, checkpoint)
        elif record.state == FINISHED:
            raise StorageError(f"{source.path(CHECKPOINT)}: is gone")
        files.write_progress(
            epochs=record.epochs, measured=record.measured, seconds=record.seconds, node=record.node, data=record.data
        )
        files.write_trial(record)


def copied_trials(
    prior: Storage, space: Space, data: Mapping[str, str], data_dir: str
) -> tuple[tuple[CopiedTrial, ...], str]:
    """Return the trials of an earlier search that a new one could have proposed itself, numbered for that.

    These are the finished and the stopped ones whose settings lie in the new space, and the finished ones of settings
    that are given there. The given settings have the first numbers; those that were not run leave their number free.
    The second value says in a sentence how many there are.

    Args:
        prior: folder of the earlier search; it may run.
        space: of the new one, as its data made it; see `brainreg.search.plan`.
        data: fingerprints of what the new search trains on.
        data_dir: where that lies.

    Raises:
        InputError: the two measure something else, or no trial lies in the space.
    """
    name, manifest = str(prior).rsplit("/", 1)[-1], read_manifest(prior)
    where = f"--prior={name}"
    other = read_space(manifest)
    if other is None or manifest["format"] != FORMAT:
        raise InputError(f"{where}: was written by another version; name a search of this one")
    for what in ("task", "seed"):
        if (before := getattr(other, what)) != (now := getattr(space, what)):
            raise InputError(f"{where}: its {what} is {before}, and here {now}; their trials cannot be compared")
    for key, old, new in differences(other.objective.model_dump(mode="json"), space.objective.model_dump(mode="json")):
        raise InputError(
            f"{where}: its objective has {key}={format_value(old)}, and here it is {format_value(new)}; their trials"
            " cannot be compared"
        )
    check_same_data(data, manifest.get("data"), f"--data_dir={data_dir}", f"the search {name}")
    ended = [one for one in read_trials(prior, damaged=[]) if one.state in (FINISHED, STOPPED)]
    kept = [one for one in ended if one.state == STOPPED or _has_network(prior, one)]
    found = _inside(kept, space)
    if not found:
        raise InputError(f"{where}: {_why_none(ended, other, space)}")
    said = f"{len(found)} of the {len(ended)} trials that ended in {name} are copied"
    odd = [f"{len(ended) - len(kept)} have no network any more"] * (len(kept) < len(ended))
    odd += [f"{len(kept) - len(found)} lie outside this space"] * (len(found) < len(kept))
    versions = [one.get("brainreg") for one in (manifest.get("versions", {}), {"brainreg": brainreg.__version__})]
    odd += [f"they were made by brainreg {versions[0]}, and this is {versions[1]}"] * (versions[0] != versions[1])
    return _copies(prior, found, _numbers(found, space), space), "; ".join([said, *odd])


def missing_copies(search: Storage, manifest: Mapping[str, Any], space: Space) -> tuple[CopiedTrial, ...]:
    """Return what was not copied yet when a search that begins with another's trials was interrupted.

    Args:
        search: its folder.
        manifest: says which trials of which search it begins with.
        space: of the search.

    Raises:
        InputError: the other search is gone.
    """
    begins = manifest.get("prior", {"trials": {}})
    numbers = {int(old): int(new) for new, old in begins["trials"].items()}
    missing = {number for number in numbers.values() if not TrialFiles(search, number).is_known()}
    if not missing:
        return ()
    prior = Storage(begins["search"])
    read_manifest(prior)
    found = _inside([one for one in read_trials(prior, damaged=[]) if one.number in numbers], space)
    return tuple(copy for copy in _copies(prior, found, numbers, space) if copy.record.number in missing)


def _has_network(prior: Storage, record: TrialRecord) -> bool:
    return prior.child(trial_name(record.number)).exists(CHECKPOINT)


@dataclass(frozen=True)
class _Found:
    """A trial that a space could have proposed, the name of its setting if it is given there, and Optuna's values."""

    record: TrialRecord
    given: str
    params: dict[str, Any]
    distributions: dict[str, Any]

    @property
    def key(self) -> str:
        """What tells its setting from others."""
        return self.given or setting_key(self.record.hyperparameters)


def _inside(records: Sequence[TrialRecord], space: Space) -> list[_Found]:
    return [found for found in (_as_proposed(record, space) for record in records) if found is not None]


def _as_proposed(record: TrialRecord, space: Space) -> _Found | None:
    """What a trial would have been in a space; None where it could not have been a trial of it."""
    own = record.hyperparameters
    given = next(
        (name for name in space.given if name == record.setting and _are_alike(own, space.setting(name))), PROPOSED
    )
    if not given and record.setting not in (PROPOSED, PUBLISHED):
        return None
    if not given and space.published is not None and _are_alike(own, space.setting(PUBLISHED)):
        given = PUBLISHED
    if given:
        params = space.parameters(given)
    else:
        try:
            inside = space.inside(Hyperparameters(**own).model_dump())
        except ValueError:  # another version's
            return None
        if inside is None:
            return None
        params = inside
    if given and record.state == STOPPED:
        return None  # somebody stopped it; no scheduler stops a given setting
    trial = FixedTrial(params)
    if params and not (_are_alike(own, space(trial)) or given):
        return None
    return _Found(record, given, params, trial.distributions)


def _are_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two settings are one, but for rounding."""
    contents = setting_content(one), setting_content(other)
    return contents[0].keys() == contents[1].keys() and all(
        math.isclose(value, there) if isinstance(value, float) and isinstance(there, float) else value == there
        for value, there in ((value, contents[1][name]) for name, value in contents[0].items())
    )


def _numbers(found: Sequence[_Found], space: Space) -> dict[int, int]:
    """The number of each trial in the new search, by that in the earlier one."""
    numbers: dict[int, int] = {}
    for one in found:
        first = space.given.index(one.given) if one.given else -1
        own_seed = one.record.hyperparameters.get("seed", space.seed) == space.seed
        if one.given and own_seed and first not in numbers.values():
            numbers[one.record.number] = first
    free = itertools.count(len(space.given))
    return numbers | {one.record.number: next(free) for one in found if one.record.number not in numbers}


def _copies(
    prior: Storage, found: Sequence[_Found], numbers: Mapping[int, int], space: Space
) -> tuple[CopiedTrial, ...]:
    firsts: dict[str, int] = dict(zip(space.given, range(len(space.given)), strict=True))
    copies = []
    for one in sorted(found, key=lambda one: numbers[one.record.number]):
        number = numbers[one.record.number]
        record = replace(
            one.record,
            number=number,
            setting=one.given,
            params=one.params,
            distributions={name: distribution_to_json(each) for name, each in one.distributions.items()},
            noted=first_generation() if one.params else {},
            began=time.time(),
            measured=one.record.measured | ({"attack_seconds": 0.0} if one.record.measured else {}),
            seconds=0.0,
            setting_number=firsts.setdefault(one.key, number),
            copied_from=prior.path(trial_name(one.record.number)),
        )
        copies.append(CopiedTrial(record, prior, one.record.number))
    return tuple(copies)


def _why_none(ended: Sequence[TrialRecord], other: Space, space: Space) -> str:
    if not ended:
        return "none of its trials has ended; wait for it, or begin without it"
    defaults = {name: field.default for name, field in Hyperparameters.model_fields.items()}
    fixed = [{**defaults, **one.fixed, "reg_data": one.reg_data} for one in (other, space)]
    differ = [
        f"{name} is {format_value(fixed[0][name])} there and {format_value(fixed[1][name])} here"
        for name in defaults
        if name not in {*other.search, *space.search} and fixed[0][name] != fixed[1][name]
    ]
    reason = f" ({', '.join(differ)})" if differ else ""
    return f"none of its {len(ended)} trials lies in this space{reason}; begin without it"
