"""What a training and its network take on this machine: a few steps and passes, timed."""

import contextlib
import math
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from brainreg.attacks.autoattack.settings import AutoAttackSettings
from brainreg.data.files import nothing_written
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.models.build import build_model
from brainreg.records.trial import CHECKPOINT
from brainreg.spaces.space import Space
from brainreg.training.checkpoint import as_classifier, fold_batchnorm
from brainreg.training.data import TrainingData, load_training_data
from brainreg.training.loop import train
from brainreg.training.step import to_float

# Seconds of training that tell what a step costs.
_PROBE_SECONDS = 6

# Of those steps, the fewest that are timed, and the first ones that do not count.
_FEWEST_STEPS, _WARM_STEPS = 12, 5

# Images that a network is timed on: few, whose pass takes what it takes for any, and as many as are attacked together.
_FEW_IMAGES, _MANY_IMAGES = 10, 250


@dataclass(frozen=True)
class Timing:
    """What one network takes: the costliest setting of a space, with as many beside it as will run at a time.

    Attributes:
        step: seconds of a training step.
        forward, gradient: seconds of a forward pass, and of one with its gradient, for each image more.
        steps: of a training.
        validation_images: that every epoch measures.
        checkpoint: bytes that a trial keeps.
        gpu_memory: bytes of a GPU that the training reserves; 0 on a CPU.
        forward_start, gradient_start: seconds of such passes that do not depend on the number of images.
    """

    step: float
    forward: float
    gradient: float
    steps: int
    validation_images: int
    checkpoint: int
    gpu_memory: int = 0
    forward_start: float = 0.0
    gradient_start: float = 0.0

    def classify(self, images: int) -> float:
        """Return the seconds in which a network classifies so many images."""
        return images * self.forward + math.ceil(images / _MANY_IMAGES) * self.forward_start

    def attack(
        self, attack: AutoAttackSettings, images: int, strengths: int = 1, batch_size: int = _MANY_IMAGES
    ) -> float:
        """Return the seconds that so many images cost which withstand an attack: their passes, counted.

        What a pass takes with any number of images counts at each strength: other images may be left at each.
        """
        starts = strengths * math.ceil(images / batch_size)
        each = attack_seconds_per_image(attack, strengths, self.forward, self.gradient)
        return images * each + starts * attack_seconds_per_image(attack, 1, self.forward_start, self.gradient_start)


class _Enough(Exception):
    """A step's cost is known."""


Numbers = TypeVar("Numbers")  # a dataclass of numbers


