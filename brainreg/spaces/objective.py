"""What a search maximizes, and how it is measured on a trained classifier."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from brainreg.attacks import AutoAttack, add_noise
from brainreg.attacks.noise import NoiseName
from brainreg.errors import InputError
from brainreg.evaluation.accuracy import as_large_as_fits, correct
from brainreg.evaluation.proxy import proxy_accuracy
from brainreg.seeds import Stream, seeded_generator
from brainreg.training.checkpoint import fold_batchnorm

# The objective after an epoch, among the metrics of a training whose best epoch is chosen by it.
EPOCH_OBJECTIVE = "epoch_objective"


# Images that are attacked, unless there are few.
_ATTACKED = 200


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
    attack_image_num: int | None = Field(
        None,
        ge=1,
        description=f"validation images that are attacked (absent: {_ATTACKED}, or half of them where there are fewer"
        f" than {2 * _ATTACKED})",
    )
    attack_batch_size: int = Field(250, ge=1, description="images attacked together")
    proxy_image_num: int = Field(100, ge=1, description="of those, images of the proxy after each epoch, at most")
    noise: NoiseName = Field("Gaussian", description="noise of the accuracy that is not optimized")
    noise_eps: float = Field(0.1, gt=0, le=1, description="its strength, a fraction of the pixel range")

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
        noised = add_noise(self.noise, images, self.noise_eps, seed)
        clean, noisy = (
            as_large_as_fits(partial(correct, classifier, shown, labels), _CLEAN_BATCH).float().mean().item()
            for shown in (images, noised)
        )
        began = time.monotonic()
        robust = self._robust(classifier, images, labels, seed)
        return {
            "objective": self.combined(clean, robust),
            "clean_accuracy": clean,
            "clean_n": len(labels),
            "robust_accuracy": robust,
            "robust_n": self.attacked_of(len(labels)),
            "noise_accuracy": noisy,
            "attack_seconds": time.monotonic() - began,
        }

    def combined(self, clean: float, robust: float) -> float:
        """Return the objective of two accuracies."""
        return self.weight * clean + (1 - self.weight) * robust

    def _robust(self, classifier: nn.Module, images: torch.Tensor, labels: torch.Tensor, seed: int) -> float:
        attacked, _ = self.divide(len(labels), seed)
        outcome = as_large_as_fits(
            lambda size: self.attack(
                classifier, images[attacked], labels[attacked], [self.eps], batch_size=size, seed=seed
            ),
            self.attack_batch_size,
        )
        return outcome.correct[0].float().mean().item()

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
        return {"proxy_robust_accuracy": robust, "proxy_objective": self.combined(clean_accuracy, robust)}

    def by_epoch(
        self,
        images: torch.Tensor,
        labels: torch.Tensor,
        seed: int,
        history: Sequence[Mapping[str, float]] = (),
    ) -> Callable[[nn.Sequential, Mapping[str, float]], dict[str, float]]:
        """Return what measures the objective after each epoch, so that the best epoch can be chosen by it.

        It attacks in full only where that can find a new best: where few steps of the attack leave no more than the
        best epoch before reached, the full attack would leave less, and the epoch has no `EPOCH_OBJECTIVE`.

        Args:
            images, labels, seed: those of `measure`.
            history: metrics of the epochs before, where training goes on.

        Returns:
            `measure` of `brainreg.training.loop.train`, to be used with `choose_by=EPOCH_OBJECTIVE`.
        """
        best = max((epoch.get(EPOCH_OBJECTIVE, -math.inf) for epoch in history), default=-math.inf)
        fewer_steps = self.model_copy(update={"proxy_image_num": self.attacked_of(len(labels))})

        def measure(classifier: nn.Sequential, metrics: Mapping[str, float]) -> dict[str, float]:
            nonlocal best
            network, clean = fold_batchnorm(classifier), metrics["valid_accuracy"]
            bound = fewer_steps.proxy(network, images, labels, seed, clean)["proxy_objective"]
            if bound <= best:
                return {}
            objective = self.combined(clean, self._robust(network, images, labels, seed))
            best = max(best, objective)
            return {EPOCH_OBJECTIVE: objective}

        return measure

    def divide(self, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return which of `n` validation images are attacked to measure the objective, and all others, shuffled."""
        attacked = self.attacked_of(n)
        if attacked > n:
            raise InputError(f"attack_image_num={attacked}: there are {n} validation images")
        shuffled = torch.randperm(n, generator=seeded_generator(seed, Stream.ATTACKED_IMAGES))
        return shuffled[:attacked], shuffled[attacked:]

    def attacked_of(self, n: int) -> int:
        """Return how many of `n` validation images are attacked."""
        return self.attack_image_num or max(min(_ATTACKED, n // 2), 1)
