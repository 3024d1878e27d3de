"""What a search maximizes, and how it is measured on a trained classifier."""

import time
from functools import partial
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from brainreg.attacks import NOISES, AutoAttack, add_noise
from brainreg.errors import InputError
from brainreg.evaluation import as_large_as_fits, correct, proxy_accuracy
from brainreg.seeds import Stream, seeded_generator

# Images classified together.
_CLEAN_BATCH = 500


class Objective(BaseModel):
    """`weight * clean + (1 - weight) * robust`, both accuracies on validation images.

    Accuracy under noise is measured beside it and not optimized: a setting that withstands an attack well
    may stand noise badly, and whoever reads the results must see that.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    weight: float = Field(0.5, ge=0, le=1, description="w, weight of the clean accuracy in the objective")
    eps: float = Field(gt=0, le=1, description="largest perturbation of the attack, in units of [0, 1] pixels")
    attack: AutoAttack = Field(AutoAttack(), description="version of AutoAttack")
    attack_image_num: int = Field(200, ge=1, description="validation images that are attacked")
    attack_batch_size: int = Field(250, ge=1, description="images attacked together")
    proxy_image_num: int = Field(100, ge=1, description="of those, images of the proxy after each epoch, at most")
    noise: Literal[*NOISES] = Field("Gaussian", description="noise of the accuracy that is not optimized")
    noise_eps: float = Field(gt=0, le=1, description="its strength, a fraction of the pixel range")

    def measure(self, classifier: nn.Module, images: torch.Tensor, labels: torch.Tensor, seed: int) -> dict[str, Any]:
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
        attacked, _ = self.divide(len(labels), seed)
        noised = add_noise(self.noise, images, self.noise_eps, seed)
        clean, noisy = (
            as_large_as_fits(partial(correct, classifier, shown, labels), _CLEAN_BATCH).float().mean().item()
            for shown in (images, noised)
        )
        began = time.monotonic()
        outcome = as_large_as_fits(
            lambda size: self.attack(
                classifier, images[attacked], labels[attacked], [self.eps], batch_size=size, seed=seed
            ),
            self.attack_batch_size,
        )
        robust = outcome.correct[0].float().mean().item()
        return {
            "objective": self.weight * clean + (1 - self.weight) * robust,
            "clean_accuracy": clean,
            "clean_n": len(labels),
            "robust_accuracy": robust,
            "robust_n": len(attacked),
            "noise_accuracy": noisy,
            "attack_seconds": time.monotonic() - began,
        }

    def proxy(
        self, classifier: nn.Module, images: torch.Tensor, labels: torch.Tensor, seed: int, clean_accuracy: float
    ) -> dict[str, float]:
        """Return a cheap stand-in for `measure` while a network trains, of the same images, attacked in a few steps.

        Args:
            clean_accuracy: of the classifier; the others are those of `measure`.

        Returns:
            proxy_robust_accuracy, an upper bound of the robust accuracy, never to be compared with one; and
            proxy_objective, made of it as the objective of the robust accuracy.
        """
        attacked = self.divide(len(labels), seed)[0][: self.proxy_image_num]
        robust = as_large_as_fits(
            lambda size: proxy_accuracy(
                classifier, images[attacked], labels[attacked], eps=self.eps, batch_size=size, seed=seed
            ),
            self.attack_batch_size,
        )
        combined = self.weight * clean_accuracy + (1 - self.weight) * robust
        return {"proxy_robust_accuracy": robust, "proxy_objective": combined}

    def divide(self, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which of `n` validation images are attacked to measure the objective, and all others, shuffled."""
        if self.attack_image_num > n:
            raise InputError(f"attack_image_num={self.attack_image_num}: there are {n} validation images")
        shuffled = torch.randperm(n, generator=seeded_generator(seed, Stream.ATTACKED_IMAGES))
        return shuffled[: self.attack_image_num], shuffled[self.attack_image_num :]
