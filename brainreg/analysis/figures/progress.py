"""How a search went: each trial, and the largest so far."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from brainreg.analysis.figures.style import (
    GIVEN,
    STOPPED_STYLE,
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
from brainreg.records.trial import FINISHED, STOPPED
from brainreg.spaces.names import shown_name


@styled
def progress(trials: pd.DataFrame) -> Figure:
    """Draw the objective of each trial and the largest so far, by the number of the trial; stopped trials at the foot.

    Args:
        trials: of `brainreg.records.searches.load_searches`, of one search or of several.
    """
    if not (trials.state == FINISHED).any():
        return text_figure("no trial has finished yet")
    figure, ((axes,),) = new_figure(1.9)
    axes.grid(axis="y")
    handles = []
    for (name, one), (_, look) in zip(iterate_searches(trials), series_styles(trials.search.unique()), strict=True):
        finished = one[one.state == FINISHED].sort_values("trial")
        if finished.empty:
            continue
        numbers, objective = as_floats(finished.trial), 100 * as_floats(finished.objective)
        axes.plot(numbers, objective, linestyle="none", markersize=3.5, alpha=0.55, markeredgewidth=0, **look)
        last = float(one.trial.max())
        axes.step(
            [*numbers, last], [*np.maximum.accumulate(objective), objective.max()], where="post", **step_line(look)
        )
        said = f"{name}, largest so far" if trials.search.nunique() > 1 or one.running.any() else "largest so far"
        handles.append(Line2D([], [], markersize=3.5, label=said, **look))
        mark_given(axes, finished, "trial", "objective", scales=(1, 100))
    handles += [
        legend_marker(setting, label=shown_name(setting))
        for setting in GIVEN
        if (trials[trials.state == FINISHED].setting == setting).any()
    ]
    stopped = trials[trials.state == STOPPED]
    if len(stopped):
        low, high = axes.get_ylim()
        foot = low - 0.06 * (high - low)
        axes.plot(as_floats(stopped.trial), [foot] * len(stopped), **STOPPED_STYLE)
        handles.append(Line2D([], [], label="stopped early", **STOPPED_STYLE))
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, steps=[1, 2, 5, 10]))
    axes.set_xlabel("trial (number)")
    axes.set_ylabel("objective, validation (%)")
    legend_above(figure, handles)
    return figure
