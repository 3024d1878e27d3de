"""Which trials go on: ASHA's rungs, and what is tried again after a lost worker."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ray.tune.experiment import Trial
from ray.tune.schedulers import FIFOScheduler, TrialScheduler

from brainreg.records.trial import UNFINISHED, TrialRecord
from brainreg.search._compat import requeue

# ASHA stops a trial that is not among the best third of those that came as far, after two fifths and three quarters of
# the epochs and before the full attack. Rungs after a quarter and a half stop more of the good settings with a high
# alpha: see benchmarks/asha_bias.py.
RUNGS, KEPT = (2 / 5, 3 / 4, 1), 1 / 3


class RecoveringScheduler(FIFOScheduler):
    """First come, first served; and a trial whose worker dies while the trial is handed to it is tried again.

    Ray Tune itself tries again only trials that run already.

    Attributes:
        stopped: numbers of the trials that were stopped.
        unwanted: numbers of those that are stopped at their next epoch.
    """

    def __init__(self):
        super().__init__()
        self.stopped: set[int] = set()
        self.unwanted: set[int] = set()
        self._lost: dict[str, Any] = {}

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        number = trial.config["number"]
        if number not in self.unwanted or "epoch" not in result or "objective" in result:
            return TrialScheduler.CONTINUE
        self.stopped.add(number)
        return TrialScheduler.STOP

    def on_trial_error(self, tune_controller: Any, trial: Trial) -> None:
        if trial.status == Trial.PENDING and trial.should_recover():
            self._lost[trial.trial_id] = tune_controller

    def recover(self, trial: Trial) -> bool:
        """Put a trial that Ray Tune has given up back into its queue, if it was never begun; return whether it was."""
        controller = self._lost.pop(trial.trial_id, None)
        if controller is not None:
            requeue(controller, trial)
        return controller is not None


class AshaScheduler(RecoveringScheduler):
    """ASHA (asynchronous successive halving) over the proxy of the objective, for a search that may be resumed.

    It decides as Ray Tune's own does, which lets a trial go on if, at a rung, it is not below the quantile of those
    that came there before; there, the part that is kept also says how far apart the rungs are. Trials are known by
    their numbers, and what they reported before the search was resumed counts. As the objective measures the epoch
    with the lowest validation cross-entropy, a trial is judged at a rung by its epoch with the lowest so far. Given
    settings are never stopped, and have no part in the quantile: the curve of an unregularized network is not like the
    others. Nor are further runs of a setting, which are to tell how good it is.

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
            if record.setting or record.is_repeat:
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
        return not others or bool(reached[number] >= np.quantile(others, 1 - self._kept))

    def on_trial_result(self, tune_controller: Any, trial: Trial, result: dict[str, Any]) -> str:
        if super().on_trial_result(tune_controller, trial, result) == TrialScheduler.STOP:
            return TrialScheduler.STOP
        number = trial.config["number"]
        is_repeat = trial.config["setting_number"] != number
        if trial.config["setting"] or is_repeat or self.decide(number, result):
            return TrialScheduler.CONTINUE
        self.stopped.add(number)
        return TrialScheduler.STOP
