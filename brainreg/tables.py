"""Tables of searches: the published alpha and Th beside the ones found, the best trials, the front, and the cost.

Frames in, frames out; the alpha/Th table also as LaTeX. Accuracies are fractions in frames and percent where a person
reads them.
"""

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from brainreg import statistics
from brainreg.evaluation import wilson_interval
from brainreg.hyperparameters import Hyperparameters
from brainreg.progress import SYMBOLS, duration, shown
from brainreg.published import PUBLISHED_SETTINGS
from brainreg.records import FAILED, FINISHED, STOPPED, UNFINISHED
from brainreg.results import ranked
from brainreg.spaces import EARLY_STOPPED, PUBLISHED, UNREGULARIZED, shown_name

# What `setting` is of a trial that Optuna proposed; the best of them is the one that a search found.
PROPOSED, FOUND = "", "found"

# The settings that the table compares, in its order.
SETTINGS = (UNREGULARIZED, EARLY_STOPPED, PUBLISHED, FOUND)

_ABSENT = "\u2013"

# Two trials are of one setting where all of these are the same; only the seed may differ.
_SETTING = [name for name in Hyperparameters.model_fields if name != "seed"] + ["attack", "eps", "robust_n", "choice"]


def over_seeds(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return mean accuracies and their 95% intervals.

    Args:
        frame: columns `accuracy`, a fraction, `low` and `high`, its interval over images, and those of `by`. Rows that
            are the same in those are of different seeds.
        by: columns that tell the groups apart.

    Returns:
        A row for each group: the columns of `by`, accuracy (mean), low and high, seeds (how many). The interval is
        Student's over seeds where there are two or more, and may then end below 0 or above 1; else it is that over
        images, which says nothing of seeds.
    """
    rows = []
    for values, group in frame.groupby([*by], sort=False, dropna=False):
        accuracies = group.accuracy.astype(float)
        count, mean = len(group), accuracies.mean()
        low, high = (float(group[end].iloc[0]) if end in group else math.nan for end in ("low", "high"))
        if count > 1:
            low, high = statistics.student_interval(accuracies)
        rows.append([*values, mean, low, high, count])
    return pd.DataFrame(rows, columns=[*by, "accuracy", "low", "high", "seeds"])


# ---------------------------------------------------------------------------------------------
# The alpha/Th table
# ---------------------------------------------------------------------------------------------


def alpha_th_table(trials: pd.DataFrame, confirmation: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the alpha/Th table: what was published, what each search found, and the accuracies of both.

    Args:
        trials: of `brainreg.results.load_searches`, of one search or of several. A setting that several of them ran
            with different seeds has intervals over seeds.
        confirmation: of `load_searches`. A search whose best setting was confirmed has the numbers of the test images
            only, and of the setting that was confirmed; what was not measured on them is missing.

    Returns:
        A row for each search, by its data sets: `data` (classified - regularization), `search`, `running`, `trials`
        (that finished); `published_` alpha, th and range, missing where nothing was published; `found_` alpha, th,
        th_2, range, N and k, of the proposed trial with the best objective. For each of `SETTINGS`, `SETTING_clean`
        and `SETTING_robust`, fractions, with `_low` and `_high`, the ends of 95% intervals as `over_seeds` makes them,
        and `SETTING_seeds`. `better`: given settings whose objective is as good as that of the found one, or better.
        `newer`: the trial that ranks first now where another one was confirmed before.
        How it was measured: `images` (test or validation, all of a row), `clean_n`, `robust_n`, `attack`, `eps`.
    """
    finished = trials[trials.state == FINISHED]
    same = _settings_as_texts(finished)
    summary = confirmed(confirmation)
    rows = []
    for search in trials.search.unique():
        everything, one = trials[trials.search == search], finished[finished.search == search]
        data = everything.data.iloc[0]
        published = PUBLISHED_SETTINGS.get(data, {})
        order = ranked(one).objective if len(one) else ()
        best = {name: _best(one, PROPOSED if name == FOUND else name) for name in SETTINGS}
        found = best[FOUND]
        row = {
            "data": data,
            "search": search,
            "running": bool(everything.running.iloc[0]),
            "trials": len(order),
            **{f"published_{name}": published.get(key) for name, key in _PUBLISHED.items()},
            **{f"found_{name}": None if found is None else found[key] for name, key in _FOUND.items()},
        }
        for name, trial in best.items():
            repeats = finished if trial is None else finished[same == same[trial.name]]
            for kind in ("clean", "robust"):
                accuracy, low, high, seeds = _accuracy(repeats, kind) if trial is not None else (None, None, None, 0)
                row |= {f"{name}_{kind}": accuracy, f"{name}_{kind}_low": low, f"{name}_{kind}_high": high}
            row[f"{name}_seeds"] = seeds
        row["departs"] = "" if best[PUBLISHED] is None else _departures(best[PUBLISHED])
        row["better"] = ", ".join(
            shown_name(name)
            for name in SETTINGS[:-1]
            if best[name] is not None and (found is None or best[name].objective >= found.objective)
        )
        first = everything.iloc[0]
        row |= {"images": "validation", "attack": first.attack, "eps": first.eps}
        row |= {name: one[name].iloc[0] if len(one) else None for name in ("clean_n", "robust_n")}
        row |= _on_test_images(summary[summary.search == search], None if found is None else found.trial)
        rows.append(row)
    table = pd.DataFrame(rows, columns=_TABLE_COLUMNS)
    texts = ("data", "search", "running", "departs", "better", "images", "attack", "published_range", "found_range")
    table = table.astype({name: "Float64" for name in table.columns if name not in texts})
    counts = ("trials", "newer", "clean_n", "robust_n", "found_N", "found_k", *(f"{name}_seeds" for name in SETTINGS))
    table = table.astype({name: "Int64" for name in counts})
    return table.sort_values("data", key=lambda names: names.map(_place), kind="stable", ignore_index=True)


def _on_test_images(summary: pd.DataFrame, best: int | None) -> dict[str, Any]:
    """What a row of the table says instead where the setting that ranked first, `best` now, was confirmed."""
    first = {
        setting: of_setting.iloc[0]
        for setting in SETTINGS
        if len(of_setting := summary[(summary.setting == setting) & (summary["rank"] < 2)])
    }
    if FOUND not in first:
        return {}
    row = {f"found_{name}": first[FOUND][key] for name, key in _FOUND.items()}
    for setting in SETTINGS:
        values = first.get(setting, {})
        row[f"{setting}_seeds"] = values.get("seeds", 0)
        for kind in ("clean", "robust"):
            row |= {f"{setting}_{kind}{end}": values.get(f"{kind}{end}") for end in ("", "_low", "_high")}
    names = ("clean_n", "robust_n", "attack", "eps")
    row |= {"newer": best if best is not None and best != first[FOUND].trial else None}
    return row | {"images": "test", **{name: first[FOUND][name] for name in names}}


_PUBLISHED = {"alpha": "reg_alpha", "th": "reg_thresh", "range": "reg_range"}
_FOUND = {
    "alpha": "reg_alpha",
    "th": "reg_thresh",
    "th_2": "reg_thresh_2",
    "range": "reg_range",
    "N": "reg_image_num",
    "k": "reg_batch_size",
}
_TABLE_COLUMNS = [
    *("data", "search", "running", "trials"),
    *(f"published_{name}" for name in _PUBLISHED),
    *(f"found_{name}" for name in _FOUND),
    *(
        f"{setting}_{name}"
        for setting in SETTINGS
        for name in ("clean", "clean_low", "clean_high", "robust", "robust_low", "robust_high", "seeds")
    ),
    *("departs", "better", "newer", "images", "clean_n", "robust_n", "attack", "eps"),
]


def _place(data: str) -> int:
    """Where a row stands: in the published order, and others behind."""
    names = [*PUBLISHED_SETTINGS]
    return names.index(data) if data in names else len(names)


def _settings_as_texts(trials: pd.DataFrame) -> pd.Series:
    """What is the same for two trials of one setting."""
    trials = trials.assign(choice=trials.setting == EARLY_STOPPED)  # of the best epoch
    return trials[_SETTING].astype(object).apply(lambda row: repr([None if pd.isna(v) else v for v in row]), axis=1)


def _best(finished: pd.DataFrame, setting: str) -> pd.Series | None:
    of_setting = finished[finished.setting == setting].dropna(subset=["objective"])
    return None if of_setting.empty else of_setting.loc[of_setting.objective.idxmax()]


def _departures(published: pd.Series) -> str:
    """In what else than alpha, Th and range a published trial departs from what was published."""
    fields = Hyperparameters.model_fields
    same = {"task", "reg_data", "seed", *_PUBLISHED.values()}
    others = {name: published[name] for name in fields if name not in same and pd.notna(published[name])}
    return ", ".join(f"{name} {shown(value)}" for name, value in others.items() if value != fields[name].default)


def _accuracy(repeats: pd.DataFrame, kind: str) -> tuple[float, float, float, int]:
    """Mean accuracy of a setting's trials, its interval, and the number of seeds."""
    once = repeats.drop_duplicates("seed")
    accuracy, n = once[f"{kind}_accuracy"].astype(float), once[f"{kind}_n"].iloc[0]
    low = high = math.nan  # another version's table may not say of how many images
    if pd.notna(n) and accuracy.notna().all():
        low, high = wilson_interval(round(accuracy.iloc[0] * int(n)), int(n))
    frame = pd.DataFrame({"accuracy": accuracy, "low": low, "high": high, "setting": 0})
    return tuple(over_seeds(frame, ["setting"]).loc[0, ["accuracy", "low", "high", "seeds"]])


def table_notes(table: pd.DataFrame) -> list[str]:
    """Return what a reader of an alpha/Th table must know, a sentence each."""
    if table.empty:
        return []
    notes = []
    for (images, attack, eps), group in table.groupby(["images", "attack", "eps"], sort=False, dropna=False):
        which = "" if len(group) == len(table) else f" ({', '.join(group.search)})"
        counts = " and ".join(_span(group[name].dropna(), what) for name, what in _COUNTED.items())
        robust = "not measured" if pd.isna(eps) else f"{attack}, eps {eps:g}"
        notes.append(f"Accuracies are on {images} images ({counts}); robust: {robust}{which}.")
    chosen = table[table.images == "validation"]
    if len(chosen):
        which = "" if len(chosen) == len(table) else f" ({', '.join(chosen.search)})"
        notes.append(
            "The found setting was chosen on these images where they are validation images, so its numbers are too good"
            f" by some amount; it is not confirmed on test images{which}."
        )
    if len(chosen) < len(table):
        fresh = table[table.images == "test"]
        notes.append(
            "On test images, each setting was trained anew with fresh seeds, and the found one is that which the search"
            " ranked first on validation images" + ("." if chosen.empty else f" ({', '.join(fresh.search)}).")
        )
        for row in fresh[fresh.newer.notna()].itertuples():
            notes.append(
                f"{row.search} went on after it was confirmed: its trial {row.newer} ranks first now, and is not the"
                " one that was confirmed."
            )
    seeds = table[[f"{setting}_seeds" for setting in SETTINGS]].to_numpy(dtype=float)
    if (seeds == 1).any():
        notes.append(
            "Where there is one seed, the 95% interval is Wilson's over images, not over seeds: another seed can lie"
            " outside of it."
        )
    if (seeds > 1).any():
        notes.append(
            f"Where a setting ran with several seeds (up to {int(seeds.max())}), the 95% interval is Student's over"
            " seeds."
        )
    for departs, group in table[table.departs != ""].groupby("departs", sort=False):
        notes.append(f"The published setting did not run as published, but with {departs} ({', '.join(group.search)}).")
    for row in table[table.better != ""].itertuples():
        notes.append(f"In {row.search}, no proposed setting has a better objective than the {row.better} one.")
    if table[f"{EARLY_STOPPED}_clean"].notna().any():
        notes.append(
            f"«{shown_name(EARLY_STOPPED)}»: its best epoch is the one with the largest objective on validation images,"
            " which costs nothing to train; the others' has the lowest validation cross-entropy."
        )
    for row in table[table.running].itertuples():
        notes.append(f"{row.search} is running; what it found may change.")
    return notes


_COUNTED = {"clean_n": "clean", "robust_n": "attacked"}


def _span(counts: pd.Series, what: str) -> str:
    if counts.empty:
        return f"none {what}"
    low, high = counts.min(), counts.max()
    return f"{low} {what}" if low == high else f"{low} to {high} {what}"


def shown_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return an alpha/Th table as people read it: accuracies in percent, with their intervals."""
    seen = pd.DataFrame({"data": table.data, "search": table.search})
    seen["published α"], seen["published Th"] = table.published_alpha.map(_number), table.published_th.map(_number)
    seen["found α"], seen["found Th"] = table.found_alpha.map(_number), _thresholds(table)
    seen["range"] = table.found_range.fillna(_ABSENT)
    seen["images"] = table.images
    for kind in ("clean", "robust"):
        for setting in known_settings(table):
            seen[f"{kind} (%), {shown_name(setting)}"] = [
                _ABSENT if pd.isna(row[0]) else f"{_percent(row[0])} {_interval(*row[1:3])}{_of_seeds(row[3])}"
                for row in _cells(table, setting, kind)
            ]
    return seen


def known_settings(table: pd.DataFrame) -> list[str]:
    """Return the settings that an alpha/Th table compares: a search of an earlier version has none that stops early."""
    return [name for name in SETTINGS if name != EARLY_STOPPED or table[f"{name}_clean"].notna().any()]


def _thresholds(table: pd.DataFrame, digits: int = 3) -> list[str]:
    return [
        _number(th, digits) if pd.isna(th_2) else f"{_number(th, digits)}, {_number(th_2, digits)}"
        for th, th_2 in zip(table.found_th, table.found_th_2, strict=True)
    ]


def _cells(table: pd.DataFrame, setting: str, kind: str) -> list[tuple]:
    names = (f"{setting}_{kind}", f"{setting}_{kind}_low", f"{setting}_{kind}_high", f"{setting}_seeds")
    return [*zip(*(table[name] for name in names), strict=True)]


def _number(value: float, digits: int = 3) -> str:
    return _ABSENT if pd.isna(value) else f"{value:.{digits}g}"


def _percent(value: float) -> str:
    return f"{100 * value:.0f}" if value in (0, 1) else f"{100 * value:.1f}"


def _interval(low: float, high: float) -> str:
    return f"[{_percent(low)}, {_percent(high)}]"


def _of_seeds(seeds: int) -> str:
    return f", {seeds} seeds" if seeds > 1 else ""


def to_latex(table: pd.DataFrame, label: str = "tab:alpha-th") -> str:
    """Return an alpha/Th table as LaTeX: a `table*` of booktabs, with its notes as the caption.

    The second line of a row holds the intervals. It is as wide as both columns of a page.
    """
    table = table.reset_index(drop=True)
    several, settings = table.data.duplicated(keep=False), known_settings(table)
    heads, count = [_LATEX_HEADS[name] for name in settings], len(settings)
    seeds = table[[f"{setting}_seeds" for setting in SETTINGS]].to_numpy(dtype=float)
    caption = " ".join(
        [
            r"Published and found settings of the pixel-similarity regularizer, and accuracies in percent without it"
            r" and with both; in brackets, 95\% intervals"
            + ("" if (seeds < 2).all() else "; a raised number counts the seeds, where they are several")
            + ".",
            *(_escaped(note) for note in table_notes(table)),
        ]
    )
    lines = [
        r"% needs \usepackage{booktabs}",
        r"\begin{table*}",
        r"  \centering\small",
        rf"  \caption{{{caption}}}",
        rf"  \label{{{label}}}",
        r"  \setlength{\tabcolsep}{2.2pt}",
        rf"  \begin{{tabular}}{{lcccll{'c' * 2 * count}l}}",
        r"    \toprule",
        r"    & \multicolumn{2}{c}{published} & \multicolumn{3}{c}{found}"
        rf" & \multicolumn{{{count}}}{{c}}{{clean accuracy}} & \multicolumn{{{count}}}{{c}}{{robust accuracy}} & \\",
        r"    \cmidrule(lr){2-3} \cmidrule(lr){4-6}"
        rf" \cmidrule(lr){{7-{6 + count}}} \cmidrule(lr){{{7 + count}-{6 + 2 * count}}}",
        r"    data -- regularization & $\alpha$ & Th & $\alpha$ & Th, Th$_2$ & range"
        rf" & {' & '.join(heads * 2)} & images \\",
        r"    \midrule",
    ]
    thresholds = _thresholds(table, 2)
    for i, row in enumerate(table.itertuples()):
        name = row.data.replace(" - ", " -- ")
        values = (_number(value, 2) for value in (row.published_alpha, row.published_th, row.found_alpha))
        first = [_escaped(name), *values, thresholds[i], _escaped(shown(row.found_range) or _ABSENT)]
        second = [rf"{{\scriptsize {_escaped(row.search)}}}" if several[i] else "", *[""] * 5]
        for kind in ("clean", "robust"):
            for setting in settings:
                accuracy, low, high, of_seeds = _cells(table.iloc[i : i + 1], setting, kind)[0]
                raised = f"$^{{({of_seeds})}}$" if of_seeds > 1 else ""
                first.append(_ABSENT if pd.isna(accuracy) else f"{_percent(accuracy)}{raised}")
                second.append("" if pd.isna(accuracy) else rf"{{\scriptsize {_interval(low, high)}}}")
        first.append({"validation": "valid."}.get(row.images, row.images))
        second.append("")
        lines.append("    " + " & ".join(first).replace(_ABSENT, "--") + r" \\")
        lines.append("    " + " & ".join(second) + r" \\[2pt]")
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table*}", ""])


_LATEX_HEADS = {UNREGULARIZED: "unreg.", EARLY_STOPPED: "stopped", PUBLISHED: "publ.", FOUND: "found"}
_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def _escaped(text: str) -> str:
    """A text as LaTeX writes it."""
    return "".join(_SPECIAL.get(letter, rf"\{letter}" if letter in "&%$#_{}" else letter) for letter in text)


def to_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV: numbers in full, accuracies as fractions."""
    return table.to_csv(index=False)


def save(table: pd.DataFrame, folder: str | Path, name: str) -> None:
    """Write an alpha/Th table as NAME.csv and NAME.tex. No folder: nothing is written."""
    if str(folder):
        Path(folder).mkdir(parents=True, exist_ok=True)
        Path(folder, f"{name}.csv").write_text(to_csv(table), encoding="utf-8")
        Path(folder, f"{name}.tex").write_text(to_latex(table), encoding="utf-8")


# ---------------------------------------------------------------------------------------------
# Confirmed on test images
# ---------------------------------------------------------------------------------------------

# What is measured of networks; the objective is the search's, made of the next two.
MEASURES = ("objective", "clean", "robust", "noise")

# What is compared: which setting is better may depend on the strength of the attack. The strengths beside the search's
# own are those that were measured nearest to these multiples of it.
STRENGTHS = {"robust_weaker": 0.5, "robust_stronger": 1.5}
COMPARED_MEASURES = ("objective", "clean", "robust_weaker", "robust", "robust_stronger", "noise")

# What is compared with what; of the found settings, only the one that the search ranked first.
COMPARED = (
    (FOUND, UNREGULARIZED),
    (FOUND, EARLY_STOPPED),
    (FOUND, PUBLISHED),
    (PUBLISHED, UNREGULARIZED),
)

_SAME = ["search", "setting", "rank"]


def _by_seed(confirmation: pd.DataFrame | None) -> pd.DataFrame:
    """The rows of a confirmation that stand for one of `COMPARED_MEASURES`, the objective made of them among them:
    `search`, `setting`, `rank`, `seed`, `measure`, `accuracy`, `low`, `high` and all other columns.
    """
    if confirmation is None or not {"measure", "rank", "split", "weight"} <= {*confirmation.columns}:
        return pd.DataFrame(columns=[*_SAME, "seed", "measure", "accuracy", "low", "high", "attack", "eps", "n"])
    tested = confirmation[confirmation.split == "test"]
    rows = tested[tested.measure.isin(MEASURES)]
    rows = pd.concat([rows, *_other_strengths(tested)])
    keys = [*_SAME, "seed"]
    clean, robust = (rows[rows.measure == name].set_index(keys) for name in ("clean", "robust"))
    both = clean[clean.index.isin(robust.index)]
    combined = both.weight * both.accuracy + (1 - both.weight) * robust.accuracy.reindex(both.index)
    objective = both.assign(measure="objective", accuracy=combined, low=math.nan, high=math.nan, eps=math.nan)
    objective = objective.reset_index()
    return pd.concat([rows, objective[rows.columns]], ignore_index=True) if len(objective) else rows


def _other_strengths(tested: pd.DataFrame) -> list[pd.DataFrame]:
    """The rows of a confirmation in which the attack of the robust accuracy is weaker and stronger."""
    parts = []
    for (search, attack, eps), _ in tested[tested.measure == "robust"].groupby(["search", "attack", "eps"], sort=False):
        of_attack = tested[(tested.search == search) & (tested.attack == attack) & (tested.eps > 0)]
        for measure, factor in STRENGTHS.items():
            others = [one for one in of_attack.eps.unique() if (one < eps if factor < 1 else one > eps)]
            if others:
                nearest = min(others, key=lambda one: abs(one - factor * eps))
                parts.append(of_attack[of_attack.eps == nearest].assign(measure=measure))
    return parts


def measure_name(measure: str, eps: float | None = None) -> str:
    """Return what people read for one of `COMPARED_MEASURES`; with the strength of the attack where it is known."""
    if measure in STRENGTHS or measure == "robust":
        if eps is not None and not pd.isna(eps):
            return f"robust, eps {eps:.3g}"
        return {"robust_weaker": "robust, weaker attack", "robust_stronger": "robust, stronger attack"}.get(
            measure, measure
        )
    return measure


def confirmed(confirmation: pd.DataFrame | None) -> pd.DataFrame:
    """Return what each setting reaches on test images over its fresh seeds.

    Args:
        confirmation: of `brainreg.results.load_searches`; None or without rows: nothing is confirmed.

    Returns:
        A row for each search and setting: `search`, `setting`, `rank` (in the search, 1 for the best found one, 0 for
        the given ones), `trial`, alpha, Th, ... under the names of the hyperparameters, `seeds` (that were measured),
        `planned` (that are to be); for each of `COMPARED_MEASURES` its mean, `MEASURE_low` and `MEASURE_high` as
        `over_seeds` makes them, and `MEASURE_by_seed` (the accuracies themselves, a list); `clean_n`, `robust_n`,
        `noise_n` (images of one seed, the fewest), `attack` and `eps` of the robust accuracy, `eps_weaker` and
        `eps_stronger`, `noise_kind` and `noise_eps` of the noise.
    """
    long = _by_seed(confirmation)
    rows = []
    for (search, setting, rank), group in long.groupby(_SAME, sort=False):
        first = group.iloc[0]
        row = {"search": search, "setting": setting, "rank": rank, "trial": first.trial}
        row |= {name: first[name] for name in SYMBOLS}
        row |= {"seeds": group.seed.nunique(), "planned": first.seeds}
        for measure in COMPARED_MEASURES:
            of_measure = group[group.measure == measure].sort_values("seed")
            if of_measure.empty:
                continue
            mean = over_seeds(of_measure, ["measure"]).iloc[0]
            row |= {measure: mean.accuracy, f"{measure}_low": mean.low, f"{measure}_high": mean.high}
            row[f"{measure}_by_seed"] = of_measure.accuracy.tolist()
            if measure in STRENGTHS:
                row[measure.replace("robust", "eps")] = of_measure.eps.iloc[0]
            elif measure != "objective":
                row[f"{measure}_n"] = of_measure.n.min()
            name, eps = {"robust": ("attack", "eps"), "noise": ("noise_kind", "noise_eps")}.get(measure, ("", ""))
            row |= {name: of_measure.attack.iloc[0], eps: of_measure.eps.iloc[0]} if name else {}
        rows.append(row)
    return pd.DataFrame(rows, columns=_CONFIRMED_COLUMNS)


_CONFIRMED_COLUMNS = [
    *(*_SAME, "trial", *SYMBOLS, "seeds", "planned"),
    *(f"{measure}{end}" for measure in COMPARED_MEASURES for end in ("", "_low", "_high", "_by_seed")),
    *("clean_n", "robust_n", "noise_n", "attack", "eps", "eps_weaker", "eps_stronger", "noise_kind", "noise_eps"),
]


def paired(confirmation: pd.DataFrame | None) -> pd.DataFrame:
    """Return the differences between settings on test images, paired over seeds.

    Args:
        confirmation: of `brainreg.results.load_searches`.

    Returns:
        A row for each search, each of `COMPARED` and each of `COMPARED_MEASURES`: `search`, `better` and `than`
        (settings), `trial` (of the found one), `measure`, `eps` (of attack or noise), `seeds` (that both have),
        `difference` (mean of the first minus the second), `low` and `high` (its 95% interval, that holds together with
        those of the other comparisons, see `brainreg.statistics.simultaneous_interval`), `p` (of the paired t test,
        two-sided), `flip_p` (of the sign-flip test, which does not assume normal differences), `corrected` and
        `flip_corrected` (both after Holm's correction for the comparisons of this search in this measure),
        `comparisons` (how many those are), `by_seed` (the differences themselves, a list); and where each image's
        outcome is known `spread` (`brainreg.statistics.Spread`) and `bootstrap_low` and `bootstrap_high`, the interval
        of a bootstrap over seeds and images. With one seed there is a difference alone; where all differences are the
        same but not 0, no noise can be estimated, and p is missing.
    """
    long = _by_seed(confirmation)
    rows = []
    for search in long.search.unique():
        for measure in COMPARED_MEASURES:
            one = long[(long.search == search) & (long.measure == measure) & (long["rank"] < 2)]
            by_setting = {name: group.set_index("seed") for name, group in one.groupby("setting")}
            pairs = [
                (better, than)
                for better, than in COMPARED
                if better in by_setting
                and than in by_setting
                and by_setting[better].index.isin(by_setting[than].index).any()
            ]
            found = [
                {
                    **{"search": search, "better": better, "than": than, "measure": measure, "eps": one.eps.iloc[0]},
                    "trial": one[one.setting == FOUND].trial.iloc[0] if FOUND in by_setting else None,
                    **_paired(by_setting[better], by_setting[than], measure, len(pairs)),
                }
                for better, than in pairs
            ]
            corrected, flips = (statistics.holm([row[name] for row in found]) for name in ("p", "flip_p"))
            for row, p, flip_p in zip(found, corrected, flips, strict=True):
                low, high = statistics.simultaneous_interval(row["by_seed"], len(found), p)
                both = {"corrected": p, "flip_corrected": flip_p, "low": low, "high": high}
                rows.append({**row, **both, "comparisons": len(found)})
    return pd.DataFrame(rows, columns=_PAIRED_COLUMNS)


_PAIRED_COLUMNS = [
    *("search", "better", "than", "trial", "measure", "eps", "seeds", "difference", "low", "high", "p", "corrected"),
    *("flip_p", "flip_corrected", "comparisons", "by_seed", "spread", "bootstrap_low", "bootstrap_high"),
]


def _paired(better: pd.DataFrame, than: pd.DataFrame, measure: str, comparisons: int) -> dict[str, Any]:
    """What is known of one difference alone; `better` and `than` are the rows of two settings, by seed."""
    differences = (better.accuracy - than.accuracy).dropna().astype(float)
    row = {
        "seeds": len(differences),
        "difference": float(differences.mean()),
        "by_seed": differences.tolist(),
        "p": statistics.t_test(differences),
        "flip_p": statistics.sign_flip_test(differences),
        **dict.fromkeys(("bootstrap_low", "bootstrap_high"), math.nan),
        "spread": None,
    }
    if "outcomes" not in better or measure == "objective":
        return row
    images = []
    for seed in differences.index:
        texts = better.outcomes[seed], than.outcomes[seed]
        if not all(isinstance(text, str) for text in texts):
            return row  # of an earlier version
        first, second = (statistics.unpacked(text).astype(int) for text in texts)
        both = min(len(first), len(second))  # a time limit cuts the last images
        images.append(first[:both] - second[:both])
    same = measure in ("clean", "noise")  # all test images
    low, high = statistics.bootstrap_interval(images, comparisons, same)
    own = None if same else statistics.spread(images)
    return row | {"bootstrap_low": low, "bootstrap_high": high, "spread": own}


def shown_confirmed(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `confirmed` as people read it: accuracies in percent, with their intervals."""
    seen = pd.DataFrame({"setting": [_title(*row) for row in zip(summary.setting, summary["rank"], strict=True)]})
    if summary.search.nunique() > 1:
        seen.insert(0, "search", summary.search)
    seen["trial"] = summary.trial.map(lambda trial: _ABSENT if pd.isna(trial) else f"{trial:.0f}")
    for name, symbol in SYMBOLS.items():
        if summary[name].notna().any():
            whole = Hyperparameters.model_fields[name].annotation is int  # missing values have made it a fraction
            seen[symbol] = [
                _ABSENT if pd.isna(value) else shown(int(value) if whole else value) for value in summary[name]
            ]
    seen["seeds"] = [
        f"{row.seeds}" + (f" of {row.planned}" if row.seeds < row.planned else "") for row in summary.itertuples()
    ]
    for measure in COMPARED_MEASURES:
        if summary[measure].notna().any():
            column = measure.replace("robust", "eps")
            own = summary[column].dropna().unique() if measure in STRENGTHS or measure == "robust" else ()
            name = measure_name(measure, own[0] if len(own) == 1 else None)
            values = zip(*(summary[f"{measure}{end}"] for end in ("", "_low", "_high")), strict=True)
            seen[f"{name} (%), test"] = [
                _ABSENT if pd.isna(mean) else _percent(mean) + ("" if pd.isna(low) else f" {_interval(low, high)}")
                for mean, low, high in values
            ]
    return seen


def _title(setting: str, rank: int) -> str:
    return f"{setting}, rank {rank}" if rank else shown_name(setting)


def confirmation_notes(confirmation: pd.DataFrame | None) -> list[str]:
    """Return what a reader of `confirmed` and `paired` must know, a sentence each."""
    summary, long = confirmed(confirmation), _by_seed(confirmation)
    notes = []
    for search, group in summary.groupby("search", sort=False):
        which = "" if summary.search.nunique() == 1 else f"{search}: "
        first = group.iloc[0]
        counted = [f"{first.clean_n} clean"]
        if group.attack.notna().any():
            counted.append(f"{_range(long, search, 'robust')} under {first.attack}, eps {first.eps:g}")
        if group.noise_kind.notna().any():
            counted.append(f"{_range(long, search, 'noise')} under {first.noise_kind} noise, eps {first.noise_eps:.3g}")
        notes.append(f"{which}On test images: {', '.join(counted)}; means over fresh seeds, in brackets 95% intervals.")
        robust = long[(long.search == search) & (long.measure == "robust")].groupby("seed").n.nunique()
        if (robust > 1).any():
            notes.append(
                f"{which}A time limit cut the images of some settings and not of others: robust accuracies are not over"
                " the same images."
            )
        missing = group[group.seeds < group.planned]
        if len(missing):
            told = ", ".join(
                f"{_title(one.setting, one.rank)} {one.seeds} of {one.planned}" for one in missing.itertuples()
            )
            notes.append(
                f"{which}Trainings that failed or are not done are left out, which flatters a setting that fails:"
                f" {told} seeds are measured, and differences are of the seeds that both have."
            )
        comparisons = len({*COMPARED} & {(one, other) for one in group.setting for other in group.setting})
        few, least = group.seeds.min(), statistics.least_seeds(comparisons)
        if few < least:
            notes.append(
                f"{which}With {few} seed{'' if few == 1 else 's'}, no difference is larger than the noise unless"
                f" differences are assumed to be normal: {least} seeds are the fewest with which a sign-flip test can"
                f" find one, at {comparisons} comparison{'' if comparisons == 1 else 's'}."
            )
        if group["rank"].max() > 1:
            notes.append(
                f"{which}Compared is rank 1 alone, chosen on validation images before; to choose among the ranks by"
                " these numbers would be to choose on the test images."
            )
    return notes


def _range(long: pd.DataFrame, search: str, measure: str) -> str:
    counts = long[(long.search == search) & (long.measure == measure)].n
    return f"{counts.min():.0f}" if counts.min() == counts.max() else f"{counts.min():.0f} to {counts.max():.0f}"


def said(differences: pd.DataFrame) -> list[str]:
    """Return what `paired` found in plain sentences: whether a difference is larger than the noise."""
    lines = []
    for (search, better, than), group in differences.groupby(["search", "better", "than"], sort=False):
        first = group.iloc[0]
        which = "" if differences.search.nunique() == 1 else f"{search}: "
        trial = f" (trial {first.trial})" if better == FOUND and pd.notna(first.trial) else ""
        seeds = f"{first.seeds} seed" + ("" if first.seeds == 1 else "s")
        lines.append(f"{which}{shown_name(better)}{trial} against {shown_name(than)}, paired over {seeds}:")
        for row in group.itertuples():
            interval = "" if pd.isna(row.low) else f", 95% interval {row.low:+.3f} to {row.high:+.3f}"
            tests = "" if pd.isna(row.corrected) else f", p {_p(row.corrected)}, sign-flip p {_p(row.flip_corrected)}"
            name = measure_name(row.measure, row.eps)
            lines.append(f"  {name} {row.difference:+.3f}{interval}{tests}: {verdict(row)}")
            if row.spread is not None:
                lines.append(f"    {_spread_said(row)}")
    if lines:
        counts = sorted({*differences.comparisons})
        number = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
        corrected = f"corrected for {number} comparisons (p: Holm; intervals: Bonferroni, cut at 0 where Holm is sure)"
        if counts == [1]:
            corrected = "one comparison: not corrected"
        lines.append(
            "p: paired t test, which assumes that differences between seeds are normal; sign-flip p: a permutation"
            f" test, which does not; {corrected}, each measure for itself."
        )
    return lines


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _spread_said(row: Any) -> str:
    """Where the spread of a difference comes from, and what more seeds or images would give."""
    spread, width = row.spread, row.spread.half_width
    share, now = spread.share_of_images, width(spread.seeds, spread.images, row.comparisons)
    if math.isnan(share):
        return "no image was classified otherwise with any seed"
    images, seeds = (f"±{width(*size, row.comparisons):.3f}" for size in (
        (spread.seeds, 4 * spread.images), (2 * spread.seeds, spread.images)
    ))  # fmt: skip
    return (
        f"bootstrap over seeds and images {row.bootstrap_low:+.3f} to {row.bootstrap_high:+.3f}; {share:.0%} of the"
        f" variance is that of the {spread.images} images: ±{now:.3f} now, about {images} with {4 * spread.images}"
        f" images, about {seeds} with {2 * spread.seeds} seeds"
    )


def verdict(row: Any) -> str:
    """Return what a row of `paired` says: whether its difference is larger than the noise.

    It is where the interval leaves out 0; without the assumption of normal differences only where the sign-flip test
    says so, too.
    """
    if row.seeds < 2:
        return "one seed, so the noise is unknown"
    if pd.isna(row.corrected):
        return "the same with every seed, so the noise is unknown"
    if row.corrected >= statistics.LEVEL:
        return "not larger than the noise"
    told = f"larger than the noise, {'better' if row.difference > 0 else 'worse'}"
    return told if row.flip_corrected < statistics.LEVEL else f"{told}, if differences are normal"


# ---------------------------------------------------------------------------------------------
# Trials, and what they cost
# ---------------------------------------------------------------------------------------------


def best_trials(trials: pd.DataFrame, rows: int = 10) -> pd.DataFrame:
    """Return the best finished trials of each search and its given settings, as people read them, best first.

    Args:
        trials: of `brainreg.results.load_searches`.
        rows: how many of each search; given settings come beside them.
    """
    parts = []
    for search in trials.search.unique():
        order = ranked(trials[trials.search == search])
        parts.append(order[(order.index < rows) | (order.setting != PROPOSED)])
    return _readable(pd.concat(parts, ignore_index=True) if parts else trials)


def front_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """Return the trials of each search that no other one dominates in clean and robust accuracy, as people read them.

    Args:
        trials: of `brainreg.results.load_searches`.
    """
    from brainreg.study import front  # Optuna, which takes seconds that the other tables do without

    parts = []
    for search in trials.search.unique():
        finished = ranked(trials[trials.search == search])
        parts.append(finished.loc[np.array(front(finished.clean_accuracy, finished.robust_accuracy), dtype=bool)])
    members = pd.concat(parts, ignore_index=True) if parts else trials
    return _readable(members.sort_values(["search", "clean_accuracy"], ascending=[True, False], ignore_index=True))


def all_trials(trials: pd.DataFrame) -> pd.DataFrame:
    """Return all trials as people read them, however they stand: what differs between them, and why one failed.

    Args:
        trials: of `brainreg.results.load_searches`.

    Returns:
        The columns of `best_trials`; behind the setting `state`; behind the paper's symbols every other hyperparameter
        that is not the same in all trials; and at last `why`: the error of a failed trial, and why one was tried again.
    """
    seen = _readable(trials, [name for name in Hyperparameters.model_fields if trials[name].nunique() > 1])
    seen.insert(seen.columns.get_loc("setting") + 1, "state", trials.state)
    again = trials.retries.map(lambda reasons: "; ".join(f"tried again: {reason}" for reason in reasons))
    return seen.assign(why=(trials.error + "; " + again).str.strip("; "))


def same_in_all(trials: pd.DataFrame) -> dict[str, str]:
    """Return the hyperparameters that all trials share and that are not the defaults, as people read them."""
    same = {}
    for name, field in Hyperparameters.model_fields.items():
        values = trials[name].dropna().unique()
        if len(values) == 1 and values[0] != field.default:
            same[name] = shown(values[0])
    return same


def _readable(best: pd.DataFrame, others: Sequence[str] = ()) -> pd.DataFrame:
    seen = best[["search", "trial", "setting"]].assign(
        setting=best.setting.map(lambda name: shown_name(name) or "proposed")
    )
    for name in (*SYMBOLS, *(name for name in others if name not in SYMBOLS)):
        if best[name].notna().any():
            seen[SYMBOLS.get(name, name)] = best[name].map(shown)
    for name in ("clean_accuracy", "robust_accuracy", "noise_accuracy", "objective"):
        seen[f"{name.removesuffix('_accuracy')} (%)"] = [_accuracy_shown(value) for value in best[name]]
    return seen.assign(time=best.seconds.map(_duration))


def _accuracy_shown(value: float) -> str:
    return _ABSENT if pd.isna(value) else f"{100 * value:.1f}"


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
                        "of it under attack": _duration(one.attack_seconds.sum()) if state == FINISHED else _ABSENT,
                        "mean of a trial": _duration(one.seconds.mean()),
                        "epochs trained": _epochs(one.epochs),
                        "tried again": sum(map(len, one.retries)),
                    }
                )
    return pd.DataFrame(rows)


def _epochs(lists: pd.Series) -> int | str:
    """The epochs that trials trained; the first entry of each is the untrained network."""
    return sum(len(epochs) - 1 for epochs in lists if epochs) if lists.map(len).any() else _ABSENT


def _duration(seconds: float) -> str:
    return _ABSENT if pd.isna(seconds) else duration(seconds)
