"""The training loop."""

import contextlib
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from brainreg.attacks.base import predicted
from brainreg.attacks.inputs import as_labels, check_labels
from brainreg.data.fingerprints import check_same_data
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.models.base import InputScaling, SimilarityNetwork
from brainreg.models.build import build_model
from brainreg.models.names import RESNETS
from brainreg.models.precision import ieee_float32
from brainreg.seeds import Stream, seeded_generator
from brainreg.training.batches import Batches
from brainreg.training.checkpoint import (
    CHECKPOINT_FORMAT,
    LOWEST_CROSS_ENTROPY,
    CheckpointWriter,
    as_classifier,
    load_weights,
    resumable_checkpoint,
)
from brainreg.training.data import TrainingData, logger
from brainreg.training.device import default_device
from brainreg.training.optimizer import build_optimizer, load_optimizer, optimizer_state, set_learning_rate
from brainreg.training.step import GraphedStep, TrainingStep, to_float


class DivergedError(RuntimeError):
    """The loss became NaN or infinite. Its text says where, and which part of the loss it was."""


@dataclass(frozen=True)
class TrainingResult:
    """What `train` returns.

    Attributes:
        classifier: the best epoch's network, in eval mode, for images in [0, 1].
        best_epoch: the epoch with the lowest validation cross-entropy, or the one that another metric chose; 0 is the
            untrained network.
        history: the per-epoch metrics, epoch 0 first.
        seconds: that the epochs took, those before an interruption too.
    """

    classifier: nn.Sequential
    best_epoch: int
    history: list[dict[str, float]]
    seconds: float


def learning_rate(settings: Hyperparameters, epoch: int) -> float:
    """Return the learning rate after `epoch` completed epochs: a step-wise decay that restarts in cycles."""
    phase = epoch % (settings.phase_num * settings.phase_duration) // settings.phase_duration
    return settings.lr * settings.decay_rate**phase


