"""Tables of trials: the best, the front, all of them, what they cost."""

from collections.abc import Sequence

import numpy as np
import pandas as pd

from brainreg._utils.formats import SYMBOLS, format_duration, format_hyperparameter, format_probability
from brainreg.analysis.formats import ABSENT
from brainreg.hyperparameters import Hyperparameters
from brainreg.recommendation.setting_table import Advice
from brainreg.records.results import rank_trials
from brainreg.records.trial import FAILED, FINISHED, STOPPED, UNFINISHED
from brainreg.spaces.names import PROPOSED, UNREGULARIZED, shown_name
from brainreg.spaces.space import Space
from brainreg.statistics import front


def best_trials(trials: pd.DataFrame, rows: int = 10) -> pd.DataFrame:
    """Return the best finished trials of each search and its given settings, as people read them, best first.

    Args:
        trials: of `brainreg.records.searches.load_searches`.
        rows: how many of each search; given settings come beside them.
    """
    parts = []
    for search in trials.search.unique():
        order = rank_trials(trials[trials.search == search])
        parts.append(order[(order.index < rows) | (order.setting != PROPOSED)])
    return _readable(pd.concat(parts, ignore_index=True) if parts else trials)


def best_settings(advice: Advice, space: Space, rows: int = 10) -> pd.DataFrame:
    """Return what is expected of the best settings of a search and of its given ones, as people read it, best first.

    Args:
        advice: of `brainreg.records.results.search_advice`.
        space: what was searched.
        rows: how many settings; given ones come beside them.

    Returns:
        `setting` (number and name), the searched hyperparameters by the paper's symbols, `runs`, expected accuracies
        and objective in percent, its 95% interval, and the probabilities to be the best of them, and to be better than
        the unregularized one.
    """
    chosen = listed_settings(advice, rows)
    names = [
        ", ".join(filter(None, (str(one.setting_number), shown_name(one.setting), "recommended" * one.recommended)))
        for one in chosen.itertuples()
    ]
    seen = pd.DataFrame({"setting": names})
    for name in space.search:
        seen[SYMBOLS.get(name, name)] = chosen[name].map(format_hyperparameter).tolist()
    seen["runs"] = chosen.runs.tolist()
    for name in (one for one in ("clean", "robust", "noise", "objective") if one in chosen):
        seen[f"{name} (%)"] = [_accuracy_shown(value) for value in chosen[name]]
    seen["95% interval"] = [
        f"{_accuracy_shown(low)} to {_accuracy_shown(high)}"
        for low, high in zip(chosen.objective_low, chosen.objective_high, strict=True)
    ]
    seen["P(best)"] = chosen.p_best.map(format_probability).tolist()
    seen["P(better)"] = chosen[f"p_better_{UNREGULARIZED}"].map(format_probability).tolist()
    return seen


def listed_settings(advice: Advice, rows: int = 10) -> pd.DataFrame:
    """Return the rows of `advice.settings` that `best_settings` shows."""
    every = advice.settings
    return every[(every["rank"] <= rows) | (every.setting != PROPOSED) | every.recommended]


def front_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials of each search that no other one dominates in clean and robust accuracy, as people read them.

    Args:
        trials: of `brainreg.records.searches.load_searches`.
    """
    parts = []
    for search in trials.search.unique():
        finished = rank_trials(trials[trials.search == search])
        parts.append(finished.loc[np.array(front(finished.clean_accuracy, finished.robust_accuracy), dtype=bool)])
    members = pd.concat(parts, ignore_index=True) if parts else trials
    return _readable(members.sort_values(["search", "clean_accuracy"], ascending=[True, False], ignore_index=True))


def all_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """Return all trials as people read them, however they stand: what differs between them, and why one failed.

    Args:
        trials: of `brainreg.records.searches.load_searches`.

    Returns:
        The columns of `best_trials`, but of the hyperparameters those alone that are not the same in all trials (see
        `same_in_all`); behind the setting `state`; and at last `why`: the error of a failed trial, and why one was
        tried again.
    """
    differ = [name for name in Hyperparameters.model_fields if trials[name].nunique() > 1]
    seen = _readable(trials, differ)
    seen = seen.drop(columns=[SYMBOLS[name] for name in SYMBOLS if name not in differ], errors="ignore")
    seen.insert(seen.columns.get_loc("setting") + 1, "state", trials.state)
    again = trials.retries.map(lambda reasons: "; ".join(f"tried again: {reason}" for reason in reasons))
    return seen.assign(why=(trials.error + "; " + again).str.strip("; "))


def same_in_all(trials: pd.DataFrame) -> dict[str, str]:
    """Return the hyperparameters that all trials share and that are not the defaults, as people read them."""
    same = {}
    for name, field in Hyperparameters.model_fields.items():
        values = trials[name].dropna().unique()
        if len(values) == 1 and values[0] != field.default:
            same[name] = format_hyperparameter(values[0])
    return same


def _readable(best: pd.DataFrame, others: Sequence[str] = ()) -> pd.DataFrame:
    seen = best[["search", "trial", "setting"]].assign(
        setting=best.setting.map(lambda name: shown_name(name) or "proposed")
    )
    for name in (*SYMBOLS, *(name for name in others if name not in SYMBOLS)):
        if best[name].notna().any():
            seen[SYMBOLS.get(name, name)] = best[name].map(format_hyperparameter)
    for name in ("clean_accuracy", "robust_accuracy", "noise_accuracy", "objective"):
        seen[f"{name.removesuffix('_accuracy')} (%)"] = [_accuracy_shown(value) for value in best[name]]
    return seen.assign(time=best.seconds.map(_duration))


def _accuracy_shown(value: float) -> str:
    return ABSENT if pd.isna(value) else f"{100 * value:.1f}"


def costs(trials: pd.DataFrame) -> pd.DataFrame:
    """Return how many trials of each search stand how, and what time of workers they took, as people read it."""
    rows = []
    for search in trials.search.unique():
        for state in (FINISHED, STOPPED, FAILED, UNFINISHED):
            one = trials[(trials.search == search) & (trials.state == state)]
            if len(one):
                rows.append(
                    {
                        "search": search,
                        "state": state,
                        "trials": len(one),
                        "time of workers": _duration(one.seconds.sum()),
                        "of it under attack": _duration(one.attack_seconds.sum()) if state == FINISHED else ABSENT,
                        "mean of a trial": _duration(one.seconds[one.seconds > 0].mean()),  # copies took no time
                        "epochs trained": _epochs(one.epochs),
                        "tried again": sum(map(len, one.retries)),
                    }
                )
    return pd.DataFrame(rows)


def _epochs(lists: pd.Series) -> int | str:
    """The epochs that trials trained; the first entry of each is the untrained network."""
    return sum(len(epochs) - 1 for epochs in lists if epochs) if lists.map(len).any() else ABSENT


def _duration(seconds: float) -> str:
    return ABSENT if pd.isna(seconds) else format_duration(seconds)
