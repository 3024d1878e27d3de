"""FGSM with the gradient of another network, as the paper measures it."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import nn

from brainreg.attacks.base import Attack, Outcome, Target, prepared
from brainreg.attacks.fgsm import one_step


@dataclass(frozen=True)
class TransferredFGSM(Attack):
    """FGSM with the gradient of a surrogate, which knows nothing of the model that is attacked; see `base.Attack`.

    The surrogate is in eval mode for the attack, and is left as it was found. As with `FGSM`, an image may be right
    again at a larger strength. Labels must be classes of the surrogate, too.

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

    def _run(self, target: Target, strengths: Sequence[float]) -> Outcome:
        with prepared(self.surrogate, target.images.device) as surrogate:
            return one_step(target, strengths, surrogate, "the surrogate")
