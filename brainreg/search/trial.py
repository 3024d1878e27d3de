"""One trial on a worker: trained, measured, kept; it goes on where it was."""

import errno
import socket
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import tune

from brainreg.data.fingerprints import check_same_data
from brainreg.hyperparameters import Hyperparameters
from brainreg.records.trial import CHECKPOINT, FAILED, STOPPED, TrialFiles
from brainreg.spaces.measurement import EPOCH_OBJECTIVE, measure_objective, measure_proxy, objective_by_epoch
from brainreg.spaces.names import EARLY_STOPPED
from brainreg.spaces.objective import Objective
from brainreg.storage import Storage, StorageError
from brainreg.training.checkpoint import fold_batchnorm, resumable_checkpoint
from brainreg.training.data import load_training_data
from brainreg.training.device import lacks_memory, lost_gpu
from brainreg.training.loop import train
from brainreg.training.step import to_float

# What a report says beside an epoch's metrics and the measured objective.
REPLAYED = "replayed"  # what was known before; a search that is resumed hears it again
NOTE = "note"  # a line that the user should read
HOPELESS = "hopeless"  # the error that follows would come again
BROKEN = "broken"  # the storage failed, and with it the search

_STORAGE_ERRORS = (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO, errno.ESTALE)

# How long a trial that lacked a GPU's memory waits before it is tried again, in seconds: a neighbour may be done then.
RETRY_PAUSE = 30.0


class EndedTrial(RuntimeError):
    """A trial had failed before the search was resumed. Its text is the error of then."""


@dataclass(frozen=True)
class TrialJob:
    """What all trials of a search share.

    Attributes:
        objective: what is measured.
        storage: URI of the search's folder.
        data_dir: folder of the data sets.
        data: fingerprints of what the search's trials train on; a node that has other data is refused.
        threads: that PyTorch uses.
        device: cpu or cuda.
        proxy: whether each epoch's network is attacked in a few steps.
    """

    objective: Objective
    storage: str
    data_dir: str
    data: Mapping[str, str]
    threads: int
    device: str
    proxy: bool


def run_trial(config: dict[str, Any], job: TrialJob) -> None:
    """Train one setting and measure it: the function that Ray Tune runs.

    It goes on from the trial's files, whoever wrote them. Reports each epoch's metrics and at last the objective
    and its parts. A worker runs one trial after another; its output, which Ray's dashboard shows, says which.

    Args:
        config: number, setting, setting_number, hyperparameters (their seed is that of the attacked images, of attack
            and noise, too), and ended: how it ended before the search was resumed, or empty.
        job: what it shares with the others.
    """
    torch.set_num_threads(job.threads)
    files = TrialFiles(Storage(job.storage), config["number"])
    try:
        if config["ended"] in (STOPPED, FAILED):
            _end_again(files)
        else:
            _run(config, job, files)
    except Exception as error:
        _print(config, f"{type(error).__name__}: {error}")
        if storage_failed(error):
            tune.report({BROKEN: str(error)})
        elif not is_retryable(error):
            tune.report({HOPELESS: True})
        elif job.device != "cpu" and lacks_memory(error):
            error.__traceback__ = None  # which would keep the trial's tensors
            torch.cuda.empty_cache()
            time.sleep(RETRY_PAUSE)
        raise


def _print(config: Mapping[str, Any], text: str) -> None:
    print(f"trial {config['number']}: {text}", flush=True)


def storage_failed(error: Exception) -> bool:
    """Return whether an error is the storage's, and so ends all trials and not one."""
    return isinstance(error, StorageError) or (isinstance(error, OSError) and error.errno in _STORAGE_ERRORS)


def is_retryable(error: Exception) -> bool:
    """Return whether the same trial may succeed when it is tried again: with free memory, in another process."""
    return lacks_memory(error) or lost_gpu(error)


def _end_again(files: TrialFiles) -> None:
    record = files.read()
    assert record is not None
    if record.ended == FAILED:
        raise EndedTrial(record.error)
    tune.report({REPLAYED: True, "epoch": record.epochs[-1]["epoch"] if record.epochs else 0})


def _run(config: dict[str, Any], job: TrialJob, files: TrialFiles) -> None:
    settings = Hyperparameters(**config["hyperparameters"])
    before = files.read_progress()
    if before.get("measured"):
        tune.report({REPLAYED: True, "epoch": settings.epoch_num, **before["measured"]})
        return
    began, spent = time.monotonic(), before.get("seconds") or 0.0
    _print(config, ", ".join(f"{name} {value}" for name, value in config["hyperparameters"].items()))
    data = load_training_data(settings, job.data_dir, job.device)
    fingerprints = data.fingerprints
    check_same_data(fingerprints, job.data, f"--data_dir={job.data_dir}", f"this search, on {socket.gethostname()}")
    images, labels = to_float(data.valid_images.to(job.device)), data.valid_labels.to(job.device)
    with tempfile.TemporaryDirectory() as temporary:
        checkpoint, epochs = _fetch_checkpoint(files, Path(temporary), lambda note: tune.report({NOTE: note}))

        def keep(measured: dict[str, Any]) -> None:
            files.write_progress(
                epochs=epochs,
                measured=measured,
                seconds=spent + time.monotonic() - began,
                node=socket.gethostname(),
                data=fingerprints,
            )

        def on_epoch(metrics: dict[str, float]) -> None:
            epochs.append(metrics)
            keep({})
            epoch, accuracy = metrics["epoch"], metrics["valid_accuracy"]
            _print(config, f"epoch {epoch:g}/{settings.epoch_num}, valid {accuracy:.3f}")
            tune.report(metrics)

        def send() -> None:
            if not files.folder.is_local:
                files.folder.write(CHECKPOINT, checkpoint.read_bytes())

        def proxy(classifier: torch.nn.Sequential, metrics: dict[str, float]) -> dict[str, float]:
            return measure_proxy(
                job.objective, fold_batchnorm(classifier), images, labels, settings.seed, metrics["valid_accuracy"]
            )

        if epochs:
            tune.report(epochs[-1])  # whether it is worth going on may not have been decided
        choice: dict[str, Any] = {"measure": proxy if job.proxy else None}
        if config["setting"] == EARLY_STOPPED:
            by_epoch = objective_by_epoch(job.objective, images, labels, settings.seed, epochs)
            choice = {"measure": by_epoch, "choose_by": EPOCH_OBJECTIVE}
        result = train(
            settings, data, device=job.device, checkpoint=checkpoint, on_epoch=on_epoch, on_checkpoint=send, **choice
        )
        measured = measure_objective(job.objective, fold_batchnorm(result.classifier), images, labels, settings.seed)
        measured["best_epoch"] = result.best_epoch
        keep(measured)
        _print(config, f"objective {measured['objective']:.3f}")
    tune.report({"epoch": settings.epoch_num, **measured})


def _fetch_checkpoint(
    files: TrialFiles, temporary: Path, on_damaged: Callable[[str], None]
) -> tuple[Path, list[dict[str, float]]]:
    """Where the trial's checkpoint lies on this machine, or will, and the epochs that it knows."""
    folder = Path(files.folder.root) if files.folder.is_local else temporary
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / CHECKPOINT
    content = None if files.folder.is_local else files.folder.read(CHECKPOINT)
    if content is not None:
        path.write_bytes(content)
    state = resumable_checkpoint(path, on_damaged)
    return path, state["history"] if state else []
