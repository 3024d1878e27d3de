"""A search, or several, as one HTML page that any browser opens without a network."""

import io
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from html import escape
from pathlib import Path

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.colors import to_hex
from matplotlib.figure import Figure

import brainreg
from brainreg._utils.flags import DATA_DIR, train_command
from brainreg._utils.formats import format_duration
from brainreg._utils.html import ABSENT, facts_table, html_table, page, picture, scrolling, warning_box
from brainreg.analysis.alpha_th import alpha_th_table, format_table, table_notes, to_latex
from brainreg.analysis.averages import over_seeds
from brainreg.analysis.comparison import (
    compare_settings,
    confirmation_notes,
    confirmation_table,
    describe_differences,
    format_confirmation,
    verdict_of,
)
from brainreg.analysis.curves import confirmed_curves, load_measured_curves
from brainreg.analysis.figures.comparison import comparison as draw_comparison
from brainreg.analysis.figures.comparison import paired_differences
from brainreg.analysis.figures.front import hypervolume_over_time
from brainreg.analysis.figures.front import pareto as draw_front
from brainreg.analysis.figures.importance import importance as draw_importance
from brainreg.analysis.figures.landscape import landscape as draw_landscape
from brainreg.analysis.figures.landscape import slices as draw_slices
from brainreg.analysis.figures.robustness import robustness_curves
from brainreg.analysis.figures.style import png
from brainreg.analysis.files import to_csv
from brainreg.analysis.trials import all_trials, best_settings, best_trials, front_trials, same_in_all
from brainreg.analysis.trials import costs as cost_table
from brainreg.errors import InputError
from brainreg.records.manifest import FormatError, read_manifest
from brainreg.records.results import (
    FINAL_TABLE,
    expected_value,
    first_of_settings,
    rank_trials,
    read_space,
    recommended_trial,
    search_advice,
    settings_of,
)
from brainreg.records.searches import RUNNING, Searches, load_searches, split_folders
from brainreg.records.trial import FAILED, FINISHED, STOPPED, UNFINISHED
from brainreg.reports.scatter import Axis, Mark, definitions, key, plot
from brainreg.spaces.names import EARLY_STOPPED, FOUND, PUBLISHED, SETTINGS, UNREGULARIZED, shown_name
from brainreg.statistics import front
from brainreg.storage import Storage, StorageError

# Dots an inch of a figure, and how wide it is shown, in CSS pixels an inch.
_DPI, _SHOWN_DPI = 220, 128


# Where so many trials finished, fewer trees tell what is important: all of them would take longer than all the rest.
_MANY, _FEWER_TREES = 300, 16


# Columns of the table of the final attack that are shown.
_FINAL = ("trial", "setting", "attack", "eps", "n", "accuracy", "low", "high", "fresh")


# How states look in the plots, and what those at the foot are called there.
_STATES = {FINISHED: "dot", STOPPED: "cross", FAILED: "bolt", UNFINISHED: "ring"}


_SEARCH_SHAPES = ("dot", "up", "down", "plus", "hexagon")


_GIVEN_SHAPES = {UNREGULARIZED: "square", EARLY_STOPPED: "left", PUBLISHED: "diamond"}


_COLORS = 6  # of searches, in the style


