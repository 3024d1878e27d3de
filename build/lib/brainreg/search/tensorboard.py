"""A search's logs for TensorBoard."""

import math
from collections.abc import Iterable, Mapping
from typing import Any

from ray.tune.experiment import Trial
from ray.tune.logger import LoggerCallback
from ray.tune.result import AUTO_RESULT_KEYS
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from brainreg.records.trial import TrialRecord
from brainreg.spaces.distribution import Distribution

# A log is written to disk this often, in seconds. (tensorboardX's `flush` would not wait for its own queue.)
_PERIOD = 5


_MEASURED = ("objective", "clean_accuracy", "robust_accuracy", "noise_accuracy")


class TensorBoardLogger(LoggerCallback):
    """Writes logs for TensorBoard, named after the columns of `epochs.csv` and `results.csv`.

    Ray Tune's own logger counts reports, not epochs, begins at 1 again when a search is resumed, and shows the few
    hyperparameters that are searched among all others, and the curves among Ray's own clocks.

    Args:
        searched: the hyperparameters that are searched, with their distributions.
        records: what trials reported before the search was resumed; logs of then need not be whole.
    """

    def __init__(self, searched: Mapping[str, Distribution], records: Iterable[TrialRecord] = ()):
        # TensorBoard takes the names and kinds of all columns from a single trial, whichever it reads first.
        self._columns = {
            name: next((value for value in one.extremes() if value is not None), "") for name, one in searched.items()
        }
        self._epochs_before = {record.number: record.epochs for record in records}
        self._writers: dict[Trial, SummaryWriter] = {}

    def __getstate__(self) -> dict[str, Any]:
        """Ray stores its callbacks with the search; open files cannot be stored."""
        return {}

    def log_trial_start(self, trial: Trial) -> None:
        if trial in self._writers:
            return  # it is tried again
        trial.init_local_path()
        # With a step to purge from, TensorBoard forgets the logs of before, all of which is written again.
        self._writers[trial] = writer = SummaryWriter(trial.local_path, purge_step=0, flush_secs=_PERIOD)
        config = trial.config
        experiment, _, _ = hparams({"setting": "", **self._columns}, [f"results/{name}" for name in _MEASURED])
        values = {name: config["hyperparameters"].get(name) for name in self._columns}
        _, start, _ = hparams({"setting": config["setting"] or "proposed", **values}, {})
        for summary in (experiment, start):  # the third is left out: it would say that the trial succeeded
            writer.file_writer.add_summary(summary)
        for epoch in self._epochs_before.get(config["number"], ()):
            self._log_epoch(trial, epoch)

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        if "objective" in result:
            self._log(trial, "results", {name: result[name] for name in _MEASURED}, result["epoch"])
        elif "valid_accuracy" in result:
            self._log_epoch(trial, result)

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        if trial in self._writers:
            self._writers.pop(trial).close()

    def _log_epoch(self, trial: Trial, epoch: Mapping[str, Any]) -> None:
        own = {name: value for name, value in epoch.items() if name not in AUTO_RESULT_KEYS}
        self._log(trial, "epochs", {name: own[name] for name in own if isinstance(own[name], float)}, epoch["epoch"])

    def _log(self, trial: Trial, group: str, values: Mapping[str, float], epoch: int) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                self._writers[trial].add_scalar(f"{group}/{name}", value, global_step=epoch)
