"""FGSM, one step along the sign of the gradient (Goodfellow et al., arXiv 1412.6572)."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from torch import nn

from brainreg.attacks.base import Attack, Outcome, Target, logits_of, outcome_of_versions
from brainreg.attacks.gradient import input_gradient
from brainreg.attacks.inputs import check_labels


@dataclass(frozen=True)
class FGSM(Attack):
    """The fast gradient sign method: one step of the whole strength, from the clean image; see `base.Attack`.

    An image counts as the model classifies it at each strength: it may be right again at a larger one.

    Source: Goodfellow, Shlens and Szegedy, "Explaining and harnessing adversarial examples", arXiv 1412.6572.
    """

    title = "FGSM Linf"
    norm = "Linf"
    largest = 1.0

    def _run(self, target: Target, strengths: Sequence[float]) -> Outcome:
        return one_step(target, strengths, target.model, "the model")


def one_step(target: Target, strengths: Sequence[float], source: nn.Module, source_name: str) -> Outcome:
    """Attack along the signs of the gradient of `source`, a prepared model, the same for every strength.

    Raises:
        InputError: labels that are no class of the source.
    """
    images, labels, size = target.images, target.labels, target.batch_size

    @cache
    def signs() -> torch.Tensor:
        check_labels(labels, logits_of(source, images[:1], 1).shape[1], source_name)
        parts = zip(images.split(size), labels.split(size), strict=True)
        return torch.cat([input_gradient(source, part, part_labels)[1].sign() for part, part_labels in parts])

    return outcome_of_versions(target, strengths, lambda eps: (images + eps * signs()).clamp(0, 1))
