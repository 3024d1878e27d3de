"""Accuracy by strength of noises and attacks."""

import math
import textwrap
from typing import Any

import pandas as pd
from matplotlib.artist import Artist
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from brainreg.analysis.averages import over_seeds
from brainreg.analysis.figures.style import (
    GRAY,
    PLAIN,
    SETTING_MARKERS,
    as_floats,
    legend_above,
    new_figure,
    series_styles,
    styled,
    text_figure,
)
from brainreg.spaces.names import EARLY_STOPPED, UNREGULARIZED, shown_name


@styled
def robustness_curves(curves: pd.DataFrame, images: str = "") -> Figure:
    """Draw accuracy against strength, a panel for each attack, a line for each network, with 95% intervals.

    Args:
        curves: columns of `brainreg.evaluation.robustness.COLUMNS` and `network`, what a line is called. Several rows
            of one network, attack and strength are of several training seeds: they are drawn small, and their mean
            with the interval over them, which may leave the axes; else the interval is the Wilson interval over images.
        images: what images they are of, say "validation".
    """
    measured = curves[curves.accuracy.notna()]
    strengths = measured[measured.attack != "clean"].groupby("attack", sort=False).eps.nunique()
    attacks = [attack for attack, count in strengths.items() if count > 1]
    if not attacks:
        return text_figure("no network was measured at several strengths of an attack")
    count = min(2, len(attacks))
    rows = math.ceil(len(attacks) / count)
    figure, grid = new_figure(0.2 + 1.65 * rows, rows, count, sharey=True)
    networks = [*measured.network.unique()]
    controls = {
        shown_name(name): {
            "color": SETTING_MARKERS[name]["color"],
            "marker": SETTING_MARKERS[name]["marker"],
            "linestyle": line,
        }
        for name, line in ((UNREGULARIZED, "--"), (EARLY_STOPPED, ":"))
    }
    looks = dict(series_styles([name for name in networks if name not in controls]))
    looks |= {name: look for name, look in controls.items() if name in networks}
    for axes, attack in zip(grid.flat, attacks, strict=False):
        axes.grid(axis="y")
        of_attack = measured[measured.attack == attack]
        summary = over_seeds(of_attack, ["network", "eps"])
        for network, look in looks.items():
            curve = summary[summary.network == network].sort_values("eps")
            if curve.empty:
                continue
            eps = as_floats(curve.eps)
            band = 100 * as_floats(curve.low), 100 * as_floats(curve.high)
            axes.fill_between(eps, *band, color=look["color"], alpha=0.2, linewidth=0)
            axes.plot(eps, 100 * as_floats(curve.accuracy), markersize=3, **look)
            each = of_attack[of_attack.network == network]
            if len(each) > len(curve):  # of several seeds
                points = {"markersize": 1.6, "alpha": 0.6, "markeredgewidth": 0, **look, "linestyle": "none"}
                axes.plot(as_floats(each.eps), 100 * as_floats(each.accuracy), **points)
        axes.set_title(textwrap.fill(attack, 26), fontsize=7, pad=3)
        axes.set_ylim(0, 102)
        axes.set_xlim(left=0)
        axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
        axes.xaxis.set_major_formatter(PLAIN)
        axes.set_xlabel(_strength_label(attack, of_attack.norm.iloc[0]), fontsize=7)
    said = f"accuracy, {images} (%)" if images else "accuracy (%)"
    for i, axes in enumerate(grid.flat):
        if i >= len(attacks):
            axes.remove()
        elif i % count == 0:
            axes.set_ylabel(said)
    handles: list[Artist] = [Line2D([], [], markersize=3, label=name, **look) for name, look in looks.items()]
    handles.append(Patch(color=GRAY, alpha=0.3, linewidth=0, label="95% interval"))
    legend_above(figure, handles)
    return figure


def _strength_label(attack: str, norm: Any) -> str:
    if isinstance(norm, str) and norm in ("Linf", "L2", "L1"):
        return f"{norm} of the change\n(pixels in [0, 1])"
    if "(generated)" in attack or "(CIFAR-10" in attack:
        return "severity (1 to 5)"
    return "strength\n(fraction of pixel range)"