_STYLE = """
:root { --c0: #0b62a8; --c1: #00805c; --c2: #b0467f; --c3: #2a8fd0; --c4: #a86b00; --c5: #6a51a3; --fail: #c22f00;
  --best: #e69f00; --dim: #77808a; --card: #fff; }
@media screen and (prefers-color-scheme: dark) { :root { --c0: #6db4f2; --c1: #3fcf9f; --c2: #f08fc0; --c3: #9fd4ff;
  --c4: #f0b64a; --c5: #bba6f0; --fail: #ff8a5c; --best: #ffc04d; --dim: #939da8; --card: #20262d; } }
h1 .state { font-size: 1rem; font-weight: 600; color: var(--edge); white-space: nowrap; }
h2 { scroll-margin-top: 1rem; border-top: 1px solid var(--rule); padding-top: 1.25rem; }
.warnings h2 { border: 0; padding: 0; }
h3 { font-size: 1rem; margin: 1.5rem 0 .35rem; }
nav { margin: 0 0 1rem; display: flex; flex-wrap: wrap; gap: .25rem 1.25rem; }
a { color: var(--line); }
summary { font-size: 1rem; margin: .75rem 0 .35rem; }
td summary { font-size: .85rem; font-weight: 400; margin: 0; white-space: nowrap; color: var(--line); }
pre { overflow-x: auto; background: var(--calm); padding: .75rem; font-size: .8rem; margin: .35rem 0; }
code { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; font-size: .8rem;
  overflow-wrap: anywhere; }
.lead { font-size: 1.05rem; }
.plots { grid-template-columns: repeat(auto-fit, minmax(min(100%, 20rem), 1fr)); align-items: start; }
.figures { display: flex; flex-wrap: wrap; gap: 1.25rem; align-items: flex-start; }
.figures figure { flex: 0 1 auto; }
.figures img { background: #fff; border-radius: .25rem; padding: .25rem; }
@media screen and (prefers-color-scheme: dark) { .figures img { filter: brightness(.88); } }
.plot { touch-action: manipulation; }
.plot use { stroke: var(--paper); stroke-width: .7; fill-opacity: .85; }
.key use { stroke: none; }
.key svg { width: 1.45rem; height: 1rem; margin-right: .2rem; vertical-align: -.2rem; }
.c0 { fill: var(--c0); } .c1 { fill: var(--c1); } .c2 { fill: var(--c2); } .c3 { fill: var(--c3); }
.c4 { fill: var(--c4); } .c5 { fill: var(--c5); }
polyline { fill: none; stroke-width: 1.6; }
polyline.c0 { fill: none; stroke: var(--c0); } polyline.c1 { fill: none; stroke: var(--c1); }
polyline.c2 { fill: none; stroke: var(--c2); } polyline.c3 { fill: none; stroke: var(--c3); }
polyline.c4 { fill: none; stroke: var(--c4); } polyline.c5 { fill: none; stroke: var(--c5); }
.plot .heat, .key .heat { stroke: var(--dim); stroke-width: .6; fill-opacity: 1; }
.plot .s-stopped, .key .s-stopped { fill: none; stroke: var(--dim); stroke-width: 1.1; }
.plot .s-failed, .key .s-failed { fill: none; stroke: var(--fail); stroke-width: 1.5; }
.plot .s-unfinished, .key .s-unfinished { fill: none; stroke: var(--ink); stroke-width: 1.3; }
.g-unregularized { fill: var(--ink); } .g-early_stopped { fill: var(--soft); }
.g-published { fill: var(--fail); } .g-best { fill: var(--best); }
.plot .g-best { stroke: var(--ink); stroke-width: .8; fill-opacity: 1; }
.js .plot { cursor: crosshair; }
.plot use.on, .plot use:focus { stroke: var(--ink); stroke-width: 2.5; fill-opacity: 1; outline: none; }
.plot use:focus-visible { outline: 2px solid var(--edge); }
.shapes { position: absolute; }
.js-only { display: none; } .js .js-only { display: block; }
fieldset { border: 0; padding: 0; margin: .75rem 0; font-size: .9rem; }
legend { float: left; margin-right: 1rem; padding: 0; color: var(--soft); }
fieldset label { display: inline-block; margin-right: 1.1rem; white-space: nowrap; padding: .15rem 0; }
button { font: inherit; font-size: .85rem; color: var(--ink); background: var(--calm); border: 1px solid var(--dim);
  border-radius: .25rem; padding: .1rem .5rem; cursor: pointer; }
#trials thead button { background: none; border: 0; padding: 0; color: inherit; font-size: inherit; text-align: inherit;
  text-decoration: underline dotted; text-underline-offset: .2em; }
#trials th[aria-sort=ascending] button::after { content: " \\2191"; }
#trials th[aria-sort=descending] button::after { content: " \\2193"; }
#trials thead th { position: sticky; top: 0; background: var(--paper); z-index: 1; white-space: nowrap; }
#trials tbody th { min-width: 0; font-weight: 600; }
#trials tbody tr:hover { background: var(--calm); }
#trials td:last-child { min-width: 8rem; max-width: 26rem; }
#trials th, #trials td { padding-right: .9rem; }
.tall { max-height: 34rem; overflow: auto; }
.why { color: var(--fail); min-width: 10rem; max-width: 22rem; overflow-wrap: anywhere; }
#card { position: fixed; z-index: 5; width: min(24rem, calc(100vw - 1rem)); max-height: calc(100vh - 1rem);
  overflow: auto; background: var(--card); border: 1px solid var(--dim); border-radius: .4rem; padding: .6rem .8rem;
  box-shadow: 0 .25rem 1rem rgb(0 0 0 / .3); font-size: .875rem; pointer-events: none; }
#card.pinned { pointer-events: auto; }
#card[hidden] { display: none; }
#card h3 { margin: 0 2rem .35rem 0; }
#card dl { display: grid; grid-template-columns: max-content 1fr max-content 1fr; gap: .05rem .8rem; margin: 0; }
#card dt { color: var(--soft); } #card dd { margin: 0; font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
#card dd.why { max-width: none; min-width: 0; grid-column: 2 / -1; }
#card .command { margin-top: .4rem; border-top: 1px solid var(--rule); padding-top: .4rem; }
#card .command[hidden] { display: none; }
#card code { display: block; margin: .2rem 0; }
#card .close { position: absolute; right: .5rem; top: .5rem; }
#card .close, #card .copy, #card.pinned .hint { display: none; }
#card.pinned .close, #card.pinned .copy { display: inline-block; }
#card .note { margin: .2rem 0 0; font-size: .8rem; }
#card .hint { color: var(--soft); margin: .3rem 0 0; }
.aside { position: fixed; left: -100vw; }
@media (max-width: 36rem) { #card { left: .5rem; right: .5rem; bottom: .5rem; top: auto; width: auto;
  max-height: 60vh; } .figures img { width: 100%; } #trials th, #trials td { padding-right: .6rem; } }
@media print { .tall { max-height: none; } #card, .js .js-only { display: none; } }
"""


