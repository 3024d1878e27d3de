"""Figures of searches, for papers, notebooks and reports: a frame in, a matplotlib figure out.

All are as wide as a paper's column, in colors that color-blind readers tell apart, and drawn without pyplot: nothing
is left behind, and nothing of a user's own style changes them. A frame without what is to be drawn gives a figure that
says so.
"""

import contextlib
import functools
import io
import itertools
import math
import re
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter

from brainreg.hyperparameters import Hyperparameters
from brainreg.progress import SYMBOLS
from brainreg.published import PUBLISHED_SETTINGS
from brainreg.records import FINISHED, STOPPED
from brainreg.similarity import RANGES
from brainreg.spaces import EARLY_STOPPED, PUBLISHED, UNREGULARIZED, shown_name
from brainreg.tables import COMPARED_MEASURES, FOUND, PROPOSED, SETTINGS, measure_name, over_seeds

# Width of a paper's column, in inches.
COLUMN = 3.3

# Okabe and Ito's colors, without the yellow, which is too light for lines; and markers, so that no color is needed.
_BLUE, _RED, _GREEN, _SKY = "#0072B2", "#D55E00", "#009E73", "#56B4E9"
_PINK, _ORANGE, _BLACK, _GRAY = "#CC79A7", "#E69F00", "#000000", "#808080"
_COLORS = (_BLUE, _GREEN, _PINK, _SKY, _ORANGE, _RED, _BLACK)
_MARKERS = ("o", "^", "v", "P", "X", "p", "s")
_LINES = ("-", "--", "-.", ":")
_HEAT = "cividis"

_PLAIN = "{x:g}"  # how numbers on an axis are written

# How the settings that others are compared with are marked in every figure.
_MARKED = {
    UNREGULARIZED: {"marker": "s", "color": _BLACK, "markersize": 4.5},
    EARLY_STOPPED: {"marker": "<", "color": "#606060", "markersize": 5},
    PUBLISHED: {"marker": "D", "color": _RED, "markersize": 5},
    FOUND: {"marker": "*", "color": _ORANGE, "markersize": 10},
}
_GIVEN = (UNREGULARIZED, EARLY_STOPPED, PUBLISHED)
_STOPPED = {"linestyle": "none", "marker": "x", "color": "#505050", "markersize": 3, "markeredgewidth": 0.7}
_EDGE = {"markeredgecolor": "white", "markeredgewidth": 0.6}

_STYLE = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#404040",
    "axes.grid": False,
    "axes.labelsize": 8,
    "axes.linewidth": 0.6,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlesize": 8,
    "figure.constrained_layout.h_pad": 0.03,
    "figure.constrained_layout.w_pad": 0.03,
    "figure.facecolor": "white",
    "font.family": "DejaVu Sans",  # which comes with matplotlib
    "font.size": 8,
    "grid.color": "#d8d8d8",
    "grid.linewidth": 0.5,
    "legend.borderaxespad": 0.2,
    "legend.columnspacing": 1.0,
    "legend.fontsize": 7,
    "legend.frameon": False,
    "legend.handlelength": 1.4,
    "legend.handletextpad": 0.4,
    "legend.labelspacing": 0.3,
    "lines.linewidth": 1.2,
    "pdf.fonttype": 42,  # text that can be searched, and that journals take
    "savefig.dpi": 300,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "xtick.minor.size": 1.5,
    "ytick.minor.size": 1.5,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
}


