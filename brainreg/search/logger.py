"""What the logs of a search for other tools have in common: a run for each trial, its epochs, and what was measured."""

from abc import abstractmethod
from collections.abc import Iterable, Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback
from ray.tune.result import AUTO_RESULT_KEYS

from brainreg.records.trial import TrialRecord

MEASURED = ("objective", "clean_accuracy", "robust_accuracy", "noise_accuracy")


class TrialLogger(LoggerCallback):
    """Logs each trial as a run, by the names of the columns of `epochs.csv` and `results.csv`.

    Ray's own loggers count reports, not epochs, begin at 1 again when a search is resumed, and show the few
    hyperparameters that are searched among all others, and the curves among Ray's own clocks.

    Args:
        records: what trials reported before the search was resumed; logs of then need not be whole.
    """

    def __init__(self, records: Iterable[TrialRecord] = ()):
        self._before = {record.number: record for record in records}
        self._runs: dict[Trial, Any] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Ray stores its callbacks with the search; what is open cannot be stored."""
        return {}

    @abstractmethod
    def begin(self, trial: Trial) -> Any:
        """Return a run for a trial."""

    @abstractmethod
    def log(self, run: Any, group: str, values: Mapping[str, float], epoch: int) -> None:
        """Log what was measured after an epoch; `group` is epochs or results."""

    @abstractmethod
    def end(self, run: Any, failed: bool) -> None:
        """Close a run."""

    def log_trial_start(self, trial: Trial) -> None:
        if trial in self._runs:
            return  # it is tried again
        self._runs[trial] = self.begin(trial)
        before = self._before.get(trial.config["number"])
        for epoch in before.epochs if before else ():
            self._log_epoch(trial, epoch)

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        if "objective" in result:
            self.log(self._runs[trial], "results", {name: result[name] for name in MEASURED}, result["epoch"])
        elif "valid_accuracy" in result:
            self._log_epoch(trial, result)

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        if trial in self._runs:
            self.end(self._runs.pop(trial), failed)

    def _log_epoch(self, trial: Trial, epoch: Mapping[str, Any]) -> None:
        own = {name: value for name, value in epoch.items() if name not in AUTO_RESULT_KEYS and name != "epoch"}
        values = {name: value for name, value in own.items() if isinstance(value, float)}
        self.log(self._runs[trial], "epochs", values, int(epoch["epoch"]))
