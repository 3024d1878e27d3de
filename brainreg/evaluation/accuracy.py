"""Clean and robust accuracy of any model."""

from collections.abc import Callable
from typing import TypeVar

import torch
from torch import nn

from brainreg.attacks.autoattack.attack import AutoAttack
from brainreg.attacks.base import check_counts, logits_of, predicted, prepared
from brainreg.attacks.inputs import as_images, as_labels
from brainreg.attacks.names import Norm
from brainreg.errors import InputError, validated
from brainreg.models.precision import ieee_float32
from brainreg.training.device import lacks_memory

Value = TypeVar("Value")


@torch.no_grad()
def correct(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch_size: int = 500) -> torch.Tensor:
    """Return which images a model classifies correctly, in the mode it is in.

    Args:
        model: logits of images in [0, 1].
        images: (n, c, h, w) in [0, 1].
        labels: (n,) int64.

    Returns:
        (n,) bool.
    """
    parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    with ieee_float32():
        return torch.cat([predicted(model(image)) == label for image, label in parts])


def robust_accuracy(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    version: str = "standard",
    batch_size: int = 250,
    seed: int = 0,
) -> float:
    """Return the fraction of images that AutoAttack cannot make a model misclassify.

    That is one number; `brainreg.evaluate` gives its 95% interval, warnings, progress, and what a page shows, too.

    Args:
        model: a `torch.nn.Module` that returns logits (n, classes) of images in [0, 1]; it does its own input scaling.
            Attacked in eval mode, and left as it was found. In parallel on several GPUs, compiled, in half or double
            precision, it is taken as it is; one that returns a tuple, a dict or an output with `.logits` goes through
            `brainreg.as_logits` first.
        images: (n, c, h, w) in [0, 1] and floating point, or uint8, on the device of the model.
        labels: (n,) or (n, 1) whole numbers from 0.
        eps: largest perturbation, in units of [0, 1] pixels.
        norm: Linf, L2 or L1.
        version: standard, plus or rand; for a custom version call `brainreg.attacks.AutoAttack`. For fewer than four
            classes, the attacks of the version that exist for so few (`AutoAttack.for_classes`).
        batch_size: images attacked together.
        seed: of the attack's draws.

    Raises:
        InputError: what is no such model, images or labels; a model that gives NaN for one of the images; see
            `brainreg.attacks.AutoAttack`.

    Source: Croce and Hein, arXiv 2003.01690.
    """
    check_counts(batch_size=batch_size)
    images, labels = as_images(images), as_labels(labels, images)
    with prepared(model, images.device) as checked:
        logits = logits_of(checked, images, batch_size)
    if nan := int((predicted(logits) < 0).sum()):
        raise InputError(f"model: gives NaN logits for {nan} of {len(images)} images; mend it before it is measured")
    attack = validated(AutoAttack, {"norm": norm, "version": version}).for_classes(logits.shape[1])
    outcome = attack(model, images, labels, [eps], batch_size=batch_size, seed=seed)
    return outcome.correct[0].float().mean().item()


def as_large_as_fits(action: Callable[[int], Value], batch_size: int) -> Value:
    """Return `action(batch_size)`, with half of the batch, again and again, where the memory does not hold it.

    Raises:
        Error of which `lacks_memory` is true: not even one image fits.
    """
    while True:
        try:
            return action(batch_size)
        except (RuntimeError, MemoryError) as error:
            if batch_size == 1 or not lacks_memory(error):
                raise
        batch_size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()
