"""Several searches as frames: trials, an overview, what was confirmed."""

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

import brainreg
from brainreg._utils.flags import RESULTS_DIR
from brainreg._utils.paths import split_paths
from brainreg.errors import InputError, nearest
from brainreg.recommendation.setting_table import Advice
from brainreg.records.driver import driver_of
from brainreg.records.manifest import MANIFEST, FormatError, read_manifest, trials_asked
from brainreg.records.results import COLUMNS, TABLE, load_trials, read_space, read_table, search_advice, typed
from brainreg.records.trial import FAILED, FINISHED, STOPPED, UNFINISHED
from brainreg.spaces.objective import objective_rule
from brainreg.spaces.published import row_name
from brainreg.spaces.space import Space
from brainreg.storage import Storage, StorageError

# What the best settings reach on test images, over seeds, and the folder of their networks; written beside the trials
# by whoever measures that.
CONFIRMATION, CONFIRMATION_FOLDER = "confirmation.csv", "confirmation"

# What its reader needs of a confirmation.
_CONFIRMED = (
    *("setting", "rank", "trial", "seed", "split", "measure", "attack", "eps", "n", "accuracy", "low", "high"),
    *("weight", "seeds"),
)

# How a search stands.
RUNNING, INTERRUPTED, DONE, OTHER_VERSION = "running", "interrupted", "done", "of another version"


@dataclass(frozen=True)
class Searches:
    """What several searches left, or have so far.

    Attributes:
        trials: all their trials, the columns of `load_results` and, before them, `search` (its name), `space`,
            `running` (whether somebody runs it now) and `data` (the row of the alpha/Th table).
        overview: a row for each search, also for one without trials: search, state (running, interrupted, done, of
            another version), space, data, trials (begun), of (asked for), finished, stopped, failed, unfinished, hours
            (that workers spent), seed, started, device, version, published (in what the published trial departs
            from what was published), notes (what could not be read, and other things to know), folder.
        confirmation: what was measured of their settings on test images: `search`, and the columns of `CONFIRMATION`.
            Empty where no search has it.
    """

    trials: pd.DataFrame
    overview: pd.DataFrame
    confirmation: pd.DataFrame

    @property
    def notes(self) -> list[str]:
        """What to know of the searches before reading on, a line each."""
        lines = []
        for row in self.overview.itertuples():
            if row.state == RUNNING:
                lines.append(f"{row.search}: running, {row.trials} of {row.of} trials begun")
            elif row.state == INTERRUPTED:
                lines.append(f"{row.search}: interrupted, {row.finished} of {row.of} trials finished")
            if row.published:
                lines.append(f"{row.search}: its published trial departs from what was published in {row.published}")
            lines += [f"{row.search}: {note}" for note in row.notes]
        objectives = [_objective_in_words(row) for row in self.trials.itertuples()]
        measured = self.trials.assign(objectives=objectives).groupby("objectives", sort=False).search.unique()
        if len(measured) > 1:
            said = "; ".join(f"{', '.join(names)}: {objective}" for objective, names in measured.items())
            lines.append(f"the objectives are not the same and cannot be compared; {said}")
        return lines


def _objective_in_words(trial: Any) -> str:
    """What the objective of a trial is made of."""
    noise = f", {trial.noise} noise of {trial.noise_eps:g}" if trial.noise_weight else ""
    return f"{objective_rule(trial.weight, trial.noise_weight)} under {trial.attack} at eps {trial.eps:g}{noise}"


