"""A search in MLflow and in Weights & Biases: a run for each trial, the runs of a setting together.

A tracker that fails while a search runs is left alone from then on, with a line: the search has files of its own.
"""

import math
import os
import shlex
import time
from abc import abstractmethod
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from statistics import fmean
from typing import Any

from ray.tune.experiment import Trial

from brainreg._utils.commands import python_name, tool_name
from brainreg.errors import InputError, first_line
from brainreg.hyperparameters import Hyperparameters
from brainreg.records.trial import TrialRecord, trial_name
from brainreg.search.logger import MEASURED, TrialLogger
from brainreg.search.plan import SearchPlan
from brainreg.search.tensorboard import TensorBoardLogger
from brainreg.spaces.names import shown_name

# How long a server of MLflow may take to answer, in seconds, how often it is asked again, and that it prints no address
# of each run: the search prints that of the server.
_MLFLOW_SETTINGS = {
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "2",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
}

_PROJECT = "brainreg"


@dataclass
class _Run:
    """A trial's run.

    Attributes:
        handle: what the tracker knows it by.
        last: the last epoch that it has of each group: a search that is resumed tells everything again.
    """

    handle: Any
    last: dict[str, int] = field(default_factory=dict)


class _Tracker(TrialLogger):
    """What MLflow and Weights & Biases are told of a trial, and what happens where they cannot be told.

    Args:
        search: the search's name.
        search_id: tells it from every other search, so that one that is resumed goes on in its own runs.
        searched: names of the hyperparameters that are searched.
        records: as for `TrialLogger`.
        say: takes a line.
    """

    name: str

    def __init__(
        self,
        search: str,
        search_id: str,
        searched: Iterable[str],
        records: Iterable[TrialRecord],
        say: Callable[[str], None],
    ):
        super().__init__(records)
        self.search, self.search_id, self._searched, self._say = search, search_id, [*searched], say
        self._broken = False

    def parameters(self, trial: Trial) -> dict[str, Any]:
        """What differs between trials, and the seed."""
        given = trial.config["hyperparameters"]
        known = {name: given[name] for name in self._searched if given.get(name) is not None}
        return {**known, "seed": Hyperparameters(**given).seed}

    def setting(self, trial: Trial) -> str:
        """What the setting of a trial is called."""
        number, name = trial.config["setting_number"], trial.config["setting"]
        return f"setting {number}" + (f", {shown_name(name)}" if name else "")

    def log_trial_start(self, trial: Trial) -> None:
        self._tell(super().log_trial_start, trial)

    def log_trial_result(self, iteration: int, trial: Trial, result: dict[str, Any]) -> None:
        if trial in self._runs:
            self._tell(super().log_trial_result, iteration, trial, result)

    def log_trial_end(self, trial: Trial, failed: bool = False) -> None:
        self._tell(super().log_trial_end, trial, failed)

    def log(self, run: _Run, group: str, values: Mapping[str, float], epoch: int) -> None:
        if epoch > run.last.get(group, -1):
            self.send(run.handle, {name: value for name, value in values.items() if math.isfinite(value)}, epoch)
            run.last[group] = epoch

    @abstractmethod
    def send(self, handle: Any, values: Mapping[str, float], epoch: int) -> None:
        """Tell the tracker of finite values."""

    def _tell(self, action: Callable[..., None], *arguments: Any) -> None:
        """Do something, unless it failed before; whatever fails is said once."""
        if self._broken:
            return
        try:
            action(*arguments)
        except Exception as error:  # whatever a client of another project raises
            self._broken = True
            self._say(
                f"note: {self.name} is told no more of this search ({first_line(error)}); its own files have everything"
            )


