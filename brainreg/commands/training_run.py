"""One network, trained, measured on the test images and shown, in a folder of its own."""

import hashlib
import json
import sys
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

import brainreg
from brainreg._utils.files import check_writable, make_folder, write_text
from brainreg.attacks.registry import Context
from brainreg.data.datasets import find_dataset
from brainreg.data.fingerprints import TEST, part_name
from brainreg.errors import InputError
from brainreg.evaluation.plan import plan_attacks_of_flags
from brainreg.evaluation.robustness import Robustness
from brainreg.evaluation.settings import Evaluation
from brainreg.evaluation.subject import TABLE, Subject, evaluate_subject, forget, show
from brainreg.hyperparameters import Hyperparameters
from brainreg.records.driver import Driver, check_no_driver
from brainreg.storage import Storage
from brainreg.training.data import TrainingData, load_test_images, load_training_data
from brainreg.training.device import default_device
from brainreg.training.loop import DivergedError, train

_SUMMARY = "results.json"


def run_training(
    settings: Hyperparameters, evaluation: Evaluation, save_dir: Path, data_dir: str, ignore_existing: bool
) -> int:
    """Train, measure and show a network, unless that was done; go on where it was interrupted.

    Args:
        settings: what is trained.
        evaluation: how it is measured.
        save_dir: folder of the runs' folders; this one's is called `run_name`.
        data_dir: folder of the data sets.
        ignore_existing: repeat it where it was done.

    Returns:
        0; or 1 where the training diverged.

    Raises:
        InputError: data or attacks that do not fit, another process that trains it, a folder that cannot be written.
    """
    folder = save_dir / run_name(settings)

    # Everything that can be wrong with the data is found before anything is written.
    data = load_training_data(settings, data_dir)
    test = load_test_images(settings, data_dir)
    test_images, test_labels = test.tensor, test.labels
    asked = {
        "hyperparameters": settings.model_dump(),
        "evaluation": evaluation.model_dump(mode="json"),
        "data": {**data.fingerprints, part_name(TEST, settings): test.fingerprint},
    }
    if not ignore_existing and (finished := _read_summary(folder)) and asked.items() <= finished.items():
        print(f"already done (--ignore_existing repeats it): {folder}")
        measured = {name: finished[name] for name in ("warnings", "boundary_distance", "corruption_accuracy")}
        _show(finished["best_epoch"], Robustness(pd.read_csv(folder / TABLE), examples=[], **measured), folder)
        return 0

    if test_images.shape[-2:] != data.valid_images.shape[-2:]:
        sizes = [f"{height}x{width}" for height, width in (data.valid_images.shape[-2:], test_images.shape[-2:])]
        raise InputError(f"--task={settings.task}: training images of {sizes[0]}, test images of {sizes[1]}")
    if evaluation.attack:
        plan_attacks_of_flags(
            evaluation,
            find_dataset(settings.task),
            test_images.shape[1:],
            Context(data.num_classes, surrogate=torch.nn.Identity()),
        )
    check_writable("--save_dir", save_dir)
    make_folder("--save_dir", folder)
    with Driver(Storage(folder), 1, _check_not_run):
        return _train(settings, evaluation, data, (test_images, test_labels), asked, folder, data_dir, ignore_existing)


def _check_not_run(folder: Storage, file: str) -> None:
    """Raise InputError if another process trains this network."""
    runs, then = f"trains this network in {folder}", ", or choose another folder"
    check_no_driver(folder, file, flag="--save_dir", runs=runs, then=then)


