"""What is done to images before a model has to classify them: noise, and AutoAttack.

Models take images in [0, 1] and scale them themselves.
"""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Literal

import pyautoattack
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

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
NOISES: dict[str, Callable[[torch.Size, float, torch.Generator], torch.Tensor]] = {
    "Gaussian": _gaussian,
    "Uniform": _uniform,
    "SaltPepper": _salt_pepper,
}


def add_noise(kind: str, images: torch.Tensor, eps: float, seed: int = 0) -> torch.Tensor:
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
    check_pixels(images)
    noisy = []
    for part, clean in enumerate(images.split(_NOISE_BATCH)):
        noise = NOISES[kind](clean.shape, eps, seeded_generator(seed, Stream.NOISE, part)).to(clean.device)
        low, high = clean.amin(dim=(1, 2, 3), keepdim=True), clean.amax(dim=(1, 2, 3), keepdim=True)
        noisy.append((clean + noise).clamp(low, high))
    return torch.cat(noisy)


# Logits that the targeted difference-of-logits ratio compares.
_DLR_CLASSES = 4

AttackName = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]
Norm = Literal["Linf", "L2", "L1"]


class AutoAttack(BaseModel):
    """AutoAttack, as its authors package it, with one outcome an image.

    The versions `standard`, `plus` and `rand` are the authors' own. A `custom` one names its attacks and
    may shorten them; it is cheaper and weaker, and its name says so wherever a result is shown. As in the
    authors' code, the targeted attacks try nine target classes at the most, or all the wrong ones if there
    are fewer.

    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", arXiv 2003.01690.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal["standard", "plus", "rand", "custom"] = Field("standard", description="version of AutoAttack")
    norm: Norm = Field("Linf", description="norm that bounds the perturbation")
    attacks: tuple[AttackName, ...] | None = Field(None, description="attacks of a custom version, in order")
    n_iter: int = Field(100, ge=1, description="steps of APGD and FAB in a custom version")
    n_target_classes: int = Field(9, ge=1, description="target classes tried in a custom version")
    n_queries: int = Field(5000, ge=1, description="queries of Square in a custom version")

    @model_validator(mode="after")
    def _custom_names_its_attacks(self) -> "AutoAttack":
        if self.version == "custom" and not self.attacks:
            raise ValueError(f"attacks: missing; a custom version names them: {', '.join(AttackName.__args__)}")
        for name in ("attacks", "n_iter", "n_target_classes", "n_queries"):
            given = getattr(self, name)
            if self.version != "custom" and given != type(self).model_fields[name].default:
                raise ValueError(f"{name}={given}: fixed by the version {self.version}; only a custom version sets it")
        return self

    @property
    def title(self) -> str:
        """What a result of this attack is called."""
        if self.version != "custom":
            return f"AutoAttack {self.version} {self.norm}"
        steps = [f"{self.n_iter} steps"] if {"apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t"} & {*self.attacks} else []
        steps += [f"{self.n_target_classes} targets"] if {"apgd-t", "fab-t"} & {*self.attacks} else []
        steps += [f"{self.n_queries} queries"] if "square" in self.attacks else []
        return f"AutoAttack custom {self.norm} ({', '.join(self.attacks)}; {', '.join(steps)})"

    def __call__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        *,
        eps: float,
        batch_size: int = 250,
        seed: int = 0,
    ) -> torch.Tensor:
        """Attack a model; return which images it still classifies correctly.

        The model is put in eval mode for the attack and is left as it was found; the global random state too.

        Args:
            model: logits of images in [0, 1], on the device of the images.
            images: (n, c, h, w) in [0, 1].
            labels: (n,) int64.
            eps: largest perturbation, in units of [0, 1] pixels; 0 attacks nothing.
            batch_size: images attacked together.
            seed: of the attack's draws.

        Returns:
            (n,) bool on the images' device.

        Raises:
            InputError: pixels outside [0, 1], eps negative or (Linf) above 1, labels that are no class, or
                fewer than four classes, for which targeted DLR does not exist.
        """
        check_pixels(images)
        if not eps >= 0 or (self.norm == "Linf" and eps > 1):
            raise InputError(f"eps={eps}: must be in [0, 1], a fraction of the pixel range")
        with _prepared(model, images.device):
            with torch.no_grad():
                logits = torch.cat([model(part) for part in images.split(batch_size)])
            classes = logits.shape[1]
            if not bool(((labels >= 0) & (labels < classes)).all()):
                raise InputError(f"labels: from {labels.min()} to {labels.max()}; the model has {classes} classes")
            if eps == 0:
                return logits.argmax(dim=1) == labels
            self.check_classes(classes)
            custom = self.version == "custom"
            adversary = pyautoattack.AutoAttack(
                model,
                norm=self.norm,
                eps=eps,
                version=self.version,
                seed=seed,
                device=images.device,
                attacks=list(self.attacks) if custom else None,
            )
            if custom:
                apgd = {
                    "n_iter": self.n_iter,
                    "norm": self.norm,
                    "eps": eps,
                    "seed": seed,
                    "device": images.device,
                    "use_largereps": self.norm == "L1",
                    "logger": adversary.logger,
                }
                adversary.apgd = APGDAttack(model, **apgd)
                adversary.apgd_targeted = APGDAttack_targeted(model, n_target_classes=self.n_target_classes, **apgd)
                adversary.fab.n_iter, adversary.fab.n_target_classes = self.n_iter, self.n_target_classes
                adversary.fab.n_restarts = 1
                adversary.square.n_queries = self.n_queries
            for targeted in (adversary.apgd_targeted, adversary.fab):
                targeted.n_target_classes = min(targeted.n_target_classes, classes - 1)
            _, predicted = adversary.run_standard_evaluation(images, labels, batch_size=batch_size)
            return predicted == labels

    def check_classes(self, classes: int) -> None:
        """Raise InputError if there are too few classes for one of the attacks: targeted DLR compares four logits."""
        attacks = {*self.attacks} if self.version == "custom" else {"apgd-t"}
        if {"apgd-dlr", "apgd-t"} & attacks and classes < _DLR_CLASSES:
            raise InputError(
                f"attack.version={self.version}: its DLR attacks need at least {_DLR_CLASSES} classes, and there are"
                f" {classes}; a custom version of apgd-ce, fab-t and square needs 2"
            )


def strongest(classes: int) -> AutoAttack:
    """Return the standard version, or, for fewer classes than its targeted DLR compares, its other attacks."""
    if classes >= _DLR_CLASSES:
        return AutoAttack()
    return AutoAttack(version="custom", attacks=("apgd-ce", "fab-t", "square"), n_iter=100, n_queries=5000)


def check_pixels(images: torch.Tensor) -> None:
    """Raise InputError unless `images` are floating point in [0, 1]."""
    if not images.is_floating_point():
        raise InputError(f"images: {images.dtype}; must be floating point in [0, 1]")
    low, high = images.min().item(), images.max().item()
    if not (low >= 0 and high <= 1):
        raise InputError(f"images: pixels from {low:g} to {high:g}; must be in [0, 1]")


@contextmanager
def _prepared(model: nn.Module, device: torch.device) -> Iterator[None]:
    """Eval mode without parameter gradients, a random state of its own, and everything restored after."""
    training = {module: module.training for module in model.modules()}
    needs_gradient = [parameter for parameter in model.parameters() if parameter.requires_grad]
    trace = sys.gettrace()  # a check of the authors' code switches tracing off, which blinds debuggers
    try:
        model.eval()
        for parameter in needs_gradient:
            parameter.requires_grad_(False)
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            yield
    finally:
        for module, mode in training.items():
            module.training = mode
        for parameter in needs_gradient:
            parameter.requires_grad_(True)
        sys.settrace(trace)
