"""Which hyperparameters matter, as bars above the band of pure chance."""

import numpy as np
import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from brainreg._utils.formats import SYMBOLS
from brainreg.analysis.figures.style import (
    BLACK,
    BLUE,
    GRAY,
    ORANGE,
    as_floats,
    legend_above,
    new_figure,
    styled,
    text_figure,
)


@styled
def importance(importances: pd.DataFrame) -> Figure:
    """Draw how much each hyperparameter matters to the objective, by each of Optuna's evaluators, and what objectives
    in a random order would give. A search whose objective the hyperparameters do not predict has no panel.

    Args:
        importances: of `brainreg.analysis.importance.importances`, of one search or of several, a panel each.
    """
    if importances.empty:
        return text_figure("too few trials with parameters have finished")
    importances = importances[importances.r2 > 0]
    if importances.empty:
        return text_figure("the hyperparameters do not predict the objective of these trials")
    searches = [*importances.search.unique()]
    evaluators = [*importances.evaluator.unique()]
    sizes = [importances[importances.search == search].parameter.nunique() for search in searches]
    figure, grid = new_figure(
        0.75 + 0.36 * sum(sizes) + 0.25 * len(sizes), len(searches), 1, sharex=True, height_ratios=sizes
    )
    looks = dict(zip(evaluators, ((BLUE, ""), (ORANGE, "////"), (GRAY, "....")), strict=False))
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
            axes.barh(places, 100 * as_floats(shares), height=width, **bars)
            floors = one[one.evaluator == evaluator].set_index("parameter").floor.reindex(order)
            ends = 100 * as_floats(floors), places - width / 2, places + width / 2
            axes.vlines(*ends, color=BLACK, linewidth=1.1, zorder=3)
        axes.set_yticks(range(len(order)), [_symbols(name) for name in order])
        axes.tick_params(axis="y", length=0)
        axes.set_xlim(0, 100)
        title = f"{search}, " if len(searches) > 1 else ""
        said = f"{title}{int(one.trials.iloc[0])} trials, cross-validated R\u00b2 {one.r2.iloc[0]:.2f}"
        axes.set_title(said, fontsize=7, pad=3, loc="left")
    grid[-1, 0].set_xlabel("share of the importance (%)")
    handles: list[Artist] = [
        Patch(facecolor=color, hatch=hatch, edgecolor="white", linewidth=0.3, label=name)
        for name, (color, hatch) in looks.items()
    ]
    handles.append(Line2D([], [], color=BLACK, linewidth=1.1, label="shuffled objectives stay below (95%)"))
    legend_above(figure, handles)
    return figure


def _symbols(name: str) -> str:
    """What the paper calls one of Optuna's parameters."""
    return "/".join(SYMBOLS.get(part, part) for part in name.split("/")).replace("alpha", "α")