def load_searches(folders: str | Path | Storage | Sequence[str | Path | Storage]) -> Searches:
    """Return the trials of one search or of several, running or ended, on this machine or remote.

    What of them cannot be read is left out, and told in `Searches.notes`.

    Args:
        folders: of the searches; a text may hold several, separated by commas (also in their names).

    Raises:
        InputError: a folder that does not exist, or that holds no search.
    """
    trials, overviews, confirmations = [], [], []
    known: dict[str, dict[str, dict[str, str]]] = {}  # fingerprints, by the data sets' names and the search
    for name, search in split_folders(folders).items():
        one, facts = _load_search(search)
        facts = {"search": name, **facts}
        fingerprints = facts.pop("fingerprints")
        for other, theirs in known.setdefault(facts["data"], {}).items():
            if odd := [part for part in fingerprints.keys() & theirs.keys() if fingerprints[part] != theirs[part]]:
                facts["notes"].append(f"its images for {', '.join(sorted(odd))} are not those of {other}")
                break
        known[facts["data"]][name] = fingerprints
        if (content := search.read(CONFIRMATION)) is not None:
            try:
                confirmation = pd.read_csv(io.BytesIO(content))
                if missing := [column for column in _CONFIRMED if column not in confirmation]:
                    raise ValueError(f"it has no column {missing[0]}")
                confirmations.append(_marked(confirmation, search=name))
            except ValueError as error:
                facts["notes"].append(f"{CONFIRMATION}: damaged ({' '.join(str(error).split())})")
        trials.append(_marked(one, search=name, space=facts["space"], running=facts["running"], data=facts["data"]))
        overviews.append(facts)
    return Searches(
        trials=_joined(trials),
        overview=pd.DataFrame(overviews).drop(columns="running"),
        confirmation=_joined(confirmations) if confirmations else pd.DataFrame(columns=["search"]),
    )


def load_advices(
    folders: str | Path | Storage | Sequence[str | Path | Storage], trials: pd.DataFrame
) -> dict[str, tuple[Advice, Space]]:
    """Return what the runs of searches say of their settings, and what was searched, by the searches' names.

    Searches without a finished run are left out, and those whose space is another version's.

    Args:
        folders: as `load_searches` takes them.
        trials: of `load_searches`.
    """
    found = {}
    for name, folder in split_folders(folders).items():
        try:
            space = read_space(read_manifest(folder))
        except FormatError:
            continue
        advice = None if space is None else search_advice(trials[trials.search == name], space)
        if space is not None and advice is not None and len(advice.settings):
            found[name] = advice, space
    return found


def split_folders(folders: str | Path | Storage | Sequence[str | Path | Storage]) -> dict[str, Storage]:
    """Return the folders of searches, each by a short name.

    Args:
        folders: a text may hold several, separated by commas (also in their names). A name alone is also looked for
            below `results`.

    Raises:
        InputError: none is given, or one does not exist or holds no search.
    """
    if isinstance(folders, str):
        folders = split_paths(folders, lambda path: _find_search(path).exists(MANIFEST))
    elif isinstance(folders, (Path, Storage)):
        folders = [folders]
    searches = {}
    for folder in folders:
        search = folder if isinstance(folder, Storage) else _find_search(folder)
        searches[search.uri] = search
    if not searches:
        raise InputError("experiment: missing; name the folder of a search, or several, separated by commas")
    for search in searches.values():
        _check_search(search)
    return dict(zip(_names([*searches]), searches.values(), strict=True))


def _find_search(folder: str | Path) -> Storage:
    here, named = Storage(folder), Path(folder)
    below = Storage(Path(RESULTS_DIR) / named)
    return below if len(named.parts) == 1 and not here.exists(MANIFEST) and below.exists(MANIFEST) else here


