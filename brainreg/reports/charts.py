"""Interactive charts of a page: Vega-Lite, made by Altair, all of the same rows, one for each trial.

Every chart has the parameters `picked` and `over` (keys of trials, or null) and `hidden` (names of groups of trials):
`search.js` sets them in all charts at once, so that what is selected in one is seen in all.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import altair as alt
import pandas as pd

from brainreg._utils.formats import SYMBOLS
from brainreg.records.trial import FAILED, STOPPED, UNFINISHED
from brainreg.reports.chart_data import FIRST, KINDS, parallel_axes
from brainreg.reports.subject import Subject
from brainreg.spaces.names import EARLY_STOPPED, PUBLISHED, UNREGULARIZED, shown_name

_STAR = "".join(
    f"{'L' if i else 'M'}{math.sin(math.pi * i / 5) * size:.2f} {-math.cos(math.pi * i / 5) * size:.2f}"
    for i, size in enumerate([1.3, 0.5] * 5)
)

# How marks look, by what their trials are: a shape and a color of the page's style.
_LOOKS = {
    UNFINISHED: ("triangle-right", "var(--ink)"),
    FAILED: ("triangle-down", "var(--fail)"),
    STOPPED: ("M-.7 -.7L.7 .7M-.7 .7L.7 -.7", "var(--dim)"),
    "proposed": ("circle", "var(--c0)"),
    shown_name(EARLY_STOPPED): ("triangle-left", "var(--soft)"),
    UNREGULARIZED: ("square", "var(--ink)"),
    PUBLISHED: ("diamond", "var(--fail)"),
    FIRST: (f"{_STAR}Z", "var(--best)"),
}

_COLORS = 6  # of searches, in the style
_HEIGHT = 230
_OBJECTIVE_TITLE = "objective, validation (%)"


@dataclass(frozen=True)
class Chart:
    """A chart of a page.

    Attributes:
        name: in the page, a word.
        caption: what it shows.
        spec: of Vega-Lite; its data are called `trials`, and are given by the page.
    """

    name: str
    caption: str
    spec: Mapping[str, Any]


@cache
def library() -> str:
    """Return the JavaScript that draws charts (Vega, Vega-Lite, Vega-Embed), as `window.vegaEmbed`."""
    import vl_convert  # takes seconds, and memory

    return vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")


def charts(subject: Subject, rows: Sequence[Mapping[str, Any]]) -> list[Chart]:
    """Return those charts that have something to show.

    Args:
        subject: the searches.
        rows: of `chart_rows`.
    """
    style = _Style(subject, rows)
    drawn = [Chart("progress", "Objective of each trial; line: the largest so far", style.finish(_progress(style)))]
    if any(row["alpha"] and row["Th"] is not None for row in rows):
        caption = "Alpha and Th of the regularized trials, by objective"
        drawn.append(Chart("landscape", caption, style.finish(_landscape(style, rows))))
    if any(row["clean"] is not None and row["robust"] is not None for row in rows):
        drawn.append(Chart("front", "Clean and robust accuracy; line: the front", style.finish(_front(style))))
    if len(axes := parallel_axes(subject.trials)) > 1 and any(row["places"] for row in rows):
        caption = "What differs between the trials: a line is a trial"
        drawn.append(Chart("parallel", caption, style.finish(_parallel(style, axes))))
    if any(row["curve"] for row in rows):
        caption = "Validation accuracy while training: a line is a trial"
        drawn.append(Chart("curves", caption, style.finish(_curves(style))))
    return drawn


class _Style:
    """What all charts of a page share: the looks of marks, the reaction to a selection, texts."""

    def __init__(self, subject: Subject, rows: Sequence[Mapping[str, Any]]):
        kinds = [kind for kind in KINDS if any(row["kind"] == kind for row in rows)]
        self.legend = True  # of the first chart
        self.unfinished = any(row["objective"] is None for row in rows)
        self.kinds = alt.Scale(domain=kinds, range=[_LOOKS[kind][0] for kind in kinds])
        if subject.several:
            names = [*subject.folders]
            self.field = "search"
            colors = [f"var(--c{i % _COLORS})" for i in range(len(names))]
            self.colors = alt.Scale(domain=names, range=colors)
        else:
            self.field = "kind"
            self.colors = alt.Scale(domain=kinds, range=[_LOOKS[kind][1] for kind in kinds])
        named = [symbol for symbol in SYMBOLS.values() if any(row[symbol] is not None for row in rows)]
        self.tooltip = [
            *(["search:N"] if subject.several else []),
            *("trial:Q", "kind:N"),
            *(alt.Tooltip(symbol, type="nominal" if symbol == "range" else "quantitative") for symbol in named),
            *(alt.Tooltip(f"{name}:Q", title=f"{name} (%)") for name in ("clean", "robust", "noise", "objective")),
        ]

    def data(self) -> alt.Chart:
        """The rows that are not hidden."""
        return alt.Chart(alt.NamedData("trials")).transform_filter(
            "!hidden[datum.groups[0]] && !hidden[datum.groups[1]]"
        )

    @property
    def color(self) -> alt.Color:
        """Of a mark."""
        return alt.Color(f"{self.field}:N", scale=self.colors, legend=self._legend())

    @property
    def shape(self) -> alt.Shape:
        """Of a mark."""
        return alt.Shape("kind:N", scale=self.kinds, legend=self._legend())

    def _legend(self) -> alt.Legend | None:
        return alt.Legend(title=None, orient="bottom", columns=1, labelLimit=300) if self.legend else None

    def points(self, chart: alt.Chart, **encoding: Any) -> alt.Chart:
        """Marks of trials, which a brush selects."""
        over = "over != null && over[datum.key]"
        encoding = {
            "shape": self.shape,
            "color": self.color,
            "size": alt.condition(over, alt.value(220), alt.value(60)),
            "strokeWidth": alt.condition(over, alt.value(2), alt.value(0.8)),
            "stroke": alt.condition(over, alt.value("var(--ink)"), self.color),
            "opacity": alt.condition(_PICKED, alt.value(0.9), alt.value(0.12)),
            "tooltip": self.tooltip,
            **encoding,
        }
        return chart.mark_point(filled=True).encode(**encoding)

    def lines(self, chart: alt.Chart, **encoding: Any) -> alt.Chart:
        """Lines of trials."""
        over = "over != null && over[datum.key]"
        return chart.mark_line(strokeJoin="round").encode(
            color=self.color,
            detail="key:N",
            strokeWidth=alt.condition(over, alt.value(4), alt.value(1.2)),
            opacity=alt.condition(f"over != null ? over[datum.key] : {_PICKED}", alt.value(0.8), alt.value(0.08)),
            tooltip=self.tooltip,
            **encoding,
        )

    def finish(self, chart: alt.Chart | alt.LayerChart) -> dict[str, Any]:
        """The chart's specification."""
        self.legend = False
        chart = chart.add_params(
            alt.param(name="picked", value=None), alt.param(name="over", value=None), alt.param(name="hidden", value={})
        ).properties(width="container", height=_HEIGHT)
        return {**chart.to_dict(), "config": _CONFIG}


