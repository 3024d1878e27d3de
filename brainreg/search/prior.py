"""Another search's trials as the first ones of a new search."""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from optuna.distributions import distribution_to_json
from optuna.trial import FixedTrial

from brainreg.data.fingerprints import check_same_data
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.records.manifest import read_manifest
from brainreg.records.results import read_space
from brainreg.records.resume import differences, format_value
from brainreg.records.trial import CHECKPOINT, FINISHED, STOPPED, TrialFiles, TrialRecord, read_trials, trial_name
from brainreg.search.proposals import setting_content, setting_key
from brainreg.spaces.names import PROPOSED, PUBLISHED
from brainreg.spaces.space import Space
from brainreg.storage import Storage


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
        """Copy it into the new search's folder; its own part comes last, so that it is there wholly or not at all."""
        files, record = TrialFiles(folder, self.record.number), self.record
        checkpoint = self.search.child(trial_name(self.number)).read(CHECKPOINT)
        if checkpoint is not None:
            files.folder.write(CHECKPOINT, checkpoint)
        files.write_progress(
            epochs=record.epochs, measured=record.measured, seconds=record.seconds, node=record.node, data=record.data
        )
        files.write_trial(record)


def copied_trials(
    prior: Storage, space: Space, data: Mapping[str, str], data_dir: str, only: Collection[int] | None = None
) -> tuple[tuple[CopiedTrial, ...], str]:
    """Return the trials of an earlier search that a new one could have proposed itself, numbered for that.

    These are the finished and the stopped ones whose settings lie in the new space, or are given there. The given
    settings have the first numbers; those that were not run leave their number free. The second value says in a
    sentence how many there are.

    Args:
        prior: folder of the earlier search; it may run.
        space: of the new one, as its data made it; see `brainreg.search.plan`.
        data: fingerprints of what the new search trains on.
        data_dir: where that lies.
        only: numbers of the trials to take; None takes all.

    Raises:
        InputError: the two measure something else, or no trial lies in the space.
    """
    name, manifest = str(prior).rsplit("/", 1)[-1], read_manifest(prior)
    where = f"--prior={name}"
    other = read_space(manifest)
    if other is None:
        raise InputError(f"{where}: its space is another version's; name a search of this one")
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
    copies = _numbered(prior, [one for one in kept if only is None or one.number in only], space)
    if not copies:
        raise InputError(f"{where}: {_why_none(ended, other, space)}")
    said = f"{len(copies)} of the {len(ended)} trials that ended in {name} are copied"
    odd = [f"{len(ended) - len(kept)} have no network any more"] * (len(kept) < len(ended))
    odd += [f"{len(kept) - len(copies)} lie outside this space"] * (len(copies) < len(kept))
    return copies, "; ".join([said, *odd])


def _has_network(prior: Storage, record: TrialRecord) -> bool:
    return prior.child(trial_name(record.number)).exists(CHECKPOINT)


def _numbered(prior: Storage, records: Sequence[TrialRecord], space: Space) -> tuple[CopiedTrial, ...]:
    copies, firsts, taken = [], dict[str, int](), set[int]()
    free = len(space.given)
    for record in records:
        found = _as_proposed(record, space)
        if found is None:
            continue
        given, params = found
        if given:
            first = space.given.index(given)
            number = free if first in taken or record.hyperparameters.get("seed", space.seed) != space.seed else first
        else:
            first = firsts.setdefault(setting_key(record.hyperparameters), free)
            number = free
        taken.add(number)
        free += number == free
        trial = FixedTrial(params)
        if params:
            space(trial)
        copy = replace(
            record,
            number=number,
            setting=given,
            params=params,
            distributions={name: distribution_to_json(one) for name, one in trial.distributions.items()},
            noted={},
            setting_number=first,
            copied_from=prior.path(trial_name(record.number)),
        )
        copies.append(CopiedTrial(copy, prior, record.number))
    return tuple(sorted(copies, key=lambda copy: copy.record.number))


def _as_proposed(record: TrialRecord, space: Space) -> tuple[str, dict[str, Any]] | None:
    """Which given setting of a space a trial ran, or empty, and with which of Optuna's parameters; None if neither."""
    own = record.hyperparameters
    if record.setting in space.given and _are_alike(own, space.setting(record.setting)):
        return record.setting, space.parameters(record.setting)
    if record.setting not in (PROPOSED, PUBLISHED):
        return None
    if space.published is not None and _are_alike(own, space.setting(PUBLISHED)):
        return PUBLISHED, space.parameters(PUBLISHED)
    params = space.inside(Hyperparameters(**own).model_dump())
    if params is None or not _are_alike(own, space(FixedTrial(params))):
        return None
    return PROPOSED, params


def _are_alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Return whether two settings are one, but for rounding."""
    contents = setting_content(one), setting_content(other)
    return contents[0].keys() == contents[1].keys() and all(
        math.isclose(value, there) if isinstance(value, float) and isinstance(there, float) else value == there
        for value, there in ((value, contents[1][name]) for name, value in contents[0].items())
    )


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
