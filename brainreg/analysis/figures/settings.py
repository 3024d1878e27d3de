"""What is expected of settings, and how sure that is."""

from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from brainreg._utils.formats import SYMBOLS, format_hyperparameter, format_probability
from brainreg.analysis.figures.style import (
    EDGE,
    GRAY,
    PLAIN_MARKER,
    SETTING_MARKERS,
    legend_above,
    legend_marker,
    new_figure,
    styled,
    text_figure,
)
from brainreg.recommendation.setting_table import Advice
from brainreg.spaces.names import FOUND, PROPOSED, shown_name

_LUCK: dict[str, Any] = {"marker": "o", "color": GRAY, "markerfacecolor": "none", "markersize": 4, "linestyle": "none"}


@styled
def expectations(advice: Advice, rows: int = 8) -> Figure:
    """Draw the expected objective of the best settings and of the given ones, with 95% intervals, the best at the top.

    Beside each stand its largest single objective, which is too good by some luck, its runs and its probability to be
    the best.

    Args:
        advice: of `brainreg.records.results.search_advice`.
        rows: how many settings; given ones come beside them.
    """
    settings = advice.settings
    shown = settings[(settings["rank"] <= rows) | (settings.setting != PROPOSED) | settings.recommended]
    if shown.empty:
        return text_figure("no trial has finished yet")
    figure, ((axes,),) = new_figure(0.75 + 0.2 * len(shown))
    axes.grid(axis="x")
    for place, row in enumerate(shown.to_dict("records")):
        look = SETTING_MARKERS.get(FOUND if row["recommended"] else row["setting"], PLAIN_MARKER)
        middle, low, high = (100 * row[f"objective{end}"] for end in ("", "_low", "_high"))
        error = np.clip([[middle - low], [high - middle]], 0, None)
        axes.errorbar(middle, place, xerr=error, linestyle="none", elinewidth=1, ecolor=look["color"], **look, **EDGE)
        axes.plot(100 * row["largest_objective"], place, **_LUCK)
        told = f"{row['runs']} run{'' if row['runs'] == 1 else 's'}, {format_probability(row['p_best'])}"
        axes.annotate(told, (1.02, place), xycoords=("axes fraction", "data"), va="center", fontsize=6.5)
    axes.set_yticks(range(len(shown)), [_name(row) for _, row in shown.iterrows()], fontsize=6.5)
    axes.set_ylim(len(shown) - 0.5, -0.5)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))
    axes.set_xlabel("expected objective, validation (%)")
    axes.annotate("runs, P(best)", (1.02, 1.01), xycoords="axes fraction", fontsize=6.5)
    handles = [legend_marker(FOUND, label="recommended")] if shown.recommended.any() else []
    handles += [legend_marker(name, label=shown_name(name)) for name in SETTING_MARKERS if name in {*shown.setting}]
    legend_above(figure, [*handles, Line2D([], [], label="largest single run", **_LUCK)])
    return figure


def _name(row: pd.Series) -> str:
    """A setting's number, and the name of a given one, or alpha and Th."""
    if row.setting != PROPOSED:
        return f"{row.setting_number}: {shown_name(row.setting)}"
    values = ((SYMBOLS[name], row.get(name)) for name in ("reg_alpha", "reg_thresh"))
    told = [
        f"{symbol} {format_hyperparameter(value)}" for symbol, value in values if value is not None and pd.notna(value)
    ]
    return f"{row.setting_number}: {', '.join(told)}" if told else str(row.setting_number)
