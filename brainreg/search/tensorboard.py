"""A search's logs for TensorBoard."""

import math
from collections.abc import Iterable, Mapping

from ray.tune.experiment import Trial
from tensorboardX import SummaryWriter
from tensorboardX.summary import hparams

from brainreg.records.trial import TrialRecord
from brainreg.search.logger import MEASURED, TrialLogger
from brainreg.spaces.distribution import Distribution

# A log is written to disk this often, in seconds. (tensorboardX's `flush` would not wait for its own queue.)
_PERIOD = 5


class TensorBoardLogger(TrialLogger):
    """Writes logs for TensorBoard into the folders of Ray's trials.

    Args:
        searched: the hyperparameters that are searched, with their distributions.
        records: as for `TrialLogger`.
    """

    def __init__(self, searched: Mapping[str, Distribution], records: Iterable[TrialRecord] = ()):
        super().__init__(records)
        # TensorBoard takes the names and kinds of all columns from a single trial, whichever it reads first.
        self._columns = {
            name: next((value for value in one.extremes() if value is not None), "") for name, one in searched.items()
        }

    def begin(self, trial: Trial) -> SummaryWriter:
        trial.init_local_path()
        # With a step to purge from, TensorBoard forgets the logs of before, all of which is written again.
        writer = SummaryWriter(trial.local_path, purge_step=0, flush_secs=_PERIOD)
        config = trial.config
        experiment, _, _ = hparams({"setting": "", **self._columns}, [f"results/{name}" for name in MEASURED])
        values = {name: config["hyperparameters"].get(name) for name in self._columns}
        _, start, _ = hparams({"setting": config["setting"] or "proposed", **values}, {})
        for summary in (experiment, start):  # the third is left out: it would say that the trial succeeded
            writer.file_writer.add_summary(summary)
        return writer

    def log(self, run: SummaryWriter, group: str, values: Mapping[str, float], epoch: int) -> None:
        for name, value in values.items():
            if math.isfinite(value):
                run.add_scalar(f"{group}/{name}", value, global_step=epoch)

    def end(self, run: SummaryWriter, failed: bool) -> None:
        run.close()