@contextlib.contextmanager
def _style() -> Iterator[None]:
    """Matplotlib's own style with the changes above, whatever the user's is."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


class _Figure(Figure):
    """A figure that looks the same wherever it is drawn, and that a notebook shows."""

    def draw(self, renderer: Any) -> None:
        with _style():
            super().draw(renderer)

    def savefig(self, *arguments: Any, **options: Any) -> None:
        with _style():
            super().savefig(*arguments, **options)

    def _repr_png_(self) -> bytes:
        return png(self)


def png(figure: Figure, dpi: float = 200) -> bytes:
    """Return a figure as a PNG image."""
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=dpi)
    return file.getvalue()


def save(figure: Figure, folder: str | Path, name: str) -> None:
    """Write a figure as NAME.pdf, for LaTeX, and NAME.png, of 300 dots an inch. No folder: nothing is written."""
    if not str(folder):
        return
    Path(folder).mkdir(parents=True, exist_ok=True)
    for kind in ("pdf", "png"):
        figure.savefig(Path(folder) / f"{name.replace('/', '_')}.{kind}")


def _styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    @functools.wraps(draw)
    def styled(*arguments: Any, **options: Any) -> Figure:
        with _style():
            return draw(*arguments, **options)

    return styled


def _new(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """An empty figure and its (rows, columns) axes."""
    figure = _Figure(figsize=(COLUMN, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def _saying(text: str) -> Figure:
    """A figure that says why it shows nothing."""
    figure = _Figure(figsize=(COLUMN, 0.8))
    FigureCanvasAgg(figure)
    figure.text(0.5, 0.5, textwrap.fill(text, 50), ha="center", va="center", color="#404040")
    return figure


def _marker(setting: str, **options: Any) -> Line2D:
    """What a legend shows of a marked setting."""
    return Line2D([], [], linestyle="none", **{**_MARKED[setting], **_EDGE, **options})


def _looks(names: Sequence[Any], lines: bool = False) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Give each name a color and a marker, or a kind of line, of its own."""
    for i, name in enumerate(names):
        kind = {"linestyle": _LINES[i % len(_LINES)]} if lines else {"marker": _MARKERS[i % len(_MARKERS)]}
        yield name, {"color": _COLORS[i % len(_COLORS)], **kind}


