"""What Ray Tune asks and tells while a search runs: its searcher, its scheduler, its callback and its stopper."""

import contextlib
import math
import shlex
import time
from collections import deque
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import optuna
from ray import tune
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler
from ray.tune.search import Searcher
from ray.tune.stopper import Stopper
from ray.util.metrics import Gauge

import brainreg.cluster  # noqa: F401  (sets Ray's variables before Ray is imported)
from brainreg.hyperparameters import Hyperparameters
from brainreg.progress import SearchProgress
from brainreg.records import FAILED, STOPPED, UNFINISHED, TrialFiles, TrialRecord
from brainreg.results import raised
from brainreg.storage import Storage, StorageError
from brainreg.study import SearchStudy
from brainreg.trial import BROKEN, HOPELESS, NOTE, REPLAYED

# ASHA stops a trial that is not among the best third of those that came as far, after two fifths and three quarters of
# the epochs and before the full attack. Rungs after a quarter and a half stop more of the good settings with a high
# alpha: see benchmarks/asha_bias.py.
RUNGS, KEPT = (2 / 5, 3 / 4, 1), 1 / 3


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

    Attributes:
        broken: why the search cannot go on; empty as long as it can.
    """

    def __init__(self, study: SearchStudy, search: Storage, records: Sequence[TrialRecord], lost: Collection[int] = ()):
        super().__init__(metric="objective", mode="max")
        self.broken = ""
        self._study, self._search = study, search
        self._lost = lost
        self._known = {record.number: record for record in records}
        self._again = deque(study.begun())
        self._running: dict[str, tuple[optuna.Trial, TrialRecord]] = {}

    def suggest(self, trial_id: str) -> dict[str, Any] | None:
        """Return the next setting, with the number of its trial, and how it ended before, if it did."""
        if self.broken:
            return None
        with self._breaking():
            trial = self._again.popleft() if self._again else self._study.ask()
            record = self._known.get(trial.number)
            if record is None:
                known = bool(trial.params) or "setting" in trial.user_attrs
                record = self._study.propose(trial)
                if record.number in self._lost and not known:
                    TrialFiles(self._search, record.number).begin_anew()
                record.began = time.time()
                TrialFiles(self._search, record.number).write_trial(record)
            self._running[trial_id] = trial, record
            return {
                "number": record.number,
                "setting": record.setting,
                "hyperparameters": record.hyperparameters,
                "ended": "" if record.state == UNFINISHED else record.state,
            }
        return None

    def report(self, trial_id: str, epoch: int, proxy_objective: float) -> None:
        """Tell Optuna the proxy of an epoch. (Ray Tune does not call `on_trial_result` for the last one.)"""
        if self.broken:
            return  # each try of a storage that does not answer may take a minute
        with self._breaking():
            self._study.report(self._running[trial_id][0], epoch, proxy_objective)

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Nothing: reports come by `report`."""

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Nothing: an end comes by `finish`, `stop` or `fail`, which know its reason."""

    def finish(self, trial_id: str, measured: dict[str, Any]) -> None:
        """A trial has been measured. Where the search is broken, the trial's own file knows that."""
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
        Path(checkpoint_path).write_text("see --resume\n", encoding="utf-8")

    def __getstate__(self) -> dict[str, Any]:
        """Ray stores its searcher and its stopper with the search; a database's password must not be stored."""
        return {}

    def restore(self, checkpoint_path: str) -> NoReturn:
        """End the process: Ray Tune's own way to resume would only log an error, and wait for ever."""
        raise SystemExit(f"error: resume it with: python tune_main.py --resume={shlex.quote(str(self._search))}")


class RecoveringScheduler(FIFOScheduler):
    """First come, first served; and a trial whose worker dies while the trial is handed to it is tried again.

    Ray Tune itself tries again only trials that run already.

    Attributes:
        stopped: numbers of the trials that were stopped.
    """

    def __init__(self):
        super().__init__()
        self.stopped: set[int] = set()
        self._lost: dict[str, Any] = {}

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        if trial.status == Trial.PENDING and trial.should_recover():
            self._lost[trial.trial_id] = tune_controller

    def recover(self, trial: Trial) -> bool:
        """Put a trial that Ray Tune has given up back into its queue, if it was never begun; return whether it was."""
        controller = self._lost.pop(trial.trial_id, None)
        if controller is not None:
            controller._requeue_trial(trial)  # what Ray Tune does with trials that run
        return controller is not None


