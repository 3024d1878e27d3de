"""FGSM, one step along the sign of the gradient (Goodfellow et al., arXiv 1412.6572)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from brainreg.attacks.base import Outcome, Progress, check_strengths, logits_of, outcome_of_versions, prepared
from brainreg.attacks.gradient import input_gradient
from brainreg.attacks.inputs import as_images, as_labels, check_labels


@dataclass(frozen=True)
class FGSM:
    """The fast gradient sign method: one step of the whole strength, from the clean image; see `base.Attack`.

    An image counts as the model classifies it at each strength: it may be right again at a larger one.

    Source: Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples", arXiv 1412.6572.
    """

    title = "FGSM Linf"
    norm = "Linf"
    largest = 1.0

    def __call__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        strengths: Sequence[float],
        *,
        seed: int = 0,
        batch_size: int = 250,
        on_progress: Progress | None = None,
    ) -> Outcome:
        return one_step(model, model, "the model", images, labels, strengths, batch_size, on_progress)


def one_step(
    model: nn.Module,
    source: nn.Module,
    source_name: str,
    images: torch.Tensor,
    labels: torch.Tensor,
    strengths: Sequence[float],
    batch_size: int,
    on_progress: Progress | None,
) -> Outcome:
    """Attack `model` along the signs of the gradient of `source`, the same for every strength."""
    images, labels = as_images(images), as_labels(labels, images)
    check_strengths(strengths, FGSM.largest)

    @cache
    def signs() -> torch.Tensor:
        check_labels(labels, logits_of(source, images[:1], 1).shape[1], source_name)
        parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
        return torch.cat([input_gradient(source, part, part_labels)[1].sign() for part, part_labels in parts])

    with prepared(model, images.device) as model, prepared(source, images.device) as source:
        return outcome_of_versions(
            model, images, labels, strengths, lambda eps: (images + eps * signs()).clamp(0, 1),
            batch_size=batch_size, on_progress=on_progress,
        )  # fmt: skip
