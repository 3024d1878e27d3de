"""The published alpha and Th beside the ones that searches found, as a frame, as text and as LaTeX."""

import math
from typing import Any

import pandas as pd

from brainreg._utils.formats import format_hyperparameter
from brainreg.analysis.averages import over_seeds
from brainreg.analysis.comparison import confirmation_table
from brainreg.analysis.formats import ABSENT, format_interval, format_number, format_percent
from brainreg.hyperparameters import Hyperparameters
from brainreg.recommendation.setting_table import LEAST_AS_GOOD, may_be_recommended, ranges
from brainreg.records.results import expected_value, rank_trials
from brainreg.records.trial import FINISHED
from brainreg.spaces.names import EARLY_STOPPED, FOUND, PROPOSED, PUBLISHED, SETTINGS, UNREGULARIZED, shown_name
from brainreg.spaces.published import PUBLISHED_SETTINGS
from brainreg.statistics import wilson_interval

# Two trials are of one setting where all of these are the same; only the seed may differ.
_SETTING = [name for name in Hyperparameters.model_fields if name != "seed"] + ["attack", "eps", "robust_n", "choice"]


def alpha_th_table(trials: pd.DataFrame, confirmation: pd.DataFrame | None = None) -> pd.DataFrame:
    """Return the alpha/Th table: what was published, what each search found, and the accuracies of both.

    Args:
        trials: of `brainreg.records.searches.load_searches`, of one search or of several. A setting that several of
            them ran with different seeds has intervals over seeds.
        confirmation: of `load_searches`. A search whose best setting was confirmed has the numbers of the test images
            only, and of the setting that was confirmed; what was not measured on them is missing.

    Returns:
        A row for each search, by its data sets: `data` (classified - regularization), `search`, `running`, `trials`
        (that finished); `published_` alpha, th and range, missing where nothing was published; `found_` alpha, th,
        th_2, range, N and k, of the proposed setting with the largest expected objective; `as_good_alpha_` and
        `as_good_th_` low and high, between which those of all settings lie that may be as good (see
        `brainreg.recommendation.setting_table.Advice.as_good`). For each of `SETTINGS`,
        `SETTING_clean` and `SETTING_robust`, fractions, with `_low` and `_high`, the ends of 95% intervals as
        `over_seeds` makes them, and `SETTING_seeds`. `better`: given settings whose expected objective is as good as
        that of the found one, or better.
        `newer`: the trial that ranks first now where another one was confirmed before.
        How it was measured: `images` (test or validation, all of a row), `clean_n`, `robust_n`, `attack`, `eps`.
    """
    finished = trials[trials.state == FINISHED]
    same = _settings_as_texts(finished)
    summary = confirmation_table(confirmation)
    rows = []
    for search in trials.search.unique():
        everything, one = trials[trials.search == search], finished[finished.search == search]
        data = everything.data.iloc[0]
        published = PUBLISHED_SETTINGS.get(data, {})
        best = {name: _best(one, PROPOSED if name == FOUND else name) for name in SETTINGS}
        found = best[FOUND]
        row = {
            "data": data,
            "search": search,
            "running": bool(everything.running.iloc[0]),
            "trials": len(one),
            **{f"published_{name}": published.get(key) for name, key in _PUBLISHED.items()},
            **{f"found_{name}": None if found is None else found[key] for name, key in _FOUND.items()},
            **ranges_as_good(one),
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
            if best[name] is not None
            and (found is None or expected_value(best[name], "objective") >= expected_value(found, "objective"))
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


def ranges_as_good(finished: pd.DataFrame) -> dict[str, float]:
    """Return the smallest and the largest alpha and Th of the settings that may be as good as the best.

    Args:
        finished: the finished trials of one search.

    Returns:
        `as_good_alpha_low`, `as_good_alpha_high`, and of th the same; none where that is not known.
    """
    as_good = finished[may_be_recommended(finished) & (finished.probability_as_good >= LEAST_AS_GOOD)]
    known = ranges(as_good)
    return {
        f"as_good_{name}_{end}": value
        for name, key in _AS_GOOD.items()
        if key in known
        for end, value in zip(("low", "high"), known[key], strict=True)
    }


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

_AS_GOOD = {"alpha": "reg_alpha", "th": "reg_thresh"}

_TABLE_COLUMNS = [
    *("data", "search", "running", "trials"),
    *(f"published_{name}" for name in _PUBLISHED),
    *(f"found_{name}" for name in _FOUND),
    *(f"as_good_{name}_{end}" for name in _AS_GOOD for end in ("low", "high")),
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
    if of_setting.empty:
        return None
    return of_setting[of_setting.trial == rank_trials(of_setting).trial.iloc[0]].iloc[0]


def _departures(published: pd.Series) -> str:
    """In what else than alpha, Th and range a published trial departs from what was published."""
    fields = Hyperparameters.model_fields
    same = {"task", "reg_data", "seed", *_PUBLISHED.values()}
    others = {name: published[name] for name in fields if name not in same and pd.notna(published[name])}
    return ", ".join(
        f"{name} {format_hyperparameter(value)}" for name, value in others.items() if value != fields[name].default
    )


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
    if table.as_good_alpha_low.notna().any():
        notes.append(
            "As good: between these values lie the settings that the search ran and whose objective, on validation"
            " images, is within one point of the best with a probability of 10% or more; of the others, it is not with"
            " 90%."
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
        notes.append(f"In {row.search}, no proposed setting is expected to be better than the {row.better} one.")
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


def format_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return an alpha/Th table as people read it: accuracies in percent, with their intervals."""
    seen = pd.DataFrame({"data": table.data, "search": table.search})
    seen["published α"], seen["published Th"] = (
        table.published_alpha.map(format_number),
        table.published_th.map(format_number),
    )
    seen["found α"], seen["found Th"] = table.found_alpha.map(format_number), _thresholds(table)
    for name, symbol in (("alpha", "α"), ("th", "Th")):
        ends = zip(table[f"as_good_{name}_low"], table[f"as_good_{name}_high"], strict=True)
        seen[f"as good {symbol}"] = [
            ABSENT if pd.isna(low) else f"{format_number(low)} to {format_number(high)}" for low, high in ends
        ]
    seen["range"] = table.found_range.fillna(ABSENT)
    seen["images"] = table.images
    for kind in ("clean", "robust"):
        for setting in known_settings(table):
            seen[f"{kind} (%), {shown_name(setting)}"] = [
                ABSENT
                if pd.isna(row[0])
                else f"{format_percent(row[0])} {format_interval(*row[1:3])}{_of_seeds(row[3])}"
                for row in _cells(table, setting, kind)
            ]
    return seen


def known_settings(table: pd.DataFrame) -> list[str]:
    """Return the settings that an alpha/Th table compares: a search of an earlier version has none that stops early."""
    return [name for name in SETTINGS if name != EARLY_STOPPED or table[f"{name}_clean"].notna().any()]


def _thresholds(table: pd.DataFrame, digits: int = 3) -> list[str]:
    return [
        format_number(th, digits) if pd.isna(th_2) else f"{format_number(th, digits)}, {format_number(th_2, digits)}"
        for th, th_2 in zip(table.found_th, table.found_th_2, strict=True)
    ]


def _cells(table: pd.DataFrame, setting: str, kind: str) -> list[tuple]:
    names = (f"{setting}_{kind}", f"{setting}_{kind}_low", f"{setting}_{kind}_high", f"{setting}_seeds")
    return [*zip(*(table[name] for name in names), strict=True)]


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
        values = (format_number(value, 2) for value in (row.published_alpha, row.published_th, row.found_alpha))
        first = [_escaped(name), *values, thresholds[i], _escaped(format_hyperparameter(row.found_range) or ABSENT)]
        second = [rf"{{\scriptsize {_escaped(row.search)}}}" if several[i] else "", *[""] * 5]
        for kind in ("clean", "robust"):
            for setting in settings:
                accuracy, low, high, of_seeds = _cells(table.iloc[i : i + 1], setting, kind)[0]
                raised = f"$^{{({of_seeds})}}$" if of_seeds > 1 else ""
                first.append(ABSENT if pd.isna(accuracy) else f"{format_percent(accuracy)}{raised}")
                second.append("" if pd.isna(accuracy) else rf"{{\scriptsize {format_interval(low, high)}}}")
        first.append({"validation": "valid."}.get(row.images, row.images))
        second.append("")
        lines.append("    " + " & ".join(first).replace(ABSENT, "--") + r" \\")
        lines.append("    " + " & ".join(second) + r" \\[2pt]")
    return "\n".join([*lines, r"    \bottomrule", r"  \end{tabular}", r"\end{table*}", ""])


_LATEX_HEADS: dict[str, str] = {UNREGULARIZED: "unreg.", EARLY_STOPPED: "stopped", PUBLISHED: "publ.", FOUND: "found"}
_SPECIAL = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}


def _escaped(text: str) -> str:
    """A text as LaTeX writes it."""
    return "".join(_SPECIAL.get(letter, rf"\{letter}" if letter in "&%$#_{}" else letter) for letter in text)
