"""FGSM with the gradient of another network, as the paper measures it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import nn

from brainreg.attacks.base import Outcome, Progress
from brainreg.attacks.fgsm import one_step


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
        return one_step(model, self.surrogate, "the surrogate", images, labels, strengths, batch_size, on_progress)