class MlflowLogger(_Tracker):
    """An experiment of MLflow: a run for each setting, with means, and in it a run for each of its trials.

    Where its files or its server are, `MLFLOW_TRACKING_URI` says.

    Raises:
        ModuleNotFoundError: MLflow is not installed.
        InputError: it does not answer.
    """

    name = "MLflow"

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        for name, value in _MLFLOW_SETTINGS.items():
            os.environ.setdefault(name, value)
        import mlflow

        self.address = mlflow.get_tracking_uri()
        self._client = mlflow.MlflowClient()
        try:
            found = self._client.get_experiment_by_name(self.search)
            self._experiment = found.experiment_id if found else self._client.create_experiment(self.search)
        except Exception as error:
            raise InputError(
                f"--log=mlflow: {self.address} does not answer ({first_line(error)}); set MLFLOW_TRACKING_URI, or"
                " leave it out"
            ) from error
        self._settings: dict[int, str] = {}
        self._places: dict[str, tuple[int, int]] = {}  # the setting and the number of each trial's run
        self._measured: dict[int, dict[int, Mapping[str, float]]] = {}  # of each setting, by the number of its trials
        for record in self._before.values():
            if record.measured:
                known = {name: record.measured[name] for name in MEASURED}
                self._measured.setdefault(record.setting_number, {})[record.number] = known

    def begin(self, trial: Trial) -> _Run:
        number, setting = trial.config["number"], trial.config["setting_number"]
        if setting not in self._settings:
            tags = {"brainreg.setting": str(setting)}
            self._settings[setting], _ = self._run(self.setting(trial), tags)
            self._log_parameters(self._settings[setting], {**self.parameters(trial), "seed": None})
        tags = {"brainreg.trial": str(number), "mlflow.parentRunId": self._settings[setting]}
        run, is_new = self._run(trial_name(number), tags)
        self._log_parameters(run, self.parameters(trial))
        self._places[run] = setting, number
        return _Run(run, {} if is_new else self._told(run))

    def _told(self, run: str) -> dict[str, int]:
        """The last epoch that a run has of each group."""
        steps = {
            group: [one.step for one in self._client.get_metric_history(run, metric)]
            for group, metric in (("epochs", "valid_accuracy"), ("results", "objective"))
        }
        return {group: max(known) for group, known in steps.items() if known}

    def _run(self, name: str, tags: Mapping[str, str]) -> tuple[str, bool]:
        """The id of a run with these tags, and whether it is new: else it was begun before the search was resumed."""
        own = {"brainreg.search_id": self.search_id, **tags}
        asked = " and ".join(f"tags.`{key}` = '{value}'" for key, value in own.items())
        found = self._client.search_runs([self._experiment], asked, max_results=1)
        if found:
            self._client.update_run(found[0].info.run_id, status="RUNNING")
            return found[0].info.run_id, False
        return self._client.create_run(self._experiment, tags=own, run_name=name).info.run_id, True

    def _log_parameters(self, run: str, parameters: Mapping[str, Any]) -> None:
        from mlflow.entities import Param

        known = [Param(name, str(value)) for name, value in parameters.items() if value is not None]
        self._client.log_batch(run, params=known)

    def log(self, run: _Run, group: str, values: Mapping[str, float], epoch: int) -> None:
        """Tell what was measured of a trial, and the mean over the runs of its setting."""
        super().log(run, group, values, epoch)
        if group == "results":
            setting, number = self._places[run.handle]
            measured = self._measured.setdefault(setting, {})
            measured[number] = values
            means = {name: fmean(one[name] for one in measured.values()) for name in MEASURED}
            known = {name: value for name, value in means.items() if math.isfinite(value)}
            self.send(self._settings[setting], known | {"runs": len(measured)}, len(measured))

    def send(self, handle: str, values: Mapping[str, float], epoch: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self._client.log_batch(handle, metrics=[Metric(name, value, now, epoch) for name, value in values.items()])

    def end(self, run: _Run, failed: bool) -> None:
        self._client.set_terminated(run.handle, "FAILED" if failed else "FINISHED")

    def on_experiment_end(self, trials: list[Trial], **info: Any) -> None:
        self._tell(self._end_settings)

    def _end_settings(self) -> None:
        for run in self._settings.values():
            self._client.set_terminated(run, "FINISHED")


class WandbLogger(_Tracker):
    """A project of Weights & Biases: a run for each trial, in a group for each setting.

    `WANDB_PROJECT`, `WANDB_ENTITY`, `WANDB_DIR` and `WANDB_MODE=offline` are its own.

    Raises:
        ModuleNotFoundError: it is not installed.
        InputError: nobody is logged in.
    """

    name = "W&B"

    def __init__(self, *arguments: Any):
        super().__init__(*arguments)
        import wandb

        self._wandb = wandb
        mode = os.environ.get("WANDB_MODE", "online")
        if mode == "online":
            try:
                wandb.Api()
            except wandb.errors.UsageError as error:
                raise InputError(
                    "--log=wandb: nobody is logged in; run `wandb login`, or set WANDB_MODE=offline"
                ) from error
        project = os.environ.get("WANDB_PROJECT", _PROJECT)
        self.address = f"project {project}, group {self.search}/..." + (f" ({mode})" if mode != "online" else "")

    def begin(self, trial: Trial) -> _Run:
        number = trial.config["number"]
        name = f"{self.search_id[:40]}-{number}".replace(" ", "_").replace("/", "_")
        last = self._told_offline(name, trial)
        run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", _PROJECT),
            group=f"{self.search}/{self.setting(trial)}",
            name=f"{self.search}/{trial_name(number)}",
            id=name,
            tags=[self.search],
            config={**self.parameters(trial), "setting": self.setting(trial)},
            resume="allow",
            reinit="create_new",
            settings=self._wandb.Settings(silent=True, console="off"),
        )
        run.define_metric("*", step_metric="epoch")
        known = run.summary.get("epoch") if run.resumed else None
        if known is not None:
            last = {"epochs": int(known)}
            if run.summary.get("objective") is not None:
                last["results"] = last["epochs"]
        return _Run(run, last)

    def _told_offline(self, name: str, trial: Trial) -> dict[str, int]:
        """The last epochs of a run that was begun without a network before the search was resumed: its file has what
        the search knew then.
        """
        folder = Path(os.environ.get("WANDB_DIR", "."), "wandb")
        known = self._before.get(trial.config["number"])
        if known is None or not known.epochs or not [*folder.glob(f"offline-run-*-{name}")]:
            return {}
        last = int(known.epochs[-1]["epoch"])
        return {"epochs": last, "results": last} if known.measured else {"epochs": last}

    def send(self, handle: Any, values: Mapping[str, float], epoch: int) -> None:
        handle.log({**values, "epoch": epoch})

    def end(self, run: _Run, failed: bool) -> None:
        run.handle.finish(exit_code=int(failed))


TRACKERS: dict[str, type[MlflowLogger | WandbLogger]] = {"mlflow": MlflowLogger, "wandb": WandbLogger}


def make_loggers(plan: SearchPlan, rays_folder: str, say: Callable[[str], None]) -> list[TrialLogger]:
    """Return what tells other tools of each trial of a search, and say where it is seen.

    Args:
        plan: of the search.
        rays_folder: name of the folder in which Ray's trials are.
        say: takes a line.

    Raises:
        ModuleNotFoundError: one of the tools is not installed.
        InputError: it does not answer.
    """
    loggers: list[TrialLogger] = []
    for name in plan.options.loggers:
        if name == "tensorboard":
            logs = shlex.quote(plan.folder.path(rays_folder))
            missing = "" if find_spec("tensorboard") else f" (after: {python_name()} -m pip install tensorboard)"
            say(f"TensorBoard: {tool_name('tensorboard')} --logdir={logs}{missing}")
            loggers.append(TensorBoardLogger(plan.space.search, plan.records))
        else:
            tracker = TRACKERS[name](plan.name, plan.id, plan.space.search, plan.records, say)
            say(f"{tracker.name}: {tracker.address}")
            loggers.append(tracker)
    return loggers