_CARD = """<aside id="card" aria-label="One trial" hidden><button type="button" class="close">Close</button>
<h3></h3><dl></dl><p class="note">Accuracies and objective are on validation images.</p>
<div class="command">trains and evaluates it again, on the test images: <button type="button" class="copy">Copy</button>
<code></code></div><p class="hint">Click, tap or Enter keeps this open.</p></aside>"""


def report(folders: Sequence[str | Path | Storage]) -> str:
    """Return the page of one search, or of several side by side.

    Args:
        folders: of the searches, running or ended.

    Raises:
        InputError: a folder that does not exist, or that holds no search; storage that does not answer.
    """
    return _Report(split_folders(folders)).page()


@dataclass(frozen=True)
class _Report:
    """Searches, by their names, and what a page says of them."""

    folders: Mapping[str, Storage]

    @cached_property
    def searches(self) -> Searches:
        return load_searches([*self.folders.values()])

    @property
    def trials(self) -> pd.DataFrame:
        return self.searches.trials

    @property
    def several(self) -> bool:
        return len(self.folders) > 1

    @cached_property
    def alpha_th(self) -> pd.DataFrame:
        return alpha_th_table(self.trials, self.searches.confirmation)

    def page(self) -> str:
        """The whole page."""
        names = [*self.folders]
        title = f"{len(names)} searches: {', '.join(names)}" if self.several else f"Search {names[0]}"
        running = [*self.searches.overview[self.searches.overview.state == RUNNING].search]
        marked = f' <span class="state">running{escape(": " + ", ".join(running)) if self.several else ""}</span>'
        sections: dict[str, tuple[str, Callable[[], str]]] = {
            "overview": ("Overview", self._overview),
            "trials-section": ("Trials", self._trials),
            "alpha-th": ("The alpha/Th table", self._alpha_th),
            "landscape": ("Landscape", self._landscape),
            "front": ("Clean against robust", self._front),
            "robustness": ("Robustness by strength", self._robustness),
            "importance": ("Importance", self._importance),
        }
        body = "\n".join(f'<h2 id="{name}">{said}</h2>\n{make()}' for name, (said, make) in sections.items())
        links = "".join(f'<a href="#{name}">{said}</a>' for name, (said, _) in sections.items())
        notes = self.searches.notes
        content = [
            f"<h1>{escape(title)}{marked if running else ''}</h1>",
            f'<p class="note">As of {time.strftime("%Y-%m-%d %H:%M:%S %z")}, by brainreg {brainreg.__version__}.</p>',
            f"<nav>{links}</nav>",
            warning_box("To know first", notes) if notes else "",
            body,
            definitions(),
            _CARD,
        ]
        script = Path(__file__).with_name("report.js").read_text(encoding="utf-8")
        return page(title, "\n".join(part for part in content if part), _STYLE, script)

    # -----------------------------------------------------------------------------------------
    # Overview
    # -----------------------------------------------------------------------------------------

    def _overview(self) -> str:
        overview = self.searches.overview
        leads = "".join(self._lead(name) + self._settings(name) for name in self.folders)
        facts = overview.drop(columns=["published", "notes"]).set_index("search").astype(object)
        facts["hours"] = [format_duration(3600 * hours) for hours in facts.hours]
        facts = facts.rename(columns={"of": "of (trials asked for)", "hours": "time that workers spent"})
        groups = {name: self.trials[self.trials.search == name] for name in facts.index}
        facts["objective"] = [_measured(one) for one in groups.values()]
        facts["same in all its trials"] = [
            ", ".join(f"{key} {value}" for key, value in same_in_all(one).items()) for one in groups.values()
        ]
        if self.several:
            shown = _frame("Overview", facts.T.reset_index(names=""), texts=[*facts.index])
        else:
            shown = facts_table({name: _text(value) for name, value in facts.iloc[0].items()})
        costs = cost_table(self.trials)
        if costs.empty:
            return f"{leads}{shown}"
        if not self.several:
            costs = costs.drop(columns="search")
        note = _note("Times are those that workers spent, added up.")
        return f"{leads}{shown}<h3>States and cost</h3>{note}{_frame('States and cost', costs)}"

    def _lead(self, name: str) -> str:
        """What a search found, in a few sentences: what was confirmed of it, or that nothing was."""
        state = self.searches.overview.set_index("search").state[name]
        said = f"{name} is {state}. " if self.several else ""
        confirmed = self._confirmed_lead(name)
        one = self.trials[(self.trials.search == name) & (self.trials.state == FINISHED)].dropna(subset=["objective"])
        if one.empty:
            return f'<p class="lead">{escape(said + (confirmed or "No trial has finished yet."))}</p>'
        ranked = rank_trials(one)
        best = recommended_trial(ranked)
        objective, clean, robust = (
            expected_value(best, name) for name in ("objective", "clean_accuracy", "robust_accuracy")
        )
        of = f" ({shown_name(best.setting)})" if best.setting else ""
        runs = int((one.setting_number == best.setting_number).sum())
        found = (
            f"of {one.setting_number.nunique()} settings with {len(one)} finished trials, setting"
            f" {best.setting_number}{of} is recommended, after {runs} of them: expected objective {objective:.1%},"
            f" clean {clean:.1%}, robust {robust:.1%}"
        )
        for other in first_of_settings(ranked).itertuples():
            if other.setting and other.setting_number != best.setting_number:
                found += f"; {shown_name(other.setting)}: {expected_value(other, 'objective'):.1%}"
        if confirmed:
            searched = _note(f"In the search, on validation images, {found}.")
            return f'<p class="lead">{escape(said + confirmed)}</p>{searched}'
        told = f"{said}Not confirmed: on validation images, {found}."
        largest = f"The largest objective of a single trial, {one.objective.max():.1%}, is too good by some luck."
        return f'<p class="lead">{escape(f"{told} {largest}")}</p>'

    def _settings(self, name: str) -> str:
        """What is expected of the best settings of a search; nothing where its space is another version's."""
        try:
            space = read_space(read_manifest(self.folders[name]))
        except FormatError:
            return ""
        advice = None if space is None else search_advice(self.trials[self.trials.search == name], space)
        if space is None or advice is None or advice.settings.empty:
            return ""
        of = f" of {name}" if self.several else ""
        noise = "" if pd.isna(advice.noise) else f" (one run: standard deviation {100 * advice.noise:.1f} points)"
        note = _note(
            "What a further run of each setting is expected to give on validation images, by all runs of the search"
            f"{noise}. P(best): the probability that no other of its settings is better by more than half a point;"
            " P(better): that it is better than the unregularized one."
        )
        return f"{note}{_frame(f'Settings{of}', best_settings(advice, space))}"

    def _confirmed_lead(self, name: str) -> str:
        """What a confirmation measured on test images, where there is one."""
        confirmation = self.searches.confirmation
        confirmation = confirmation[confirmation.search == name]
        summary = confirmation_table(confirmation)
        summary = summary[summary["rank"] < 2]
        if not (summary.setting == FOUND).any():
            return ""
        parts = []
        for setting in reversed(SETTINGS):
            for row in summary[summary.setting == setting].itertuples():
                trial = f" (trial {row.trial})" if setting == FOUND else ""
                accuracies = [
                    f"{measure} {getattr(row, measure):.1%}{_ends(row, measure)}"
                    for measure in ("objective", "clean", "robust")
                    if pd.notna(getattr(row, measure))
                ]
                parts.append(f"{shown_name(setting)}{trial}: {', '.join(accuracies)}")
        first = summary[summary.setting == FOUND].iloc[0]
        seeds = f"{first.seeds}" + (f" of {first.planned}" if first.seeds < first.planned else "")
        attack = f"; robust: {first.attack}, eps {first.eps:g}" if pd.notna(first.eps) else ""
        differences = compare_settings(confirmation)
        told = [
            f" {shown_name(row.better)} against {shown_name(row.than)}, {row.measure} {row.difference:+.1%}:"
            f" {verdict_of(row)}."
            for row in differences[differences.measure == "objective"].itertuples()
            if row.better == FOUND
        ]
        return (
            f"Confirmed on test images with {seeds} fresh seeds{attack}; means with 95% intervals over seeds."
            f" {'; '.join(parts)}.{''.join(told)}"
        )

    # -----------------------------------------------------------------------------------------
    # Each trial
    # -----------------------------------------------------------------------------------------

    def _trials(self) -> str:
        if self.trials.empty:
            return _note("No trial has begun.")
        note = (
            "Hover over a mark, tap it, or move between marks with the arrow keys: a card shows the trial’s setting,"
            " its accuracies, why it failed, and the command that trains it again. All accuracies are on validation"
            " images."
        )
        body = f'<p class="note js-only">{note}</p>{self._filters()}<p class="note">{self._legend()}</p>'
        body += f'<div class="panels plots">{self._progress()}{self._alpha_plot()}{self._front_plot()}</div>'
        body += "<h3>All trials</h3>" + _note(
            "Accuracies and objective are on validation images; accuracy under noise is not a part of the objective. A"
            " trial that was stopped early, failed, or still runs has none."
        )
        body += '<p class="note js-only" id="count" aria-live="polite"></p>'
        body += self._all_trials() + "<h3>The best trials, on validation images</h3>"
        best = best_trials(self.trials)
        return body + _frame("The best trials", best if self.several else best.drop(columns="search"))

    def _filters(self) -> str:
        """Boxes that show and hide trials by state and, of several, by search."""
        counts = self.trials.state.value_counts()
        groups = {"state": {f"s-{state}": f"{state} ({counts[state]})" for state in _STATES if state in counts}}
        if self.several:
            groups["search"] = {f"n{i}": name for i, name in enumerate(self.folders)}
        rules, sets = [], []
        for name, boxes in groups.items():
            rules += [f".hide-{hidden} .{hidden} {{ display: none; }}" for hidden in boxes]
            labels = "".join(
                f'<label><input type="checkbox" data-hide="{hidden}" checked> {escape(text)}</label>'
                for hidden, text in boxes.items()
            )
            sets.append(f'<fieldset class="js-only"><legend>{name}</legend>{labels}</fieldset>')
        return f"<style>{' '.join(rules)}</style>{''.join(sets)}"

    def _legend(self) -> str:
        there = {*self.trials.state}
        if self.several:
            entries = [key(_SEARCH_SHAPES[i % 5], f"c{i % _COLORS}", name) for i, name in enumerate(self.folders)]
        else:
            entries = [key("dot", "c0", "finished")] if FINISHED in there else []
        entries += [
            key(_STATES[state], f"s-{state}", state) for state in _STATES if state != FINISHED and state in there
        ]
        settings = {*self.trials[self.trials.state == FINISHED].setting}
        for setting, shape in _GIVEN_SHAPES.items():
            if setting in settings:
                entries.append(key(shape, f"g-{setting}", shown_name(setting)))
        if "" in settings:
            entries.append(key("star", "g-best", "first of the proposed settings"))
        return "".join(entries)

    @cached_property
    def _best(self) -> set[int]:
        """Where in `trials` the first proposed trial of each search stands: see `rank_trials`."""
        proposed = self.trials[(self.trials.state == FINISHED) & (self.trials.setting == "")]
        firsts = {name: rank_trials(one).trial.iloc[0] for name, one in proposed.groupby("search")}
        return {*proposed.index[proposed.trial == proposed.search.map(firsts)]}

    @cached_property
    def _keys(self) -> list[str]:
        """What each trial is called in the page."""
        numbers = {name: i for i, name in enumerate(self.folders)}
        return [f"{numbers[s]}-{t}" for s, t in zip(self.trials.search, self.trials.trial, strict=True)]

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
        numbers = {name: i for i, name in enumerate(self.folders)}
        columns = zip(
            self.trials.index, self._keys, self.trials[x], self.trials[y], self.trials.state, self.trials.setting,
            self.trials.search, strict=True,
        )  # fmt: skip
        for index, name, across, up, state, setting, search in columns:
            number = numbers[search]
            classes, shape = f"s-{state} n{number}", _STATES[state]
            if pd.isna(across) or (pd.isna(up) and not (foot and state != FINISHED)):
                continue
            fill = ""
            if state == FINISHED:
                shape = _SEARCH_SHAPES[number % 5] if self.several else shape
                shape = _GIVEN_SHAPES.get(setting, "star" if index in self._best else shape)
                color = f"g-{setting or 'best'}" if setting or index in self._best else "c0"
                classes += f" c{number % _COLORS}" if self.several else f" {color}"
                if colors is not None:
                    fill = colors[index]
                    classes += " heat"
            height = state if pd.isna(up) else scales[1] * float(up)
            mark = Mark(name, scales[0] * float(across), height, shape, classes, fill)
            (above if setting or index in self._best else marks).append(mark)
        # What did not finish lies below what did.
        return sorted(marks, key=lambda mark: "s-finished" in mark.classes) + above

    def _progress(self) -> str:
        lines = []
        for i, name in enumerate(self.folders):
            one = self.trials[(self.trials.search == name)].sort_values("trial")
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

    def _alpha_plot(self) -> str:
        objective = self.trials.objective.astype(float)
        low, high = objective.min(), objective.max()
        colors = matplotlib.colormaps["cividis"]
        filled = {
            index: to_hex(colors((value - low) / (high - low) if high > low else 0.5))
            for index, value in objective.items()
        }
        shown = self.trials[(self.trials.reg_alpha > 0).fillna(False) & self.trials.reg_thresh.notna()]
        if shown.empty:
            return ""
        marks = self._marks("reg_alpha", "reg_thresh", (1, 1), colors=filled)
        log = shown.reg_alpha.max() > 5 * shown.reg_alpha.min()
        axes = Axis(f"weight α{' (log scale)' if log else ''}", log=log), Axis("threshold Th")
        figure = plot("Alpha and Th of the regularized trials, by objective", marks, *axes, [])
        if pd.isna(low):
            return figure
        stops = "".join(f'<stop offset="{i / 8}" stop-color="{to_hex(colors(i / 8))}"/>' for i in range(9))
        bar = (
            '<svg viewBox="0 0 20 14" preserveAspectRatio="none" aria-hidden="true"><defs><linearGradient id="heat">'
            f'{stops}</linearGradient></defs><rect y="2" width="20" height="10" style="fill:url(#heat)"/></svg>'
        )
        span = f"{100 * low:.1f} {bar} {100 * high:.1f} % objective, validation"
        return figure.replace("</figure>", f'<p class="note key">{span}</p></figure>')

    def _front_plot(self) -> str:
        lines = []
        for i, name in enumerate(self.folders):
            one = self.trials[(self.trials.search == name) & (self.trials.state == FINISHED)]
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
            return ""
        axes = Axis("clean accuracy, validation (%)"), Axis("robust accuracy, validation (%)")
        return plot("Clean and robust accuracy; line: the front", marks, *axes, lines)

    def _all_trials(self) -> str:
        seen = all_trials(self.trials)
        if not self.several:
            seen = seen.drop(columns="search")
        seen.insert(0, "trial", seen.pop("trial"))
        if not seen.why.any():
            seen = seen.drop(columns="why")
        texts = {"search", "setting", "state", "range", "why"}
        head = "".join(_head(name, name in texts) for name in seen.columns) + '<th scope="col">command</th>'
        numbers = {name: f"n{i}" for i, name in enumerate(self.folders)}
        rows = []
        lists = [[*map(_text, seen[name])] for name in seen.columns]
        seconds = self.trials.seconds
        for i, (index, cells) in enumerate(zip(seen.index, zip(*lists, strict=True), strict=True)):
            trial = self.trials.loc[index]
            said = [f'<th scope="row">{escape(cells[0])}</th>']
            for name, cell in zip(seen.columns[1:], cells[1:], strict=True):
                value = f' data-v="{seconds[index]:.1f}"' if name == "time" and pd.notna(seconds[index]) else ""
                kind = ' class="why"' if name == "why" else "" if name in texts else ' class="number"'
                said.append(f"<td{kind}{value}>{escape(cell)}</td>")
            command = escape(self._command(trial))
            shown = f"<details><summary>command …</summary><code>{command}</code></details>" if command else ABSENT
            classes = f"s-{trial.state} {numbers[trial.search]}"
            rows.append(f'<tr id="t{self._keys[i]}" class="{classes}">{"".join(said)}<td>{shown}</td></tr>')
        table = f'<table id="trials"><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'
        return scrolling("All trials", table).replace('class="scroll"', 'class="scroll tall"', 1)

    @cached_property
    def _options(self) -> dict[str, tuple[int | None, str]]:
        """The CPU threads of the trials of each search (None: they ran on a GPU), and the folder of their data."""
        options = {}
        for name, folder in self.folders.items():
            try:
                manifest = read_manifest(folder)
            except FormatError as error:
                manifest = error.manifest
            own = manifest.get("options") or {}
            on_cpu = str(manifest.get("device", "CPU")).startswith("CPU")
            threads = max(int(own.get("cpus_per_trial") or 1), 1) if on_cpu else None
            options[name] = threads, str(own.get("data_dir") or DATA_DIR)
        return options

    def _command(self, trial: pd.Series) -> str:
        """What trains a trial again; empty for a setting of another version, and where `brainreg train` cannot."""
        if trial.setting == EARLY_STOPPED:
            return ""
        try:
            return train_command(settings_of(trial), *self._options[trial.search])
        except ValueError:
            return ""

    # -----------------------------------------------------------------------------------------
    # What the notebooks show
    # -----------------------------------------------------------------------------------------

    def _alpha_th(self) -> str:
        if self.alpha_th.empty:
            return _note("No trial has begun.")
        shown = format_table(self.alpha_th).set_index("search").rename(columns={"data": "data sets"})
        body = _frame("The alpha/Th table", shown.T.reset_index(names=""), texts=[*shown.index])
        body += _list(table_notes(self.alpha_th))
        known = self.alpha_th[["unregularized_clean", "published_clean", "found_clean"]].notna().to_numpy().any()
        if known:
            alt = "Clean and robust accuracy of each setting, with 95% intervals; the table above has the numbers"
            body += _figures([_figure(draw_comparison(self.alpha_th), "Clean and robust accuracy", alt)])
        body += f"<details><summary>As LaTeX</summary><pre>{escape(to_latex(self.alpha_th))}</pre></details>"
        body += f"<details><summary>As CSV</summary><pre>{escape(to_csv(self.alpha_th))}</pre></details>"
        return body + "<h3>Confirmed on test images</h3>" + self._confirmed()

    def _confirmed(self) -> str:
        confirmation = self.searches.confirmation
        summary = confirmation_table(confirmation)
        missing = [name for name in self.folders if name not in {*summary.search}]
        told = f"Nothing is confirmed of {', '.join(missing)}: no confirmation.csv with results."
        body = _note(f"{told} All its numbers are validation's.") if missing else ""
        if summary.empty:
            return body
        seen = format_confirmation(summary)
        body += _frame("Confirmed on test images", seen, texts=["search", "setting", "range"])
        differences = compare_settings(confirmation)
        body += _list(confirmation_notes(confirmation))
        body += f"<pre>{escape(chr(10).join(describe_differences(differences)))}</pre>"
        if len(differences):
            alt = "The differences between settings on test images, with 95% intervals; the text above has the numbers"
            body += _figures([_figure(paired_differences(differences), "Differences, paired over seeds", alt)])
        by = [name for name in ("search", "setting", "rank", "attack", "eps") if name != "search" or self.several]
        curves = over_seeds(confirmation[confirmation.split == "test"], by)
        curves = curves[by].assign(**{"accuracy (%), test": _intervals(curves), "seeds": curves.seeds})
        every = _frame("Every attack and strength", curves, texts=["search", "setting", "attack"])
        return body + f"<details><summary>Every attack and strength</summary>{every}</details>"

    def _landscape(self) -> str:
        note = (
            "The heat map is the mean of the trials nearby, and fades away where there are none. With a single seed, a"
            " lone bright dot may be luck. The star is the proposed setting with the"
            " largest expected objective, the diamond the published one."
        )
        alt = "Heat map of the validation objective over alpha and Th"
        figures = []
        if self.several:
            figures.append(_figure(draw_landscape(self.trials, by="search"), "Alpha and Th, by search", alt))
        for name, one in self.trials.groupby("search", sort=False):
            of = f"{name}: " if self.several else ""
            if not self.several:
                figures.append(_figure(draw_landscape(one), "Alpha and Th", alt))
            for said, column in (("range", "reg_range"), ("N", "reg_image_num"), ("k", "reg_batch_size")):
                if one[column].nunique() > 1:
                    drawn = draw_landscape(one, by=column)
                    figures.append(_figure(drawn, f"{of}by {said}", f"{alt}, a panel for each part of {said}"))
            if one.reg_image_num.nunique() > 1 or one.reg_batch_size.nunique() > 1:
                alt_slices = "The validation objective against N and against k, with a mark for each range"
                figures.append(_figure(draw_slices(one), f"{of}objective over N and over k", alt_slices))
        if not figures:
            return _note("No trial has begun.")
        same = [
            said
            for said, column in (("range", "reg_range"), ("N", "reg_image_num"), ("k", "reg_batch_size"))
            if self.trials[column].nunique() < 2
        ]
        left_out = _note(f"The same in all trials, so without a figure: {', '.join(same)}.") if same else ""
        return _note(note) + _figures(figures) + left_out

    def _front(self) -> str:
        if not (self.trials.state == FINISHED).any():
            return _note("No trial has finished yet.")
        note = (
            "The front: the trials that no other one exceeds in one accuracy and equals or exceeds in the other. Its"
            " hypervolume is the area that it dominates and that the unregularized trial alone does not. All on"
            " validation images; a front of many trials is too good by some amount."
        )
        alts = (
            "Clean against robust accuracy of each trial, the front, and its hypervolume",
            "How the hypervolume of the front grew over time",
        )
        figures = [
            _figure(draw_front(self.trials), "Clean against robust accuracy", alts[0]),
            _figure(hypervolume_over_time(self.trials), "Hypervolume over time", alts[1]),
        ]
        front = front_trials(self.trials)
        shown = _frame("The front", front if self.several else front.drop(columns="search"))
        return _note(note) + _figures(figures) + "<h3>The trials of the front</h3>" + shown

    def _robustness(self) -> str:
        body = "<h3>The final attack</h3>" + self._final_attack() + "<h3>Curves</h3>"
        try:
            curves = load_measured_curves([*self.folders.values()], self.trials)
        except StorageError:
            raise
        except InputError as error:
            return body + _note(f"They cannot be shown: {error}.")
        fresh = confirmed_curves(self.searches.confirmation)
        if len(fresh):
            alt = "Accuracy on test images by strength of each attack, a line for each setting of the confirmation"
            figure = robustness_curves(fresh, "test")
            body += _figures([_figure(figure, "Confirmed on test images, with 95% intervals over fresh seeds", alt)])
        for images, part in curves.groupby("images", sort=False):
            alt = f"Accuracy on {images} images by strength of each attack, a line for each network"
            caption = f"On {images} images, with 95% intervals"
            body += _figures([_figure(robustness_curves(part, images), caption, alt)])
            seen = part[["network", "attack", "eps", "n"]].assign(**{"accuracy (%)": _intervals(part)})
            rows = _frame(f"Measured on {images} images", seen, texts=["attack"])
            body += f"<details><summary>All measurements on {images} images ({len(part)})</summary>{rows}</details>"
        if curves.empty and fresh.empty:
            body += _note(
                "None was measured yet. python -m brainreg evaluate --checkpoint=…/best/checkpoint.pt measures a"
                " network (and the same for the trial without regularization), and the next report shows it;"
                " 05_robustness_curves.ipynb measures both."
            )
        return body

    def _final_attack(self) -> str:
        parts, damaged = [], ""
        for name, folder in self.folders.items():
            content = folder.read(FINAL_TABLE)
            if content is None:
                continue
            try:
                table = pd.read_csv(io.BytesIO(content), dtype={"setting": str}).fillna({"setting": ""})
                parts.append(table[[*_FINAL]].assign(search=name))
            except (ValueError, KeyError):
                damaged += _note(f"{folder.path(FINAL_TABLE)}: damaged; not a table of the final attack.")
        if not parts:
            return damaged or _note("None was run.")
        attacks = pd.concat(parts, ignore_index=True)
        seen = attacks[["search", "trial"]].assign(
            setting=attacks.setting.replace("", "the best"),
            attack=attacks.attack,
            eps=attacks.eps,
            images=attacks.n,
            **{"robust accuracy (%), validation": _intervals(attacks)},
        )
        seen["the search"] = attacks.fresh.astype(str).map(
            {"True": "did not attack these images", "False": "attacked these images, too"}
        )
        note = "On validation images, with Wilson’s 95% interval over images."
        shown = seen if self.several else seen.drop(columns="search")
        return damaged + _note(note) + _frame("The final attack", shown, texts=["setting", "attack", "the search"])

    def _importance(self) -> str:
        from brainreg.analysis.importance import EVALUATORS, TREES, importances

        many = (self.trials.state == FINISHED).sum() > _MANY
        trees = _FEWER_TREES if many else TREES
        shares = importances([*self.folders.values()], trees=trees)
        fewer = f", a quarter of Optuna’s {TREES}, since more than {_MANY} trials finished" if many else ""
        note = (
            f"Shares of the importance for the validation objective by Optuna’s evaluators ({', '.join(EVALUATORS)}),"
            f" of all finished trials with parameters; random forests of {trees} trees{fewer}, seed 0. fANOVA and the"
            " mean decrease in impurity ask what explains the objective over all of them; PED-ANOVA asks what tells the"
            " best tenth from all. They answer different questions and may disagree. Shares sum to 100% even where the"
            " objectives are noise: objectives in a random order stay below the lines of the figure (floor in the"
            " table) 19 times in 20. Trials that were stopped early are left out, which makes the rest look alike."
        )
        if shares.empty:
            return _note(note) + _note("Too few trials with parameters have finished.")
        nothing = [
            f"{name}: the hyperparameters do not predict the objective of its {one.trials.iloc[0]} trials"
            f" (cross-validated R² {one.r2.iloc[0]:.2f}), so their importance is not shown."
            for name, one in shares[~(shares.r2 > 0)].groupby("search", sort=False)
        ]
        shares = shares[shares.r2 > 0]
        if shares.empty:
            return _note(note) + _list(nothing)
        figure = _figure(draw_importance(shares), "Importance", "Shares of the importance, a bar for each evaluator")
        shares = shares.assign(
            shown=[f"{100 * a:.1f} (floor {100 * b:.1f})" for a, b in zip(shares.importance, shares.floor, strict=True)]
        )
        table = shares.pivot(index=["search", "parameter"], columns="evaluator", values="shown")
        seen = table.rename(columns="{} (%)".format).reset_index()
        if not self.several:
            seen = seen.drop(columns="search")
        return _note(note) + _list(nothing) + _figures([figure]) + _frame("Importance", seen, texts=["parameter"])


