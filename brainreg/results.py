"""What a search left: its trials as one table. Reads files only; nothing of Ray is needed."""

import json
import re
from pathlib import Path
from typing import Any

import pandas as pd

from brainreg.errors import InputError
from brainreg.hyperparameters import REGULARIZER, Hyperparameters
from brainreg.objective import Objective

MANIFEST = "search.json"
TABLE, EPOCHS_TABLE = "results.csv", "epochs.csv"
FORMAT = 1

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


def write_manifest(folder: Path, content: dict[str, Any]) -> None:
    """Write what was searched, and with which versions, as the first file of a search's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MANIFEST).write_text(json.dumps({"format": FORMAT, **content}, indent=2) + "\n", encoding="utf-8")


def read_manifest(folder: str | Path) -> dict[str, Any]:
    """Return what was searched: the space, the options and the versions.

    Raises:
        InputError: `folder` holds no search of this project, or one of another format.
    """
    path = Path(folder) / MANIFEST
    if not path.is_file():
        raise InputError(f"{folder}: not the folder of a search; {MANIFEST} is missing")
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{path}: damaged ({error})") from error
    if manifest.get("format") != FORMAT:
        raise InputError(f"{path}: written in format {manifest.get('format')}; this version reads format {FORMAT}")
    return manifest


def load_results(folder: str | Path) -> pd.DataFrame:
    """Return the trials of a search, finished, failed or still unfinished, one a row.

    Args:
        folder: what `tune_main.py` printed as the search's folder.

    Returns:
        Columns: `trial` (number), `setting` (published, unregularized, or empty), `state` (finished, failed,
        unfinished), `error`; every hyperparameter (those of the regularizer are missing where nothing is
        regularized); the columns of `MEASURED` (accuracies are fractions, `_n` the number of images they are
        over); how they were measured: `weight`, `attack`, `eps`, `noise`, `noise_eps`; `seconds`; `epochs` (the
        per-epoch metrics, a list of mappings, see `epochs_of`); `checkpoint` (path of the last one, or empty).

    Raises:
        InputError: the folder holds no search.
    """
    folder = Path(folder)
    objective = Objective(**read_manifest(folder)["space"]["objective"])
    measured_by = {
        "weight": objective.weight,
        "attack": objective.attack.title,
        "eps": objective.eps,
        "noise": objective.noise,
        "noise_eps": objective.noise_eps,
    }
    trials = [_read_trial(path.parent) for path in sorted(folder.glob("trial_*/params.json"))]
    columns = [
        "trial",
        "setting",
        "state",
        "error",
        *Hyperparameters.model_fields,
        *MEASURED,
        *measured_by,
        "seconds",
        "epochs",
        "checkpoint",
    ]
    frame = pd.DataFrame(trials, columns=columns).assign(**measured_by).sort_values("trial", ignore_index=True)
    # Types that know missing values, so that an unregularized trial does not turn N into a fraction.
    types = {name: _column_type(field.annotation) for name, field in Hyperparameters.model_fields.items()}
    counts = {name: "Int64" for name in ("trial", "clean_n", "robust_n", "best_epoch")}
    return frame.astype({**types, **counts})


def _column_type(annotation: Any) -> str:
    for kind, column in ((bool, "boolean"), (int, "Int64"), (float, "Float64")):
        if annotation in (kind, kind | None):
            return column
    return "object"


def _read_trial(folder: Path) -> dict[str, Any]:
    config = json.loads((folder / "params.json").read_text(encoding="utf-8"))
    settings = Hyperparameters(**config["hyperparameters"])
    shown = settings.model_dump()
    if not settings.regularized:
        shown.update({name: None for name in REGULARIZER if name != "reg_alpha"}, reg_alpha=0.0)
    reports = _read_lines(folder / "result.json")
    final = reports[-1] if reports and "objective" in reports[-1] else {}
    errors = folder / "error.txt"
    error = raised(errors.read_text(encoding="utf-8")) if errors.is_file() else ""
    checkpoints = sorted(folder.glob("checkpoint_*/checkpoint.pt"))
    return {
        "trial": config["number"],
        "setting": config["setting"],
        "state": "finished" if final else "failed" if error else "unfinished",
        "error": error,
        **shown,
        **{name: final.get(name) for name in MEASURED},
        "seconds": reports[-1]["time_total_s"] if reports else None,
        "epochs": [_epoch(report) for report in reports if "valid_accuracy" in report],
        "checkpoint": str(checkpoints[-1]) if checkpoints else "",
    }


def raised(traceback: str) -> str:
    """Return the last error that a traceback tells of, in one line."""
    lines = traceback.strip().splitlines()
    named = [
        line for line in lines if re.match(r"([A-Za-z_]\w*\.)*[A-Za-z_]\w*(Error|Exception|Exit|Interrupt)\b", line)
    ]
    return (named or lines or ["unknown error"])[-1].strip()


_EPOCH_METRICS = ("epoch", "lr", "cross_entropy", "similarity_loss", "valid_cross_entropy", "valid_accuracy")


def _epoch(report: dict[str, Any]) -> dict[str, float]:
    return {name: report[name] for name in _EPOCH_METRICS if name in report}


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The reports in a file of JSON lines; a last line that is still being written is left out."""
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    reports = []
    for i, line in enumerate(lines):
        try:
            reports.append(json.loads(line))
        except ValueError:
            if i < len(lines) - 1:
                raise InputError(f"{path}: line {i + 1} is damaged") from None
    return reports


def epochs_of(results: pd.DataFrame) -> pd.DataFrame:
    """Return the per-epoch metrics of all trials of `load_results`, one row for each trial and epoch."""
    rows = [{"trial": row.trial, **epoch} for row in results.itertuples() for epoch in row.epochs]
    return pd.DataFrame(rows, columns=["trial", *_EPOCH_METRICS])


def write_tables(folder: Path, results: pd.DataFrame) -> None:
    """Write the trials and their epochs as CSV files beside them."""
    results.drop(columns=["epochs", "checkpoint"]).to_csv(folder / TABLE, index=False)
    epochs_of(results).to_csv(folder / EPOCHS_TABLE, index=False)


def ranked(results: pd.DataFrame) -> pd.DataFrame:
    """Return the finished trials, best objective first, ties by trial number."""
    finished = results[results.state == "finished"]
    return finished.sort_values(["objective", "trial"], ascending=[False, True], ignore_index=True)


def settings_of(row: pd.Series) -> Hyperparameters:
    """Return the hyperparameters of one row of `load_results`."""
    present = {name: row[name] for name in Hyperparameters.model_fields if not pd.isna(row[name])}
    # A column's values are NumPy's; pydantic wants Python's.
    return Hyperparameters(
        **{name: value.item() if hasattr(value, "item") else value for name, value in present.items()}
    )
