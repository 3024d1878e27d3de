"""A trained network with its images: measured, written as a table and a page."""

import contextlib
import shutil
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn
from tqdm import tqdm

from brainreg._utils.files import make_folder
from brainreg._utils.formats import format_duration
from brainreg.attacks.corruptions import PUBLISHED, load_published
from brainreg.attacks.names import CORRUPTIONS, attack_names
from brainreg.attacks.registry import Context
from brainreg.data.datasets import find_dataset
from brainreg.data.fingerprints import check_same_data, fingerprint
from brainreg.errors import InputError, first_line
from brainreg.evaluation.page import write_report
from brainreg.evaluation.plan import attacked_images, plan_attacks_of_flags
from brainreg.evaluation.robustness import Robustness, evaluate
from brainreg.evaluation.settings import Evaluation
from brainreg.hyperparameters import REGULARIZER, Hyperparameters
from brainreg.training.checkpoint import fold_batchnorm, load_classifier
from brainreg.training.data import load_test_images, load_training_data
from brainreg.training.device import default_device
from brainreg.training.loop import train
from brainreg.training.step import to_float

TABLE, REPORT = "robustness.csv", "robustness.html"
PARTS, _SURROGATE = "parts", "surrogate.pt"
SPLITS = ("test", "validation")
_LOG_SECONDS = 20


def evaluation_folder(split: str) -> str:
    """Return the name of the folder, beside a checkpoint, that holds what was measured of it."""
    return f"evaluation-{split}"


