"""The trials of one search as a frame, and as CSV files."""

import io
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from brainreg.errors import InputError, validated
from brainreg.hyperparameters import REGULARIZER, Hyperparameters
from brainreg.recommendation.setting_table import EXPECTATIONS, Advice, advise, expected_of, with_expectations
from brainreg.records.manifest import MANIFEST, read_manifest
from brainreg.records.trial import CHECKPOINT, FINISHED, TrialRecord, read_trials, trial_name
from brainreg.spaces.names import PROPOSED, PUBLISHED
from brainreg.spaces.objective import Objective
from brainreg.spaces.space import Space
from brainreg.storage import Storage

TABLE, EPOCHS_TABLE, SETTINGS_TABLE = "results.csv", "epochs.csv", "settings.csv"

# The folder of the recommended network, and how that and the unregularized one stood the last, strongest attack.
BEST, FINAL_TABLE = "best", "final_attack.csv"

# What a finished trial reports, in the order of the table's columns.
MEASURED = (
    "objective",
    "clean_accuracy",
    "clean_n",
    "robust_accuracy",
    "robust_n",
    "noise_accuracy",
    "best_epoch",
    "attack_seconds",
)


def load_results(folder: str | Path | Storage) -> pd.DataFrame:
    """Return the trials of a search, ended or not, one a row. The search may be running.

    Args:
        folder: what `brainreg tune` printed as the search's folder: a path, or `s3://BUCKET/PATH`.

    Returns:
        Columns: `trial` (number), `setting` (name of a given one, or empty), `setting_number` (of the first trial with
        these hyperparameters, whatever their seeds), `state` (finished, stopped as not
        worth its time, failed, unfinished), `error`, `retries` (why it was tried again, a list of texts); every
        hyperparameter (those of the regularizer are missing where nothing is regularized); the columns of `MEASURED`
        (accuracies are fractions, `_n` the number of images they are over; only of finished trials); how they were
        measured: `weight`, `noise_weight`, `attack`, `eps`, `noise`, `noise_eps`; what is expected of a further run
        of its setting, and at which place that puts the setting: `expected_objective`, `expected_clean_accuracy`,
        `expected_robust_accuracy`, `probability_as_good`, `setting_rank` (see
        `brainreg.recommendation.setting_table`); `seconds` (that workers spent on it); `began` (when it was proposed,
        seconds since 1970); `epochs` (the per-epoch metrics, a list of mappings, see `epochs_of`); `node` (where it ran
        last); `checkpoint` (path of its file, if it was ever
        written).

    Raises:
        InputError: the folder holds no search, or cannot be read.
    """
    search = folder if isinstance(folder, Storage) else Storage(folder)
    return load_trials(search, read_manifest(search))


def load_trials(search: Storage, manifest: Mapping[str, Any], damaged: list[str] | None = None) -> pd.DataFrame:
    """`load_results`; where `damaged` is given, trials that cannot be read are left out, and told of there."""
    where = search.path(MANIFEST)
    objective = validated(
        Objective, manifest["space"]["objective"], spell=lambda key: f"space.objective.{key}", where=f"{where}: "
    )
    measured_by = {
        "weight": objective.weight,
        "noise_weight": objective.noise_weight,
        "attack": objective.attack.title,
        "eps": objective.eps,
        "noise": objective.noise,
        "noise_eps": objective.noise_eps,
    }
    rows = []
    for record in read_trials(search, damaged):
        try:
            rows.append(_row(record, search))
        except InputError as error:
            if damaged is None:
                raise
            damaged.append(str(error))
    results = typed(pd.DataFrame(rows, columns=COLUMNS).assign(**measured_by))
    space = read_space(manifest)
    return results if space is None else with_expectations(results, search_advice(results, space))


def read_space(manifest: Mapping[str, Any]) -> Space | None:
    """Return what a search's manifest says was searched; None where that is no space of this version."""
    try:
        return Space(**manifest["space"])
    except (TypeError, ValueError):
        return None


