"""The section with each trial: plots whose marks tell of a trial, and a table of all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex

from brainreg.analysis.trials import all_trials, best_trials
from brainreg.records.results import rank_trials
from brainreg.records.trial import FAILED, FINISHED, STOPPED, UNFINISHED
from brainreg.reports.parts import Folded, Part, Table, cell
from brainreg.reports.scatter import Axis, ColorBar, Mark, Plot, plot
from brainreg.reports.subject import Subject
from brainreg.spaces.names import EARLY_STOPPED, PROPOSED, PUBLISHED, UNREGULARIZED, shown_name
from brainreg.statistics import front

# How states look in the plots, and what those at the foot are called there.
_STATES = {FINISHED: "dot", STOPPED: "cross", FAILED: "bolt", UNFINISHED: "ring"}


_SEARCH_SHAPES = ("dot", "up", "down", "plus", "hexagon")


_GIVEN_SHAPES = {UNREGULARIZED: "square", EARLY_STOPPED: "left", PUBLISHED: "diamond"}


_COLORS = 6  # of searches, in the style


@dataclass(frozen=True)
class _Row:
    """A row of the table of all trials: its trial's key, its setting's, classes of CSS, texts, seconds and command."""

    key: str
    setting: str
    classes: str
    cells: Sequence[str]
    seconds: str
    command: str


@dataclass(frozen=True)
class Trials:
    """The trials of a page, as `search.html.jinja` shows them."""

    subject: Subject

    @cached_property
    def filters(self) -> dict[str, dict[str, str]]:
        """Boxes that show and hide trials by state and, of several searches, by search: their classes and texts."""
        counts = self.subject.trials.state.value_counts()
        groups = {"state": {f"s-{state}": f"{state} ({counts[state]})" for state in _STATES if state in counts}}
        if self.subject.several:
            groups["search"] = {f"n{i}": name for name, i in self.subject.numbers.items()}
        return groups

    @cached_property
    def legend(self) -> list[tuple[str, str, str]]:
        """What marks mean: shape, classes and text of each."""
        trials = self.subject.trials
        there = {*trials.state}
        if self.subject.several:
            entries = [(_SEARCH_SHAPES[i % 5], f"c{i % _COLORS}", name) for name, i in self.subject.numbers.items()]
        else:
            entries = [("dot", "c0", "finished")] if FINISHED in there else []
        entries += [(_STATES[state], f"s-{state}", state) for state in _STATES if state != FINISHED and state in there]
        settings = {*trials[trials.state == FINISHED].setting}
        for setting, shape in _GIVEN_SHAPES.items():
            if setting in settings:
                entries.append((shape, f"g-{setting}", shown_name(setting)))
        if PROPOSED in settings:
            entries.append(("star", "g-best", "first of the proposed settings"))
        return entries

    @cached_property
    def plots(self) -> list[Plot]:
        """Objective by trial, alpha and Th, clean and robust accuracy; those that have marks."""
        return [one for one in (self._progress(), self._alpha_plot(), self._front_plot()) if one is not None]

    @cached_property
    def _table(self) -> pd.DataFrame:
        seen = self.subject.without_search(all_trials(self.subject.trials))
        seen.insert(0, "trial", seen.pop("trial"))
        return seen if seen.why.any() else seen.drop(columns="why")

    @property
    def head(self) -> list[str]:
        """Names of the table's columns."""
        return [*self._table.columns]

    # Columns that hold no numbers.
    texts = frozenset({"search", "setting", "state", "range", "why"})

    @property
    def rows(self) -> list[_Row]:
        """Of the table."""
        seen, trials = self._table, self.subject.trials
        columns = [[*map(cell, seen[name])] for name in seen.columns]
        return [
            _Row(
                key=key,
                setting=self.subject.setting_key(trials.search[index], trials.setting_number[index]),
                classes=f"s-{trials.state[index]} n{self.subject.numbers[trials.search[index]]}",
                cells=cells,
                seconds=f"{trials.seconds[index]:.1f}" if pd.notna(trials.seconds[index]) else "",
                command=self.subject.command(trials.loc[index]),
            )
            for key, index, cells in zip(self._keys, seen.index, zip(*columns, strict=True), strict=True)
        ]

    @property
    def best(self) -> list[Part]:
        """The best trials, folded: single runs, of which luck has a part."""
        best = self.subject.without_search(best_trials(self.subject.trials))
        return [Folded("The best single trials, on validation images", Table.of("The best trials", best))]

    @cached_property
    def _stars(self) -> set[int]:
        """Where in `trials` the first proposed trial of each search stands: see `rank_trials`."""
        trials = self.subject.trials
        proposed = trials[(trials.state == FINISHED) & (trials.setting == PROPOSED)]
        firsts = {name: rank_trials(one).trial.iloc[0] for name, one in proposed.groupby("search")}
        return {*proposed.index[proposed.trial == proposed.search.map(firsts)]}

    @cached_property
    def _keys(self) -> list[str]:
        """What each trial is called in the page."""
        trials = self.subject.trials
        return [self.subject.trial_key(s, t) for s, t in zip(trials.search, trials.trial, strict=True)]

    def _marks(
        self, x: str, y: str, scales: tuple[float, float], foot: bool = False, colors: Mapping[int, str] | None = None
    ) -> list[Mark]:
        """The marks of all trials that have both values; the others stand at the foot, or nowhere.

        Args:
            x, y: columns of the trials.
            scales: what they are multiplied with.
            foot: whether trials without `y` stand at the foot, a row for each state.
            colors: of trials, by their place; where it is given, what has none is not finished.
        """
        marks: list[Mark] = []
        above: list[Mark] = []
        trials = self.subject.trials
        columns = zip(
            trials.index, self._keys, trials[x], trials[y], trials.state, trials.setting, trials.search, strict=True
        )
        for index, name, across, up, state, setting, search in columns:
            number = self.subject.numbers[search]
            classes, shape = f"s-{state} n{number}", _STATES[state]
            if pd.isna(across) or (pd.isna(up) and not (foot and state != FINISHED)):
                continue
            fill, star = "", index in self._stars
            if state == FINISHED:
                shape = _SEARCH_SHAPES[number % 5] if self.subject.several else shape
                shape = _GIVEN_SHAPES.get(setting, "star" if star else shape)
                color = f"g-{setting or 'best'}" if setting or star else "c0"
                classes += f" c{number % _COLORS}" if self.subject.several else f" {color}"
                if colors is not None:
                    fill = colors[index]
                    classes += " heat"
            height = state if pd.isna(up) else scales[1] * float(up)
            mark = Mark(name, scales[0] * float(across), height, shape, classes, fill)
            (above if setting or star else marks).append(mark)
        # What did not finish lies below what did.
        return sorted(marks, key=lambda mark: "s-finished" in mark.classes) + above

    def _progress(self) -> Plot:
        lines = []
        for name, i in self.subject.numbers.items():
            one = self.subject.trials[self.subject.trials.search == name].sort_values("trial")
            best = 100 * one.objective.astype(float).cummax().ffill()
            steps, last = [], None
            for number, value in zip(one.trial, best, strict=True):
                if pd.isna(value):
                    continue
                if last is not None and value != last:
                    steps.append((float(number), last))
                if value != last or number == one.trial.iloc[-1]:
                    steps.append((float(number), value))
                last = value
            lines.append((f"c{i % _COLORS} n{i}", steps))
        marks = self._marks("trial", "objective", (1, 100), foot=True)
        axes = Axis("trial (number)", whole=True), Axis("objective, validation (%)")
        return plot("Objective of each trial; line: the largest so far", marks, *axes, lines)

    def _alpha_plot(self) -> Plot | None:
        trials = self.subject.trials
        objective = trials.objective.astype(float)
        low, high = objective.min(), objective.max()
        colors = matplotlib.colormaps["cividis"]
        filled = {
            index: to_hex(colors((value - low) / (high - low) if high > low else 0.5))
            for index, value in objective.items()
        }
        shown = trials[(trials.reg_alpha > 0).fillna(False) & trials.reg_thresh.notna()]
        if shown.empty:
            return None
        bar = None
        if not pd.isna(low):
            stops = [(i / 8, to_hex(colors(i / 8))) for i in range(9)]
            bar = ColorBar(f"{100 * low:.1f}", f"{100 * high:.1f}", "% objective, validation", stops)
        log = shown.reg_alpha.max() > 5 * shown.reg_alpha.min()
        axes = Axis(f"weight α{' (log scale)' if log else ''}", log=log), Axis("threshold Th")
        marks = self._marks("reg_alpha", "reg_thresh", (1, 1), colors=filled)
        return plot("Alpha and Th of the regularized trials, by objective", marks, *axes, [], bar)

    def _front_plot(self) -> Plot | None:
        lines = []
        for name, i in self.subject.numbers.items():
            one = self.subject.trials[(self.subject.trials.search == name) & (self.subject.trials.state == FINISHED)]
            members = one.loc[np.array(front(one.clean_accuracy, one.robust_accuracy), dtype=bool)]
            order = members.sort_values(["clean_accuracy", "robust_accuracy"], ascending=[True, False])
            steps: list[tuple[float, float]] = []
            for clean, robust in zip(100 * order.clean_accuracy, 100 * order.robust_accuracy, strict=True):
                if steps:
                    steps.append((steps[-1][0], robust))
                steps.append((clean, robust))
            lines.append((f"c{i % _COLORS} n{i}", steps))
        marks = self._marks("clean_accuracy", "robust_accuracy", (100, 100))
        if not marks:
            return None
        axes = Axis("clean accuracy, validation (%)"), Axis("robust accuracy, validation (%)")
        return plot("Clean and robust accuracy; line: the front", marks, *axes, lines)
