"""What a search shows in the terminal: its trials while they run, and the ranked table at the end."""

import shlex
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text
from scipy.stats import norm

from brainreg._utils.commands import python_name
from brainreg._utils.formats import SYMBOLS, format_accuracy, format_duration, format_setting
from brainreg.records.trial import FAILED, FINISHED, STOPPED, UNFINISHED, TrialRecord
from brainreg.spaces.names import shown_name

# In a terminal the table is redrawn in place; elsewhere a line of progress is printed this often at most.
_LINE_SECONDS = 30


_SHOWN_TRIALS = 20


def time_left(
    total: int, slots: int, done: Sequence[float], running: Sequence[float], afterwards: float = 0
) -> float | None:
    """Estimate how many seconds a search still takes; None before a trial is done.

    Args:
        total: trials of the search.
        slots: trials that run at a time.
        done: seconds that each ended trial took.
        running: seconds that each running trial has taken.
        afterwards: seconds that the search takes after its last trial.
    """
    if not done:
        return None
    mean = sum(done) / len(done)
    rest = sum(max(mean - one, 0) for one in running)
    return ((total - len(done) - len(running)) * mean + rest) / slots + afterwards


@dataclass
class _Trial:
    number: int
    setting: str
    hyperparameters: Mapping[str, Any]
    began: float
    state: str = "starting"
    seconds: float | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)


class SearchProgress:
    """Follows the trials of a search and shows them.

    Args:
        total: trials of the search.
        slots: trials that run at a time.
        searched: names of the hyperparameters that are searched, which become columns.
        console: where to show it.
        afterwards: seconds that the search takes after its last trial.
    """

    def __init__(self, total: int, slots: int, searched: Iterable[str], console: Console, afterwards: float = 0):
        self.total, self.slots, self.searched, self.console = total, slots, list(searched), console
        self.afterwards = afterwards
        self.trials: dict[int, _Trial] = {}
        self.began = time.monotonic()
        self._printed = self.began
        self._live = Live(self, console=console, refresh_per_second=2) if console.is_terminal else None

    def __enter__(self) -> "SearchProgress":
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def resume(self, records: Iterable[TrialRecord]) -> None:
        """Trials that ended before the search was resumed."""
        for record in records:
            if record.state != UNFINISHED:
                seconds = record.seconds or 0.0
                self.trials[record.number] = _Trial(
                    record.number, record.setting, record.hyperparameters, 0.0, record.state, seconds, record.measured
                )

    def started(self, number: int, setting: str, hyperparameters: Mapping[str, Any]) -> None:
        """A trial has been given to a worker."""
        if number not in self.trials:  # else it is tried again
            self.trials[number] = _Trial(number, setting, hyperparameters, time.monotonic())

    def trained(self, number: int, epoch: int, epochs: int, valid_accuracy: float) -> None:
        """A trial has completed an epoch."""
        self.trials[number].state = (
            f"epoch {epoch}/{epochs}, valid {valid_accuracy:.3f}" if epoch < epochs else "under attack"
        )

    def finished(self, number: int, measured: Mapping[str, Any]) -> None:
        """A trial has been measured."""
        trial = self.trials[number]
        trial.state, trial.seconds, trial.measured = FINISHED, time.monotonic() - trial.began, measured
        self._print_trial(
            trial,
            f"objective {measured['objective']:.3f} (clean {measured['clean_accuracy']:.3f},"
            f" robust {measured['robust_accuracy']:.3f}), under noise {measured['noise_accuracy']:.3f}",
        )

    def stopped(self, number: int) -> None:
        """A trial was not worth going on with."""
        trial = self.trials[number]
        if trial.seconds is None:
            after = trial.state
            trial.state, trial.seconds = STOPPED, time.monotonic() - trial.began
            self._print_trial(trial, f"{STOPPED} after {after}")

    def failed(self, number: int, reason: str) -> None:
        """A trial has ended without a result."""
        trial = self.trials[number]
        trial.state, trial.seconds = f"{FAILED}: {reason}", time.monotonic() - trial.began
        self._print_trial(trial, trial.state)

    def noted(self, number: int, note: str) -> None:
        """Something of a trial that the user should know."""
        self._print(f"trial {number}: {note}")

    def retried(self, number: int, reason: str) -> None:
        """A trial is tried again."""
        self._print(f"trial {number}: tried again after {reason}")

    def counts(self) -> dict[str, float]:
        """The state of the search in numbers: trials by state, and the best one's objective and accuracies."""
        trials = self.trials.values()
        done = [trial for trial in trials if trial.seconds is not None]
        numbers = {
            "trials_done": len(done),
            "trials_stopped": sum(trial.state == STOPPED for trial in done),
            "trials_failed": sum(trial.state.startswith(FAILED) for trial in done),
            "trials_running": len(trials) - len(done),
        }
        measured = [trial.measured for trial in done if trial.measured]
        if measured:
            best = max(measured, key=lambda one: one["objective"])
            numbers |= {f"best_{name}": best[name] for name in ("objective", "clean_accuracy", "robust_accuracy")}
        return numbers

    def tick(self) -> None:
        """Print a line of progress where nothing was printed for a while and nothing is redrawn."""
        if self._live is None and time.monotonic() - self._printed > _LINE_SECONDS:
            self._print(self.line())

    def _print_trial(self, trial: _Trial, outcome: str) -> None:
        settings = [
            f"{SYMBOLS.get(key, key)} {format_setting(value)}"
            for key, value in self._searched(trial)
            if format_setting(value)
        ]
        named = [shown_name(trial.setting)] * bool(trial.setting)
        self._print(f"trial {trial.number} ({', '.join(named + settings)}): {outcome}")
        self._print(self.line())

    def _print(self, text: str) -> None:
        if self._live is None:
            self.console.print(text, soft_wrap=True, highlight=False, markup=False)
            self._printed = time.monotonic()

    def _searched(self, trial: _Trial) -> list[tuple[str, Any]]:
        return [(key, trial.hyperparameters.get(key)) for key in self.searched]

    def line(self) -> str:
        """How far the search is, what is best so far, and how long it still takes."""
        counts = self.counts()
        parts = [f"{counts['trials_done']}/{self.total} trials done, {counts['trials_running']} running"]
        for state in (STOPPED, FAILED):
            if counts[f"trials_{state}"]:
                parts[0] += f", {counts[f'trials_{state}']} {state}"
        measured = [trial for trial in self.trials.values() if trial.measured]
        if measured:
            best = max(measured, key=lambda trial: trial.measured["objective"])
            parts.append(f"best {best.measured['objective']:.3f} (trial {best.number})")
        parts.append(f"{format_duration(time.monotonic() - self.began)} so far")
        left = self.seconds_left()
        if left is None:
            parts.append("time left unknown until a trial is done")
        elif counts["trials_running"] and left < 1:
            parts.append("longer than the others")
        else:
            parts.append(f"about {format_duration(left)} left")
        return "; ".join(parts)

    def seconds_left(self) -> float | None:
        """Estimate how long the search still takes, from the mean time of the trials done; None before the first."""
        trials, now = self.trials.values(), time.monotonic()
        return time_left(
            total=self.total,
            slots=self.slots,
            done=[trial.seconds for trial in trials if trial.seconds is not None],
            running=[now - trial.began for trial in trials if trial.seconds is None],
            afterwards=self.afterwards,
        )

    def __rich__(self) -> Group:
        table = _table(self.searched, "state")
        trials = sorted(self.trials.values(), key=lambda trial: trial.number)
        done = [trial for trial in trials if trial.seconds is not None]
        hidden = max(len(trials) - _SHOWN_TRIALS, 0)
        for trial in [trial for trial in trials if trial not in done[:hidden]]:
            state = f"{trial.seconds:.0f} s" if trial.measured else trial.state
            _add_row(table, trial.number, self._searched(trial), trial.measured, state, trial.setting)
        notes = [Text(f"({hidden} earlier trials not shown)", style="dim")] if hidden else []
        return Group(*notes, table, Text(self.line()))