def _measured(trials: pd.DataFrame) -> str:
    """What the objective of a search is, in words."""
    known = trials[trials.weight.notna() & trials.eps.notna()]
    if known.empty:
        return ""
    first = known.iloc[0]
    counts = [
        f"{int(trials[name].max())} {said}"
        for name, said in (("clean_n", "clean"), ("robust_n", "attacked"))
        if trials[name].notna().any()
    ]
    said = f" ({', '.join(counts)})" if counts else ""
    return (
        f"{first.weight:g} clean + {1 - first.weight:g} robust accuracy, on validation images"
        f"{said}; robust: {first.attack}, eps {first.eps:g}; not optimized:"
        f" {first.noise} noise, eps {first.noise_eps:g}"
    )


def _text(value: object) -> str:
    if isinstance(value, float) and not pd.isna(value):
        return f"{value:.6g}"
    return ABSENT if value is None or value is pd.NA or value != value else str(value)


def _ends(row: object, measure: str) -> str:
    """The interval of an accuracy, where it is known."""
    low, high = getattr(row, f"{measure}_low"), getattr(row, f"{measure}_high")
    return "" if pd.isna(low) else f" [{100 * low:.1f}, {100 * high:.1f}]"


def _note(text: str) -> str:
    return f'<p class="note">{escape(text)}</p>'


