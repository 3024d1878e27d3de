"""What the charts of a page draw: a row for each trial."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from brainreg._utils.formats import SYMBOLS, format_hyperparameter
from brainreg.method.ranges import RANGES
from brainreg.records.results import rank_trials
from brainreg.records.trial import FAILED, FINISHED, STOPPED, UNFINISHED
from brainreg.reports.subject import Subject
from brainreg.spaces.names import EARLY_STOPPED, PROPOSED, PUBLISHED, UNREGULARIZED, shown_name
from brainreg.statistics import front

# The first of the proposed settings, as `rank_trials` orders them.
FIRST = "best proposed"

# What a finished trial is, or how another one stands; later ones lie above.
KINDS = (
    *(UNFINISHED, FAILED, STOPPED),
    *("proposed", shown_name(EARLY_STOPPED), UNREGULARIZED, PUBLISHED, FIRST),
)

# Epochs of a curve at the most; of a longer training, some are left out.
_MOST_EPOCHS = 40


def chart_rows(subject: Subject) -> list[dict[str, Any]]:
    """Return the rows that charts draw, one for each trial.

    Returns:
        `key` and `setting` (in the page), `search`, `trial`, `state`, `kind` (of the legend), `groups` (that can be
        hidden), `objective`, `clean` and `robust` in percent, `front` (whether it is a member of its search's),
        hyperparameters by the paper's symbols, `places` on the axes of `parallel` and `curve`, the validation accuracy
        of each epoch, in percent. What is not known is null.
    """
    trials = subject.trials
    best = _first_trials(trials)
    members = _front_members(trials)
    places = _places(trials)
    rows = []
    for one in trials.itertuples():
        kind = one.state
        if one.state == FINISHED:
            kind = FIRST if one.Index in best else shown_name(one.setting) or "proposed"
        rows.append(
            {
                "key": subject.trial_key(one.search, one.trial),
                "setting": subject.setting_key(one.search, one.setting_number),
                "search": one.search,
                "trial": int(one.trial),
                "state": one.state,
                "kind": kind,
                "groups": [f"s-{one.state}", f"n{subject.numbers[one.search]}"],
                "objective": _percent(one.objective),
                "clean": _percent(one.clean_accuracy),
                "robust": _percent(one.robust_accuracy),
                "noise": _percent(one.noise_accuracy),
                "front": one.Index in members,
                **{symbol: _plain(getattr(one, name)) for name, symbol in SYMBOLS.items()},
                "places": places[one.Index],
                "curve": _curve(one.epochs),
            }
        )
    return sorted(rows, key=lambda row: KINDS.index(row["kind"]))


def parallel_axes(trials: pd.DataFrame) -> dict[str, tuple[str, str]]:
    """Return the axes of parallel coordinates: what differs between trials, with the texts of both ends."""
    axes = {}
    for name, symbol in SYMBOLS.items():
        values = trials[name].dropna()
        if name == "reg_range":
            values = [one for one in RANGES if one in {*values}]
            low, high = (values[0], values[-1]) if len(values) > 1 else (None, None)
        else:
            values = values[values > 0]
            low, high = (values.min(), values.max()) if values.nunique() > 1 else (None, None)
        if low is not None:
            axes[symbol] = format_hyperparameter(low), format_hyperparameter(high)
    objective = trials.objective.dropna().astype(float)
    if axes and objective.nunique() > 1:
        axes["objective"] = f"{100 * objective.min():.1f}%", f"{100 * objective.max():.1f}%"
    return axes


def _places(trials: pd.DataFrame) -> dict[Any, list[float | None] | None]:
    """Where each regularized trial lies on each of `parallel_axes`, from 0 to 1; None of the others."""
    axes = parallel_axes(trials)
    columns = []
    for name, symbol in (*SYMBOLS.items(), ("objective", "objective")):
        if symbol not in axes:
            continue
        if name == "reg_range":
            there = [one for one in RANGES if one in {*trials[name].dropna()}]
            values = trials[name].map({one: i for i, one in enumerate(there)}).astype(float)
        else:
            values = trials[name].astype(float)
            if name == "reg_alpha":
                values = np.log(values.where(values > 0))
        columns.append((values - values.min()) / (values.max() - values.min()))
    frame = pd.concat(columns, axis=1) if columns else pd.DataFrame(index=trials.index)
    regularized = (trials.reg_alpha > 0).fillna(False)
    return {
        index: [_plain(round(value, 4)) for value in frame.loc[index]] if regularized[index] and columns else None
        for index in trials.index
    }


def _curve(epochs: Sequence[Mapping[str, float]]) -> list[tuple[int, float]] | None:
    known = [(int(one["epoch"]), 100 * one["valid_accuracy"]) for one in epochs if _plain(one.get("valid_accuracy"))]
    if len(known) < 2:
        return None
    chosen = np.unique(np.linspace(0, len(known) - 1, min(_MOST_EPOCHS, len(known))).round().astype(int))
    return [(known[i][0], round(known[i][1], 1)) for i in chosen]


def _first_trials(trials: pd.DataFrame) -> set[Any]:
    """Where in `trials` the first proposed trial of each search stands: see `rank_trials`."""
    proposed = trials[(trials.state == FINISHED) & (trials.setting == PROPOSED)]
    firsts = {name: rank_trials(one).trial.iloc[0] for name, one in proposed.groupby("search")}
    return {*proposed.index[proposed.trial == proposed.search.map(firsts)]}


def _front_members(trials: pd.DataFrame) -> set[Any]:
    members: set[Any] = set()
    for _, one in trials[trials.state == FINISHED].groupby("search"):
        members |= {*one.index[np.array(front(one.clean_accuracy, one.robust_accuracy), dtype=bool)]}
    return members


def _percent(value: Any) -> float | None:
    return None if pd.isna(value) else round(100 * float(value), 2)


def _plain(value: Any) -> Any:
    """A value as JSON has it; None where it is missing."""
    if pd.isna(value):
        return None
    if isinstance(value, (float, np.floating)):
        return float(f"{value:.6g}")
    return int(value) if isinstance(value, (int, np.integer)) else value
