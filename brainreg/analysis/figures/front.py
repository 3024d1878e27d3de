"""The front of clean and robust accuracy, and how its hypervolume grew."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from brainreg.analysis.figures.style import (
    BLUE,
    EDGE,
    GIVEN,
    PLAIN_MARKER,
    SETTING_MARKERS,
    as_floats,
    iterate_searches,
    legend_above,
    legend_marker,
    mark_given,
    new_figure,
    series_styles,
    step_line,
    styled,
    text_figure,
)
from brainreg.recommendation.setting_table import Advice, knee_of
from brainreg.records.trial import FINISHED
from brainreg.spaces.names import UNREGULARIZED, shown_name
from brainreg.statistics import front, hypervolume


@styled
def pareto(trials: pd.DataFrame) -> Figure:
    """Draw clean against robust accuracy, and the front of each search: the trials that no other one dominates; its
    hypervolume is the area that it dominates and that the unregularized trial alone does not.

    Args:
        trials: of `brainreg.records.searches.load_searches`, of one search or of several.
    """
    if not (trials.state == FINISHED).any():
        return text_figure("no trial has finished yet")
    figure, ((axes,),) = new_figure(2.6)
    axes.grid()
    handles = []
    least, most = (trials[["clean_accuracy", "robust_accuracy"]].agg(end) for end in ("min", "max"))
    corner = [max(100 * (low - 0.08 * (high - low) - 0.002), -1) for low, high in zip(least, most, strict=True)]
    for (name, one), (_, look) in zip(iterate_searches(trials), series_styles(trials.search.unique()), strict=True):
        finished = one[one.state == FINISHED]
        if finished.empty:
            continue
        clean, robust = as_floats(finished.clean_accuracy), as_floats(finished.robust_accuracy)
        members = np.array(front(clean, robust))
        others = 100 * clean[~members], 100 * robust[~members]
        axes.plot(*others, linestyle="none", markersize=3.5, alpha=0.45, markeredgewidth=0, **look)
        order = np.argsort(clean[members])
        across, up = 100 * clean[members][order], 100 * robust[members][order]
        # What the front dominates lies below and to the left of these steps.
        axes.step([corner[0], *across, across[-1]], [up[0], *up, corner[1]], where="pre", **step_line(look))
        axes.plot(across, up, linestyle="none", markersize=5, zorder=3, **look, **EDGE)
        several = trials.search.nunique() > 1 or one.running.any()
        reference = _unregularized(finished)
        added = f"hypervolume +{hypervolume(clean, robust, reference):.3f}" if reference else "no unregularized trial"
        label = f"{name + ': ' if several else 'front, '}{added}"
        handles.append(Line2D([], [], markersize=5, label=label, **look))
        mark_given(axes, finished, "clean_accuracy", "robust_accuracy", scales=(100, 100))
    handles += [
        legend_marker(setting, label=shown_name(setting))
        for setting in GIVEN
        if (trials[trials.state == FINISHED].setting == setting).any()
    ]
    axes.set_xlabel("clean accuracy, validation (%)")
    axes.set_ylabel("robust accuracy, validation (%)")
    axes.margins(0.06)
    axes.set_xlim(left=corner[0])
    axes.set_ylim(bottom=corner[1])
    legend_above(figure, handles)
    return figure


@styled
def expected_front(advice: Advice) -> Figure:
    """Draw the clean and the robust accuracy that a further run of each setting is expected to have, with 95%
    intervals, and a line through the front of them, whose settings are named by their numbers.

    Args:
        advice: of `brainreg.records.results.search_advice`.
    """
    settings = advice.settings
    if settings.empty:
        return text_figure("no trial has finished yet")
    clean, robust = settings.clean.to_numpy(dtype=float), settings.robust.to_numpy(dtype=float)
    members, bend = np.array(front(clean, robust)), knee_of(settings)
    figure, ((axes,),) = new_figure(2.6)
    axes.grid()
    handles = [legend_marker(name, label=shown_name(name)) for name in GIVEN if name in {*settings.setting}]
    for i, row in enumerate(settings.to_dict("records")):
        errors = [
            np.clip([[row[name] - row[f"{name}_low"]], [row[f"{name}_high"] - row[name]]], 0, None)
            for name in ("clean", "robust")
        ]
        look = SETTING_MARKERS.get(row["setting"], PLAIN_MARKER) | EDGE
        width, alpha = (0.8, 1) if members[i] else (0.4, 0.35)
        axes.errorbar(
            100 * clean[i], 100 * robust[i], xerr=100 * errors[0], yerr=100 * errors[1], linestyle="none",
            elinewidth=width, ecolor=look["color"], alpha=alpha, **look,
        )  # fmt: skip
        if members[i]:
            number = f"{row['setting_number']}{' (knee)' if i == bend else ''}"
            axes.annotate(number, (100 * clean[i], 100 * robust[i]), (4, 4), textcoords="offset points", fontsize=7)
    order = np.flatnonzero(members)[np.argsort(clean[members])]
    axes.plot(100 * clean[order], 100 * robust[order], color=BLUE, linewidth=1, zorder=1)
    handles.append(Line2D([], [], color=BLUE, linewidth=1, label="front"))
    axes.set_xlabel("expected clean accuracy, validation (%)")
    axes.set_ylabel("expected robust accuracy, validation (%)")
    legend_above(figure, handles)
    return figure


def _unregularized(finished: pd.DataFrame) -> tuple[float, float] | None:
    """Clean and robust accuracy of a search's unregularized trial; None where there is none yet."""
    own = finished[finished.setting == UNREGULARIZED]
    return None if own.empty else (float(own.clean_accuracy.iloc[0]), float(own.robust_accuracy.iloc[0]))


