"""One training of a confirmation, on a worker: trained, measured on test images, and kept."""

import json
import socket
import tempfile
import time
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from brainreg.confirmation.jobs import Job
from brainreg.data.fingerprints import TEST, check_same_data, part_name
from brainreg.errors import InputError
from brainreg.evaluation.plan import attacked_images
from brainreg.evaluation.settings import Evaluation
from brainreg.evaluation.subject import PARTS, Subject, evaluate_subject
from brainreg.records.trial import CHECKPOINT
from brainreg.search.trial import is_retryable, storage_failed
from brainreg.spaces.measurement import EPOCH_OBJECTIVE, objective_by_epoch
from brainreg.storage import Storage
from brainreg.training.checkpoint import (
    load_checkpoint,
    resumable_checkpoint,
    save_checkpoint,
    with_lowest_cross_entropy,
)
from brainreg.training.data import load_test_images, load_training_data
from brainreg.training.loop import train
from brainreg.training.step import to_float

_RESULT, ERROR = "result.json", "error.txt"

# Says, by being there, that a training has ended and that the objective chose another epoch than the lowest
# cross-entropy did: the job that shares the training has a network of its own to measure.
EPOCHS_DIFFER = "epochs_differ"

# Files of a job that is remote go there this often at most while it is attacked, in seconds.
_SEND_SECONDS = 5


class _Workplace:
    """A job's folder on this machine: its own, or a copy of a remote one whose files go back when they change.

    Attributes:
        path: where its files lie here.
    """

    def __init__(self, folder: Storage, temporary: str):
        self._remote = None if folder.is_local else folder
        self.path = Path(folder.root if folder.is_local else temporary)
        self.path.mkdir(parents=True, exist_ok=True)
        self._sent: dict[str, int] = {}
        self._when = 0.0
        for below in ("", PARTS) if self._remote else ():
            there = folder.child(below) if below else folder
            for name in there.names():
                if (content := there.read(name)) is not None and name != PARTS:
                    own = self.path / below / name
                    own.parent.mkdir(exist_ok=True)
                    own.write_bytes(content)
                    self._sent[str(own.relative_to(self.path))] = own.stat().st_mtime_ns

    def send(self, at_once: bool = True) -> None:
        """Send what has changed, now or if it was not done for a while."""
        if self._remote is None or (not at_once and time.monotonic() - self._when < _SEND_SECONDS):
            return
        for own in sorted(path for path in self.path.rglob("*") if path.is_file() and path.suffix != ".part"):
            name, changed = str(own.relative_to(self.path)), own.stat().st_mtime_ns
            if self._sent.get(name) != changed:
                self._remote.write(name, own.read_bytes())
                self._sent[name] = changed
        self._when = time.monotonic()


def run_job(
    job: Job,
    evaluation: Evaluation,
    confirmation: str,
    data_dir: str,
    data: Mapping[str, str],
    threads: int,
    device: str,
) -> dict[str, Any]:
    """Train a setting and measure it on the test images; go on from what its folder holds.

    Args:
        job: what is trained.
        evaluation: how it is measured.
        confirmation: URI of the confirmation's folder, in which the job has one of its own.
        data_dir: folder of the data sets.
        data: fingerprints of the confirmation's; a node that has others is refused.
        threads: that PyTorch uses.
        device: cpu or cuda.

    Returns:
        `notes`, what the user should know, where all went well and the result stands in its file; else `error`, in one
        line, `again`, whether it may go well another time, and `broken`, whether the storage failed.
    """
    torch.set_num_threads(threads)
    folder = Storage(confirmation).child(job.name)
    try:
        with tempfile.TemporaryDirectory() as temporary:
            notes: list[str] = []
            place = _Workplace(folder, temporary)
            _run(job, evaluation, Storage(confirmation), place, data_dir, data, device, notes)
        return {"notes": notes}
    except Exception as error:
        text = " ".join(str(error).split())
        outcome = {"error": f"{type(error).__name__}: {text}", "again": is_retryable(error), "broken": False}
        if storage_failed(error):
            return outcome | {"error": text, "broken": True}
        try:
            folder.write(ERROR, traceback.format_exc())
        except InputError as broken:
            return outcome | {"error": str(broken), "broken": True}
        return outcome