def _list(texts: Sequence[str]) -> str:
    return '<ul class="note">' + "".join(f"<li>{escape(text)}</li>" for text in texts) + "</ul>" if texts else ""


def _head(name: str, left: bool) -> str:
    return f'<th scope="col"{"" if left else _NUMBER}>{escape(name)}</th>'


_NUMBER = ' class="number"'


def _frame(label: str, frame: pd.DataFrame, texts: Sequence[str] = ()) -> str:
    """A frame as a table; columns of texts, and those that are no numbers, stand at the left."""
    rows = [[*map(_text, row)] for row in frame.itertuples(index=False)]
    left = [*texts, *(name for name in ("search", "setting", "state", "range") if name in frame)]
    return html_table(label, [str(name) for name in frame.columns], rows, left)


def _intervals(frame: pd.DataFrame) -> list[str]:
    """Accuracies in percent, with their intervals, where they are known."""
    rows = zip(frame.accuracy, frame.low, frame.high, strict=True)
    return [
        ABSENT if pd.isna(middle) else f"{100 * middle:.1f} [{100 * low:.1f}, {100 * high:.1f}]"
        for middle, low, high in rows
    ]


def _figure(figure: "Figure", caption: str, alt: str) -> str:
    width, height = (round(_SHOWN_DPI * inches) for inches in figure.get_size_inches())
    image = picture(png(figure, _DPI), (width, height), alt)
    return f"<figure><figcaption>{escape(caption)}</figcaption>{image}</figure>"


def _figures(figures: Sequence[str]) -> str:
    return f'<div class="figures">{"".join(figures)}</div>'
