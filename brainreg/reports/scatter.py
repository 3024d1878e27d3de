"""Plots of the page: where marks, lines and ticks lie. `plot.html.jinja` draws them, as SVG."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from matplotlib.ticker import MaxNLocator

# Of a plot, in units of its view box: width and height, and what lies left, right, above and below the axes.
_WIDTH, _HEIGHT, _LEFT, _RIGHT, _TOP, _BOTTOM = 380, 290, 70, 14, 10, 42


_ROW = 16  # height of a row at the foot


# What marks are, around (0, 0); a page holds them once.
SHAPES = {
    "dot": "M-4 0A4 4 0 1 0 4 0A4 4 0 1 0 -4 0Z",
    "up": "M0 -4.8L4.8 3.8H-4.8Z",
    "down": "M0 4.8L4.8 -3.8H-4.8Z",
    "left": "M-4.8 0L3.8 -4.8V4.8Z",
    "plus": "M-1.6 -4.6H1.6V-1.6H4.6V1.6H1.6V4.6H-1.6V1.6H-4.6V-1.6H-1.6Z",
    "hexagon": "M-2.4 -4.2H2.4L4.8 0L2.4 4.2H-2.4L-4.8 0Z",
    "square": "M-4 -4H4V4H-4Z",
    "diamond": "M0 -5.6L5 0L0 5.6L-5 0Z",
    "star": "M0 -8.5L2 -2.75L8.1 -2.6L3.25 1.05L5 6.9L0 3.4L-5 6.9L-3.25 1.05L-8.1 -2.6L-2 -2.75Z",
    "cross": "M-3 -3L3 3M-3 3L3 -3",
    "bolt": "M0 -5L5 4H-5ZM0 -1.5V1.5",
    "ring": "M-3.5 0A3.5 3.5 0 1 0 3.5 0A3.5 3.5 0 1 0 -3.5 0Z",
}


@dataclass(frozen=True)
class Mark:
    """One trial in a plot.

    Attributes:
        key: of the trial in the page.
        x: where it lies across.
        y: where it lies in height; or the name of a row at the foot.
        shape: of `SHAPES`.
        classes: of CSS.
        fill: a color of its own, or empty.
    """

    key: str
    x: float
    y: float | str
    shape: str
    classes: str
    fill: str = ""


@dataclass(frozen=True)
class Axis:
    """What an axis is called, and whether it is logarithmic."""

    label: str
    log: bool = False
    whole: bool = False  # only whole numbers are labelled


@dataclass(frozen=True)
class ColorBar:
    """The colors of marks, from the lowest to the highest value: `stops` are places from 0 to 1 and colors."""

    low: str
    high: str
    text: str
    stops: list[tuple[float, str]]


@dataclass(frozen=True)
class Plot:
    """A scatter plot, laid out: what the macro `scatter` of `plot.html.jinja` draws, in units of its view box.

    Attributes:
        caption: what it shows.
        label: that, and the axes, for who cannot see it.
        x_label, y_label: of the axes.
        across_ticks, up_ticks, rows: where a tick, or a row at the foot, lies, and what it is called.
        foot, middle: of the vertical axis, its lower end, and the middle of the part with numbers.
        lines: classes of CSS and points.
        marks: each with its place; the later ones lie above the earlier ones.
        bar: of the marks' colors.
    """

    caption: str
    label: str
    x_label: str
    y_label: str
    across_ticks: list[tuple[float, str]]
    up_ticks: list[tuple[float, str]]
    rows: list[tuple[float, str]]
    foot: float
    middle: float
    lines: list[tuple[str, str]]
    marks: list[tuple[Mark, float, float]]
    bar: ColorBar | None = None

    width, height, left, right, top = _WIDTH, _HEIGHT, _LEFT, _WIDTH - _RIGHT, _TOP


def plot(
    caption: str,
    marks: Sequence[Mark],
    x: Axis,
    y: Axis,
    lines: Sequence[tuple[str, Sequence[tuple[float, float]]]],
    bar: ColorBar | None = None,
) -> Plot:
    """Lay out a scatter plot.

    Args:
        caption: what it shows.
        marks: the later ones lie above the earlier ones.
        x, y: the axes.
        lines: beside the marks; each has classes of CSS and points.
        bar: of the marks' colors.
    """
    rows = list(dict.fromkeys(mark.y for mark in marks if isinstance(mark.y, str)))
    across = [mark.x for mark in marks] + [point[0] for _, points in lines for point in points]
    up = [mark.y for mark in marks if not isinstance(mark.y, str)]
    up += [point[1] for _, points in lines for point in points]
    foot = _HEIGHT - _BOTTOM
    bottom = foot - _ROW * len(rows)
    horizontal, vertical = _Scale(x, across, _LEFT, _WIDTH - _RIGHT), _Scale(y, up, bottom, _TOP)
    places = {name: bottom + _ROW * (i + 0.5) for i, name in enumerate(rows)}
    return Plot(
        caption=caption,
        label=f"{caption}, {len(marks)} trials; across {x.label}, in height {y.label}",
        x_label=x.label,
        y_label=y.label,
        across_ticks=horizontal.ticks(),
        up_ticks=vertical.ticks(),
        rows=[(place, name) for name, place in places.items()],
        foot=foot,
        middle=(_TOP + bottom) / 2,
        lines=[
            (classes, " ".join(f"{horizontal(point[0])},{vertical(point[1])}" for point in points))
            for classes, points in lines
        ],
        marks=[
            (mark, horizontal(mark.x), places[mark.y] if isinstance(mark.y, str) else vertical(mark.y))
            for mark in marks
        ],
        bar=bar,
    )


class _Scale:
    """Where the values of an axis lie between two ends of a plot."""

    def __init__(self, axis: Axis, values: Sequence[float], start: float, end: float):
        self.axis, self.start, self.end = axis, start, end
        low, high = (min(values), max(values)) if len(values) else (0.0, 1.0)
        self.low, self.high = (math.log10(low), math.log10(high)) if axis.log else (low, high)
        margin = 0.05 * (self.high - self.low) or (0.1 if axis.log else max(abs(self.high) * 0.05, 0.5))
        self.low, self.high = self.low - margin, self.high + margin

    def __call__(self, value: float) -> float:
        place = math.log10(value) if self.axis.log else value
        return round(self.start + (self.end - self.start) * (place - self.low) / (self.high - self.low), 1)

    def ticks(self) -> list[tuple[float, str]]:
        """Return where round values lie, and what they are called."""
        if not self.axis.log:
            found = MaxNLocator(6, integer=self.axis.whole, steps=[1, 2, 2.5, 5, 10]).tick_values(self.low, self.high)
            values = [value for value in map(float, found) if self.low <= value <= self.high]
            return [(self(value), f"{value:.6g}") for value in values]
        decades = self.high - self.low
        heads = (1, 2, 5) if decades < 2.2 else (1, 3) if decades < 3.5 else (1,)
        powers = range(math.floor(self.low), math.ceil(self.high) + 1)
        values = [head * 10.0**power for power in powers for head in heads]
        return [(self(value), f"{value:.6g}") for value in values if self.low <= math.log10(value) <= self.high]
