"""The section with each trial: charts whose marks are trials, and a table of all."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import pandas as pd

from brainreg.analysis.trials import all_trials, best_trials
from brainreg.records.trial import FAILED, FINISHED, STOPPED, UNFINISHED
from brainreg.reports.chart_data import chart_rows
from brainreg.reports.charts import Chart, charts
from brainreg.reports.parts import Folded, Part, Table, cell
from brainreg.reports.subject import Subject

# In the order of the page's boxes.
_STATES = (FINISHED, STOPPED, FAILED, UNFINISHED)


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
    def data(self) -> list[dict[str, Any]]:
        """What the charts draw: see `chart_rows`."""
        return chart_rows(self.subject)

    @cached_property
    def charts(self) -> list[Chart]:
        """Objective by trial, alpha and Th, clean and robust accuracy, parallel coordinates, curves."""
        return charts(self.subject, self.data)

    @cached_property
    def _table(self) -> pd.DataFrame:
        seen = self.subject.without_search(all_trials(self.subject.trials))
        seen.insert(0, "trial", seen.pop("trial"))
        return seen if seen.why.any() else seen.drop(columns="why")

    @property
    def noise_weighted(self) -> bool:
        """Whether accuracy under noise is a part of an objective."""
        return bool((self.subject.trials.noise_weight > 0).any())

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
    def _keys(self) -> list[str]:
        """What each trial is called in the page."""
        trials = self.subject.trials
        return [self.subject.trial_key(s, t) for s, t in zip(trials.search, trials.trial, strict=True)]