_PICKED = "(picked == null || picked[datum.key])"
_TEXTS = {"labelColor": "var(--soft)", "titleColor": "var(--soft)", "titleFontWeight": "normal", "labelFontSize": 12}

_CONFIG = {
    "background": "transparent",
    "font": 'system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif',
    "view": {"stroke": None},
    "axis": {**_TEXTS, "titleFontSize": 12, "gridColor": "var(--rule)", "domainColor": "var(--soft)"}
    | {"tickColor": "var(--soft)"},
    "legend": {**_TEXTS, "titleFontSize": 12},
}


def _axis(name: str, title: str, kind: Any = alt.X, whole: bool = False, log: bool = False) -> Any:
    axis = alt.Axis(labelOverlap="greedy", **({"tickMinStep": 1, "format": "d"} if whole else {}))
    scale = alt.Scale(nice=False, padding=12, **({"type": "log"} if log else {"zero": False}))
    return kind(f"{name}:Q", title=title, axis=axis, scale=scale)


def _brush(*encodings: str) -> alt.Parameter:
    return alt.selection_interval(name="brush", encodings=[*encodings])


def _progress(style: _Style) -> alt.LayerChart:
    x = _axis("trial", "trial (number)", whole=True)
    y = _axis("objective", _OBJECTIVE_TITLE, alt.Y)
    finished = style.data().transform_filter("datum.objective != null")
    best = (
        finished.transform_window([{"op": "max", "field": "objective", "as": "best"}], sort=[{"field": "trial"}],
                                  groupby=["search"], frame=[None, 0])
        .mark_line(interpolate="step-after", strokeWidth=1.6)
        .encode(x=x, y=alt.Y("best:Q"), detail="search:N")
    )  # fmt: skip
    best = best.encode(color=style.color) if style.field == "search" else best.encode(color=alt.value("var(--c0)"))
    points = style.points(finished, x=x, y=y).add_params(_brush("x", "y"))
    # What has no objective stands at the foot.
    at_foot = style.data().transform_filter("datum.objective == null")
    others = [style.points(at_foot, x=x, y=alt.value(_HEIGHT - 4))] if style.unfinished else []
    return alt.layer(points, best, *others)


