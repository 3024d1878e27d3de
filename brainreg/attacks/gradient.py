"""Attacks along the sign of the gradient of the cross-entropy: FGSM, PGD, and FGSM of another network."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cache

import torch
import torch.nn.functional as F
from torch import nn

from brainreg.attacks.base import (
    Outcome,
    Progress,
    check_counts,
    check_strengths,
    logits_of,
    outcome_of_versions,
    predicted,
    prepared,
)
from brainreg.attacks.inputs import as_images, as_labels, check_labels
from brainreg.seeds import Stream, seeded_generator


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
        return _one_step(model, model, "the model", images, labels, strengths, batch_size, on_progress)


@dataclass(frozen=True)
class TransferredFGSM:
    """FGSM with the gradient of a surrogate, which knows nothing of the model that is attacked; see `base.Attack`.

    The surrogate is in eval mode for the attack, and is left as it was found. As with `FGSM`, an image may be right
    again at a larger strength.

    Attributes:
        surrogate: another model of the same task, on the device of the images.
        surrogate_name: what it is called in results.

    Source: arXiv 2410.03952, appendix (transferred attack).
    """

    surrogate: nn.Module = field(repr=False, compare=False)
    surrogate_name: str = "surrogate"

    norm = "Linf"
    largest = 1.0

    @property
    def title(self) -> str:
        return f"transferred FGSM (from {self.surrogate_name})"

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
        """Attack a model; see `base.Attack`.

        Raises:
            InputError: as every attack, and for labels that are no class of the surrogate.
        """
        return _one_step(model, self.surrogate, "the surrogate", images, labels, strengths, batch_size, on_progress)


@dataclass(frozen=True)
class PGD:
    """Projected gradient descent in Linf from one random start, in steps of 2.5 times the strength by their number.

    An image is broken as soon as the start or a step is misclassified, and stays so at larger strengths. The start
    is drawn once, uniform in the ball, and shared by all images and strengths. See `base.Attack`.

    Attributes:
        steps: of each image at each strength.

    Source: Madry et al., "Towards deep learning models resistant to adversarial attacks", arXiv 1706.06083.
    """

    steps: int = 20

    norm = "Linf"
    largest = 1.0

    def __post_init__(self):
        check_counts(steps=self.steps)

    @property
    def title(self) -> str:
        return f"PGD Linf ({self.steps} steps)"

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
        images, labels = as_images(images), as_labels(labels, images)
        check_strengths(strengths, self.largest)
        start = 2 * torch.rand(images.shape[1:], generator=seeded_generator(seed, Stream.PGD)).to(images.device) - 1
        with prepared(model, images.device) as model:
            logits = logits_of(model, images, batch_size)
            check_labels(labels, logits.shape[1])
            right = predicted(logits) == labels
            examples, example_strength = images.clone(), torch.where(right, torch.inf, 0.0)
            correct = []
            for i, eps in enumerate(strengths):
                if eps > 0:
                    for batch in example_strength.isinf().nonzero().flatten().split(batch_size):
                        found, broken = self._descend(model, images[batch], labels[batch], eps, start)
                        examples[batch[broken]], example_strength[batch[broken]] = found[broken], eps
                correct.append(example_strength.isinf())
                if on_progress is not None:
                    on_progress(len(images) * (i + 1) // len(strengths), len(images))
        return Outcome(torch.stack(correct), examples, example_strength)

    def _descend(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, eps: float, start: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attack a batch; return the first misclassified point of each image, and (n,) whether there is one."""
        found = (images + eps * start).clamp(0, 1)
        low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
        left = torch.arange(len(images), device=images.device)
        for step in range(self.steps + 1):
            logits, gradient = _gradient(model, found[left], labels[left])
            right = predicted(logits) == labels[left]
            left = left[right]
            if not len(left) or step == self.steps:
                break
            moved = found[left] + 2.5 * eps / self.steps * gradient[right].sign()
            found[left] = moved.clamp(low[left], high[left])
        broken = torch.ones(len(images), dtype=torch.bool, device=images.device)
        broken[left] = False
        return found, broken


def _one_step(
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
        return torch.cat([_gradient(source, part, part_labels)[1].sign() for part, part_labels in parts])

    with prepared(model, images.device) as model, prepared(source, images.device) as source:
        return outcome_of_versions(
            model, images, labels, strengths, lambda eps: (images + eps * signs()).clamp(0, 1),
            batch_size=batch_size, on_progress=on_progress,
        )  # fmt: skip


def _gradient(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the logits of a batch, and the gradient of the cross-entropy with respect to its images."""
    images = images.detach().requires_grad_()
    with torch.enable_grad():
        logits = model(images)
        loss = F.cross_entropy(logits, labels, reduction="sum")
    return logits.detach(), torch.autograd.grad(loss, images)[0]