def _each_search(trials: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    for name in trials.search.unique():
        one = trials[trials.search == name]
        yield f"{name} (running)" if one.running.any() else name, one


# Letters of a legend across a column, what a handle takes of them, and inches of a line.
_LETTERS, _HANDLE, _LEGEND_LINE = 60, 5, 0.145


def _legend_above(figure: Figure, handles: Sequence[Any]) -> None:
    """Put a legend above, in as many columns as fit, and make the figure so much higher."""
    labels = [textwrap.fill(handle.get_label(), _LETTERS - _HANDLE) for handle in handles]
    columns = len(handles)
    while columns > 1:
        parts = np.array_split([max(map(len, label.split("\n"))) + _HANDLE for label in labels], columns)
        if sum(part.max() for part in parts) <= _LETTERS:
            break
        columns -= 1
    if handles:
        lines = math.ceil(sum(label.count("\n") + 1 for label in labels) / columns)
        figure.set_figheight(figure.get_figheight() + _LEGEND_LINE * lines)
        figure.legend([*handles], labels, loc="outside upper center", ncols=columns)


# ---------------------------------------------------------------------------------------------
# How a search went
# ---------------------------------------------------------------------------------------------


@_styled
def progress(trials: pd.DataFrame) -> Figure:
    """Draw the objective of each trial and the best so far, by the number of the trial; stopped trials at the foot.

    Args:
        trials: of `brainreg.results.load_searches`, of one search or of several.
    """
    if not (trials.state == FINISHED).any():
        return _saying("no trial has finished yet")
    figure, ((axes,),) = _new(1.9)
    axes.grid(axis="y")
    handles = []
    for (name, one), (_, look) in zip(_each_search(trials), _looks(trials.search.unique()), strict=True):
        finished = one[one.state == FINISHED].sort_values("trial")
        if finished.empty:
            continue
        numbers, objective = _floats(finished.trial), 100 * _floats(finished.objective)
        axes.plot(numbers, objective, linestyle="none", markersize=3.5, alpha=0.55, markeredgewidth=0, **look)
        last = float(one.trial.max())
        axes.step([*numbers, last], [*np.maximum.accumulate(objective), objective.max()], where="post", **_line(look))
        said = f"{name}, best so far" if trials.search.nunique() > 1 or one.running.any() else "best so far"
        handles.append(Line2D([], [], markersize=3.5, label=said, **look))
        _mark_given(axes, finished, "trial", "objective", scales=(1, 100))
    handles += [
        _marker(setting, label=shown_name(setting))
        for setting in _GIVEN
        if (trials[trials.state == FINISHED].setting == setting).any()
    ]
    stopped = trials[trials.state == STOPPED]
    if len(stopped):
        low, high = axes.get_ylim()
        foot = low - 0.06 * (high - low)
        axes.plot(_floats(stopped.trial), [foot] * len(stopped), **_STOPPED)
        handles.append(Line2D([], [], label="stopped early", **_STOPPED))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("trial (number)")
    axes.set_ylabel("objective, validation (%)")
    _legend_above(figure, handles)
    return figure


def _line(look: Mapping[str, Any]) -> dict[str, Any]:
    return {"color": look["color"]}


def _mark_given(axes: Axes, finished: pd.DataFrame, x: str, y: str, scales: tuple[float, float]) -> None:
    for setting in _GIVEN:
        given = finished[finished.setting == setting]
        at = scales[0] * _floats(given[x]), scales[1] * _floats(given[y])
        axes.plot(*at, linestyle="none", zorder=4, **_MARKED[setting], **_EDGE)


def _floats(values: pd.Series) -> np.ndarray:
    return values.to_numpy(dtype=float, na_value=np.nan)


# ---------------------------------------------------------------------------------------------
# The landscape of the objective
# ---------------------------------------------------------------------------------------------

# Of the smoothing of a heat map: a part of the axes' lengths. Far from all trials it fades away.
_WIDTH = 0.1
_CELLS = 120

_FEW_VALUES = 4  # of a number have a panel each; more are divided into three parts


@_styled
def landscape(trials: pd.DataFrame, by: str | None = None) -> Figure:
    """Draw the objective over alpha and Th: each trial, and a heat map of the mean of the trials nearby.

    The mean is weighted by a Gaussian of a tenth of the axes' lengths; where no trial is near, the map fades away. The
    best proposed trial and the published setting are marked, where the latter would lie, whether or not it was run.

    Args:
        trials: of `brainreg.results.load_searches`.
        by: a column, such as reg_range, reg_image_num or search: a panel for each of its values, or three of a number
            that has many.
    """
    regularized = trials[(trials.reg_alpha > 0).fillna(False)]
    finished = regularized[regularized.state == FINISHED]
    if finished.empty:
        return _saying("no regularized trial has finished yet")
    shown = regularized[regularized.state.isin([FINISHED, STOPPED])]
    panels = _parts(shown, by) if by else {"": shown}
    if not panels:
        return _saying(f"{SYMBOLS.get(by, by)} of the trials is not known")
    count = min(2, len(panels))
    rows = math.ceil(len(panels) / count)
    height = 2.7 if len(panels) == 1 else 0.55 + 1.3 * rows
    figure, grid = _new(height, rows, count, sharex=True, sharey=True)
    colors = Normalize(100 * finished.objective.min(), 100 * finished.objective.max())
    published = {name: PUBLISHED_SETTINGS[name] for name in regularized.data.unique() if name in PUBLISHED_SETTINGS}
    alphas = np.concatenate([_floats(regularized.reg_alpha), [one["reg_alpha"] for one in published.values()]])
    low, high = np.log10(alphas.min()) - 0.1, np.log10(alphas.max()) + 0.1
    threshs = np.concatenate([_floats(regularized.reg_thresh), [one["reg_thresh"] for one in published.values()]])
    bottom, top = max(threshs.min() - 0.06, -0.02), min(threshs.max() + 0.06, 1.02)
    best = _best_proposed(finished)
    image = None
    for axes, (title, panel) in zip(grid.flat, panels.items(), strict=False):
        done, stopped = panel[panel.state == FINISHED], panel[panel.state == STOPPED]
        across, up = np.linspace(low, high, _CELLS), np.linspace(bottom, top, _CELLS)
        at = np.log10(_floats(done.reg_alpha)), _floats(done.reg_thresh)
        smooth, near = _smoothed(*at, 100 * _floats(done.objective), across, up)
        options = {"cmap": _HEAT, "norm": colors, "zorder": 1}
        axes.pcolormesh(10**across, up, smooth, shading="nearest", rasterized=True, alpha=near, **options)
        at = _floats(stopped.reg_alpha), _floats(stopped.reg_thresh)
        outlined = [withStroke(linewidth=1.6, foreground="white")]
        axes.plot(*at, zorder=2, path_effects=outlined, **_STOPPED)
        at = _floats(done.reg_alpha), _floats(done.reg_thresh)
        options |= {"c": 100 * _floats(done.objective), "zorder": 3}
        image = axes.scatter(*at, s=14, edgecolors="white", linewidths=0.5, **options)
        for setting in _published_in(panel, published, by):
            at = setting["reg_alpha"], setting["reg_thresh"]
            axes.plot(*at, linestyle="none", zorder=4, **_MARKED[PUBLISHED], **_EDGE)
        if best is not None and best.name in panel.index:
            at = float(best.reg_alpha), float(best.reg_thresh)
            axes.plot(*at, linestyle="none", zorder=5, **_MARKED[FOUND], **{**_EDGE, "markeredgecolor": _BLACK})
        axes.set(xscale="log", xlim=(10**low, 10**high), ylim=(bottom, top))
        axes.set_title(f"{title} (n = {len(done)})" if title else "", fontsize=7, pad=3)
        axes.xaxis.set_major_locator(LogLocator(subs=_subdivisions(high - low, count)))
        axes.xaxis.set_major_formatter(_PLAIN)
        axes.xaxis.set_minor_formatter(NullFormatter())
    _label_outer(grid, len(panels), "weight α (log scale)" if len(panels) == 1 else "weight α", "threshold Th")
    bar = figure.colorbar(image, ax=[*grid.flat][: len(panels)], location="bottom", aspect=40, pad=0.02, shrink=0.9)
    bar.set_label("objective, validation (%)")
    bar.outline.set_linewidth(0.5)
    handles = [_marker(FOUND, label="best proposed", markeredgecolor=_BLACK)] if best is not None else []
    handles += [_marker(PUBLISHED, label="published")] if published else []
    if (regularized.state == STOPPED).any():
        handles.append(Line2D([], [], label="stopped early", **_STOPPED))
    _legend_above(figure, handles)
    return figure


def _best_proposed(finished: pd.DataFrame) -> pd.Series | None:
    proposed = finished[finished.setting == PROPOSED].dropna(subset=["objective"])
    return None if proposed.empty else proposed.loc[proposed.objective.idxmax()]


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
            if value is None or (
                column.min() <= value <= column.max() if pd.api.types.is_numeric_dtype(column) else value in {*column}
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
    edges = np.unique(np.quantile(_floats(known[by]), [0, 1 / 3, 2 / 3, 1], method="nearest"))
    which = np.clip(np.searchsorted(edges, _floats(known[by]), side="right") - 1, 0, len(edges) - 2)
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


@_styled
def slices(trials: pd.DataFrame, names: Sequence[str] = ("reg_image_num", "reg_batch_size")) -> Figure:
    """Draw the objective against one number each, such as N and k, with a mark and a color for each range.

    Args:
        trials: of `brainreg.results.load_searches`.
        names: columns that are numbers; those that are the same in all trials are left out.
    """
    finished = trials[(trials.state == FINISHED) & (trials.reg_alpha > 0).fillna(False)]
    names = [name for name in names if finished[name].nunique() > 1]
    if not names:
        fixed = "no regularized trial has finished yet" if finished.empty else "the trials do not differ in these"
        return _saying(fixed)
    figure, (grid,) = _new(2.1, 1, len(names), sharey=True)
    units = {"reg_image_num": " (images)", "reg_batch_size": " (pairs a step)"}
    ranges = [reg_range for reg_range in RANGES if reg_range in {*finished.reg_range}]
    looks = dict(_looks([*RANGES]))
    few = [name for name in names if finished[name].nunique() <= _FEW_VALUES]
    for axes, name in zip(grid, names, strict=True):
        axes.grid(axis="y")
        places = {value: i for i, value in enumerate(sorted(finished[name].unique()))} if name in few else None
        for i, reg_range in enumerate(ranges):
            part = finished[finished.reg_range == reg_range]
            across = _floats(part[name])
            if places is not None:  # side by side, so that none hides another
                across = np.array([places[value] for value in part[name]]) + 0.5 * (i + 0.5) / len(ranges) - 0.25
            look = {"markersize": 4, "alpha": 0.85, **looks[reg_range], **_EDGE}
            axes.plot(across, 100 * _floats(part.objective), linestyle="none", **look)
        if places is None:
            axes.xaxis.set_major_locator(MaxNLocator(4))
        else:
            means = [finished[finished[name] == value].objective.mean() for value in places]
            bars = [*places.values()], 100 * np.array(means)
            axes.hlines(bars[1], np.array(bars[0]) - 0.35, np.array(bars[0]) + 0.35, color=_GRAY, zorder=1)
            axes.set_xticks(bars[0], [f"{value:g}" for value in places])
            axes.set_xlim(-0.6, len(places) - 0.4)
        axes.set_xlabel(f"{SYMBOLS.get(name, name)}{units.get(name, '')}")
    grid[0].set_ylabel("objective, validation (%)")
    handles = [Line2D([], [], linestyle="none", markersize=4, label=name, **looks[name], **_EDGE) for name in ranges]
    if few:
        handles.append(Line2D([], [], color=_GRAY, label="mean"))
    _legend_above(figure, handles)
    return figure


# ---------------------------------------------------------------------------------------------
# Clean against robust
# ---------------------------------------------------------------------------------------------


@_styled
def pareto(trials: pd.DataFrame) -> Figure:
    """Draw clean against robust accuracy, and the front of each search: the trials that no other one dominates; its
    hypervolume is the area that it dominates and that the unregularized trial alone does not.

    Args:
        trials: of `brainreg.results.load_searches`, of one search or of several.
    """
    from brainreg.study import front, hypervolume  # Optuna, which takes seconds that other figures do without

    if not (trials.state == FINISHED).any():
        return _saying("no trial has finished yet")
    figure, ((axes,),) = _new(2.6)
    axes.grid()
    handles = []
    least, most = (trials[["clean_accuracy", "robust_accuracy"]].agg(end) for end in ("min", "max"))
    corner = [max(100 * (low - 0.08 * (high - low) - 0.002), -1) for low, high in zip(least, most, strict=True)]
    for (name, one), (_, look) in zip(_each_search(trials), _looks(trials.search.unique()), strict=True):
        finished = one[one.state == FINISHED]
        if finished.empty:
            continue
        clean, robust = _floats(finished.clean_accuracy), _floats(finished.robust_accuracy)
        members = np.array(front(clean, robust))
        others = 100 * clean[~members], 100 * robust[~members]
        axes.plot(*others, linestyle="none", markersize=3.5, alpha=0.45, markeredgewidth=0, **look)
        order = np.argsort(clean[members])
        across, up = 100 * clean[members][order], 100 * robust[members][order]
        # What the front dominates lies below and to the left of these steps.
        axes.step([corner[0], *across, across[-1]], [up[0], *up, corner[1]], where="pre", **_line(look))
        axes.plot(across, up, linestyle="none", markersize=5, zorder=3, **look, **_EDGE)
        several = trials.search.nunique() > 1 or one.running.any()
        reference = _unregularized(finished)
        added = f"hypervolume +{hypervolume(clean, robust, reference):.3f}" if reference else "no unregularized trial"
        label = f"{name + ': ' if several else 'front, '}{added}"
        handles.append(Line2D([], [], markersize=5, label=label, **look))
        _mark_given(axes, finished, "clean_accuracy", "robust_accuracy", scales=(100, 100))
    handles += [
        _marker(setting, label=shown_name(setting))
        for setting in _GIVEN
        if (trials[trials.state == FINISHED].setting == setting).any()
    ]
    axes.set_xlabel("clean accuracy, validation (%)")
    axes.set_ylabel("robust accuracy, validation (%)")
    axes.margins(0.06)
    axes.set_xlim(left=corner[0])
    axes.set_ylim(bottom=corner[1])
    _legend_above(figure, handles)
    return figure


def _unregularized(finished: pd.DataFrame) -> tuple[float, float] | None:
    """Clean and robust accuracy of a search's unregularized trial; None where there is none yet."""
    own = finished[finished.setting == UNREGULARIZED]
    return None if own.empty else (float(own.clean_accuracy.iloc[0]), float(own.robust_accuracy.iloc[0]))


@_styled
def hypervolume_over_time(trials: pd.DataFrame) -> Figure:
    """Draw how the area that a search's front dominates and that its unregularized trial alone does not, grew; a trial
    counts when its work was done. A search without an unregularized trial is left out.

    Args:
        trials: of `brainreg.results.load_searches`, of one search or of several. Time is counted from the first trial
            of each; where a search was interrupted, it is the time without the break, as far as one can tell.
    """
    from brainreg.study import hypervolume

    trials = trials[trials.began.notna()]
    if not (trials.state == FINISHED).any():
        return _saying("no trial has finished yet, or when is not known")
    curves = {}
    for name, one in _each_search(trials):
        finished = one[one.state == FINISHED]
        ends = (_floats(finished.began) + _floats(finished.seconds)) - one.began.min()
        order = np.argsort(ends)
        clean, robust = _floats(finished.clean_accuracy)[order], _floats(finished.robust_accuracy)[order]
        reference = _unregularized(finished)
        if reference is None:
            continue
        areas = [hypervolume(clean[: i + 1], robust[: i + 1], reference) for i in range(len(order))]
        last = float((_floats(one.began) + np.nan_to_num(_floats(one.seconds))).max() - one.began.min())
        if areas:
            curves[name] = [*ends[order], max(last, ends.max())], [*areas, areas[-1]]
    if not curves:
        return _saying("no unregularized trial has finished yet")
    longest = max(times[-1] for times, _ in curves.values())
    unit, seconds = ("hours", 3600) if longest > 2 * 3600 else ("minutes", 60)
    figure, ((axes,),) = _new(1.9)
    axes.grid(axis="y")
    for name, look in _looks([*curves], lines=True):
        times, areas = curves[name]
        axes.step(np.array(times) / seconds, areas, where="post", label=name, **look)
    axes.set_xlabel(f"time since the first trial began ({unit})")
    axes.set_ylabel("hypervolume added,\nvalidation (fraction)")
    axes.set_xlim(left=0)
    _legend_above(figure, axes.get_legend_handles_labels()[0])
    return figure


# ---------------------------------------------------------------------------------------------
# Robustness by strength
# ---------------------------------------------------------------------------------------------


@_styled
def robustness_curves(curves: pd.DataFrame, images: str = "") -> Figure:
    """Draw accuracy against strength, a panel for each attack, a line for each network, with 95% intervals.

    Args:
        curves: columns of `brainreg.evaluation.COLUMNS` and `network`, what a line is called. Several rows of one
            network, attack and strength are of several training seeds: they are drawn small, and their mean with the
            interval over them, which may leave the axes; else the interval is the Wilson interval over images.
        images: what images they are of, say "validation".
    """
    measured = curves[curves.accuracy.notna()]
    strengths = measured[measured.attack != "clean"].groupby("attack", sort=False).eps.nunique()
    attacks = [attack for attack, count in strengths.items() if count > 1]
    if not attacks:
        return _saying("no network was measured at several strengths of an attack")
    count = min(2, len(attacks))
    rows = math.ceil(len(attacks) / count)
    figure, grid = _new(0.2 + 1.65 * rows, rows, count, sharey=True)
    networks = [*measured.network.unique()]
    controls = {
        shown_name(name): {"color": _MARKED[name]["color"], "marker": _MARKED[name]["marker"], "linestyle": line}
        for name, line in ((UNREGULARIZED, "--"), (EARLY_STOPPED, ":"))
    }
    looks = dict(_looks([name for name in networks if name not in controls]))
    looks |= {name: look for name, look in controls.items() if name in networks}
    for axes, attack in zip(grid.flat, attacks, strict=False):
        axes.grid(axis="y")
        of_attack = measured[measured.attack == attack]
        summary = over_seeds(of_attack, ["network", "eps"])
        for network, look in looks.items():
            curve = summary[summary.network == network].sort_values("eps")
            if curve.empty:
                continue
            eps = _floats(curve.eps)
            band = 100 * _floats(curve.low), 100 * _floats(curve.high)
            axes.fill_between(eps, *band, color=look["color"], alpha=0.2, linewidth=0)
            axes.plot(eps, 100 * _floats(curve.accuracy), markersize=3, **look)
            each = of_attack[of_attack.network == network]
            if len(each) > len(curve):  # of several seeds
                points = {"markersize": 1.6, "alpha": 0.6, "markeredgewidth": 0, **look, "linestyle": "none"}
                axes.plot(_floats(each.eps), 100 * _floats(each.accuracy), **points)
        axes.set_title(textwrap.fill(attack, 26), fontsize=7, pad=3)
        axes.set_ylim(0, 102)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(_PLAIN)
        axes.set_xlabel(_strength_label(attack, of_attack.norm.iloc[0]), fontsize=7)
    said = f"accuracy, {images} (%)" if images else "accuracy (%)"
    for i, axes in enumerate(grid.flat):
        if i >= len(attacks):
            axes.remove()
        elif i % count == 0:
            axes.set_ylabel(said)
    handles = [Line2D([], [], markersize=3, label=name, **look) for name, look in looks.items()]
    handles.append(Patch(color=_GRAY, alpha=0.3, linewidth=0, label="95% interval"))
    _legend_above(figure, handles)
    return figure


def _strength_label(attack: str, norm: Any) -> str:
    if isinstance(norm, str) and norm in ("Linf", "L2", "L1"):
        return f"{norm} of the change\n(pixels in [0, 1])"
    if "(generated)" in attack or "(CIFAR-10" in attack:
        return "severity (1 to 5)"
    return "strength\n(fraction of pixel range)"


# ---------------------------------------------------------------------------------------------
# What matters, and what was found
# ---------------------------------------------------------------------------------------------


@_styled
def importance(importances: pd.DataFrame) -> Figure:
    """Draw how much each hyperparameter matters to the objective, by each of Optuna's evaluators, and what objectives
    in a random order would give. A search whose objective the hyperparameters do not predict has no panel.

    Args:
        importances: of `brainreg.importance.importances`, of one search or of several, a panel each.
    """
    if importances.empty:
        return _saying("too few trials with parameters have finished")
    importances = importances[importances.r2 > 0]
    if importances.empty:
        return _saying("the hyperparameters do not predict the objective of these trials")
    searches = [*importances.search.unique()]
    evaluators = [*importances.evaluator.unique()]
    sizes = [importances[importances.search == search].parameter.nunique() for search in searches]
    figure, grid = _new(
        0.75 + 0.36 * sum(sizes) + 0.25 * len(sizes), len(searches), 1, sharex=True, height_ratios=sizes
    )
    looks = dict(zip(evaluators, ((_BLUE, ""), (_ORANGE, "////"), (_GRAY, "....")), strict=False))
    width = 0.8 / len(evaluators)
    for axes, search in zip(grid[:, 0], searches, strict=True):
        one = importances[importances.search == search]
        order = [*one.groupby("parameter").importance.mean().sort_values().index]
        axes.grid(axis="x")
        for i, evaluator in enumerate(evaluators):
            shares = one[one.evaluator == evaluator].set_index("parameter").importance.reindex(order)
            color, hatch = looks[evaluator]
            places = np.arange(len(order)) + 0.4 - width * (i + 0.5)
            bars = {"color": color, "hatch": hatch, "edgecolor": "white", "linewidth": 0.3}
            axes.barh(places, 100 * _floats(shares), height=width, **bars)
            floors = one[one.evaluator == evaluator].set_index("parameter").floor.reindex(order)
            ends = 100 * _floats(floors), places - width / 2, places + width / 2
            axes.vlines(*ends, color=_BLACK, linewidth=1.1, zorder=3)
        axes.set_yticks(range(len(order)), [_symbols(name) for name in order])
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 100)
        title = f"{search}, " if len(searches) > 1 else ""
        said = f"{title}{int(one.trials.iloc[0])} trials, cross-validated R\u00b2 {one.r2.iloc[0]:.2f}"
        axes.set_title(said, fontsize=7, pad=3, loc="left")
    grid[-1, 0].set_xlabel("share of the importance (%)")
    handles = [
        Patch(facecolor=color, hatch=hatch, edgecolor="white", linewidth=0.3, label=name)
        for name, (color, hatch) in looks.items()
    ]
    handles.append(Line2D([], [], color=_BLACK, linewidth=1.1, label="shuffled objectives stay below (95%)"))
    _legend_above(figure, handles)
    return figure


def _symbols(name: str) -> str:
    """What the paper calls one of Optuna's parameters."""
    return "/".join(SYMBOLS.get(part, part) for part in name.split("/")).replace("alpha", "α")


@_styled
def comparison(table: pd.DataFrame) -> Figure:
    """Draw clean and robust accuracy of the unregularized, the published and the found setting, a line for each search.

    Args:
        table: of `brainreg.tables.alpha_th_table`.
    """
    known = [setting for setting in SETTINGS if table[f"{setting}_clean"].notna().any()]
    if not known:
        return _saying("no trial has finished yet")
    figure, (grid,) = _new(0.6 + 0.42 * len(table), 1, 2, sharey=True)
    names = _row_names(table)
    for axes, kind in zip(grid, ("clean", "robust"), strict=True):
        axes.grid(axis="x")
        for i, setting in enumerate(known):
            places = np.arange(len(table)) + 0.2 * (i - (len(known) - 1) / 2)
            middle, low, high = (
                100 * _floats(table[f"{setting}_{kind}{end}"]) for end in ("", "_low", "_high")
            )  # fmt: skip
            look = {**_MARKED[setting], **_EDGE}
            error = np.clip([middle - low, high - middle], 0, None)
            axes.errorbar(middle, places, xerr=error, linestyle="none", elinewidth=1, ecolor=look["color"], **look)
        axes.set_title(kind, pad=3)
        axes.xaxis.set_major_locator(MaxNLocator(4))
        axes.tick_params(axis="y", length=0)
    grid[0].set_yticks(range(len(table)), names)
    grid[0].set_ylim(len(table) - 0.5, -0.5)
    figure.supxlabel(f"accuracy, {' and '.join(table.images.unique())} (%)", fontsize=8)
    _legend_above(figure, [_marker(setting, label=shown_name(setting)) for setting in known])
    return figure


@_styled
def paired_differences(differences: pd.DataFrame) -> Figure:
    """Draw the differences between settings on test images: each seed's, their mean, and its 95% interval, that holds
    together with those of the other comparisons; robust accuracy at three strengths.

    Args:
        differences: of `brainreg.tables.paired`.
    """
    if differences.empty:
        return _saying("nothing is confirmed on test images yet")
    measures = [measure for measure in COMPARED_MEASURES if (differences.measure == measure).any()]
    keys = ["search", "better", "than"]
    pairs = differences[keys].drop_duplicates().reset_index(drop=True)
    columns = min(len(measures), 2)
    rows = math.ceil(len(measures) / columns)
    figure, grid = _new(0.3 + rows * (0.45 + 0.3 * len(pairs)), rows, columns, sharey=True)
    for axes, measure in itertools.zip_longest(grid.flat, measures):
        if measure is None:
            axes.set_visible(False)
            continue
        one = pairs.merge(differences[differences.measure == measure], on=keys, how="left")
        axes.grid(axis="x")
        axes.axvline(0, color=_BLACK, linewidth=0.8)
        for place, row in enumerate(one.itertuples()):
            if pd.isna(row.difference):
                continue
            each = 100 * np.array(row.by_seed)
            axes.plot(each, np.full(len(each), place + 0.22), "o", color=_GRAY, markersize=2.5, clip_on=False)
            interval = np.nan_to_num([[row.difference - row.low], [row.high - row.difference]])
            look = {"color": _BLUE, "markersize": 5, "elinewidth": 1.2, "capsize": 2, **_EDGE}
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