def _landscape(style: _Style, rows: Sequence[Mapping[str, Any]]) -> alt.Chart:
    alphas = [row["alpha"] for row in rows if row["alpha"]]
    log = max(alphas) > 5 * min(alphas)
    x = _axis("alpha", f"weight α{' (log scale)' if log else ''}", log=log)
    known = style.data().transform_filter("datum.alpha > 0 && datum.Th != null")
    color = alt.Color(
        "objective:Q", title=_OBJECTIVE_TITLE, scale=alt.Scale(scheme="cividis", zero=False),
        legend=alt.Legend(orient="bottom", direction="horizontal", titleLimit=300),
    )  # fmt: skip
    over = "over != null && over[datum.key]"
    stroke = alt.condition(over, alt.value("var(--ink)"), alt.value("var(--dim)"))
    return style.points(
        known, x=x, y=_axis("Th", "threshold Th", alt.Y), color=color, stroke=stroke
    ).add_params(_brush("x", "y"))  # fmt: skip


def _front(style: _Style) -> alt.LayerChart:
    x = _axis("clean", "clean accuracy, validation (%)")
    y = _axis("robust", "robust accuracy, validation (%)", alt.Y)
    known = style.data().transform_filter("datum.clean != null && datum.robust != null")
    line = (
        known.transform_filter("datum.front")
        .mark_line(interpolate="step-before", strokeWidth=1.6)
        .encode(x=x, y=y, order="clean:Q", detail="search:N")
    )
    line = line.encode(color=style.color) if style.field == "search" else line.encode(color=alt.value("var(--c0)"))
    return alt.layer(style.points(known, x=x, y=y).add_params(_brush("x", "y")), line)


def _parallel(style: _Style, axes: Mapping[str, tuple[str, str]]) -> alt.LayerChart:
    names = [*axes]
    axis = alt.Axis(labelAngle=0, labelFontSize=11, grid=True)
    x = alt.X("axis:N", title=None, sort=names, scale=alt.Scale(padding=0.5), axis=axis)
    y = alt.Y("place:Q", axis=None, scale=alt.Scale(domain=[0, 1], padding=18))
    unfolded = (
        style.data()
        .transform_filter("datum.places != null")
        .transform_calculate(axis=json.dumps(names))
        .transform_flatten(["axis", "places"], ["axis", "place"])
    )
    lines = style.lines(unfolded.transform_filter("datum.place != null"), x=x, y=y).add_params(_brush("x", "y"))
    ends = pd.DataFrame(
        [{"axis": name, "place": place, "end": end} for name, pair in axes.items() for place, end in enumerate(pair)]
    )
    texts = alt.Chart(alt.InlineData(ends.to_dict("records"), name="axes"))
    named = [
        texts.transform_filter(f"datum.place == {place}")
        .mark_text(fontSize=11, color="var(--ink)", dy=10 - 20 * place)
        .encode(x=x, y=y, text="end:N")
        for place in (0, 1)
    ]
    return alt.layer(lines, *named)


def _curves(style: _Style) -> alt.Chart:
    unfolded = (
        style.data()
        .transform_filter("datum.curve != null")
        .transform_flatten(["curve"])
        .transform_calculate(epoch="datum.curve[0]", accuracy="datum.curve[1]")
    )
    x = _axis("epoch", "epoch", whole=True)
    y = _axis("accuracy", "clean accuracy, validation (%)", alt.Y)
    return style.lines(unfolded, x=x, y=y).add_params(_brush("x", "y"))
