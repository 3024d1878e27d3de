"""The objective over alpha and Th, and along single hyperparameters."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from brainreg._utils.formats import SYMBOLS
from brainreg.analysis.figures.style import (
    BLACK,
    EDGE,
    GRAY,
    HEAT,
    PLAIN,
    SETTING_MARKERS,
    STOPPED_STYLE,
    as_floats,
    legend_above,
    legend_marker,
    new_figure,
    series_styles,
    styled,
    text_figure,
)
from brainreg.hyperparameters import Hyperparameters
from brainreg.method.ranges import RANGES
from brainreg.records.results import expected_value
from brainreg.records.trial import FINISHED, STOPPED
from brainreg.spaces.names import FOUND, PROPOSED, PUBLISHED
from brainreg.spaces.published import PUBLISHED_SETTINGS

# Of the smoothing of a heat map: a part of the axes' lengths. Far from all trials it fades away.
_WIDTH = 0.1
_CELLS = 120
_LEAST_FOR_MAP = 6  # trials; fewer are points alone, since a map of them would say more than is known
_FEW_VALUES = 4  # of a number have a panel each; more are divided into three parts


@styled
def landscape(trials: pd.DataFrame, by: str | None = None) -> Figure:
    """Draw the objective over alpha and Th: each trial, and a heat map of the mean of the trials nearby.

    The mean is weighted by a Gaussian of a tenth of the axes' lengths; where no trial is near, the map fades away. A
    panel of fewer than six trials has no map. The proposed setting with the largest expected objective and the
    published one are marked, where the latter would lie, whether or not it was run.

    Args:
        trials: of `brainreg.records.searches.load_searches`.
        by: a column, such as reg_range, reg_image_num or search: a panel for each of its values, or three of a number
            that has many.
    """
    regularized = trials[(trials.reg_alpha > 0).fillna(False)]
    finished = regularized[regularized.state == FINISHED]
    if finished.empty:
        return text_figure("no regularized trial has finished yet")
    shown = regularized[regularized.state.isin([FINISHED, STOPPED])]
    panels = _parts(shown, by) if by else {"": shown}
    if not panels:
        return text_figure(f"{SYMBOLS.get(by or '', by or '')} of the trials is not known")
    count = min(2, len(panels))
    rows = math.ceil(len(panels) / count)
    height = 2.7 if len(panels) == 1 else 0.55 + 1.3 * rows
    figure, grid = new_figure(height, rows, count, sharex=True, sharey=True)
    colors = Normalize(100 * finished.objective.min(), 100 * finished.objective.max())
    published = {name: PUBLISHED_SETTINGS[name] for name in regularized.data.unique() if name in PUBLISHED_SETTINGS}
    alphas = np.concatenate([as_floats(regularized.reg_alpha), [one["reg_alpha"] for one in published.values()]])
    low, high = np.log10(alphas.min()) - 0.1, np.log10(alphas.max()) + 0.1
    threshs = np.concatenate([as_floats(regularized.reg_thresh), [one["reg_thresh"] for one in published.values()]])
    bottom, top = max(threshs.min() - 0.06, -0.02), min(threshs.max() + 0.06, 1.02)
    best = _best_proposed(finished)
    image = None
    for axes, (title, panel) in zip(grid.flat, panels.items(), strict=False):
        done, stopped = panel[panel.state == FINISHED], panel[panel.state == STOPPED]
        across, up = np.linspace(low, high, _CELLS), np.linspace(bottom, top, _CELLS)
        if len(done) >= _LEAST_FOR_MAP:
            at = np.log10(as_floats(done.reg_alpha)), as_floats(done.reg_thresh)
            smooth, near = _smoothed(*at, 100 * as_floats(done.objective), across, up)
            shades = colormaps[HEAT](colors(smooth))  # here: pcolormesh would go through the cells' alphas one by one
            shades[..., 3] *= near
            axes.pcolormesh(10**across, up, shades, shading="nearest", rasterized=True, zorder=1)
        at = as_floats(stopped.reg_alpha), as_floats(stopped.reg_thresh)
        outlined = [withStroke(linewidth=1.6, foreground="white")]
        axes.plot(*at, zorder=2, path_effects=outlined, **STOPPED_STYLE)
        at = as_floats(done.reg_alpha), as_floats(done.reg_thresh)
        options = {"c": 100 * as_floats(done.objective), "cmap": HEAT, "norm": colors, "zorder": 3}
        image = axes.scatter(*at, s=14, edgecolors="white", linewidths=0.5, **options)
        for setting in _published_in(panel, published, by):
            at = setting["reg_alpha"], setting["reg_thresh"]
            axes.plot(*at, linestyle="none", zorder=4, **SETTING_MARKERS[PUBLISHED], **EDGE)
        if best is not None and best.name in panel.index:
            star = float(best.reg_alpha), float(best.reg_thresh)
            axes.plot(*star, linestyle="none", zorder=5, **SETTING_MARKERS[FOUND], **{**EDGE, "markeredgecolor": BLACK})
        axes.set(xscale="log", xlim=(10**low, 10**high), ylim=(bottom, top))
        axes.set_title(f"{title} (n = {len(done)})" if title else "", fontsize=7, pad=3)
        axes.xaxis.set_major_locator(LogLocator(subs=_subdivisions(high - low, count)))
        axes.xaxis.set_major_formatter(PLAIN)
        axes.xaxis.set_minor_formatter(NullFormatter())
    _label_outer(grid, len(panels), "weight α (log scale)" if len(panels) == 1 else "weight α", "threshold Th")
    assert image is not None  # there is a panel
    bar = figure.colorbar(image, ax=[*grid.flat][: len(panels)], location="bottom", aspect=40, pad=0.02, shrink=0.9)
    bar.set_label("objective, validation (%)")
    bar.outline.set_linewidth(0.5)
    handles = [legend_marker(FOUND, label="best proposed", markeredgecolor=BLACK)] if best is not None else []
    handles += [legend_marker(PUBLISHED, label="published")] if published else []
    if (regularized.state == STOPPED).any():
        handles.append(Line2D([], [], label="stopped early", **STOPPED_STYLE))
    legend_above(figure, handles)
    return figure


def _best_proposed(finished: pd.DataFrame) -> pd.Series | None:
    proposed = finished[finished.setting == PROPOSED].dropna(subset=["objective"])
    if proposed.empty:
        return None
    return proposed.loc[proposed.apply(expected_value, axis=1, column="objective").idxmax()]


def _subdivisions(decades: float, columns: int) -> tuple[float, ...]:
    """Where a logarithmic axis has labels, within each power of ten."""
    room = 3.2 / columns / decades
    return (1.0, 2.0, 5.0) if room > 1.2 else (1.0, 3.0) if room > 0.6 else (1.0,)


def _smoothed(
    x: np.ndarray, y: np.ndarray, values: np.ndarray, across: np.ndarray, up: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """The mean of values at (x, y), weighted by their nearness to each point of a grid (up, across); and how near the
    nearest are, 1 to 0.
    """
    steps = (across[None, :, None] - x) / (across[-1] - across[0]), (up[:, None, None] - y) / (up[-1] - up[0])
    exponents = -(steps[0] ** 2 + steps[1] ** 2) / (2 * _WIDTH**2)
    if not len(x):
        return np.zeros(exponents.shape[:2]), np.zeros(exponents.shape[:2])
    most = exponents.max(axis=-1, keepdims=True)
    weights = np.exp(exponents - most)  # far from all, the nearest counts
    total = np.exp(most[..., 0]) * weights.sum(axis=-1)
    return (weights * values).sum(axis=-1) / weights.sum(axis=-1), np.clip((total - 0.05) / 0.45, 0, 1)


def _published_in(panel: pd.DataFrame, published: Mapping[str, Any], by: str | None) -> list[Mapping[str, Any]]:
    """The published settings that belong into a panel, where `by` divides the trials."""
    inside = []
    for name in panel.data.unique():
        if name in published:
            value = published[name].get(by) if by in published[name] else _default(by)
            column = panel[by] if by else None
            if (
                value is None
                or column is None
                or (
                    column.min() <= value <= column.max()
                    if pd.api.types.is_numeric_dtype(column)
                    else value in {*column}
                )
            ):
                inside.append(published[name])
    return inside


def _default(name: str | None) -> Any:
    return Hyperparameters.model_fields[name].default if name in Hyperparameters.model_fields else None


def _parts(trials: pd.DataFrame, by: str) -> dict[str, pd.DataFrame]:
    """Divide trials by the values of a column, in order; a number of many values into three parts of like sizes."""
    known = trials[trials[by].notna()]
    values = sorted(known[by].unique(), key=[*RANGES].index) if by == "reg_range" else known[by].unique()
    name = SYMBOLS.get(by, by)
    if not pd.api.types.is_numeric_dtype(known[by]):
        return {str(value): known[known[by] == value] for value in values}
    if len(values) <= _FEW_VALUES:
        return {f"{name} = {value:g}": known[known[by] == value] for value in sorted(values)}
    edges = np.unique(np.quantile(as_floats(known[by]), [0, 1 / 3, 2 / 3, 1], method="nearest"))
    which = np.clip(np.searchsorted(edges, as_floats(known[by]), side="right") - 1, 0, len(edges) - 2)
    parts = [known[which == i] for i in range(len(edges) - 1)]
    titles = (
        f"{name} = {part[by].min():g}"
        if part[by].nunique() == 1
        else f"{name} {part[by].min():g} to {part[by].max():g}"
        for part in parts
    )
    return {title: part for title, part in zip(titles, parts, strict=True) if len(part)}


def _label_outer(grid: np.ndarray, count: int, x: str, y: str) -> None:
    """Label the outer axes of a grid, and take those away that are left over."""
    rows, columns = grid.shape
    for i, axes in enumerate(grid.flat):
        if i >= count:
            axes.remove()
            continue
        if i + columns >= count:
            axes.set_xlabel(x)
            axes.xaxis.set_tick_params(which="both", labelbottom=True)
        if i % columns == 0:
            axes.set_ylabel(y)


@styled
def slices(trials: pd.DataFrame, names: Sequence[str] = ("reg_image_num", "reg_batch_size")) -> Figure:
    """Draw the objective against one number each, such as N and k, with a mark and a color for each range.

    Args:
        trials: of `brainreg.records.searches.load_searches`.
        names: columns that are numbers; those that are the same in all trials are left out.
    """
    finished = trials[(trials.state == FINISHED) & (trials.reg_alpha > 0).fillna(False)]
    names = [name for name in names if finished[name].nunique() > 1]
    if not names:
        fixed = "no regularized trial has finished yet" if finished.empty else "the trials do not differ in these"
        return text_figure(fixed)
    figure, (grid,) = new_figure(2.1, 1, len(names), sharey=True)
    units = {"reg_image_num": " (images)", "reg_batch_size": " (pairs a step)"}
    ranges = [reg_range for reg_range in RANGES if reg_range in {*finished.reg_range}]
    looks = dict(series_styles([*RANGES]))
    few = [name for name in names if finished[name].nunique() <= _FEW_VALUES]
    for axes, name in zip(grid, names, strict=True):
        axes.grid(axis="y")
        places = {value: i for i, value in enumerate(sorted(finished[name].unique()))} if name in few else None
        for i, reg_range in enumerate(ranges):
            part = finished[finished.reg_range == reg_range]
            across = as_floats(part[name])
            if places is not None:  # side by side, so that none hides another
                across = np.array([places[value] for value in part[name]]) + 0.5 * (i + 0.5) / len(ranges) - 0.25
            look = {"markersize": 4, "alpha": 0.85, **looks[reg_range], **EDGE}
            axes.plot(across, 100 * as_floats(part.objective), linestyle="none", **look)
        if places is None:
            axes.xaxis.set_major_locator(MaxNLocator(4))
        else:
            means = [finished[finished[name] == value].objective.mean() for value in places]
            bars = [*places.values()], 100 * np.array(means)
            axes.hlines(bars[1], np.array(bars[0]) - 0.35, np.array(bars[0]) + 0.35, color=GRAY, zorder=1)
            axes.set_xticks(bars[0], [f"{value:g}" for value in places])
            axes.set_xlim(-0.6, len(places) - 0.4)
        axes.set_xlabel(f"{SYMBOLS.get(name, name)}{units.get(name, '')}")
    grid[0].set_ylabel("objective, validation (%)")
    handles = [Line2D([], [], linestyle="none", markersize=4, label=name, **looks[name], **EDGE) for name in ranges]
    if few:
        handles.append(Line2D([], [], color=GRAY, label="mean"))
    legend_above(figure, handles)
    return figure