def _train(
    settings: Hyperparameters,
    evaluation: Evaluation,
    data: TrainingData,
    test: tuple[torch.Tensor, torch.Tensor],
    asked: dict[str, Any],
    folder: Path,
    data_dir: str,
    ignore_existing: bool,
) -> int:
    """Train, measure and show one network in a folder that is this process's alone."""
    test_images, test_labels = test
    checkpoint = folder / "checkpoint.pt"
    if ignore_existing:
        (folder / _SUMMARY).unlink(missing_ok=True)
        checkpoint.unlink(missing_ok=True)
        forget(folder)

    device = default_device()
    print(f"{len(data.train_indices)} training, {len(data.valid_labels)} validation, {len(test_labels)} test images")
    if data.pairs is not None:
        count = settings.reg_image_num
        print(f"{data.pairs.sampler} pairs of {count:,} images regularize")
    if checkpoint.exists():
        print(f"going on from {checkpoint}")
    began = time.monotonic()
    with tqdm(unit="step", leave=False, disable=not sys.stderr.isatty()) as bar:

        def on_step(step: int, steps: int) -> None:
            bar.total = steps
            bar.update(step - bar.n)

        def on_epoch(metrics: dict[str, float]) -> None:
            tqdm.write(_epoch_line(metrics, settings.epoch_num, time.monotonic() - began))
            bar.reset()

        try:
            result = train(
                settings,
                data,
                device=device,
                checkpoint=checkpoint,
                on_epoch=on_epoch,
                on_step=on_step,
                on_damaged=lambda note: tqdm.write(f"note: {note}"),
            )
        except DivergedError as error:
            print(f"error: diverged in {error}", file=sys.stderr)
            return 1
    pd.DataFrame(result.history).to_csv(folder / "epochs.csv", index=False)

    subject = Subject(result.classifier, settings, test_images, test_labels, "test", settings.seed)
    robustness = evaluate_subject(subject, evaluation, folder, data_dir, source=checkpoint)
    summary = {
        **asked,
        "best_epoch": result.best_epoch,
        "test_accuracy": robustness.table.accuracy.iloc[0],
        "warnings": robustness.warnings,
        "boundary_distance": robustness.boundary_distance,
        "corruption_accuracy": robustness.corruption_accuracy,
        "training_seconds": result.seconds,
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "CPU",
        "versions": {"brainreg": brainreg.__version__, **{name: version(name) for name in ("torch", "pyautoattack")}},
    }
    write_text(folder / _SUMMARY, json.dumps(summary, indent=2) + "\n")
    _show(result.best_epoch, robustness, folder)
    return 0


def run_name(settings: Hyperparameters) -> str:
    """Return the name of a run's folder: what one looks for, and a digest of all settings."""
    parts = [Path(settings.task).name.replace(":", "-"), settings.archi.replace(":", "-")]
    if settings.regularized:
        parts += [f"alpha{settings.reg_alpha:g}", settings.reg_range, f"Th{settings.reg_thresh:g}"]
    values = settings.model_dump()
    if values["image_size"] is None:  # as in runs of versions that had no such setting
        del values["image_size"]
    digest = hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:8]
    return "_".join([*parts, f"seed{settings.seed}", digest])


def _read_summary(folder: Path) -> dict[str, Any]:
    """What a finished run left; nothing where it is missing or damaged, so that the run is repeated."""
    if not ((folder / TABLE).is_file() and (folder / "checkpoint.pt").is_file()):
        return {}
    try:
        summary = json.loads((folder / _SUMMARY).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return summary if isinstance(summary, dict) else {}


def _epoch_line(metrics: dict[str, float], epochs: int, seconds: float) -> str:
    line = f"epoch {metrics['epoch']}/{epochs}: "
    if "lr" in metrics:
        line += f"lr {metrics['lr']:.3g}, cross-entropy {metrics['cross_entropy']:.3f}, "
        line += f"similarity loss {metrics['similarity_loss']:.3f}, "
    line += f"validation cross-entropy {metrics['valid_cross_entropy']:.3f}, accuracy {metrics['valid_accuracy']:.3f}"
    return f"{line} ({seconds:.0f} s)"


def _show(best_epoch: int, robustness: Robustness, folder: Path) -> None:
    """Print the numbers of a finished run, and where they are."""
    print(f"best epoch {best_epoch}; on the test images:")
    show(robustness, folder)
    print(f"checkpoint: {folder / 'checkpoint.pt'}")
    print(f"settings:   {folder / _SUMMARY}, epochs: {folder / 'epochs.csv'}")
