"""What a search shows in the terminal while its trials run."""

import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from brainreg._utils.formats import SYMBOLS, format_accuracy, format_duration, format_hyperparameter, format_probability
from brainreg.recommendation.setting_table import Advice
from brainreg.records.results import advise_by_records
from brainreg.records.trial import FAILED, FINISHED, STOPPED, UNFINISHED, TrialRecord
from brainreg.search.limits import Limits
from brainreg.search.timing import time_left
from brainreg.spaces.names import shown_name
from brainreg.spaces.space import Space

# In a terminal the table is redrawn in place; elsewhere a line of progress is printed this often at most.
_LINE_SECONDS = 30

_SHOWN_TRIALS = 20

# What the settings' runs say is told anew when a finished trial was added, in a long search when a part of them was.
_ADDED_PART = 1 / 25


@dataclass
class _Trial:
    record: TrialRecord
    began: float
    state: str = "starting"
    seconds: float | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)

    @property
    def number(self) -> int:
        return self.record.number

    @property
    def name(self) -> str:
        """What it runs, where that needs a name: a given setting, or one that ran before."""
        names = [shown_name(self.record.setting)] * bool(self.record.setting)
        names += [f"setting {self.record.setting_number} again"] * self.record.is_repeat
        return ", ".join(names)


class SearchProgress:
    """Follows the trials of a search and shows them.

    Args:
        total: trials of the search; None where another limit ends it.
        slots: trials that run at a time.
        space: what is searched; its hyperparameters become columns.
        console: where to show it.
        afterwards: seconds that the search takes after its last trial.
        limits: of its time.
    """

    def __init__(
        self,
        total: int | None,
        slots: int,
        space: Space,
        console: Console,
        afterwards: float = 0,
        limits: Limits | None = None,
    ):
        self.total, self.slots, self.space, self.console = total, slots, space, console
        self.searched, self.afterwards, self.limits = list(space.search), afterwards, limits or Limits()
        self.trials: dict[int, _Trial] = {}
        self.began = time.monotonic()
        self._printed = self.began
        self._live = Live(self, console=console, refresh_per_second=2) if console.is_terminal else None
        self._advice: Advice | None = None
        self._advised = 0

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
                self.trials[record.number] = _Trial(record, 0.0, record.state, seconds, record.measured)

    def started(self, record: TrialRecord) -> None:
        """A trial has been given to a worker."""
        if record.number not in self.trials:  # else it is tried again
            self.trials[record.number] = _Trial(record, time.monotonic())

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

    def said(self, text: str) -> None:
        """Something of the whole search that the user should know."""
        self.console.print(text, soft_wrap=True, highlight=False, markup=False)

    def retried(self, number: int, reason: str) -> None:
        """A trial is tried again."""
        self._print(f"trial {number}: tried again after {reason}")

    def counts(self) -> dict[str, float]:
        """The state of the search in numbers: trials by state, what is expected of the recommended setting, and the
        largest objective of a single trial.
        """
        trials = self.trials.values()
        done = [trial for trial in trials if trial.seconds is not None]
        numbers: dict[str, float] = {
            "trials_done": len(done),
            "trials_stopped": sum(trial.state == STOPPED for trial in done),
            "trials_failed": sum(trial.state.startswith(FAILED) for trial in done),
            "trials_running": len(trials) - len(done),
        }
        measured = [trial.measured["objective"] for trial in done if trial.measured]
        if measured:
            numbers["largest_objective"] = max(measured)
        best = None if self.advice is None else self.advice.recommended
        if best is not None:
            numbers |= {
                "recommended_objective": best.objective,
                "recommended_objective_low": best.objective_low,
                "recommended_objective_high": best.objective_high,
                "recommended_clean_accuracy": best.clean,
                "recommended_robust_accuracy": best.robust,
                "recommended_probability_best": best.p_best,
            }
            if "noise" in best:  # it has a part in the objective
                numbers["recommended_noise_accuracy"] = best.noise
        return numbers

    @property
    def advice(self) -> Advice | None:
        """What the finished trials say of the settings; None before there is one."""
        finished = [trial for trial in self.trials.values() if trial.measured and trial.state == FINISHED]
        if finished and len(finished) - self._advised >= max(1, int(len(finished) * _ADDED_PART)):
            records = [replace(trial.record, measured=dict(trial.measured), ended="") for trial in finished]
            self._advice, self._advised = advise_by_records(records, self.space), len(finished)
        return self._advice

    def tick(self) -> None:
        """Print a line of progress where nothing was printed for a while and nothing is redrawn."""
        if self._live is None and time.monotonic() - self._printed > _LINE_SECONDS:
            self._print(self.line())

    def _print_trial(self, trial: _Trial, outcome: str) -> None:
        settings = [
            f"{SYMBOLS.get(key, key)} {format_hyperparameter(value)}"
            for key, value in self._searched(trial)
            if format_hyperparameter(value)
        ]
        named = [trial.name] * bool(trial.name)
        self._print(f"trial {trial.number} ({', '.join(named + settings)}): {outcome}")
        self._print(self.line())

    def _print(self, text: str) -> None:
        if self._live is None:
            self.console.print(text, soft_wrap=True, highlight=False, markup=False)
            self._printed = time.monotonic()

    def _searched(self, trial: _Trial) -> list[tuple[str, Any]]:
        return [(key, trial.record.hyperparameters.get(key)) for key in self.searched]

    def line(self) -> str:
        """How far the search is, what is best so far, and how long it still takes."""
        counts = self.counts()
        of = "" if self.total is None else f"/{self.total}"
        parts = [f"{counts['trials_done']}{of} trials done, {counts['trials_running']} running"]
        for state in (STOPPED, FAILED):
            if counts[f"trials_{state}"]:
                parts[0] += f", {counts[f'trials_{state}']} {state}"
        best = None if self.advice is None else self.advice.recommended
        if best is not None:
            half = (best.objective_high - best.objective_low) / 2
            parts.append(
                f"recommended: setting {best.setting_number}, {best.objective:.3f} ± {half:.3f}, the best with"
                f" {format_probability(best.p_best)}"
            )
        parts.append(f"{format_duration(time.monotonic() - self.began)} so far")
        left = self.seconds_left()
        if left is None:
            parts.append("time left unknown" + (" until a trial is done" if self.total is not None else ""))
        elif counts["trials_running"] and left < 1:
            parts.append("longer than the others")
        else:
            parts.append(f"about {format_duration(left)} left")
        return "; ".join(parts)

    def seconds_left(self) -> float | None:
        """Estimate how long the search still takes, from the mean time of the trials done; None before the first.

        Where time ends it, no more than is left of that, and what the last trials then take.
        """
        trials, now = self.trials.values(), time.monotonic()
        done = [trial.seconds for trial in trials if trial.seconds is not None]
        by_time = None
        own = [seconds for seconds in done if seconds]  # copies took none
        if self.limits.minutes is not None and own:
            rest = max(60 * self.limits.minutes - self.limits.seconds, 0.0)
            by_time = rest + sum(own) / len(own) / 2 + self.afterwards
        if self.total is None:
            return by_time
        by_trials = time_left(
            total=self.total,
            slots=self.slots,
            done=done,
            running=[now - trial.began for trial in trials if trial.seconds is None],
            afterwards=self.afterwards,
        )
        return by_trials if by_time is None or by_trials is None else min(by_trials, by_time)

    def __rich__(self) -> Group:
        table = _table(self.searched, "state")
        trials = sorted(self.trials.values(), key=lambda trial: trial.number)
        done = [trial for trial in trials if trial.seconds is not None]
        hidden = max(len(trials) - _SHOWN_TRIALS, 0)
        for trial in [trial for trial in trials if trial not in done[:hidden]]:
            state = f"{trial.seconds:.0f} s" if trial.measured else trial.state
            _add_row(table, trial.number, self._searched(trial), trial.measured, state, trial.name)
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
    name: str,
) -> None:
    settings = (format_hyperparameter(value) for _, value in searched)
    accuracies = (format_accuracy(measured.get(name)) for name in _ACCURACIES)
    table.add_row(str(number), *settings, *accuracies, f"{last}, {name}" if name else last)
