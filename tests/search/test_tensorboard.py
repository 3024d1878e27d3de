import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tensorboardX.proto.event_pb2 import Event
from tensorboardX.proto.plugin_hparams_pb2 import HParamsPluginData

from brainreg.records.trial import TrialRecord
from brainreg.search.tensorboard import TensorBoardLogger
from brainreg.search.trial import HOPELESS, REPLAYED
from brainreg.spaces.distribution import Distribution

# What Ray Tune adds to each report, in part.
RAYS = {"time_total_s": 8.4, "time_this_iter_s": 1.3, "time_since_restore": 8.4, "training_iteration": 7, "done": False}
MEASURED = {"objective": 0.5, "clean_accuracy": 0.75, "robust_accuracy": 0.25, "noise_accuracy": 0.5}

SEARCHED = {
    "reg_alpha": Distribution(low=0.1, high=1),
    "reg_range": Distribution(choices=(None, "high", "double")),
    "reg_thresh": Distribution(low=0.3, high=0.8),
}


class FakeTrial:
    """What the logger uses of Ray Tune's trial."""

    def __init__(self, folder: Path, number: int, setting: str = "", **hyperparameters: Any):
        self.local_path = str(folder / f"trial_{number}")
        self.config = {"number": number, "setting": setting, "hyperparameters": hyperparameters, "ended": ""}

    def init_local_path(self) -> None:
        Path(self.local_path).mkdir()


def summaries(trial: FakeTrial) -> Iterator[tuple[int, Any]]:
    """The steps and values of the one file of a trial's log."""
    (path,) = Path(trial.local_path).iterdir()
    content = path.read_bytes()
    while content:
        (length,) = struct.unpack("<Q", content[:8])
        event = Event.FromString(content[12 : 12 + length])
        content = content[16 + length :]
        yield from ((event.step, value) for value in event.summary.value)


def curves(trial: FakeTrial) -> dict[str, list[tuple[int, float]]]:
    points: dict[str, list[tuple[int, float]]] = {}
    for step, value in summaries(trial):
        if not value.HasField("metadata"):
            points.setdefault(value.tag, []).append((step, value.simple_value))
    return points


def settings(trial: FakeTrial) -> tuple[list[str], Any]:
    """What TensorBoard's table shows of a trial: its columns, and the hyperparameters."""
    experiment, start = (
        HParamsPluginData.FromString(value.metadata.plugin_data.content)
        for _, value in summaries(trial)
        if value.HasField("metadata")
    )
    columns = [one.name for one in experiment.experiment.hparam_infos]
    columns += [one.name.tag for one in experiment.experiment.metric_infos]
    return columns, start.session_start_info.hparams


def epoch(number: int, **metrics: float) -> dict[str, Any]:
    return {"epoch": number, "valid_accuracy": number / 4, **metrics}


@pytest.fixture
def trial(tmp_path):
    return FakeTrial(tmp_path, 3, reg_alpha=0.5, reg_range="double", epoch_num=2)


def test_curves_are_over_epochs_and_without_rays_clocks(trial):
    logger = TensorBoardLogger(SEARCHED)
    logger.log_trial_start(trial)
    for report in (epoch(0, valid_cross_entropy=float("nan")), epoch(1, lr=0.5), epoch(2, lr=0.25)):
        logger.log_trial_result(0, trial, {**report, **RAYS})
    logger.log_trial_result(0, trial, {"epoch": 2, **MEASURED, "clean_n": 360, "attack_seconds": 1.5, **RAYS})
    logger.log_trial_end(trial)
    assert curves(trial) == {
        "epochs/valid_accuracy": [(0, 0.0), (1, 0.25), (2, 0.5)],
        "epochs/lr": [(1, 0.5), (2, 0.25)],
        **{f"results/{name}": [(2, value)] for name, value in MEASURED.items()},
    }


def test_every_trial_names_all_that_is_searched(trial, tmp_path):
    """TensorBoard takes the columns of its table from any one; and a trial that is stopped early has a row, too."""
    logger = TensorBoardLogger(SEARCHED)
    given = FakeTrial(tmp_path, 0, setting="unregularized", reg_alpha=0.0)
    for one in (trial, given):
        logger.log_trial_start(one)
        logger.log_trial_end(one)
    (columns, own), (columns_given, others) = settings(trial), settings(given)
    assert columns == columns_given == ["setting", *SEARCHED, *(f"results/{name}" for name in MEASURED)]
    assert set(own) == {"setting", "reg_alpha", "reg_range"} and set(others) == {"setting", "reg_alpha"}
    assert own["reg_alpha"].number_value == 0.5 and own["reg_range"].string_value == "double"
    assert own["setting"].string_value == "proposed" and others["setting"].string_value == "unregularized"


def test_a_resumed_search_logs_what_was_known_before(trial):
    logger = TensorBoardLogger({}, [TrialRecord(3, "", {}, epochs=[epoch(0), epoch(1)]), TrialRecord(4, "", {})])
    logger.log_trial_start(trial)
    logger.log_trial_result(0, trial, {"epoch": 2, REPLAYED: True, **MEASURED})
    logger.log_trial_end(trial)
    assert curves(trial)["epochs/valid_accuracy"] == [(0, 0.0), (1, 0.25)]
    assert curves(trial)["results/objective"] == [(2, 0.5)]


def test_a_trial_that_is_tried_again_goes_on_in_its_file(trial):
    logger = TensorBoardLogger({})
    logger.log_trial_start(trial)
    logger.log_trial_result(0, trial, epoch(1))
    logger.log_trial_start(trial)
    logger.log_trial_result(0, trial, epoch(2))
    logger.log_trial_result(0, trial, {HOPELESS: True, **RAYS})
    logger.log_trial_end(trial, failed=True)
    assert curves(trial) == {"epochs/valid_accuracy": [(1, 0.25), (2, 0.5)]}
