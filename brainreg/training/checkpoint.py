"""Checkpoints: written as a whole, read without executing anything, and the classifier in them."""

import contextlib
import io
import os
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from brainreg._utils.paths import expand_home
from brainreg.data.datasets import Dataset, find_dataset
from brainreg.data.fingerprints import check_same_data
from brainreg.errors import InputError, validated
from brainreg.hyperparameters import Hyperparameters
from brainreg.models.base import InputScaling, SimilarityNetwork
from brainreg.models.build import build_model
from brainreg.models.own import code_of

CHECKPOINT_FORMAT = 4
_WITHOUT_FINGERPRINTS = 3  # of the whole data; all else is as it is now

# In the background, a pause so many times as long as the write before it.
_PAUSE_PER_WRITE = 9.0

# In the checkpoint of a training whose best epoch another metric chose: the one with the lowest cross-entropy on the
# validation images, and its weights.
LOWEST_CROSS_ENTROPY = "lowest_cross_entropy"

# Metrics of an epoch that every training has.
_METRICS = ("epoch", "lr", "cross_entropy", "similarity_loss", "valid_cross_entropy", "valid_accuracy")

_CHECKPOINT_KEYS = {
    *("hyperparameters", "data", "in_channels", "num_classes", "image_size", "model", "optimizer", "pairs", "history"),
    *("best_epoch", "best_model", "seconds"),
}


def save_checkpoint(path: str | Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint so that a reader sees the old one or the new one, never a part, even after a power cut.

    Raises:
        OSError: the disk is full.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    content = io.BytesIO()  # torch.save to a file calls a full disk an error of its own
    torch.save(checkpoint, content)
    try:
        with part.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)  # it would take what is left of a full disk
        raise


class CheckpointWriter:
    """Writes the checkpoints of a training; in the background, so that the next epoch need not wait for the disk.

    In the background one is written at a time, the latest, and no more than a tenth of the time is spent on it: what
    comes meanwhile is replaced by what comes later. The last one is always written, at the end of the block that the
    writer is a context manager of.

    Args:
        path: of the file.
        background: write in a thread; else at once.
        on_written: called after each write, by the thread that wrote: to send the file elsewhere, say. What it raises,
            and an error of the disk, ends the training, at the next checkpoint or at the end.
    """

    def __init__(self, path: str | Path, *, background: bool = False, on_written: Callable[[], None] | None = None):
        self._path, self._background, self._on_written = Path(path), background, on_written
        self._waiting: dict[str, Any] | None = None
        self._changed = threading.Condition()
        self._closed = False
        self._error: BaseException | None = None
        self._thread: threading.Thread | None = None

    def write(self, checkpoint: dict[str, Any]) -> None:
        """Write a checkpoint now or soon; its tensors may change afterwards.

        Raises:
            OSError: the disk is full; or what `on_written` raised.
        """
        if not self._background:
            self._write(checkpoint)
            return
        copied = _on_cpu(checkpoint)
        with self._changed:
            self._raise()
            self._waiting = copied
            self._changed.notify()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, name="checkpoints", daemon=True)
            self._thread.start()

    def __enter__(self) -> "CheckpointWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *about: object) -> None:
        """Wait until the last checkpoint is written; raise what `write` raises, unless another error is on its way."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()
        if kind is None:
            self._raise()

    def _raise(self) -> None:
        if self._error is not None:
            error, self._error = self._error, None
            raise error

    def _write(self, checkpoint: dict[str, Any]) -> None:
        save_checkpoint(self._path, checkpoint)
        if self._on_written is not None:
            self._on_written()

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting is not None or self._closed)
                checkpoint, self._waiting = self._waiting, None
                if checkpoint is None:
                    return
            began = time.monotonic()
            try:
                self._write(checkpoint)
            except BaseException as error:  # raised where the training sees it
                self._error = error
                return
            with self._changed:
                self._changed.wait_for(lambda: self._closed, timeout=_PAUSE_PER_WRITE * (time.monotonic() - began))


def _on_cpu(content: Any) -> Any:
    """A copy of nested dictionaries and lists whose tensors are copies on the CPU."""
    if isinstance(content, torch.Tensor):
        return content.detach().cpu().clone() if content.device.type == "cpu" else content.detach().cpu()
    if isinstance(content, dict):
        return {key: _on_cpu(value) for key, value in content.items()}
    if isinstance(content, list):
        return [_on_cpu(value) for value in content]
    return content


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that `train` wrote. Nothing in it is executed.

    Raises:
        InputError: no file, not a checkpoint, or one of another format.
    """
    path = expand_home(path)
    if not Path(path).is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        found = checkpoint["format"]
    except Exception as error:  # unpickling a strange file fails in many ways
        raise InputError(f"{path}: not a checkpoint of this project") from error
    if found not in (CHECKPOINT_FORMAT, _WITHOUT_FINGERPRINTS):
        raise InputError(f"{path}: checkpoint of format {found}; this version reads format {CHECKPOINT_FORMAT}")
    if missing := _CHECKPOINT_KEYS - checkpoint.keys():
        raise InputError(f"{path}: checkpoint without {', '.join(sorted(missing))}")
    return checkpoint if found == CHECKPOINT_FORMAT else {**checkpoint, "data": {}}