_ACCURACIES = {
    "clean_accuracy": "clean",
    "robust_accuracy": "robust",
    "noise_accuracy": "noise",
    "objective": "objective",
}


def _table(searched: Iterable[str], last: str) -> Table:
    table = Table(box=None, padding=(0, 1, 0, 0), header_style="bold")
    for header in ("trial", *(SYMBOLS.get(key, key) for key in searched), *_ACCURACIES.values()):
        table.add_column(header, justify="right", no_wrap=True)
    table.add_column(last, overflow="fold")
    return table


def _add_row(
    table: Table,
    number: int,
    searched: Iterable[tuple[str, Any]],
    measured: Mapping[str, Any],
    last: str,
    setting: str,
) -> None:
    settings = (format_setting(value) for _, value in searched)
    accuracies = (format_accuracy(measured.get(name)) for name in _ACCURACIES)
    table.add_row(str(number), *settings, *accuracies, f"{last}, {shown_name(setting)}" if setting else last)


def expected_largest(count: int) -> float:
    """Return by how many standard deviations the largest of so many normal draws lies above their mean, on average.

    >>> round(expected_largest(7), 2)
    1.35
    """
    x = np.linspace(-9, 9, 18_001)
    return float(np.trapezoid(x * count * norm.pdf(x) * norm.cdf(x) ** (count - 1), x))


def luck_lines(results: pd.DataFrame, folder: str) -> list[str]:
    """Return what to know of the best of a search: that it is the largest of several draws, and what tells more.

    Args:
        results: trials of `brainreg.records.results.rank_trials`.
        folder: of the search.
    """
    proposed = int((results.setting == "").sum())
    if proposed < 2:
        return []
    return [
        f"the best is the largest of {proposed} runs of one seed each, of which luck alone expects"
        f" {expected_largest(proposed):.1f} standard deviations of a run; whether it is better, over fresh seeds and on"
        " test images:",
        f"  {python_name()} -m brainreg confirm {shlex.quote(folder)}",
    ]


def ranked_table(results: pd.DataFrame, searched: Iterable[str], rows: int = 15) -> Table:
    """Return the first `rows` trials of `rank_trials`, and any given setting below them, as a table."""
    searched = list(searched)
    table = _table(searched, "time")
    for position, row in enumerate(results.to_dict("records")):
        if position < rows or row["setting"]:
            values = [(key, row[key]) for key in searched]
            _add_row(table, row["trial"], values, row, f"{row['seconds']:.0f} s", row["setting"])
    return table
