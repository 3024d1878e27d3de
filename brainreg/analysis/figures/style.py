"""What all figures share: size, colors that color-blind readers tell apart, markers, legends.

Drawn without pyplot: nothing is left behind, and nothing of a user's own style changes them.
"""

import contextlib
import functools
import io
import math
import textwrap
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from brainreg.spaces.names import EARLY_STOPPED, FOUND, PUBLISHED, UNREGULARIZED

# Width of a paper's column, in inches.
COLUMN = 3.3

# Okabe and Ito's colors, without the yellow, which is too light for lines; and markers, so that no color is needed.
BLUE, _RED, _GREEN, _SKY = "#0072B2", "#D55E00", "#009E73", "#56B4E9"
_PINK, ORANGE, BLACK, GRAY = "#CC79A7", "#E69F00", "#000000", "#808080"
_COLORS = (BLUE, _GREEN, _PINK, _SKY, ORANGE, _RED, BLACK)
_MARKERS = ("o", "^", "v", "P", "X", "p", "s")
_LINES = ("-", "--", "-.", ":")

HEAT = "cividis"
PLAIN = "{x:g}"  # how numbers on an axis are written

# How the settings that others are compared with are marked in every figure.
SETTING_MARKERS: dict[str, dict[str, Any]] = {
    UNREGULARIZED: {"marker": "s", "color": BLACK, "markersize": 4.5},
    EARLY_STOPPED: {"marker": "<", "color": "#606060", "markersize": 5},
    PUBLISHED: {"marker": "D", "color": _RED, "markersize": 5},
    FOUND: {"marker": "*", "color": ORANGE, "markersize": 10},
}

# Of a setting that has none of its own.
PLAIN_MARKER: dict[str, Any] = {"marker": "o", "color": BLUE, "markersize": 4}

GIVEN = (UNREGULARIZED, EARLY_STOPPED, PUBLISHED)

STOPPED_STYLE: dict[str, Any] = {
    "linestyle": "none",
    "marker": "x",
    "color": "#505050",
    "markersize": 3,
    "markeredgewidth": 0.7,
}

EDGE: dict[str, Any] = {"markeredgecolor": "white", "markeredgewidth": 0.6}

_STYLE: dict[Any, Any] = {
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


def styled(draw: Callable[..., Figure]) -> Callable[..., Figure]:
    """Draw in the style of all figures, whatever the user's is."""

    @functools.wraps(draw)
    def styled(*arguments: Any, **options: Any) -> Figure:
        with _style():
            return draw(*arguments, **options)

    return styled


def new_figure(height: float, rows: int = 1, columns: int = 1, **options: Any) -> tuple[Figure, np.ndarray]:
    """An empty figure and its (rows, columns) axes."""
    figure = _Figure(figsize=(COLUMN, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.subplots(rows, columns, squeeze=False, **options)


def text_figure(text: str) -> Figure:
    """A figure that says why it shows nothing."""
    figure = _Figure(figsize=(COLUMN, 0.8))
    FigureCanvasAgg(figure)
    figure.text(0.5, 0.5, textwrap.fill(text, 50), ha="center", va="center", color="#404040")
    return figure


def legend_marker(setting: str, **options: Any) -> Line2D:
    """What a legend shows of a marked setting."""
    return Line2D([], [], linestyle="none", **{**SETTING_MARKERS[setting], **EDGE, **options})


def series_styles(names: Sequence[Any], lines: bool = False) -> Iterator[tuple[Any, dict[str, Any]]]:
    """Give each name a color and a marker, or a kind of line, of its own."""
    for i, name in enumerate(names):
        kind = {"linestyle": _LINES[i % len(_LINES)]} if lines else {"marker": _MARKERS[i % len(_MARKERS)]}
        yield name, {"color": _COLORS[i % len(_COLORS)], **kind}


def iterate_searches(trials: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Yield what each search is called in a figure, and its trials."""
    for name in trials.search.unique():
        one = trials[trials.search == name]
        yield f"{name} (running)" if one.running.any() else name, one


# Letters of a legend across a column, what a handle takes of them, and inches of a line.
_LETTERS, _HANDLE, _LEGEND_LINE = 60, 5, 0.145


def legend_above(figure: Figure, handles: Sequence[Any]) -> None:
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


def step_line(look: Mapping[str, Any]) -> dict[str, Any]:
    """Return the look of a front's steps: the color of its points."""
    return {"color": look["color"]}


def mark_given(axes: Axes, finished: pd.DataFrame, x: str, y: str, scales: tuple[float, float]) -> None:
    """Mark the finished trials of given settings, each with its own sign; `scales` multiply columns `x` and `y`."""
    for setting in GIVEN:
        given = finished[finished.setting == setting]
        at = scales[0] * as_floats(given[x]), scales[1] * as_floats(given[y])
        axes.plot(*at, linestyle="none", zorder=4, **SETTING_MARKERS[setting], **EDGE)


def as_floats(values: pd.Series) -> np.ndarray:
    """Return a column as float64, NaN where a value is missing."""
    return values.to_numpy(dtype=float, na_value=np.nan)