@styled
def hypervolume_over_time(trials: pd.DataFrame) -> Figure:
    """Draw how the area that a search's front dominates and that its unregularized trial alone does not, grew; a trial
    counts when its work was done. A search without an unregularized trial is left out.

    Args:
        trials: of `brainreg.records.searches.load_searches`, of one search or of several. Time is counted from the
            first trial of each; where a search was interrupted, it is the time without the break, as far as one
            can tell.
    """
    trials = trials[trials.began.notna()]
    if not (trials.state == FINISHED).any():
        return text_figure("no trial has finished yet, or when is not known")
    curves = {}
    for name, one in iterate_searches(trials):
        finished = one[one.state == FINISHED]
        ends = (as_floats(finished.began) + as_floats(finished.seconds)) - one.began.min()
        order = np.argsort(ends)
        clean, robust = as_floats(finished.clean_accuracy)[order], as_floats(finished.robust_accuracy)[order]
        reference = _unregularized(finished)
        if reference is None:
            continue
        areas = [hypervolume(clean[: i + 1], robust[: i + 1], reference) for i in range(len(order))]
        last = float((as_floats(one.began) + np.nan_to_num(as_floats(one.seconds))).max() - one.began.min())
        if areas:
            curves[name] = [*ends[order], max(last, ends.max())], [*areas, areas[-1]]
    if not curves:
        return text_figure("no unregularized trial has finished yet")
    longest = max(times[-1] for times, _ in curves.values())
    unit, seconds = ("hours", 3600) if longest > 2 * 3600 else ("minutes", 60)
    figure, ((axes,),) = new_figure(1.9)
    axes.grid(axis="y")
    for name, look in series_styles([*curves], lines=True):
        times, areas = curves[name]
        axes.step(np.array(times) / seconds, areas, where="post", label=name, **look)
    axes.set_xlabel(f"time since the first trial began ({unit})")
    axes.set_ylabel("hypervolume added,\nvalidation (fraction)")
    axes.set_xlim(left=0)
    legend_above(figure, axes.get_legend_handles_labels()[0])
    return figure
