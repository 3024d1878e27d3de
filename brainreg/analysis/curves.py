"""Accuracy by strength of attack or noise: measured on the networks of searches, or read again."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import pandas as pd

from brainreg._utils.paths import split_paths
from brainreg.data.datasets import find_dataset
from brainreg.errors import InputError
from brainreg.evaluation.robustness import COLUMNS, evaluate
from brainreg.evaluation.settings import Evaluation
from brainreg.evaluation.subject import SPLITS, TABLE, evaluation_folder, load_split
from brainreg.records.results import BEST, load_results, rank_trials
from brainreg.records.searches import split_folders
from brainreg.records.trial import CHECKPOINT, TrialFiles, trial_name
from brainreg.spaces.names import EARLY_STOPPED, PROPOSED, PUBLISHED, UNREGULARIZED, shown_name
from brainreg.storage import Storage
from brainreg.training.checkpoint import load_checkpoint, load_classifier
from brainreg.training.device import default_device
from brainreg.training.step import to_float


def measure_searches(
    folders: str | Path | Storage | Sequence[str | Path | Storage],
    evaluation: Evaluation,
    *,
    split: str = "validation",
    data_dir: str | Path = "data",
    parts: Path | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> pd.DataFrame:
    """Measure the robustness of the best network that each search proposed, and of its unregularized ones.

    Args:
        folders: of the searches, as `brainreg.records.searches.load_searches` takes them.
        evaluation: how. Transferred attacks need a network of their own: see `python -m brainreg evaluate`.
        split: validation, the images that the best was chosen on, or test.
        data_dir: folder of the data sets.
        parts: folder that lets an interrupted evaluation go on.
        on_progress: as `brainreg.evaluation.robustness.evaluate` calls it.

    Returns:
        The columns of `brainreg.evaluation.robustness.COLUMNS` and, before them, `network`. No rows of a search of
        which none has finished.

    Raises:
        InputError: a search that cannot be read, data that are missing, or an attack that does not fit.
    """
    searches, device = split_folders(folders), default_device()
    tables = [pd.DataFrame(columns=["network", *COLUMNS])]
    for name, search in searches.items():
        finished = rank_trials(load_results(search))
        for setting in (UNREGULARIZED, EARLY_STOPPED, PROPOSED):
            of_setting = finished[finished.setting == setting]
            if of_setting.empty:
                continue
            trial = int(of_setting.trial.iloc[0])
            with tempfile.TemporaryDirectory() as temporary:
                checkpoint = TrialFiles(search, trial).folder.fetch(CHECKPOINT, temporary)
                classifier, settings = load_classifier(checkpoint)
                trained_on = load_checkpoint(checkpoint)["data"]
            images, labels = load_split(settings, split, data_dir, trained_on)
            measured = evaluate(
                classifier.to(device),
                to_float(images.to(device)),
                labels.to(device),
                find_dataset(settings.task),
                evaluation,
                settings.seed,
                parts=parts,
                on_progress=on_progress,
            )
            network = shown_name(setting) or f"best proposed (trial {trial})"
            tables.append(measured.table.assign(network=network if len(searches) == 1 else f"{name}: {network}"))
    return pd.concat(tables[1:] or tables, ignore_index=True)[["network", *COLUMNS]]


def load_measured_curves(
    folders: str | Path | Storage | Sequence[str | Path | Storage], trials: pd.DataFrame
) -> pd.DataFrame:
    """Return what `python -m brainreg evaluate` measured already of the networks of searches, and wrote beside them.

    Of each search, the network in `best/`, the first proposed trial of `rank_trials`, and the given settings.

    Args:
        folders: of the searches, as `brainreg.records.searches.load_searches` takes them.
        trials: of `load_searches`.

    Returns:
        As `measure_searches`, and `images`: validation or test. No rows where nothing was measured.

    Raises:
        InputError: a table that cannot be read.
    """
    searches = split_folders(folders)
    tables = [pd.DataFrame(columns=["network", *COLUMNS, "images"])]
    for name, search in searches.items():
        of_search = f"{name}: " if len(searches) > 1 else ""
        networks = {BEST: BEST}
        finished = rank_trials(trials[trials.search == name])
        for setting in (UNREGULARIZED, EARLY_STOPPED, PUBLISHED, PROPOSED):
            for trial in finished[finished.setting == setting].trial.iloc[:1]:
                networks[trial_name(trial)] = shown_name(setting) or f"best proposed (trial {trial})"
        for folder, network in networks.items():
            for split in SPLITS:
                file = f"{folder}/{evaluation_folder(split)}/{TABLE}"
                if search.exists(file):
                    with tempfile.TemporaryDirectory() as temporary:
                        curve = load_curves({of_search + network: search.fetch(file, temporary)})
                    tables.append(curve.assign(images=split))
    return pd.concat(tables[1:] or tables, ignore_index=True)


def confirmed_curves(confirmation: pd.DataFrame | None) -> pd.DataFrame:
    """Return what `python -m brainreg confirm` measured, on test images: a row for each network, seed and strength.

    Args:
        confirmation: of `brainreg.records.searches.load_searches`; None or without rows: nothing is confirmed.

    Returns:
        As `measure_searches`. Of the found settings, the one that is compared: that of rank 1.
    """
    if confirmation is None or not {*COLUMNS, "setting", "rank", "search"} <= {*confirmation.columns}:
        return pd.DataFrame(columns=["network", *COLUMNS])
    rows = confirmation[confirmation["rank"] <= 1]
    names = [
        shown_name(name) if not rank else f"{name} (trial {trial:.0f})"
        for name, rank, trial in zip(rows.setting, rows["rank"], rows.trial, strict=True)
    ]
    if rows.search.nunique() > 1:
        names = [f"{search}: {name}" for search, name in zip(rows.search, names, strict=True)]
    return rows.assign(network=names)[["network", *COLUMNS]].reset_index(drop=True)


def load_curves(paths: Mapping[str, str | Path | Sequence[str | Path]]) -> pd.DataFrame:
    """Return tables that `brainreg evaluate` or `brainreg train` wrote.

    Args:
        paths: of robustness.csv files, by what their network is called; several of one network are of several training
            seeds. A text may hold several, separated by commas.

    Returns:
        As `measure_searches`.

    Raises:
        InputError: no such file, or not such a table.
    """
    tables = []
    for network, files in paths.items():
        if isinstance(files, str):
            files = split_paths(files, lambda path: Path(path).is_file())
        for file in [files] if isinstance(files, Path) else files:
            try:
                table = pd.read_csv(file)
            except FileNotFoundError as error:
                raise InputError(f"{file}: no such table of robustness") from error
            except ValueError as error:
                raise InputError(f"{file}: not a table of robustness ({error})") from error
            if missing := [name for name in COLUMNS if name not in table]:
                raise InputError(f"{file}: not a table of robustness; it has no column {missing[0]}")
            tables.append(table.assign(network=network))
    if not tables:
        raise InputError("robustness.csv: missing; name at least one")
    return pd.concat(tables, ignore_index=True)[["network", *COLUMNS]]
