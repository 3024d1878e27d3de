"""What a search says of its settings: the table, what it recommends, and how sure that is."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pandas as pd
from rich.table import Table

from brainreg._utils.commands import brainreg_command
from brainreg._utils.formats import SYMBOLS, format_accuracy, format_hyperparameter, format_probability
from brainreg.recommendation.setting_table import Advice, expected_of, knee_of, may_be_recommended
from brainreg.spaces.names import EARLY_STOPPED, PUBLISHED, UNREGULARIZED, shown_name
from brainreg.spaces.space import Space
from brainreg.statistics import front, hypervolume, winning_weights


def settings_table(advice: Advice, searched: Iterable[str], rows: int = 15) -> Table:
    """Return the first `rows` settings, and any given one below them, as a table, the best first."""
    searched = list(searched)
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    accuracies = [name for name in ("clean", "robust", "noise", "objective") if name in advice.settings]
    for header in ("setting", *(SYMBOLS.get(key, key) for key in searched), "runs", *accuracies):
        table.add_column(header, justify="right", no_wrap=True)
    for header in ("95% interval", "P(best)"):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for row in advice.settings.to_dict("records"):
        if row["rank"] <= rows or row["setting"] or row["recommended"]:
            marks = [shown_name(row["setting"])] * bool(row["setting"]) + ["recommended"] * row["recommended"]
            table.add_row(
                str(row["setting_number"]),
                *(format_hyperparameter(row[key]) for key in searched),
                str(row["runs"]),
                *(format_accuracy(row[name]) for name in accuracies),
                f"{format_accuracy(row['objective_low'])} to {format_accuracy(row['objective_high'])}",
                format_probability(row["p_best"]),
                ", ".join(marks),
            )
    return table


def describe_setting(row: Any, searched: Iterable[str]) -> str:
    """Return a row of `Advice.settings` in a few words: its number and its hyperparameters."""
    values = [(SYMBOLS.get(key, key), format_hyperparameter(row[key])) for key in searched]
    told = ", ".join(f"{symbol} {value}" for symbol, value in values if value)
    return f"setting {row['setting_number']} ({', '.join(filter(None, (shown_name(row['setting']), told)))})"


def advice_lines(advice: Advice, space: Space) -> list[str]:
    """Return what a search recommends, how sure that is, and what luck has in it, a line each."""
    best = advice.recommended
    if best is None:
        return ["no regularized setting has finished, so that none is recommended"]
    interval = f"95% interval {best.objective_low:.3f} to {best.objective_high:.3f}"
    lines = [
        f"recommended: {describe_setting(best, space.search)}: expected objective {best.objective:.3f} ({interval}),"
        f" {'1 run' if best.runs == 1 else f'{best.runs} runs'}; with a probability of"
        f" {format_probability(best.p_best)}, no other setting that was tried is better by more than 0.005"
    ]
    lines += as_good_lines(advice)
    for name in (UNREGULARIZED, EARLY_STOPPED, PUBLISHED):
        if name in advice.gains:
            gain, low, high = advice.gains[name]
            better = best.get(f"p_better_{name}")
            sure = "" if better is None or pd.isna(better) else f"; better with {format_probability(better)}"
            lines.append(
                f"  against {shown_name(name)}: {gain:+.3f} expected (95% interval {low:+.3f} to {high:+.3f}){sure}"
            )
    largest = advice.settings.loc[advice.settings.largest_objective.idxmax()]
    luck = largest.largest_objective - largest.objective
    lines.append(
        f"  the largest single objective, {largest.largest_objective:.3f} of setting {largest.setting_number}, is"
        f" {abs(luck):.3f} {'above' if luck >= 0 else 'below'} what a further run of it is expected to give (one run:"
        f" standard deviation {advice.noise:.3f})"
    )
    if advice.caution:
        lines.append(f"  {advice.caution}; more trials (--num-samples) repeat")
    more = advice.runs_to_settle()
    if more is not None:
        lines.append(f"  about {more} more runs of the best two would make it sure with 90%")
    return lines


def as_good_lines(advice: Advice) -> list[str]:
    """Return which settings may be as good as the best, in a line; none where nothing regularized has finished."""
    able = may_be_recommended(advice.settings).sum()
    told = [
        f"{SYMBOLS[name]} {format_hyperparameter(low)}" + ("" if low == high else f" to {format_hyperparameter(high)}")
        for name, (low, high) in advice.ranges_as_good().items()
    ]
    if not told:
        return []
    count = f"{len(advice.as_good)} of {able} settings"
    return [f"  as good, for all that is known (within 0.01): {count}, {', '.join(told)}"]


def front_lines(advice: Advice) -> list[str]:
    """Return what a search for the front of clean and robust accuracy found, a line for each setting on it."""
    settings = advice.settings
    clean, robust = settings.clean.tolist(), settings.robust.tolist()
    numbers, able = settings.setting_number.tolist(), np.flatnonzero(may_be_recommended(settings)).tolist()
    winning = winning_weights([clean[i] for i in able], [robust[i] for i in able])
    weights, bend = dict(zip(able, winning, strict=True)), knee_of(settings)
    members = sorted((i for i, on in enumerate(front(clean, robust)) if on), key=lambda i: -clean[i])
    bare = settings.index[settings.setting == UNREGULARIZED]
    gained = ""
    if len(bare):
        beyond = hypervolume(clean, robust, (clean[bare[0]], robust[bare[0]]))
        gained = f"; hypervolume beyond unregularized {beyond:.3f}"
    listed = ", ".join(str(number) for number in sorted(numbers[i] for i in members))
    lines = [f"front of expected clean and robust accuracy: settings {listed}{gained}"]
    for i in members:
        won = weights.get(i)
        best = (
            "a control, never recommended"
            if i not in weights
            else "the best for no clean weight"
            if won is None
            else f"the best for a clean weight of {won[0]:.2f} to {won[1]:.2f}"
        )
        lines.append(
            f"  setting {numbers[i]}: clean {clean[i]:.3f}, robust {robust[i]:.3f}; on the front with"
            f" {format_probability(settings.p_front[i])}; {best}"
        )
    if bend is not None and (won := weights[bend]) is not None:
        lines.append(
            f"  knee: setting {numbers[bend]}, where more of one accuracy begins to cost most of the other;"
            f" --objective_weight={sum(won) / 2:.2f} would recommend it"
        )
    return lines


def confirm_lines(folder: str) -> list[str]:
    """Return how to confirm what a search recommends, with fresh seeds and test images."""
    return [
        "whether it is better over fresh seeds and on test images:",
        f"  {brainreg_command('confirm', folder)}",
    ]


def recommendation(advice: Advice, space: Space) -> dict[str, Any] | None:
    """Return what a search recommends as numbers, for files; None where nothing is."""
    best = advice.recommended
    if best is None:
        return None

    def expected(name: str) -> dict[str, float]:
        return {"mean": best[name], "low": best[f"{name}_low"], "high": best[f"{name}_high"]}

    def plain(value: Any) -> Any:
        return None if pd.isna(value) else value.item() if hasattr(value, "item") else value

    settings = advice.settings.set_index("setting_number")
    return {
        "setting_number": int(best.setting_number),
        "setting": best.setting,
        "hyperparameters": {name: plain(best[name]) for name in space.search},
        "trials": list(best.trials),
        "trial": advice.checkpoint,
        "expected": {name: expected(short) for name, short in expected_of(space).items()},
        "largest_objective": float(settings.largest_objective.max()),
        "probability_best": float(best.p_best),
        "as_good": {name: {"low": low, "high": high} for name, (low, high) in advice.ranges_as_good().items()},
        "probability_better": {
            name: float(best[f"p_better_{name}"])
            for name in (UNREGULARIZED, PUBLISHED)
            if not pd.isna(best[f"p_better_{name}"])
        },
        "gains": {name: dict(zip(("mean", "low", "high"), gain, strict=True)) for name, gain in advice.gains.items()},
        "expected_regret": advice.regret,
        "noise": plain(advice.noise),
        "runs_to_settle": advice.runs_to_settle(),
    }