def _marked(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Put columns of one value each before the others."""
    columns = {name: pd.Series([value] * len(frame), index=frame.index) for name, value in values.items()}
    return pd.concat([pd.DataFrame(columns, index=frame.index), frame], axis=1)


def _joined(frames: Sequence[pd.DataFrame]) -> pd.DataFrame:
    filled = [frame for frame in frames if len(frame)]
    return pd.concat(filled, ignore_index=True) if filled else frames[0]


def _names(uris: Sequence[str]) -> list[str]:
    """Short names of folders: as many of the last parts of their paths as tell them apart."""
    parts = [uri.partition("?")[0].split("/") for uri in uris]
    length = 1
    while len({tuple(one[-length:]) for one in parts}) < len(parts) and length < max(map(len, parts)):
        length += 1
    return ["/".join(one[-length:]) for one in parts]


def _check_search(search: Storage) -> None:
    """Raise InputError if there is no search in a folder; the line says what is near it, and in `results`."""
    if search.exists(MANIFEST):
        return
    own = search.names()
    inside = [name for name in own if search.child(name).exists(MANIFEST)]
    if inside:
        raise InputError(f"{search}: holds no search itself, but these: {', '.join(inside)}; name one of them, or more")
    if own:
        raise InputError(f"{search}: not the folder of a search; {MANIFEST} is missing")
    before, _, name = str(search).rpartition("/")
    places = [Storage(before or "/"), Storage(RESULTS_DIR)] if search.is_local else []
    named = (one for place in places for one in place.names() if place.child(one).exists(MANIFEST))
    others = [*dict.fromkeys(named)]
    there = "empty" if search.is_local and Path(str(search)).is_dir() else "no such folder"
    raise InputError(f"{search}: {there}" + (f"; {nearest(name, others)}" if others else "; must hold a search"))


def _load_search(search: Storage) -> tuple[pd.DataFrame, dict[str, Any]]:
    """The trials of a search, as far as they can be read, and its row of the overview."""
    notes: list[str] = []
    left_out: list[str] = []
    trials = None
    try:
        manifest = read_manifest(search)
    except FormatError as error:
        manifest = error.manifest
        notes.append(str(error))
    else:
        try:
            trials = load_trials(search, manifest, left_out)
            notes += [f"left out: {reason}" for reason in left_out]
        except StorageError:
            raise
        except InputError as error:
            notes.append(str(error))
    other = trials is None
    if trials is None or trials.empty:
        trials = _load_what_the_table_says(search, notes)
    driver = _driver(search, notes)
    space = manifest["space"] if isinstance(manifest.get("space"), dict) else {}
    total = trials_asked(manifest) if "num_samples" in manifest else None
    counts = trials.state.value_counts()
    ended = len(trials) + len(left_out) - counts.get(UNFINISHED, 0)
    state = OTHER_VERSION if other else DONE if total is not None and ended >= total else INTERRUPTED
    state = RUNNING if driver is not None else state
    versions = manifest["versions"] if isinstance(manifest.get("versions"), dict) else {}
    made_by = versions.get("brainreg", "")
    if not other and made_by and made_by != brainreg.__version__:
        notes.append(f"made by brainreg {made_by}; this is {brainreg.__version__}")
    if isinstance(prior := manifest.get("prior"), dict):
        notes.append(f"{len(prior['trials'])} of its trials are copies of those of {prior['search']}")
    data = row_name(space["task"], space.get("reg_data")) if space.get("task") else ""
    return trials, {
        "state": state,
        "space": space.get("name", ""),
        "data": data,
        "trials": len(trials),
        "of": total if total is not None else len(trials),
        **{name: int(counts.get(name, 0)) for name in (FINISHED, STOPPED, FAILED, UNFINISHED)},
        "hours": round(trials.seconds.sum() / 3600, 4),
        "seed": manifest.get("seed"),
        "started": manifest.get("started", ""),
        "device": manifest.get("device", ""),
        "version": made_by,
        "published": "" if other else _departures(space),
        "notes": notes,
        "folder": str(search),
        "fingerprints": manifest["data"] if isinstance(manifest.get("data"), dict) else {},
        "running": driver is not None,
    }


def _load_what_the_table_says(search: Storage, notes: list[str]) -> pd.DataFrame:
    """The trials of results.csv, where those of the trials' own files cannot be read, or are not there."""
    content = search.read(TABLE)
    if content is not None:
        try:
            trials = read_table(content)
            notes.append(f"shown is what its {TABLE} says")
            return trials
        except InputError as error:
            notes.append(str(error))
    notes.append("it has no trials" + (" that can be shown" if notes else " yet"))
    return typed(pd.DataFrame(columns=COLUMNS))


def _driver(search: Storage, notes: list[str]) -> dict[str, Any] | None:
    try:
        return driver_of(search)
    except StorageError:
        raise
    except InputError as error:
        notes.append(str(error))
        return None


def _departures(space: Mapping[str, Any]) -> str:
    """In what the published trial departs from what was published; nothing where there is none."""
    try:
        departures = Space(**space).departures()
    except ValueError:  # another version's
        return ""
    return ", ".join(f"{name} {value}" for name, value in departures.items())