def resumable_checkpoint(path: str | Path, on_damaged: Callable[[str], None] | None = None) -> dict[str, Any] | None:
    """Return the checkpoint that a training can go on from; None where there is none.

    Args:
        path: of the file. A damaged one, or one of another format, is renamed, so that the training begins anew.
        on_damaged: told that, in one line.
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        return load_checkpoint(path)
    except InputError as error:
        aside = path.with_name(f"{path.name}.damaged")
        os.replace(path, aside)
        if on_damaged is not None:
            on_damaged(f"{error}; kept as {aside.name}, and trained from the beginning")
        return None


def with_lowest_cross_entropy(checkpoint: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return what the same training would have kept if no other metric had chosen its best epoch.

    Args:
        checkpoint: of a training with `choose_by`; one of an earlier version does not know it: None.
    """
    if LOWEST_CROSS_ENTROPY not in checkpoint:
        return None
    epoch, weights = checkpoint[LOWEST_CROSS_ENTROPY]
    history = [{name: one[name] for name in _METRICS if name in one} for one in checkpoint["history"]]
    kept = {name: value for name, value in checkpoint.items() if name != LOWEST_CROSS_ENTROPY}
    return {**kept, "history": history, "best_epoch": epoch, "best_model": weights, "chosen_by": None}


def load_classifier(path: str | Path) -> tuple[nn.Sequential, Hyperparameters]:
    """Return the best epoch's network of a checkpoint, in eval mode, and the settings it was trained with.

    The network takes images in [0, 1], of the task's size, and does its own scaling.

    Raises:
        InputError: no whole checkpoint, weights of another network, or a module of the user's that was edited since.
    """
    checkpoint = load_checkpoint(path)
    settings = validated(Hyperparameters, checkpoint["hyperparameters"], where=f"{path}: ")
    check_same_data(code_of(settings.archi), checkpoint["data"], f"{path}", f"{path}")
    network = build_model(
        settings.archi,
        checkpoint["in_channels"],
        checkpoint["num_classes"],
        settings.base_channels,
        checkpoint["image_size"],
    )
    load_weights(network, checkpoint["best_model"], path)
    return as_classifier(network, find_dataset(settings.task)).eval(), settings


def load_weights(network: SimilarityNetwork, weights: Mapping[str, Any], path: str | Path) -> None:
    """Give a network the weights of a checkpoint.

    Raises:
        InputError: they are those of another network.
    """
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise InputError(f"{path}: its weights are those of another network than this version builds") from error


def as_classifier(network: SimilarityNetwork, task: Dataset) -> nn.Sequential:
    """Return `network` behind its task's input scaling: a model of images in [0, 1]."""
    return nn.Sequential(InputScaling(task.centered), network)


def fold_batchnorm(classifier: nn.Sequential) -> nn.Sequential:
    """Return a classifier for measurements: the same logits up to rounding, without BatchNorm's cost."""
    scaling, network = classifier
    assert isinstance(network, SimilarityNetwork)
    return nn.Sequential(scaling, network.folded()).eval()