def search_advice(results: pd.DataFrame, space: Space) -> Advice:
    """Return what the trials of one search, as `load_results` returns them, say of its settings."""
    return advise(results[results.state == FINISHED], space)


def advise_by_records(records: Iterable[TrialRecord], space: Space) -> Advice:
    """Return what trials say of a search's settings."""
    rows = [
        {
            "trial": record.number,
            "setting": record.setting,
            "setting_number": record.setting_number,
            **{name: record.hyperparameters.get(name) for name in Hyperparameters.model_fields},
            **{name: record.measured[name] for name in expected_of(space)},
        }
        for record in records
        if record.state == FINISHED
    ]
    return advise(typed(pd.DataFrame(rows, columns=COLUMNS)), space)


COLUMNS = (
    "trial",
    "setting",
    "setting_number",
    "state",
    "error",
    "retries",
    *Hyperparameters.model_fields,
    *MEASURED,
    *("weight", "noise_weight", "attack", "eps", "noise", "noise_eps"),
    *EXPECTATIONS,
    "seconds",
    "began",
    "epochs",
    "node",
    "checkpoint",
)


def typed(frame: pd.DataFrame) -> pd.DataFrame:
    """Give the columns types that know missing values, so that an unregularized trial does not make N a fraction."""
    types = {name: _column_type(field.annotation) for name, field in Hyperparameters.model_fields.items()}
    counts = {name: "Int64" for name in ("trial", "setting_number", "clean_n", "robust_n", "best_epoch")}
    counts["setting_rank"] = "Int64"
    fractions = {name: "float64" for name in (*MEASURED, *EXPECTATIONS, "seconds") if name not in counts}
    return frame.astype({**types, **counts, **fractions})


def _column_type(annotation: Any) -> str:
    for kind, column in ((bool, "boolean"), (int, "Int64"), (float, "Float64")):
        if annotation in (kind, kind | None):
            return column
    return "object"


def _row(record: TrialRecord, search: Storage) -> dict[str, Any]:
    where = search.path(trial_name(record.number))
    settings = validated(Hyperparameters, record.hyperparameters, where=f"{where}: ")
    shown = settings.model_dump()
    if not settings.regularized:
        shown.update({name: None for name in REGULARIZER if name != "reg_alpha"}, reg_alpha=0.0)
    return {
        "trial": record.number,
        "setting": record.setting,
        "setting_number": record.setting_number,
        "state": record.state,
        "error": record.error,
        "retries": record.retries,
        **shown,
        **{name: record.measured.get(name) if record.state == FINISHED else None for name in MEASURED},
        "seconds": record.seconds,
        "began": record.began,
        "epochs": record.epochs,
        "node": record.node,
        "checkpoint": search.path(f"{trial_name(record.number)}/{CHECKPOINT}") if len(record.epochs) > 1 else "",
    }


def last_error(traceback: str) -> str:
    """Return the last error that a traceback tells of, in one line."""
    lines = traceback.strip().splitlines()
    named = [
        line for line in lines if re.match(r"([A-Za-z_]\w*\.)*[A-Za-z_]\w*(Error|Exception|Exit|Interrupt)\b", line)
    ]
    return (named or lines or ["unknown error"])[-1].strip()


_EPOCH_METRICS = (
    "epoch",
    "lr",
    "cross_entropy",
    "similarity_loss",
    "valid_cross_entropy",
    "valid_accuracy",
    "valid_noise_accuracy",
    "proxy_robust_accuracy",
    "proxy_objective",
    "epoch_objective",
)


def epochs_of(results: pd.DataFrame) -> pd.DataFrame:
    """Return the per-epoch metrics of all trials of `load_results`, one row for each trial and epoch."""
    rows = [{"trial": row.trial, **epoch} for row in results.itertuples() for epoch in row.epochs]
    return pd.DataFrame(rows, columns=["trial", *_EPOCH_METRICS])


