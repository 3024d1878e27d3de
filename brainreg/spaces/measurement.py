"""How a search's objective is measured on a trained classifier, and after each epoch of a training."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from torch import nn

from brainreg.attacks.autoattack.attack import AutoAttack
from brainreg.attacks.noise import add_noise
from brainreg.errors import InputError
from brainreg.evaluation.accuracy import as_large_as_fits, correct
from brainreg.evaluation.proxy import proxy_accuracy
from brainreg.seeds import Stream, seeded_generator
from brainreg.spaces.objective import Objective
from brainreg.training.checkpoint import fold_batchnorm

# The objective after an epoch, among the metrics of a training whose best epoch is chosen by it.
EPOCH_OBJECTIVE = "epoch_objective"
_VALID_NOISE = "valid_noise_accuracy"

# Images classified together.
_CLEAN_BATCH = 500


def measure_objective(
    objective: Objective, classifier: nn.Module, images: torch.Tensor, labels: torch.Tensor, seed: int
) -> dict[str, Any]:
    """Measure a classifier.

    Args:
        classifier: logits of images in [0, 1], in eval mode.
        images: (n, c, h, w) validation images in [0, 1]; clean accuracy is over all of them.
        labels: (n,) int64.
        seed: which of them are attacked, and the draws of attack and noise. One seed attacks the same
            images of one split, whatever the classifier.

    Returns:
        objective, clean_accuracy, clean_n, robust_accuracy, robust_n, noise_accuracy (fractions and
        numbers of images), and attack_seconds.

    Raises:
        InputError: fewer images than are to be attacked.
    """
    clean = _accuracy(classifier, images, labels)
    noisy = _noise_accuracy(objective, classifier, images, labels, seed)
    began = time.monotonic()
    robust = _robust(objective, classifier, images, labels, seed)
    return {
        "objective": objective.combined(clean, robust, noisy),
        "clean_accuracy": clean,
        "clean_n": len(labels),
        "robust_accuracy": robust,
        "robust_n": objective.attacked_of(len(labels)),
        "noise_accuracy": noisy,
        "attack_seconds": time.monotonic() - began,
    }


def _accuracy(classifier: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> float:
    return as_large_as_fits(partial(correct, classifier, images, labels), _CLEAN_BATCH).float().mean().item()


def _noise_accuracy(
    objective: Objective, classifier: nn.Module, images: torch.Tensor, labels: torch.Tensor, seed: int
) -> float:
    return _accuracy(classifier, add_noise(objective.noise, images, objective.noise_eps, seed), labels)


def _robust(
    objective: Objective, classifier: nn.Module, images: torch.Tensor, labels: torch.Tensor, seed: int
) -> float:
    attacked, _ = divide_images(objective, len(labels), seed)
    attack = AutoAttack.of(objective.attack)
    outcome = as_large_as_fits(
        lambda size: attack(
            classifier, images[attacked], labels[attacked], [objective.eps], batch_size=size, seed=seed
        ),
        objective.attack_batch_size,
    )
    return outcome.correct[0].float().mean().item()


def measure_proxy(
    objective: Objective,
    classifier: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    seed: int,
    clean_accuracy: float,
) -> dict[str, float]:
    """Return a cheap stand-in for `measure_objective` while a network trains: the same images, attacked in a few steps.

    Args:
        clean_accuracy: of the classifier; the others are those of `measure_objective`.

    Returns:
        proxy_robust_accuracy, an upper bound of the robust accuracy, never to be compared with one;
        proxy_objective, made of it as the objective of the robust accuracy; and, where noise has a weight in both,
        valid_noise_accuracy.
    """
    robust = _few_steps(objective, classifier, images, labels, seed, objective.proxy_image_num)
    noise = _weighted_noise(objective, classifier, images, labels, seed)
    proxy = objective.combined(clean_accuracy, robust, noise.get(_VALID_NOISE, 0.0))
    return {"proxy_robust_accuracy": robust, "proxy_objective": proxy, **noise}


def _few_steps(
    objective: Objective, classifier: nn.Module, images: torch.Tensor, labels: torch.Tensor, seed: int, n: int
) -> float:
    """The accuracy under a few steps of an attack on the first `n` of the images that are attacked."""
    attacked = divide_images(objective, len(labels), seed)[0][:n]
    return as_large_as_fits(
        lambda size: proxy_accuracy(
            classifier, images[attacked], labels[attacked], eps=objective.eps, batch_size=size, seed=seed
        ),
        objective.attack_batch_size,
    )


def _weighted_noise(
    objective: Objective, classifier: nn.Module, images: torch.Tensor, labels: torch.Tensor, seed: int
) -> dict[str, float]:
    """The accuracy under noise, by the name of an epoch's metric, where it has a weight; else it is not measured."""
    if not objective.noise_weight:
        return {}
    return {_VALID_NOISE: _noise_accuracy(objective, classifier, images, labels, seed)}


def objective_by_epoch(
    objective: Objective,
    images: torch.Tensor,
    labels: torch.Tensor,
    seed: int,
    history: Sequence[Mapping[str, float]] = (),
) -> Callable[[nn.Sequential, Mapping[str, float]], dict[str, float]]:
    """Return what measures the objective after each epoch, so that the best epoch can be chosen by it.

    It attacks in full only where that can find a new best: where few steps of the attack leave no more than the
    best epoch before reached, the full attack would leave less, and the epoch has no `EPOCH_OBJECTIVE`.

    Args:
        images, labels, seed: those of `measure_objective`.
        history: metrics of the epochs before, where training goes on.

    Returns:
        `measure` of `brainreg.training.loop.train`, to be used with `choose_by=EPOCH_OBJECTIVE`.
    """
    best = max((epoch.get(EPOCH_OBJECTIVE, -math.inf) for epoch in history), default=-math.inf)
    attacked = objective.attacked_of(len(labels))

    def measure(classifier: nn.Sequential, metrics: Mapping[str, float]) -> dict[str, float]:
        nonlocal best
        network, clean = fold_batchnorm(classifier), metrics["valid_accuracy"]
        weighted = _weighted_noise(objective, network, images, labels, seed)
        noise = weighted.get(_VALID_NOISE, 0.0)
        bound = _few_steps(objective, network, images, labels, seed, attacked)
        if objective.combined(clean, bound, noise) <= best:
            return weighted
        value = objective.combined(clean, _robust(objective, network, images, labels, seed), noise)
        best = max(best, value)
        return {EPOCH_OBJECTIVE: value, **weighted}

    return measure


def divide_images(objective: Objective, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return which of `n` validation images are attacked to measure the objective, and all others, shuffled."""
    attacked = objective.attacked_of(n)
    if attacked > n:
        raise InputError(f"attack_image_num={attacked}: there are {n} validation images")
    shuffled = torch.randperm(n, generator=seeded_generator(seed, Stream.ATTACKED_IMAGES))
    return shuffled[:attacked], shuffled[attacked:]
