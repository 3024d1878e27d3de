"""Noise of the published robustness evaluation: Gaussian, uniform, salt and pepper."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from brainreg.attacks.base import Attack, Outcome, Target, outcome_of_versions
from brainreg.attacks.inputs import as_images
from brainreg.attacks.names import NoiseName
from brainreg.errors import InputError, nearest
from brainreg.seeds import Stream, seeded_generator

# Noise is drawn for so many images at a time, whatever the batches of the model are: the size of a batch
# must not change the noise.
_NOISE_BATCH = 250


def _gaussian(shape: torch.Size, eps: float, generator: torch.Generator) -> torch.Tensor:
    return eps * torch.randn(shape, generator=generator)


def _uniform(shape: torch.Size, eps: float, generator: torch.Generator) -> torch.Tensor:
    return eps * (2 * torch.rand(shape, generator=generator) - 1)


def _salt_pepper(shape: torch.Size, eps: float, generator: torch.Generator) -> torch.Tensor:
    draw = torch.rand(shape, generator=generator)
    return (draw < eps / 2).float() - (draw > 1 - eps / 2).float()


# Independent for each pixel and channel: N(0, eps^2); U(-eps, eps); +1 or -1 with probability eps / 2 each.
NOISES: dict[NoiseName, Callable[[torch.Size, float, torch.Generator], torch.Tensor]] = {
    "Gaussian": _gaussian,
    "Uniform": _uniform,
    "SaltPepper": _salt_pepper,
}


def add_noise(kind: NoiseName, images: torch.Tensor, eps: float, seed: int = 0) -> torch.Tensor:
    """Return noisy images, each clipped to the range of its own clean pixels.

    Args:
        kind: a name in `NOISES`.
        images: (n, c, h, w) in [0, 1].
        eps: strength, as a fraction of the pixel range.
        seed: of the noise. One seed draws the same noise pattern for every strength.

    Raises:
        InputError: unknown noise, pixels outside [0, 1].

    Source: arXiv 2410.03952, appendix (robustness to noise).
    """
    if kind not in NOISES:
        raise InputError(f"noise={kind}: no such noise; {nearest(kind, NOISES)}")
    images = as_images(images)
    noisy = []
    for part, clean in enumerate(images.split(_NOISE_BATCH)):
        noise = NOISES[kind](clean.shape, eps, seeded_generator(seed, Stream.NOISE, part)).to(clean.device)
        low, high = clean.amin(dim=(1, 2, 3), keepdim=True), clean.amax(dim=(1, 2, 3), keepdim=True)
        noisy.append((clean + noise).clamp(low, high))
    return torch.cat(noisy)


@dataclass(frozen=True)
class Noise(Attack):
    """Noise of one kind, a name in `NOISES`. An attack that knows nothing of the model; see `base.Attack`."""

    kind: NoiseName

    norm = None
    largest = 1.0

    @property
    def title(self) -> str:
        return self.kind

    def _run(self, target: Target, strengths: Sequence[float]) -> Outcome:
        return outcome_of_versions(target, strengths, lambda eps: add_noise(self.kind, target.images, eps, target.seed))
