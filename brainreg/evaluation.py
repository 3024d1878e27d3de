"""Accuracy of a trained classifier: clean, under noise, and under attack."""

import math
import time
from collections.abc import Callable
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from brainreg.attacks import NOISES, AutoAttack, Norm, add_noise, strongest
from brainreg.data import Dataset
from brainreg.seeds import Stream, seeded_generator


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
    return torch.cat([model(image).argmax(dim=1) == label for image, label in parts])


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

    Args:
        model: logits of images in [0, 1]; it does its own input scaling. Attacked in eval mode.
        images: (n, c, h, w) in [0, 1].
        labels: (n,) int64.
        eps: largest perturbation, in units of [0, 1] pixels.
        norm: Linf, L2 or L1.
        version: standard, plus or rand; for a custom version call `brainreg.attacks.AutoAttack`.
        batch_size: images attacked together.
        seed: of the attack's draws.

    Raises:
        InputError: see `brainreg.attacks.AutoAttack`.

    Source: Croce and Hein, arXiv 2003.01690.
    """
    attack = AutoAttack(norm=norm, version=version)
    return attack(model, images, labels, eps=eps, batch_size=batch_size, seed=seed).float().mean().item()


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the 95% interval of a fraction of `successes` among `n` (Wilson's score interval).

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    p = successes / n
    centre = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # Rounding must not leave the fraction outside its own interval where that ends at 0 or 1.
    return min((centre - spread) / (1 + z * z / n), p), max((centre + spread) / (1 + z * z / n), p)


def survivors_within(
    attack: AutoAttack,
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    seconds: float,
    batch_size: int = 250,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
) -> torch.Tensor:
    """Attack as many of the images, in their order, as fit in a time; at least one batch.

    A batch is begun only if, taking as long as the longest so far, it would end in time. How many images
    were attacked therefore depends on the machine: whoever shows the result shows their number.

    Args:
        seconds: time limit.
        on_progress: called after each batch with the number of images attacked and of all images.
        Others as in `AutoAttack`.

    Returns:
        (m,) bool for the first m images.
    """
    start, longest, parts = time.monotonic(), 0.0, []
    for image, label in zip(images.split(batch_size), labels.split(batch_size), strict=True):
        began = time.monotonic()
        if parts and began - start + longest > seconds:
            break
        parts.append(attack(model, image, label, eps=eps, batch_size=batch_size, seed=seed))
        longest = max(longest, time.monotonic() - began)
        if on_progress is not None:
            on_progress(sum(map(len, parts)), len(images))
    return torch.cat(parts)


def row(attack: str, eps: float, outcome: torch.Tensor, seconds: float, seed: int) -> dict[str, Any]:
    """Return one line of a robustness table: how many of the attacked images were classified correctly."""
    n, successes = len(outcome), int(outcome.sum())
    low, high = wilson_interval(successes, n)
    return {
        "attack": attack,
        "eps": eps,
        "n": n,
        "correct": successes,
        "accuracy": successes / n,
        "low": low,
        "high": high,
        "seconds": seconds,
        "seed": seed,
    }


def noise_curves(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    largest: tuple[float, float, float],
    num_epsilons: int = 10,
    seed: int = 0,
    on_progress: Callable[[str, float], None] | None = None,
) -> list[dict[str, Any]]:
    """Return a model's accuracy under Gaussian, uniform, and salt-and-pepper noise, a row for each strength.

    Args:
        model: logits of images in [0, 1], in eval mode.
        images: (n, c, h, w) in [0, 1].
        labels: (n,) int64.
        largest: the largest strength of each curve; the strengths go evenly from 0 to it.
        num_epsilons: strengths of each curve.
        on_progress: called with the noise and the strength before each.

    Source: arXiv 2410.03952, appendix (robustness to noise).
    """
    rows = []
    for kind, high in zip(NOISES, largest, strict=True):
        for eps in torch.linspace(0, high, num_epsilons, dtype=torch.float64).tolist():
            if on_progress is not None:
                on_progress(kind, eps)
            began = time.monotonic()
            outcome = correct(model, add_noise(kind, images, eps, seed), labels)
            rows.append(row(kind, eps, outcome, time.monotonic() - began, seed))
    return rows


class Evaluation(BaseModel):
    """How the robustness of a trained network is measured on the test images."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    attack: bool = Field(True, description="measure robustness after training, with the best epoch's weights")
    num_epsilons: int = Field(10, ge=2, description="strengths of each noise curve")
    attack_eps: float | None = Field(
        None,
        ge=0,
        le=1,
        description="largest perturbation of AutoAttack, in units of [0, 1] pixels (absent: the task's)",
    )
    attack_image_num: int = Field(1000, ge=1, description="test images that AutoAttack attacks, at most")
    attack_minutes: float = Field(10, gt=0, description="time after which AutoAttack begins no further batch")
    attack_batch_size: int | None = Field(
        None, ge=1, description="images attacked together (absent: 250 on a GPU, 25 on a CPU)"
    )


def evaluate(
    classifier: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    dataset: Dataset,
    settings: Evaluation,
    seed: int,
    on_progress: Callable[[str], None] | None = None,
) -> list[dict[str, Any]]:
    """Return a robustness table: a row for each attack and strength, the clean accuracy first.

    Args:
        classifier: logits of images in [0, 1], in eval mode.
        images: (n, c, h, w) test images in [0, 1]; clean accuracy and noise are over all of them, AutoAttack
            (standard, or the strongest that the number of classes allows) over a random part, as many as the
            settings and the time allow.
        labels: (n,) int64.
        dataset: the task, which knows the strengths.
        settings: what to measure.
        seed: of the noise, the attack, and the choice of attacked images.
        on_progress: called with a few words before each step.

    Returns:
        Rows with attack, eps, n, correct, accuracy, low and high (95% Wilson interval), seconds, seed.
    """
    say = on_progress or (lambda text: None)
    say("clean images")
    began = time.monotonic()
    rows = [row("clean", 0.0, correct(classifier, images, labels), time.monotonic() - began, seed)]
    if not settings.attack:
        return rows
    rows += noise_curves(
        classifier,
        images,
        labels,
        dataset.noise_eps,
        settings.num_epsilons,
        seed,
        on_progress=lambda kind, eps: say(f"{kind} noise, eps {eps:.3g}"),
    )
    with torch.no_grad():
        attack = strongest(classifier(images[:1]).shape[1])
    eps = dataset.attack_eps if settings.attack_eps is None else settings.attack_eps
    chosen = torch.randperm(len(labels), generator=seeded_generator(seed, Stream.ATTACKED_IMAGES))
    chosen = chosen[: settings.attack_image_num].to(images.device)
    say(f"{attack.title}, eps {eps:g}")
    began = time.monotonic()
    survived = survivors_within(
        attack,
        classifier,
        images[chosen],
        labels[chosen],
        eps=eps,
        seconds=60 * settings.attack_minutes,
        batch_size=settings.attack_batch_size or (250 if images.is_cuda else 25),
        seed=seed,
        on_progress=lambda done, total: say(f"{attack.title}, eps {eps:g}: {done} of {total} images"),
    )
    rows.append(row(attack.title, eps, survived, time.monotonic() - began, seed))
    return rows
