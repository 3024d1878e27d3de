"""PGD, many small steps from a random start (Madry et al., arXiv 1706.06083)."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import nn

from brainreg.attacks.base import Attack, Outcome, Target, check_counts, predicted
from brainreg.attacks.gradient import input_gradient
from brainreg.seeds import Stream, seeded_generator


@dataclass(frozen=True)
class PGD(Attack):
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

    def _run(self, target: Target, strengths: Sequence[float]) -> Outcome:
        images, labels, device = target.images, target.labels, target.images.device
        start = 2 * torch.rand(images.shape[1:], generator=seeded_generator(target.seed, Stream.PGD)).to(device) - 1
        examples, example_strength = images.clone(), torch.where(target.right, torch.inf, 0.0)
        correct = []
        for i, eps in enumerate(strengths):
            if eps > 0:
                for batch in example_strength.isinf().nonzero().flatten().split(target.batch_size):
                    found, broken = self._descend(target.model, images[batch], labels[batch], eps, start)
                    examples[batch[broken]], example_strength[batch[broken]] = found[broken], eps
            correct.append(example_strength.isinf())
            target.on_progress(len(images) * (i + 1) // len(strengths), len(images))
        return Outcome(torch.stack(correct), examples, example_strength)

    def _descend(
        self, model: nn.Module, images: torch.Tensor, labels: torch.Tensor, eps: float, start: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Attack a batch; return the first misclassified point of each image, and (n,) whether there is one."""
        found = (images + eps * start).clamp(0, 1)
        low, high = (images - eps).clamp(min=0), (images + eps).clamp(max=1)
        left = torch.arange(len(images), device=images.device)
        for step in range(self.steps + 1):
            logits, gradient = input_gradient(model, found[left], labels[left])
            right = predicted(logits) == labels[left]
            left = left[right]
            if not len(left) or step == self.steps:
                break
            moved = found[left] + 2.5 * eps / self.steps * gradient[right].sign()
            found[left] = moved.clamp(low[left], high[left])
        broken = torch.ones(len(images), dtype=torch.bool, device=images.device)
        broken[left] = False
        return found, broken