def time_setting(space: Space, data_dir: str, device: str, threads: int, dry_run: bool = False) -> Timing:
    """Train a few steps of the costliest setting of a space, and time its network's passes.

    Args:
        dry_run: neither download data nor keep what was decoded.

    Raises:
        InputError: data that are missing.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with nothing_written() if dry_run else contextlib.nullcontext():
            return _timing(*_costliest(space, data_dir, device), device)
    finally:
        torch.set_num_threads(before)


def _timing(settings: Hyperparameters, data: TrainingData, device: str) -> Timing:
    marks: list[float] = []

    def on_step(step: int, total: int) -> None:
        marks.append(time.monotonic())
        if len(marks) >= _FEWEST_STEPS and marks[-1] - marks[0] > _PROBE_SECONDS:
            raise _Enough

    an_epoch = math.ceil(len(data.train_indices) / settings.resnet_batch_size)
    enough = settings.model_copy(update={"epoch_num": math.ceil(_FEWEST_STEPS / an_epoch)})
    with contextlib.suppress(_Enough):
        train(enough, data, device=device, on_step=on_step)
    warm = marks[_WARM_STEPS:]
    network = build_model(
        settings.archi, data.in_channels, data.num_classes, settings.base_channels, data.image_size
    ).eval()
    model = fold_batchnorm(as_classifier(network, data.task)).to(device)
    few, many = (to_float(data.valid_images[:n]).to(device) for n in (_FEW_IMAGES, _MANY_IMAGES))
    (forward_start, forward), (gradient_start, gradient) = (
        _line(len(few), of_few, len(many), of_many)
        for of_few, of_many in zip(_pass_seconds(model, few), _pass_seconds(model, many), strict=True)
    )
    with tempfile.TemporaryDirectory() as folder:
        one_batch = replace(data, train_indices=data.train_indices[: settings.resnet_batch_size])
        train(
            settings.model_copy(update={"epoch_num": 1}), one_batch, device=device, checkpoint=Path(folder, CHECKPOINT)
        )
        checkpoint = Path(folder, CHECKPOINT).stat().st_size
    return Timing(
        step=(warm[-1] - warm[0]) / (len(warm) - 1),
        forward=forward,
        gradient=gradient,
        steps=an_epoch * settings.epoch_num,
        validation_images=len(data.valid_labels),
        checkpoint=checkpoint,
        gpu_memory=torch.cuda.max_memory_reserved() if device == "cuda" else 0,
        forward_start=forward_start,
        gradient_start=gradient_start,
    )


def _line(few: int, of_few: float, many: int, of_many: float) -> tuple[float, float]:
    """What any pass takes, and what each image adds, by the passes of few and of many images."""
    each = (of_many - of_few) / (many - few) if many > few else of_many / many
    each = min(max(each, 0.0), of_many / many)
    return of_many - each * many, each


def _costliest(space: Space, data_dir: str, device: str) -> tuple[Hyperparameters, TrainingData]:
    """A setting with the most pairs a step that the space can propose, and its data."""
    problem = InputError("search: no setting can be trained")
    for setting in space.corners():
        settings = Hyperparameters(**setting)
        try:
            return settings, load_training_data(settings, data_dir, device)
        except InputError as error:  # its range selects too few pairs, or there are no data
            problem = error
    raise problem


def _pass_seconds(model: torch.nn.Module, images: torch.Tensor) -> tuple[float, float]:
    """Seconds of a forward pass and of a forward pass with its gradient."""

    def forward() -> None:
        with torch.no_grad():
            model(images)

    def gradient() -> None:
        shown = images.clone().requires_grad_()
        model(shown).logsumexp(dim=1).sum().backward()

    found = []
    for one in (forward, gradient):
        one()
        times = []
        for _ in range(10):
            began = time.perf_counter()
            one()
            if images.is_cuda:
                torch.cuda.synchronize()
            times.append(time.perf_counter() - began)
        found.append(sorted(times)[5])
    return found[0], found[1]


def attack_seconds_per_image(attack: AutoAttackSettings, strengths: int, forward: float, gradient: float) -> float:
    """Return the seconds that an image costs which withstands an attack over so many strengths: its passes, counted.

    Args:
        forward, gradient: seconds of a forward pass, and of one with its gradient, an image.
    """
    steps, targets = attack.n_iter + 5, attack.n_target_classes  # five for starts and checks
    seconds = {
        "apgd-ce": strengths * steps * gradient,  # alone, it is run at each strength
        "apgd-dlr": steps * gradient,
        "apgd-t": steps * targets * gradient,
        "fab": steps * (gradient + forward),
        "fab-t": steps * targets * (gradient + forward),
        "square": attack.n_queries * forward,
    }
    return sum(seconds[name] for name in attack.attacks or ("apgd-ce", "apgd-t", "fab-t", "square"))


def under_load(at_a_time: int, function: Callable[..., Numbers], *arguments: Any) -> Numbers:
    """Return the mean of what so many processes at a time find: they slow each other down, and leave no GPU held.

    Args:
        at_a_time: networks that share the processor, or one GPU.
        function, arguments: gives a dataclass of numbers.
    """
    with ProcessPoolExecutor(at_a_time, mp_context=multiprocessing.get_context("spawn")) as pool:
        found: Sequence[Any] = [job.result() for job in [pool.submit(function, *arguments) for _ in range(at_a_time)]]
    kind = type(found[0])
    return cast(Numbers, kind(*(sum(getattr(each, one.name) for each in found) / at_a_time for one in fields(kind))))
