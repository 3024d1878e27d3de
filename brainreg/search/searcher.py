"""Ray Tune's searcher: asks the study for settings and reports their outcomes to it."""

import contextlib
import time
from collections import deque
from collections.abc import Collection, Iterator, Sequence
from pathlib import Path
from typing import Any, NoReturn

import optuna
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper

from brainreg._utils.commands import brainreg_command
from brainreg.records.trial import FAILED, STOPPED, UNFINISHED, TrialFiles, TrialRecord
from brainreg.search.limits import Limits
from brainreg.search.study import SearchStudy
from brainreg.storage import Storage, StorageError


class StudySearch(Searcher):
    """Ray Tune's searcher: passes on what Optuna proposes, and tells Optuna the truth about trials.

    Ray Tune's own `OptunaSearch` tells whatever a trial reported last as its result, and remembers trials in memory.
    Here the study and the trials' files are the memory: trials that began before the search was resumed are handed
    out first, so that Ray Tune's table is whole, too.

    Args:
        study: what proposes.
        search: the folder of the search.
        records: of trials that began before.
        lost: numbers of those whose record was lost.
        limits: when no further trial begins; by default never.

    Attributes:
        broken: why the search cannot go on; empty as long as it can.
        end_reason: which limit ended it before the number of its trials did; empty as long as none did.
    """

    def __init__(
        self,
        study: SearchStudy,
        search: Storage,
        records: Sequence[TrialRecord],
        lost: Collection[int] = (),
        limits: Limits | None = None,
    ):
        super().__init__(metric="objective", mode="max")
        self.broken = self.end_reason = ""
        self._limits = limits or Limits()
        self._study, self._search = study, search
        self._lost = lost
        self._known = {record.number: record for record in records}
        self._again = deque(study.begun())
        self._begun = len(self._again)
        self._running: dict[str, tuple[optuna.Trial, TrialRecord]] = {}
        self._open: set[str] = set()

    def suggest(  # type: ignore[override]  # Ray takes Searcher.FINISHED, a text, too
        self, trial_id: str
    ) -> dict[str, Any] | str | None:
        """Return the next run, with the number of its trial, and how it ended before, if it did; or that none is."""
        if self.broken:
            return None
        with self._breaking():
            if not self._again:
                self.end_reason = self._limits.reason() or self._sure_enough()
                if self.end_reason:
                    return Searcher.FINISHED
                if self._limits.trials is not None and self._begun >= self._limits.trials:
                    # As long as a trial runs, someone may still ask for more.
                    return None if self._open else Searcher.FINISHED
                trial = self._study.ask(self._limits.part_spent(self._begun))
                self._begun += 1
            else:
                trial = self._again.popleft()
            record = self._known.get(trial.number)
            if record is None:
                known = bool(trial.params) or "setting" in trial.user_attrs
                record = self._study.propose(trial)
                if record.number in self._lost and not known:
                    TrialFiles(self._search, record.number).begin_anew()
                record.began = time.time()
                TrialFiles(self._search, record.number).write_trial(record)
            self._running[trial_id] = trial, record
            self._open.add(trial_id)
            if record.state == UNFINISHED:
                self._limits.begin(trial_id)
            return {
                "number": record.number,
                "setting": record.setting,
                "setting_number": record.setting_number,
                "hyperparameters": record.hyperparameters,
                "ended": "" if record.state == UNFINISHED else record.state,
            }
        return None

    def _sure_enough(self) -> str:
        tolerance = self._limits.tolerance
        if tolerance is None or (regret := self._study.expected_regret()) > tolerance:
            return ""
        return (
            f"the best of its settings is expected to be better than the recommended one by {regret:.4f}"
            f" (--tolerance={tolerance:g})"
        )

    def report(self, trial_id: str, epoch: int, proxy_objective: float) -> None:
        """Tell Optuna the proxy of an epoch: Ray Tune does not call `on_trial_result` for the last one."""
        if self.broken:
            return  # each try of a storage that does not answer may take a minute
        with self._breaking():
            self._study.report(self._running[trial_id][0], epoch, proxy_objective)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: reports come by `report`."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """A trial has left Ray Tune; its end comes by `finish`, `stop` or `fail`, which know its reason."""
        self._open.discard(trial_id)

    def finish(self, trial_id: str, measured: dict[str, Any]) -> None:
        """A trial has been measured. Where the search is broken, the trial's own file knows that."""
        self._limits.end(trial_id)
        if self.broken:
            return
        with self._breaking():
            self._study.tell_finished(self._running[trial_id][0], measured)

    def stop(self, trial_id: str) -> None:
        """A trial is not worth going on with."""
        self._end(trial_id, STOPPED, "")

    def fail(self, trial_id: str, error: str) -> None:
        """A trial failed for good."""
        self._end(trial_id, FAILED, error)

    def _end(self, trial_id: str, state: str, error: str) -> None:
        trial, record = self._running[trial_id]
        self._limits.end(trial_id)
        if self.broken:
            return  # not its own fault: it goes on when the search is resumed
        with self._breaking():
            if not record.ended:
                record.ended, record.error = state, error
                TrialFiles(self._search, record.number).write_trial(record)
            if state == STOPPED:
                self._study.tell_stopped(trial)
            else:
                self._study.tell_failed(trial, record.error)

    def note(self, trial_id: str, text: str) -> None:
        """A trial is trained again from the beginning, or tried again, and why."""
        record = self._running[trial_id][1]
        with self._breaking():
            record.retries.append(text)
            TrialFiles(self._search, record.number).write_trial(record)

    @contextlib.contextmanager
    def _breaking(self) -> Iterator[None]:
        """End the search, for now, where what must be kept cannot be kept."""
        try:
            yield
        except StorageError as error:
            self.broken = self.broken or str(error)

    def save(self, checkpoint_path: str) -> None:
        """Write nothing of use: the study and the trials' files are the memory."""
        Path(checkpoint_path).write_text("see `brainreg resume`\n", encoding="utf-8")

    def __getstate__(self) -> dict[str, Any]:
        """Ray stores its searcher and its stopper with the search; a database's password must not be stored."""
        return {}

    def restore(self, checkpoint_path: str) -> NoReturn:
        """End the process: Ray Tune's own way to resume would only log an error, and wait for ever."""
        raise SystemExit(f"error: go on: {brainreg_command('resume', self._search.uri)}")


class WhenBroken(Stopper):
    """Ends the search where it cannot go on."""

    def __init__(self, search: StudySearch):
        self._search = search

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return bool(self._search.broken)