def load_split(
    settings: Hyperparameters, split: str, data_dir: str | Path, trained_on: Mapping[str, str] | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a task's test images, or the validation images of a run with these settings, and their labels.

    Args:
        settings: of the run.
        split: test or validation.
        data_dir: folder of the data sets.
        trained_on: fingerprints of the run's data, of which the validation images must be.

    Returns:
        (n, c, h, w) uint8 and (n,) int64.

    Raises:
        InputError: they are missing, unreadable, or others; other data's validation images may be this run's training
            images.
    """
    if split == "test":
        test = load_test_images(settings, data_dir)
        return test.tensor, test.labels
    data = load_training_data(settings.model_copy(update={"reg_alpha": None}), data_dir)
    check_same_data(data.fingerprints, trained_on, f"--data_dir={data_dir}", "this network")
    return data.valid_images, data.valid_labels


@dataclass(frozen=True)
class Subject:
    """A network, and the images that it is measured on.

    Attributes:
        classifier: logits of images in [0, 1].
        settings: that it was trained with.
        images, labels: (n, c, h, w) uint8 and (n,) int64.
        split: test or validation, what they are.
        seed: of the evaluation's draws.
    """

    classifier: nn.Sequential
    settings: Hyperparameters
    images: torch.Tensor
    labels: torch.Tensor
    split: str
    seed: int

    def check(self, evaluation: Evaluation) -> None:
        """Raise InputError if the images do not fit the network, or what is asked for does not fit the images."""
        try:
            with torch.no_grad():
                classes = self.classifier.eval()(to_float(self.images[:1])).shape[1]
        except RuntimeError as error:
            size = "x".join(map(str, self.images.shape[1:]))
            reason = first_line(error)
            raise InputError(f"--checkpoint: does not take the {self.split} images, {size} ({reason})") from error
        plan_attacks_of_flags(
            evaluation, find_dataset(self.settings.task), self.images.shape[1:], Context(classes, self.classifier)
        )


def evaluate_subject(
    subject: Subject,
    evaluation: Evaluation,
    folder: Path,
    data_dir: str | Path,
    *,
    source: str | Path,
    surrogate: str | Path | None = None,
    device: str | torch.device | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Robustness:
    """Measure a network, and write the table and the report.

    Args:
        subject: what is measured.
        evaluation: how.
        folder: where the table, the report, and the parts are written that let an interrupted evaluation go on.
        data_dir: folder of the data sets.
        source: where the network comes from, for the report.
        surrogate: checkpoint whose gradient is transferred, where that is asked for; one is trained where absent.
        device: CUDA where there is one, unless given.
        on_progress: called as `brainreg.evaluation.robustness.evaluate` calls it; without it, progress is printed.

    Raises:
        InputError: see `brainreg.evaluation.robustness.evaluate`; a surrogate that does not fit.
    """
    device = torch.device(device or default_device())
    settings, task = subject.settings, find_dataset(subject.settings.task)
    images = to_float(subject.images.to(device))  # as bytes: a quarter of the memory and of the way
    names = attack_names(evaluation.attacks) if evaluation.attack else ()
    options: dict[str, Any] = {}
    if surrogate is not None and "transfer-fgsm" in names:
        name = f"{Path(surrogate).parent.name}/{Path(surrogate).name}"
        options |= {"surrogate": _load_surrogate(subject, surrogate).to(device), "surrogate_name": name}
    published = subject.split == "test" and settings.task in PUBLISHED and settings.image_size is None
    if published and {*names} & {*CORRUPTIONS}:  # of another size, they are generated
        seen = attacked_images(len(subject.labels), evaluation.num_images, subject.seed)
        corrupted = load_published(data_dir, settings.task, seen, subject.labels[seen], settings.rgb)
        options |= {"corrupted": corrupted, "corrupted_source": PUBLISHED[settings.task]}
    make_folder("--save_dir", folder)
    began = time.monotonic()
    with _Progress() if on_progress is None else contextlib.nullcontext(on_progress) as progress:
        if surrogate is None and "transfer-fgsm" in names:
            network, name = _train_surrogate(subject.settings, folder, data_dir, device, progress)
            options |= {"surrogate": network, "surrogate_name": name}
        robustness = evaluate(
            fold_batchnorm(subject.classifier).to(device),
            images,
            subject.labels.to(device),
            task,
            evaluation,
            subject.seed,
            parts=folder / PARTS,
            on_progress=progress,
            **options,
        )
    facts = {
        "network": f"{source}",
        "trained with": _described(settings),
        "images": f"{len(images)} {subject.split} images of {settings.task}",
        "fingerprint of the images": fingerprint(subject.images, subject.labels),
        "seed": f"{subject.seed}",
        "device": torch.cuda.get_device_name() if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads",
        "this run": f"{format_duration(time.monotonic() - began)}, on {time.strftime('%Y-%m-%d')}",
        "versions": robustness.table.versions.iloc[0],
    }
    if robustness.boundary_distance is not None:
        facts["boundary attack"] = (
            f"median squared L2 distance per value {robustness.boundary_distance:.3g} (mean of 5 runs)"
        )
    robustness.table.to_csv(folder / TABLE, index=False)
    write_report(
        folder / REPORT,
        robustness.table,
        title=f"Robustness of {settings.archi} on {Path(settings.task).name}",
        facts=facts,
        warnings=robustness.warnings,
        examples=robustness.examples,
    )
    return robustness


def forget(folder: Path) -> None:
    """Remove what lets an evaluation go on, so that all of it is measured again."""
    shutil.rmtree(folder / PARTS, ignore_errors=True)
    (folder / _SURROGATE).unlink(missing_ok=True)


def show(robustness: Robustness, folder: Path) -> None:
    """Print what was measured, and where it is written."""
    for attack, curve in robustness.table.groupby("attack", sort=False):
        spread = ((curve.high - curve.low) / 2).max()
        about = f"{curve.n.iloc[0]} images, 95% intervals of ±{spread:.3f} at most"
        if attack == "clean":
            print(f"clean accuracy {curve.accuracy.iloc[0]:.4f} ({about})")
            continue
        accuracies = ", ".join(f"{row.eps:.3g}: {row.accuracy:.3f}" for row in curve.itertuples())
        print(f"{attack}, accuracy at strength {accuracies} ({about})")
    if robustness.boundary_distance is not None:
        print(f"boundary attack, median squared L2 distance per value: {robustness.boundary_distance:.3g}")
    if robustness.corruption_accuracy is not None:
        print(f"mean corruption accuracy: {robustness.corruption_accuracy:.3f}")
    for warning in robustness.warnings:
        print(f"warning: {warning}")
    print(f"table:  {folder / TABLE}")
    print(f"report: {folder / REPORT}")


def load_subject(flag: str, path: str | Path) -> tuple[nn.Sequential, Hyperparameters]:
    """Return the classifier and the settings of a checkpoint that a flag names.

    Raises:
        InputError: with the flag, what is wrong with the file.
    """
    try:
        return load_classifier(path)
    except InputError as error:
        raise InputError(f"--{flag}={error}") from error


def _described(settings: Hyperparameters) -> str:
    """The settings in a line; what the regularizer alone uses is left out where there is none."""
    values = settings.model_dump()
    hidden = () if settings.regularized else REGULARIZER
    said = ", ".join(f"{name} {value}" for name, value in values.items() if value is not None and name not in hidden)
    return said if settings.regularized else f"{said}; unregularized"


def _load_surrogate(subject: Subject, path: str | Path) -> nn.Module:
    """Return the network of a checkpoint whose gradient is transferred to the subject."""
    network, _ = load_subject("surrogate", path)
    sample = to_float(subject.images[:1])
    try:
        with torch.no_grad():
            fits = network(sample).shape == subject.classifier.cpu().eval()(sample).shape
    except RuntimeError:
        fits = False
    if not fits:
        raise InputError(f"--surrogate={path}: takes other images or tells other classes apart than the checkpoint")
    return network


def _train_surrogate(
    settings: Hyperparameters,
    folder: Path,
    data_dir: str | Path,
    device: torch.device,
    progress: Callable[[str, int, int], None],
) -> tuple[nn.Module, str]:
    """Train a network whose gradient is transferred; return it, and what it is called.

    It has the same settings but for the regularizer, and the next seed: an unregularized network itself is thus not
    attacked by its own gradient.
    """
    changes = {name: Hyperparameters.model_fields[name].default for name in REGULARIZER}
    seed = (settings.seed + 1) % 2**32
    settings = settings.model_copy(update={**changes, "seed": seed})

    def on_epoch(metrics: dict[str, float]) -> None:
        progress("training the surrogate, epochs", int(metrics["epoch"]), settings.epoch_num)

    data = load_training_data(settings, data_dir)
    trained = train(settings, data, device=device, checkpoint=folder / _SURROGATE, on_epoch=on_epoch)
    return trained.classifier, f"unregularized, seed {seed}"


class _Progress:
    """Shows how far an attack is and the time that is left: in place in a terminal, now and then in a log."""

    def __init__(self):
        self._bar: tqdm | None = None
        self._title, self._began, self._said, self._before = "", 0.0, time.monotonic(), 0

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def __call__(self, title: str, known: int, total: int) -> None:
        """Say that the outcome of `known` of `total` images is known."""
        if title != self._title:
            if self._bar is not None:
                self._bar.close()
            self._title, self._began, self._before = title, time.monotonic(), known
            self._bar = tqdm(total=total, desc=title, unit="image", leave=False, disable=not sys.stderr.isatty())
        assert self._bar is not None
        self._bar.total = total
        self._bar.update(known - self._bar.n)
        if self._bar.disable and time.monotonic() - self._said > _LOG_SECONDS:
            self._said = time.monotonic()
            spent, done = self._said - self._began, known - self._before
            left = f", about {format_duration(spent / done * (total - known))} left for all" if done > 0 else ""
            print(f"{title}: {known} of {total}{left}", flush=True)
