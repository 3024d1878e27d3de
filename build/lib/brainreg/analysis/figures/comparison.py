"""Figures that compare settings: the alpha/Th table, and differences over seeds."""

import itertools
import math
import re

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from brainreg.analysis.comparison import COMPARED_MEASURES, measure_name
from brainreg.analysis.figures.style import (
    BLACK,
    BLUE,
    EDGE,
    GRAY,
    SETTING_MARKERS,
    as_floats,
    legend_above,
    legend_marker,
    new_figure,
    styled,
    text_figure,
)
from brainreg.spaces.names import SETTINGS, shown_name


@styled
def comparison(table: pd.DataFrame) -> Figure:
    """Draw clean and robust accuracy of the unregularized, the published and the found setting, a line for each search.

    Args:
        table: of `brainreg.analysis.alpha_th.alpha_th_table`.
    """
    known = [setting for setting in SETTINGS if table[f"{setting}_clean"].notna().any()]
    if not known:
        return text_figure("no trial has finished yet")
    figure, (grid,) = new_figure(0.6 + 0.42 * len(table), 1, 2, sharey=True)
    names = _row_names(table)
    for axes, kind in zip(grid, ("clean", "robust"), strict=True):
        axes.grid(axis="x")
        for i, setting in enumerate(known):
            places = np.arange(len(table)) + 0.2 * (i - (len(known) - 1) / 2)
            middle, low, high = (
                100 * as_floats(table[f"{setting}_{kind}{end}"]) for end in ("", "_low", "_high")
            )  # fmt: skip
            look = {**SETTING_MARKERS[setting], **EDGE}
            error = np.clip([middle - low, high - middle], 0, None)
            axes.errorbar(middle, places, xerr=error, linestyle="none", elinewidth=1, ecolor=look["color"], **look)
        axes.set_title(kind, pad=3)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(axis="y", length=0)
    grid[0].set_yticks(range(len(table)), names)
    grid[0].set_ylim(len(table) - 0.5, -0.5)
    figure.supxlabel(f"accuracy, {' and '.join(table.images.unique())} (%)", fontsize=8)
    legend_above(figure, [legend_marker(setting, label=shown_name(setting)) for setting in known])
    return figure


@styled
def paired_differences(differences: pd.DataFrame) -> Figure:
    """Draw the differences between settings on test images: each seed's, their mean, and its 95% interval, that holds
    together with those of the other comparisons; robust accuracy at three strengths.

    Args:
        differences: of `brainreg.analysis.comparison.compare_settings`.
    """
    if differences.empty:
        return text_figure("nothing is confirmed on test images yet")
    measures = [measure for measure in COMPARED_MEASURES if (differences.measure == measure).any()]
    keys = ["search", "better", "than"]
    pairs = differences[keys].drop_duplicates().reset_index(drop=True)
    columns = min(len(measures), 2)
    rows = math.ceil(len(measures) / columns)
    figure, grid = new_figure(0.3 + rows * (0.45 + 0.3 * len(pairs)), rows, columns, sharey=True)
    for axes, measure in itertools.zip_longest(grid.flat, measures):
        if measure is None:
            axes.set_visible(False)
            continue
        one = pairs.merge(differences[differences.measure == measure], on=keys, how="left")
        axes.grid(axis="x")
        axes.axvline(0, color=BLACK, linewidth=0.8)
        for place, row in enumerate(one.itertuples()):
            if pd.isna(row.difference):
                continue
            each = 100 * np.array(row.by_seed)
            axes.plot(each, np.full(len(each), place + 0.22), "o", color=GRAY, markersize=2.5, clip_on=False)
            interval = np.nan_to_num([[row.difference - row.low], [row.high - row.difference]])
            look = {"color": BLUE, "markersize": 5, "elinewidth": 1.2, "capsize": 2, **EDGE}
            axes.errorbar(100 * row.difference, place, xerr=100 * interval, fmt="o", **look)
        strengths = one.eps.dropna().unique()
        axes.set_title(measure_name(measure, strengths[0] if len(strengths) == 1 else None), pad=3)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(axis="y", length=0)
    several = pairs.search.nunique() > 1
    names = [
        "\n".join(
            [_broken(row.search)] * several
            + [_broken(shown_name(row.better)), f"\u2013 {_broken(shown_name(row.than))}"]
        )
        for row in pairs.itertuples()
    ]
    grid.flat[0].set_yticks(range(len(pairs)), names)
    grid.flat[0].set_ylim(len(pairs) - 0.5, -0.5)
    figure.supxlabel("difference on test images, paired by seed (% points)", fontsize=8)
    return figure


def _row_names(table: pd.DataFrame) -> list[str]:
    """What each row is called: its data sets, or the search where several have the same."""
    twice = table.data.duplicated(keep=False)
    return [_broken(row.search if again else row.data) for row, again in zip(table.itertuples(), twice, strict=True)]


def _broken(name: str, width: int = 18) -> str:
    """A name in lines that end where its words do."""
    lines = [""]
    for part in re.findall(r"[^_ -]*[_ -]+|[^_ -]+", name):
        if lines[-1] and len(lines[-1] + part.rstrip()) > width:
            lines.append("")
        lines[-1] += part
    return "\n".join(line.strip() for line in lines)