def train(
    settings: Hyperparameters,
    data: TrainingData,
    *,
    device: str | torch.device | None = None,
    checkpoint: str | Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    measure: Callable[[nn.Sequential, dict[str, float]], dict[str, float]] | None = None,
    choose_by: str | None = None,
    on_damaged: Callable[[str], None] | None = None,
    on_checkpoint: Callable[[], None] | None = None,
) -> TrainingResult:
    """Train a network with cross-entropy plus alpha times the similarity loss.

    Args:
        settings: the hyperparameters.
        data: from `load_training_data(settings)`, or one's own: images uint8 (n, c, h, w), labels whole numbers from 0
            to below `num_classes`.
        device: CUDA where there is one, unless given.
        checkpoint: a file written after each epoch, on a GPU in the background and no longer than a tenth of the time.
            Where it exists, training goes on from it; on one CPU, with one number of threads, the result is then the
            same, bit for bit, as without the interruption.
        on_epoch: called after each epoch (and once before the first) with its metrics: epoch, lr,
            cross_entropy and similarity_loss (means over the epoch's steps), valid_cross_entropy,
            valid_accuracy (a fraction).
        on_step: called after each step with the number of completed steps and of all steps of the epoch.
        measure: called after each epoch with its network, in eval mode, for images in [0, 1], and its metrics;
            what it returns is added to them.
        choose_by: the best epoch is the one with the largest value of this metric, which `measure` gives (an epoch
            without it is not the best), ties to the earliest; the untrained network is measured, too. The checkpoint
            keeps the other best epoch beside it. Absent: the lowest valid_cross_entropy, as published.
        on_checkpoint: called after each write of the checkpoint; on a GPU, where the next epoch does not wait for it,
            by another thread.
        on_damaged: told, in one line, where the checkpoint is damaged, so that training begins anew.

    Raises:
        DivergedError: the loss is NaN or infinite.
        InputError: the checkpoint is of other settings, of other data, or chose its best epoch otherwise.

    Source: arXiv 2410.03952, section 3 and appendix.
    """
    train_labels, valid_labels = _checked_labels(data)
    device = torch.device(device or default_device())
    if device.type == "cpu" and settings.precision == "bfloat16" and torch.backends.cpu.get_cpu_capability() == "AVX2":
        logger.warning(
            "precision=bfloat16: this processor has no such arithmetic; float32 is several times faster here"
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = build_model(
            settings.archi, data.in_channels, data.num_classes, settings.base_channels, data.image_size
        ).to(device)
    if device.type == "cuda" or _channels_last_pays(settings):
        network = network.to(memory_format=torch.channels_last)
    optimizer = build_optimizer(network, lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay)
    batches = Batches(data, train_labels, settings, device)
    valid_images, valid_labels = data.valid_images.to(device), valid_labels.to(device)
    scaling = InputScaling(data.task.centered)
    pairs = data.pairs
    if pairs is not None:
        pairs.sampler.restart()
    step = TrainingStep(
        settings, network, optimizer, centered=data.task.centered, pairs_centered=pairs is not None and pairs.centered
    )

    def train_on(*inputs: torch.Tensor) -> None:
        step(batches.batch(*inputs))

    run_step = GraphedStep(train_on) if device.type == "cuda" else train_on
    steps = math.ceil(len(data.train_indices) / settings.resnet_batch_size)

    state = None if checkpoint is None else resumable_checkpoint(checkpoint, on_damaged)
    if state is not None and checkpoint is not None:
        _check_same_run(settings, data, state, checkpoint)
        _check_same_choice(choose_by, state, checkpoint)
        load_weights(network, state["model"], checkpoint)
        load_optimizer(optimizer, state["optimizer"])
        if pairs is not None:
            pairs.sampler.load_state_dict(state["pairs"])
        history, seconds = state["history"], state["seconds"]
    else:
        loss, accuracy = _validate(network, scaling, valid_images, valid_labels)
        history = [{"epoch": 0, "valid_cross_entropy": loss, "valid_accuracy": accuracy}]
        if choose_by is not None and measure is not None:
            history[0] |= measure(as_classifier(network, data.task).eval(), history[0])
        seconds = 0.0
        if on_epoch is not None:
            on_epoch(history[0])

    bests = _Bests(choose_by, state, network)
    with contextlib.ExitStack() as stack:
        writer = None
        if checkpoint is not None:
            background = device.type == "cuda"
            writer = stack.enter_context(CheckpointWriter(checkpoint, background=background, on_written=on_checkpoint))
        for epoch in range(history[-1]["epoch"] + 1, settings.epoch_num + 1):
            began = time.monotonic()
            lr = learning_rate(settings, epoch - 1)
            set_learning_rate(optimizer, lr)
            draws = seeded_generator(settings.seed, Stream.BATCHES, epoch)
            order = data.train_indices[torch.randperm(len(data.train_indices), generator=draws)]
            if pairs is not None:
                pairs.sampler.reshuffle()
            step.reset()
            network.train()
            for done, inputs in enumerate(batches.epoch(order, draws, epoch), start=1):
                run_step(*inputs)
                if done % 100 == 0 or done == steps:  # each check waits for the device
                    _check_finite(step.sums, epoch, done)
                if on_step is not None:
                    on_step(done, steps)

            cross_entropy, similarity = (step.sums / steps).tolist()
            valid_loss, valid_accuracy = _validate(network, scaling, valid_images, valid_labels)
            if not math.isfinite(valid_loss):
                raise DivergedError(
                    f"epoch {epoch}: the validation cross-entropy is {valid_loss}; try a lower lr or alpha"
                )
            history.append(
                {
                    "epoch": epoch,
                    "lr": lr,
                    "cross_entropy": cross_entropy,
                    "similarity_loss": similarity,
                    "valid_cross_entropy": valid_loss,
                    "valid_accuracy": valid_accuracy,
                }
            )
            if measure is not None:
                history[-1] |= measure(as_classifier(network, data.task).eval(), history[-1])
            bests.update(history)
            seconds += time.monotonic() - began
            if writer is not None:
                writer.write(
                    {
                        "format": CHECKPOINT_FORMAT,
                        "hyperparameters": settings.model_dump(),
                        "data": data.fingerprints,
                        "in_channels": data.in_channels,
                        "num_classes": data.num_classes,
                        "image_size": data.image_size,
                        "model": network.state_dict(),
                        "optimizer": optimizer_state(optimizer),
                        "pairs": None if pairs is None else pairs.sampler.state_dict(),
                        "history": history,
                        **bests.as_kept(),
                        "seconds": seconds,
                    }
                )
            if on_epoch is not None:
                on_epoch(history[-1])

    optimizer.zero_grad()  # frees the gradients
    best_epoch, best_model = bests.chosen()
    network.load_state_dict(best_model)
    return TrainingResult(as_classifier(network, data.task).eval(), best_epoch, history, seconds)


def _channels_last_pays(settings: Hyperparameters) -> bool:
    """Whether a CPU trains a network faster with the channels of a pixel side by side.

    Only multiples of 16 channels: oneDNN crashed with four on a processor whose widest vectors are those of AVX2, and
    destroyed memory with eight on one with AVX-512.
    """
    return settings.archi in RESNETS and settings.precision == "float32" and settings.base_channels % 16 == 0


class _Bests:
    """The best epoch so far and its weights; where another metric chooses it, that of the lowest cross-entropy, too.

    Args:
        choose_by: the metric of which the largest value is the best; None: the lowest valid_cross_entropy.
        state: of the checkpoint that training goes on from; None: it begins with the untrained network.
        network: that is trained.
    """

    def __init__(self, choose_by: str | None, state: dict[str, Any] | None, network: SimilarityNetwork):
        self._choose_by, self._network = choose_by, network
        self._found = dict.fromkeys((choose_by, None), (0, _copy_state(network)))
        if state is not None:
            self._found = {choose_by: (state["best_epoch"], state["best_model"])}
            if LOWEST_CROSS_ENTROPY in state:  # not in those of earlier versions
                self._found[None] = state[LOWEST_CROSS_ENTROPY]

    def update(self, history: list[dict[str, float]]) -> None:
        """See the latest epoch; ties go to the earliest."""
        for choice, (epoch, _) in self._found.items():
            if _value(history[-1], choice) > _value(history[epoch], choice):
                self._found[choice] = len(history) - 1, _copy_state(self._network)

    def chosen(self) -> tuple[int, dict[str, torch.Tensor]]:
        """Return the best epoch and its weights."""
        return self._found[self._choose_by]

    def as_kept(self) -> dict[str, Any]:
        """Return what a checkpoint keeps."""
        epoch, model = self.chosen()
        kept = {"best_epoch": epoch, "best_model": model, "chosen_by": self._choose_by}
        return (
            kept
            if self._choose_by is None or None not in self._found
            else {**kept, LOWEST_CROSS_ENTROPY: self._found[None]}
        )


def _value(epoch: dict[str, float], choice: str | None) -> float:
    """What makes an epoch better than another one."""
    return -epoch["valid_cross_entropy"] if choice is None else epoch.get(choice, -math.inf)


@torch.no_grad()
def _validate(
    network: SimilarityNetwork, scaling: InputScaling, images: torch.Tensor, labels: torch.Tensor
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (a fraction) in eval mode."""
    network.eval()
    with ieee_float32():
        logits = torch.cat([network(scaling(to_float(part))) for part in images.split(500)])
    return F.cross_entropy(logits, labels).item(), (predicted(logits) == labels).float().mean().item()


def _copy_state(network: SimilarityNetwork) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


def _check_finite(sums: torch.Tensor, epoch: int, step: int) -> None:
    cross_entropy, similarity = sums.tolist()
    if not (math.isfinite(cross_entropy) and math.isfinite(similarity)):
        raise DivergedError(
            f"epoch {epoch}, by step {step}: the sum of the cross-entropy is {cross_entropy:g} and of the similarity"
            f" loss {similarity:g}; try a lower lr or alpha"
        )


def _checked_labels(data: TrainingData) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the labels of the training and the validation images as int64 (n,).

    Raises:
        InputError: images that are not uint8 (n, c, h, w), labels that are not one class an image.
    """
    checked = []
    for prefix, images, labels in (
        ("", data.images, data.labels),
        ("valid_", data.valid_images, data.valid_labels),
    ):
        if isinstance(images, torch.Tensor):
            if images.dtype != torch.uint8 or images.ndim != 4:
                found = f"{images.dtype} of shape {tuple(images.shape)}"
                raise InputError(f"data.{prefix}images: {found}; must be uint8 (n, c, h, w)")
            try:
                labels = as_labels(labels, images)
                check_labels(labels, data.num_classes, "the task")
            except InputError as error:
                raise InputError(f"data.{prefix}{error}") from error
        checked.append(labels)
    return checked[0], checked[1]


def _check_same_run(settings: Hyperparameters, data: TrainingData, state: dict[str, Any], path: str | Path) -> None:
    """A run goes on only with the settings and the data it began with; more epochs are no contradiction."""
    if not state["data"]:
        logger.warning("%s: holds no fingerprints of its data; whether they are these cannot be told", path)
    check_same_data(data.fingerprints, state["data"], f"data_dir={data.data_dir}", f"{path}")
    defaults = {name: field.default for name, field in Hyperparameters.model_fields.items()}
    now, then = settings.model_dump(), {**defaults, **state["hyperparameters"]}
    changed = [name for name in now if name != "epoch_num" and now[name] != then[name]]
    if changed:
        name = changed[0]
        raise InputError(f"{name}={now[name]}: {path} was trained with {name}={then[name]}; choose another folder")


def _check_same_choice(choose_by: str | None, state: dict[str, Any], path: str | Path) -> None:
    """A run goes on only with the rule for its best epoch that it began with."""
    if state.get("chosen_by") != choose_by:
        then, now = (name or "valid_cross_entropy" for name in (state.get("chosen_by"), choose_by))
        raise InputError(f"{path}: its best epoch is chosen by {then}, not by {now}; choose another folder")
