"""What a confirmation measured: settings compared in pairs, over seeds and over images."""

import math
from collections.abc import Iterable
from typing import Any

import pandas as pd

from brainreg._utils.formats import SYMBOLS, format_hyperparameter
from brainreg.analysis.averages import over_seeds
from brainreg.analysis.formats import ABSENT, format_interval, format_percent
from brainreg.hyperparameters import Hyperparameters
from brainreg.spaces.names import EARLY_STOPPED, FOUND, LIKE_FOUND, PUBLISHED, UNREGULARIZED, shown_name
from brainreg.spaces.objective import combined_accuracy
from brainreg.statistics import (
    LEVEL,
    bootstrap_interval,
    holm,
    least_seeds,
    sign_flip_test,
    simultaneous_interval,
    spread,
    t_test,
    unpacked,
)

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
    (FOUND, LIKE_FOUND),
    (FOUND, PUBLISHED),
    (PUBLISHED, UNREGULARIZED),
)


def count_comparisons(controls: Iterable[str]) -> int:
    """Return how many pairs of settings a confirmation with these controls compares."""
    return sum({*pair} <= {FOUND, *controls} for pair in COMPARED)


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
    noise_weight = both.get("noise_weight", pd.Series(0.0, both.index)).fillna(0.0)  # earlier versions had none
    noise = rows[rows.measure == "noise"].set_index(keys).accuracy.reindex(both.index).where(noise_weight > 0, 0.0)
    combined = combined_accuracy(both.weight, noise_weight, both.accuracy, robust.accuracy.reindex(both.index), noise)
    objective = both.assign(measure="objective", accuracy=combined, low=math.nan, high=math.nan, eps=math.nan)
    objective = objective.dropna(subset="accuracy").reset_index()
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


def confirmation_table(confirmation: pd.DataFrame | None) -> pd.DataFrame:
    """Return what each setting reaches on test images over its fresh seeds.

    Args:
        confirmation: of `brainreg.records.searches.load_searches`; None or without rows: nothing is confirmed.

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


def compare_settings(confirmation: pd.DataFrame | None) -> pd.DataFrame:
    """Return the differences between settings on test images, paired over seeds.

    Args:
        confirmation: of `brainreg.records.searches.load_searches`.

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
            corrected, flips = (holm([row[name] for row in found]) for name in ("p", "flip_p"))
            for row, p, flip_p in zip(found, corrected, flips, strict=True):
                low, high = simultaneous_interval(row["by_seed"], len(found), p)
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
        "p": t_test(differences),
        "flip_p": sign_flip_test(differences),
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
        first, second = (unpacked(text).astype(int) for text in texts)
        both = min(len(first), len(second))  # a time limit cuts the last images
        images.append(first[:both] - second[:both])
    same = measure in ("clean", "noise")  # all test images
    low, high = bootstrap_interval(images, comparisons, same)
    own = None if same else spread(images)
    return row | {"bootstrap_low": low, "bootstrap_high": high, "spread": own}


def format_confirmation(summary: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `confirmation_table` as people read it: accuracies in percent, with their intervals."""
    seen = pd.DataFrame({"setting": [_title(*row) for row in zip(summary.setting, summary["rank"], strict=True)]})
    if summary.search.nunique() > 1:
        seen.insert(0, "search", summary.search)
    seen["trial"] = summary.trial.map(lambda trial: ABSENT if pd.isna(trial) else f"{trial:.0f}")
    for name, symbol in SYMBOLS.items():
        if summary[name].notna().any():
            whole = Hyperparameters.model_fields[name].annotation is int  # missing values have made it a fraction
            seen[symbol] = [
                ABSENT if pd.isna(value) else format_hyperparameter(int(value) if whole else value)
                for value in summary[name]
            ]
    seen["seeds"] = [
        f"{row.seeds}" + (f" of {row.planned}" if row.seeds < row.planned else "") for row in summary.itertuples()
    ]
    for measure in COMPARED_MEASURES:
        if summary[measure].notna().any():
            column = measure.replace("robust", "eps")
            own = [*summary[column].dropna().unique()] if measure in STRENGTHS or measure == "robust" else []
            name = measure_name(measure, own[0] if len(own) == 1 else None)
            values = zip(*(summary[f"{measure}{end}"] for end in ("", "_low", "_high")), strict=True)
            seen[f"{name} (%), test"] = [
                ABSENT
                if pd.isna(mean)
                else format_percent(mean) + ("" if pd.isna(low) else f" {format_interval(low, high)}")
                for mean, low, high in values
            ]
    return seen


def _title(setting: str, rank: int) -> str:
    return f"{setting}, rank {rank}" if rank else shown_name(setting)


def confirmation_notes(confirmation: pd.DataFrame | None) -> list[str]:
    """Return what a reader of `confirmation_table` and `compare_settings` must know, a sentence each."""
    summary, long = confirmation_table(confirmation), _by_seed(confirmation)
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
        weights = long[long.search == search].get("noise_weight", pd.Series(dtype=float))
        if (weights > 0).any() and group.noise.isna().all():
            notes.append(f"{which}The objective is not compared: accuracy under noise, a part of it, was not measured.")
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
        few, least = group.seeds.min(), least_seeds(comparisons)
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


def describe_differences(differences: pd.DataFrame) -> list[str]:
    """Return what `compare_settings` found in plain sentences: whether a difference is larger than the noise."""
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
            lines.append(f"  {name} {row.difference:+.3f}{interval}{tests}: {verdict_of(row)}")
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


def verdict_of(row: Any) -> str:
    """Return what a row of `compare_settings` says: whether its difference is larger than the noise.

    It is where the interval leaves out 0; without the assumption of normal differences only where the sign-flip test
    says so, too.
    """
    if row.seeds < 2:
        return "one seed, so the noise is unknown"
    if pd.isna(row.corrected):
        return "the same with every seed, so the noise is unknown"
    if row.corrected >= LEVEL:
        return "not larger than the noise"
    told = f"larger than the noise, {'better' if row.difference > 0 else 'worse'}"
    return told if row.flip_corrected < LEVEL else f"{told}, if differences are normal"
