"""Train one network with the pixel-similarity regularizer, and measure its accuracy and robustness.

brainreg train --task=CIFAR10 --archi=ResNet18 --reg_data=CIFAR10 --reg_alpha=10 --reg_thresh=0.8
brainreg train --task=digits --base_channels=8 --epoch_num=8 --resnet_batch_size=16
"""

import argparse
import hashlib
import json
import sys
import time
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from tqdm import tqdm

import brainreg
from brainreg._utils.files import check_writable, make_folder, write_text
from brainreg._utils.flags import DATA_DIR, Parser, from_flags, use_threads
from brainreg.attacks import Context
from brainreg.data.datasets import find_dataset
from brainreg.data.fingerprints import TEST, part_name
from brainreg.errors import InputError
from brainreg.evaluation.robustness import Robustness
from brainreg.evaluation.settings import Evaluation, plan_attacks
from brainreg.evaluation.subject import TABLE, Subject, evaluate_subject, forget, show
from brainreg.hyperparameters import Hyperparameters
from brainreg.records.driver import Driver, check_no_driver
from brainreg.spaces.published import published_setting
from brainreg.storage import Storage
from brainreg.training.data import TrainingData, load_test_images, load_training_data
from brainreg.training.device import default_device
from brainreg.training.loop import DivergedError, train

_SUMMARY = "results.json"


def main(arguments: Sequence[str]) -> int:
    """Run the command line; return its exit status."""
    parser = Parser(__doc__)
    parser.add_flag("published", help='row of the published table, say "CIFAR-10 - ImageNet"; other flags change it')
    parser.add_flags(Hyperparameters, "hyperparameters")
    parser.add_flags(Evaluation, "evaluation on the test images")
    parser.add_flag("data_dir", default=DATA_DIR, help=f"folder of the data sets (default: {DATA_DIR})")
    parser.add_flag("save_dir", default="runs", help="folder of the runs' folders (default: runs)")
    parser.add_flag(
        "threads",
        help="CPU threads; the same number repeats a run on such a CPU (default: PyTorch's, at most the cores)",
    )
    parser.add_flag("ignore_existing", action="store_true", help="repeat a run that is already in save_dir")
    flags = parser.parse_args(arguments)
    published = published_setting(flags.published) if flags.published is not None else {}
    settings, evaluation = from_flags(Hyperparameters, flags, **published), from_flags(Evaluation, flags)

    use_threads(flags.threads)
    folder = Path(flags.save_dir) / run_name(settings)

    # Everything that can be wrong with the data is found before anything is written.
    data = load_training_data(settings, flags.data_dir)
    test = load_test_images(settings, flags.data_dir)
    test_images, test_labels = test.tensor, test.labels
    asked = {
        "hyperparameters": settings.model_dump(),
        "evaluation": evaluation.model_dump(mode="json"),
        "data": {**data.fingerprints, part_name(TEST, settings.rgb): test.fingerprint},
    }
    if not flags.ignore_existing and (finished := _read_summary(folder)) and asked.items() <= finished.items():
        print(f"already done (--ignore_existing repeats it): {folder}")
        measured = {name: finished[name] for name in ("warnings", "boundary_distance", "corruption_accuracy")}
        _show(finished["best_epoch"], Robustness(pd.read_csv(folder / TABLE), examples=[], **measured), folder)
        return 0

    if test_images.shape[-2:] != data.valid_images.shape[-2:]:
        sizes = [f"{height}x{width}" for height, width in (data.valid_images.shape[-2:], test_images.shape[-2:])]
        raise InputError(f"--task={settings.task}: training images of {sizes[0]}, test images of {sizes[1]}")
    if evaluation.attack:
        plan_attacks(
            evaluation,
            find_dataset(settings.task),
            test_images.shape[1:],
            Context(data.num_classes, surrogate=torch.nn.Identity()),
        )
    check_writable("--save_dir", flags.save_dir)
    make_folder("--save_dir", folder)
    with Driver(Storage(folder), 1, _check_not_run):
        return _train(flags, settings, evaluation, data, (test_images, test_labels), asked, folder)


def _check_not_run(folder: Storage, file: str) -> None:
    """Raise InputError if another process trains this network."""
    runs, then = f"trains this network in {folder}", ", or choose another folder"
    check_no_driver(folder, file, flag="--save_dir", runs=runs, then=then)


def _train(
    flags: argparse.Namespace,
    settings: Hyperparameters,
    evaluation: Evaluation,
    data: TrainingData,
    test: tuple[torch.Tensor, torch.Tensor],
    asked: dict[str, Any],
    folder: Path,
) -> int:
    """Train, measure and show one network in a folder that is this process's alone."""
    test_images, test_labels = test
    checkpoint = folder / "checkpoint.pt"
    if flags.ignore_existing:
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
    robustness = evaluate_subject(subject, evaluation, folder, flags.data_dir, source=checkpoint)
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
    parts = [Path(settings.task).name, settings.archi.replace(":", "-")]
    if settings.regularized:
        parts += [f"alpha{settings.reg_alpha:g}", settings.reg_range, f"Th{settings.reg_thresh:g}"]
    digest = hashlib.sha256(json.dumps(settings.model_dump(), sort_keys=True).encode()).hexdigest()[:8]
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