def write_tables(folder: str | Path | Storage, results: pd.DataFrame, advice: Advice | None = None) -> None:
    """Write the trials and their epochs as CSV files beside them, and what their settings are worth."""
    search = folder if isinstance(folder, Storage) else Storage(folder)
    table = results.drop(columns=["epochs", "checkpoint"]).assign(retries=results.retries.map("; ".join))
    search.write(TABLE, table.to_csv(index=False))
    search.write(EPOCHS_TABLE, epochs_of(results).to_csv(index=False))
    if advice is not None:
        texts = advice.settings.trials.map(lambda numbers: " ".join(map(str, numbers)))
        search.write(SETTINGS_TABLE, advice.settings.assign(trials=texts).to_csv(index=False))


def read_table(content: str | bytes) -> pd.DataFrame:
    """Return the trials of a file that `write_tables` wrote, maybe in another version of this project.

    Args:
        content: of results.csv.

    Returns:
        The columns of `load_results`; those that the file lacks are missing values. `epochs` are empty.

    Raises:
        InputError: it is no such table.
    """
    source = io.BytesIO(content) if isinstance(content, bytes) else io.StringIO(content)
    texts = ("setting", "error", "attack", "noise", "node", "checkpoint")
    try:
        frame = pd.read_csv(source)
        if not {"trial", "state"} <= {*frame.columns}:
            raise ValueError("it has no columns trial and state")
        frame = typed(frame.reindex(columns=[*COLUMNS]))
    except (ValueError, TypeError) as error:
        raise InputError(f"{TABLE}: not a table of trials ({' '.join(str(error).split())})") from error
    frame["noise_weight"] = frame.noise_weight.fillna(0.0)  # which noise had none of in earlier versions
    frame["setting_number"] = frame.setting_number.fillna(frame.trial)  # in earlier versions each had its own
    retries = frame.retries.map(lambda text: [] if pd.isna(text) else str(text).split("; "))
    empty = pd.Series([[] for _ in range(len(frame))], index=frame.index, dtype=object)
    return frame.assign(**frame[[*texts]].astype(object).fillna(""), retries=retries, epochs=empty)


def rank_trials(results: pd.DataFrame) -> pd.DataFrame:
    """Return the finished trials, those of the setting with the largest expected objective first.

    Of one setting, the trial that is nearest to what is expected stands first; where nothing is expected, the largest
    objective does.
    """
    finished = results[results.state == FINISHED]
    away = (finished.objective - finished.expected_objective).abs()
    order = pd.DataFrame({"rank": finished.setting_rank, "away": away, "own": -finished.objective, "n": finished.trial})
    return finished.loc[order.sort_values(["rank", "away", "own", "n"]).index].reset_index(drop=True)


def recommended_trial(ranked: pd.DataFrame) -> pd.Series:
    """Return the trial whose network stands for the recommended setting: the first of a regularized one.

    Where no regularized trial has finished, it is the first of all.

    Args:
        ranked: of `rank_trials`; one trial at least.
    """
    regularized = ranked[ranked.setting.isin([PROPOSED, PUBLISHED])]
    return (regularized if len(regularized) else ranked).iloc[0]


def first_of_settings(ranked: pd.DataFrame) -> pd.DataFrame:
    """Return the first trial of each setting, in the order of `rank_trials`."""
    return ranked.drop_duplicates("setting_number").reset_index(drop=True)


def expected_value(trial: Any, column: str) -> float:
    """Return what is expected of a trial's setting; what the trial itself gave where nothing is expected.

    Args:
        trial: a row of `load_results`.
        column: objective, clean_accuracy or robust_accuracy.
    """
    expected = getattr(trial, f"expected_{column}")
    return float(getattr(trial, column) if pd.isna(expected) else expected)


def settings_of(row: pd.Series) -> Hyperparameters:
    """Return the hyperparameters of one row of `load_results`."""
    present = {name: row[name] for name in Hyperparameters.model_fields if not pd.isna(row[name])}
    # A column's values are NumPy's; pydantic wants Python's.
    return Hyperparameters(
        **{name: value.item() if hasattr(value, "item") else value for name, value in present.items()}
    )