def _run(
    job: Job,
    evaluation: Evaluation,
    confirmation: Storage,
    place: _Workplace,
    data_dir: str,
    data: Mapping[str, str],
    device: str,
    notes: list[str],
) -> None:
    training, test = load_training_data(job.settings, data_dir, device), load_test_images(job.settings, data_dir)
    found = {
        **training.fingerprints,
        part_name(TEST, job.settings): test.fingerprint,
    }
    check_same_data(found, data, f"--data_dir={data_dir}", f"this confirmation, on {socket.gethostname()}")
    folder, checkpoint = confirmation.child(job.name), place.path / CHECKPOINT
    if job.same_training is not None and not checkpoint.exists():
        _take_over(confirmation.child(job.same_training), place.path, job.settings.epoch_num)
    choice: dict[str, Any] = {}
    if job.objective is not None:
        valid_images, valid_labels = to_float(training.valid_images.to(device)), training.valid_labels.to(device)
        before = resumable_checkpoint(checkpoint, notes.append)
        history = before["history"] if before else ()
        by_epoch = objective_by_epoch(job.objective, valid_images, valid_labels, job.settings.seed, history)
        choice = {"measure": by_epoch, "choose_by": EPOCH_OBJECTIVE}
    result = train(
        job.settings,
        training,
        device=device,
        checkpoint=checkpoint,
        on_epoch=lambda metrics: place.send(),
        **choice,
        on_damaged=notes.append,
    )
    lowest = min(result.history, key=lambda epoch: epoch["valid_cross_entropy"])
    if job.objective is not None and lowest["epoch"] != result.best_epoch:
        place.send()
        folder.write(EPOCHS_DIFFER, "")
    robustness = evaluate_subject(
        Subject(result.classifier, job.settings, test.tensor, test.labels, "test", job.settings.seed),
        evaluation,
        place.path,
        data_dir,
        source=folder.path(CHECKPOINT),
        device=device,
        on_progress=lambda title, known, total: place.send(at_once=False),
    )
    place.send()
    rows = robustness.table.astype(object).where(robustness.table.notna(), None)
    content = {
        "rows": rows.to_dict("records"),
        # Of each row; those of attacks are of `attacked`, as many of them as there are outcomes.
        "outcomes": robustness.outcomes,
        "attacked": attacked_images(len(test.labels), evaluation.num_images, job.settings.seed).tolist(),
        "warnings": robustness.warnings,
        "best_epoch": result.best_epoch,
        "training_seconds": result.seconds,
        "node": socket.gethostname(),
        "data": found,
    }
    folder.write(_RESULT, json.dumps(content))


def _take_over(other: Storage, path: Path, epochs: int) -> None:
    """Put the checkpoint of the same training, with the epoch of the lowest cross-entropy, where this job's lies.

    Nothing is put there, so that the network is trained, where that training did not come to its end, or is of an
    earlier version. Where both choose the same epoch, what was measured of its network is taken over, too: it is found
    there by its weights.
    """
    if not other.exists(CHECKPOINT):
        return
    with tempfile.TemporaryDirectory() as temporary:
        file = other.fetch(CHECKPOINT, temporary)
        try:
            state = load_checkpoint(file)
        except InputError:  # damaged: its own job will say so
            return
    own = with_lowest_cross_entropy(state)
    if own is None or state["history"][-1]["epoch"] < epochs:
        return
    if own["best_epoch"] == state["best_epoch"]:
        measured = other.child(PARTS)
        for name in measured.names():
            if (part := measured.read(name)) is not None:
                (path / PARTS).mkdir(exist_ok=True)
                (path / PARTS / name).write_bytes(part)
    save_checkpoint(path / CHECKPOINT, own)  # last: where it lies, nothing more is taken over


def read_result(confirmation: Storage, job: Job) -> dict[str, Any] | None:
    """What a finished job left; None where it did not finish, or where that is damaged, so that it is made again."""
    content = confirmation.child(job.name).read(_RESULT)
    try:
        return None if content is None else json.loads(content)
    except ValueError:
        return None