class AshaScheduler(RecoveringScheduler):
    """ASHA (asynchronous successive halving) over the proxy of the objective, for a search that may be resumed.

    It decides as Ray Tune's own does, which lets a trial go on if, at a rung, it is not below the quantile of those
    that came there before; there, the part that is kept also says how far apart the rungs are. Trials are known by
    their numbers, and what they reported before the search was resumed counts. As the objective measures the epoch
    with the lowest validation cross-entropy, a trial is judged at a rung by its epoch with the lowest so far. Given
    settings are never stopped, and have no part in the quantile: the curve of an unregularized network is not like the
    others.

    Args:
        epochs: most epochs of a trial.
        records: what trials reported before.
        rungs: where trials are stopped, as parts of the epochs.
        kept: part of the trials that go on from a rung.

    Attributes:
        rungs: of each rung, by its epoch: the proxies that trials were judged by, by their numbers.

    Source: Li et al., arXiv 1810.05934.
    """

    def __init__(
        self,
        epochs: int,
        records: Sequence[TrialRecord] = (),
        rungs: Sequence[float] = RUNGS,
        kept: float = KEPT,
    ):
        super().__init__()
        self.rungs: dict[int, dict[int, float]] = {math.ceil(round(part * epochs, 9)): {} for part in rungs}
        self._kept = kept
        self._best: dict[int, tuple[float, int, float]] = {}  # validation cross-entropy, epoch and proxy
        for record in records:
            if record.setting:
                continue
            # Of an unfinished trial, the last epoch is reported again.
            for epoch in record.epochs if record.state != UNFINISHED else record.epochs[:-1]:
                self.decide(record.number, epoch)

    def decide(self, number: int, report: Mapping[str, Any]) -> bool:
        """Return whether a trial goes on after an epoch's report, and remember the report."""
        if "proxy_objective" not in report:
            return True
        own = report["valid_cross_entropy"], report["epoch"], report["proxy_objective"]
        self._best[number] = min(self._best.get(number, own), own)  # ties go to the earliest, as in training
        reached = self.rungs.get(report["epoch"])
        if reached is None or number in reached:
            return True
        others = list(reached.values())
        reached[number] = self._best[number][-1]
        return not others or reached[number] >= np.quantile(others, 1 - self._kept)

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number = trial.config["number"]
        if trial.config["setting"] or self.decide(number, result):
            return TrialScheduler.CONTINUE
        self.stopped.add(number)
        return TrialScheduler.STOP


class Gauges:
    """What Ray exports to Prometheus of the search."""

    def __init__(self, name: str):
        self._tags = {"search": name.encode("ascii", "backslashreplace").decode()}  # Ray takes no other characters
        self._gauges = {
            key: Gauge(f"brainreg_{key}", description=description, tag_keys=("search",))
            for key, description in {
                "best_objective": "largest objective of a finished trial",
                "best_clean_accuracy": "clean accuracy of that trial, a fraction of the validation images",
                "best_robust_accuracy": "robust accuracy of that trial, a fraction of the attacked images",
                "trials_done": "trials that ended: finished, stopped or failed",
                "trials_stopped": "trials that were stopped early",
                "trials_failed": "trials that failed",
                "trials_running": "trials that run",
            }.items()
        }

    def set(self, values: Mapping[str, float]) -> None:
        for key, value in values.items():
            self._gauges[key].set(value, tags=self._tags)


class SearchCallback(tune.Callback):
    """Passes on what Ray Tune says of trials."""

    def __init__(self, search: StudySearch, scheduler: RecoveringScheduler, progress: SearchProgress, gauges: Gauges):
        self.search, self.scheduler, self.progress, self.gauges = search, scheduler, progress, gauges

    def __getstate__(self) -> dict[str, Any]:
        """Ray stores its callbacks with the search; a terminal cannot be stored."""
        return {}

    def on_trial_start(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        config = trial.config
        if not config["ended"]:
            self.progress.started(config["number"], config["setting"], config["hyperparameters"])
        self._show()

    def on_trial_result(
        self, iteration: int, trials: list[Trial], trial: Trial, result: dict[str, Any], **info: Any
    ) -> None:
        if BROKEN in result:
            self.search.broken = self.search.broken or result[BROKEN]
        elif NOTE in result:
            self.search.note(trial.trial_id, result[NOTE])
            self.progress.noted(trial.config["number"], result[NOTE])
        elif HOPELESS in result:
            trial.max_failures = 0
        elif REPLAYED in result:
            pass
        elif "objective" in result:
            self.progress.finished(trial.config["number"], result)
        elif "valid_accuracy" in result:
            epochs = Hyperparameters(**trial.config["hyperparameters"]).epoch_num
            self.progress.trained(trial.config["number"], result["epoch"], epochs, result["valid_accuracy"])
            if "proxy_objective" in result:
                self.search.report(trial.trial_id, result["epoch"], result["proxy_objective"])

    def on_trial_complete(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        number = trial.config["number"]
        result = trial.last_result or {}
        if "objective" in result:
            self.search.finish(trial.trial_id, result)
        elif number in self.scheduler.stopped or trial.config["ended"] == STOPPED:
            self.search.stop(trial.trial_id)
            self.progress.stopped(number)
        self._show()

    def on_trial_recover(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if not self.search.broken:
            reason = _reason(trial)
            self.search.note(trial.trial_id, reason)
            self.progress.retried(trial.config["number"], reason)

    def on_trial_error(self, iteration: int, trials: list[Trial], trial: Trial, **info: Any) -> None:
        if self.search.broken:
            return
        if self.scheduler.recover(trial):
            self.on_trial_recover(iteration, trials, trial)
            return
        config, reason = trial.config, _reason(trial)
        self.search.fail(trial.trial_id, reason)
        if not config["ended"]:
            self.progress.started(config["number"], config["setting"], config["hyperparameters"])
            self.progress.failed(config["number"], reason)
        self._show()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self.progress.tick()

    def _show(self) -> None:
        self.gauges.set(self.progress.counts())


def _reason(trial: Trial) -> str:
    """The last error of a trial, in one line. (Ray Tune's `get_error` looks for it where it is copied to later.)"""
    path = Path(trial.error_file) if trial.error_file else None
    return raised(path.read_text(encoding="utf-8") if path is not None and path.is_file() else "")


class WhenBroken(Stopper):
    """Ends the search where it cannot go on."""

    def __init__(self, search: StudySearch):
        self._search = search

    def __call__(self, trial_id: str, result: dict[str, Any]) -> bool:
        return False

    def stop_all(self) -> bool:
        return bool(self._search.broken)
