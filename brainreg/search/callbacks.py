"""What Ray Tune tells while a search runs: to the terminal, to the records, to Prometheus."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.experiment import Trial
from ray.util.metrics import Gauge

from brainreg.hyperparameters import Hyperparameters
from brainreg.records.results import last_error
from brainreg.records.trial import STOPPED, TrialRecord
from brainreg.search.progress import SearchProgress
from brainreg.search.scheduler import RecoveringScheduler
from brainreg.search.searcher import StudySearch
from brainreg.search.trial import BROKEN, HOPELESS, NOTE, REPLAYED

# What Prometheus reads of a search as `ray_brainreg_NAME`, with what it is.
GAUGES = {
    "recommended_objective": "expected objective of the recommended setting",
    "recommended_objective_low": "lower end of its 95% interval",
    "recommended_objective_high": "upper end of its 95% interval",
    "recommended_clean_accuracy": "its expected clean accuracy, a fraction of the validation images",
    "recommended_robust_accuracy": "its expected robust accuracy, a fraction of the attacked images",
    "recommended_noise_accuracy": "its expected accuracy under noise, where that has a part in the objective",
    "recommended_probability_best": "probability that it is the best of the settings that were tried",
    "largest_objective": "largest objective of a single finished trial",
    "trials_done": "trials that ended: finished, stopped or failed",
    "trials_stopped": "trials that were stopped early",
    "trials_failed": "trials that failed",
    "trials_running": "trials that run",
}


class Gauges:
    """What Ray exports to Prometheus of the search."""

    def __init__(self, name: str):
        self._tags = {"search": name.encode("ascii", "backslashreplace").decode()}  # Ray takes no other characters
        self._gauges = {
            key: Gauge(f"brainreg_{key}", description=description, tag_keys=("search",))
            for key, description in GAUGES.items()
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
        if not trial.config["ended"]:
            self.progress.started(_record(trial))
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
        reason = _reason(trial)
        self.search.fail(trial.trial_id, reason)
        if not trial.config["ended"]:
            self.progress.started(_record(trial))
            self.progress.failed(trial.config["number"], reason)
        self._show()

    def on_step_end(self, iteration: int, trials: list[Trial], **info: Any) -> None:
        self.progress.tick()

    def _show(self) -> None:
        self.gauges.set(self.progress.counts())


def _record(trial: Trial) -> TrialRecord:
    """What the searcher said of a trial."""
    names = ("number", "setting", "hyperparameters", "setting_number")
    return TrialRecord(**{name: trial.config[name] for name in names})


def _reason(trial: Trial) -> str:
    """The last error of a trial, in one line: Ray Tune's `get_error` looks for it where it is copied to later."""
    path = Path(trial.error_file) if trial.error_file else None
    return last_error(path.read_text(encoding="utf-8") if path is not None and path.is_file() else "")
