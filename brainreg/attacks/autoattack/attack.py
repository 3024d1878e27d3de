"""AutoAttack (Croce and Hein, arXiv 2003.01690), as its authors package it."""

from collections.abc import Sequence
from functools import partial
from typing import Self

import pyautoattack
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from torch import nn

from brainreg.attacks.autoattack.cascade import Cascade
from brainreg.attacks.autoattack.settings import AutoAttackSettings
from brainreg.attacks.autoattack.stages import (
    Fab,
    Square,
    Stage,
    When,
    apgd_stage,
    fab_stage,
    logger,
    square_stage,
    start_noise,
    widest,
)
from brainreg.attacks.base import Attack, Outcome, Progress, Target, logits_of, predicted
from brainreg.attacks.names import Norm

# Steps of the APGD that comes before a longer one: most images that break at all break in it.
_QUICK_STEPS = 10


class AutoAttack(AutoAttackSettings, Attack):
    """AutoAttack, as its authors package it, with one outcome an image and strength.

    `standard` and `custom` run the authors' attacks, unchanged, from the search (`Cascade`) for each image's breaking
    point; random starts are shared by all images, so that an image's outcome depends neither on the size of a batch
    nor on the images beside it. `plus` and `rand` are run by the authors' own loop, once a strength, on the images
    that smaller strengths have left; there, starts depend on both.

    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", arXiv 2003.01690; L1: "Mind the box", arXiv 2103.01208.
    """

    @classmethod
    def of(cls, settings: AutoAttackSettings) -> Self:
        """Return the attack that has these settings."""
        return cls(**dict(settings))

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
        infer: bool = True,
    ) -> Outcome:
        """Attack a model at each strength; see `base.Attack`.

        Args:
            strengths: largest perturbations in `norm`, in units of [0, 1] pixels, in increasing order.
            infer: that an image which withstands a strength withstands the smaller ones, unless there is a sign that
                gradients are masked; False runs every attack at every strength in any case.

        Raises:
            InputError: as every attack, for fewer than four classes, for which targeted DLR does not exist, and, in L2
                and L1, for images of a size that Square cannot take.
        """
        return self._attack(
            partial(self._run, infer=infer), model, images, labels, strengths, seed=seed, batch_size=batch_size,
            on_progress=on_progress,
        )  # fmt: skip

    def _run(self, target: Target, strengths: Sequence[float], infer: bool = True) -> Outcome:
        levels, shape = [strength for strength in strengths if strength > 0], target.images.shape[1:]
        if levels:
            self.check_classes(target.classes)
            self.check_shape(shape)
        if self.version in ("plus", "rand"):
            return self._authors_loop(target, strengths)
        cascade = Cascade(target.model, target.images, target.labels, target.right, self.norm, levels)
        if levels:
            stages = self._stages(target.model, shape, target.classes, target.seed)
            cascade.run(stages, target.batch_size, target.on_progress, infer)
        return cascade.outcome(strengths, self._names)

    def _stages(self, model: nn.Module, shape: torch.Size, classes: int, seed: int) -> "list[Stage]":
        """The authors' attacks, one start at a time, with the settings of the version.

        The settings of `standard` are those of the authors' `_set_version`.
        """
        l1 = self.version == "standard" and self.norm == "L1"
        starts = 5 if l1 else self.n_restarts
        targets = min(5 if l1 else self.n_target_classes, classes - 1)
        fab_targets = min(self.n_target_classes, classes - 1)
        common = {"norm": self.norm, "eps": 1.0, "seed": seed, "logger": logger}
        stages: list[Stage] = []

        def noise(count: int = 1) -> torch.Tensor:
            first = sum(stage.targets for stage in stages)
            return torch.cat([start_noise(shape, self.norm, seed, first + i) for i in range(count)])

        for place, name in enumerate(self._names):
            if name in ("apgd-ce", "apgd-dlr"):
                apgd = APGDAttack(model, n_iter=self.n_iter, loss=name.removeprefix("apgd-"), **common)
                if self.n_iter > 2 * _QUICK_STEPS:
                    quick = APGDAttack(model, n_iter=_QUICK_STEPS, loss=apgd.loss, **common)
                    stages.append(Stage(place, name, apgd_stage(quick, noise()), when="everywhere"))
                for start in range(starts):
                    when: When = "last" if start else "everywhere"
                    stages.append(Stage(place, name, apgd_stage(apgd, noise()), when=when))
            elif name == "apgd-t":
                apgd = APGDAttack_targeted(model, n_iter=self.n_iter, n_target_classes=targets, **common)
                stages.append(Stage(place, name, apgd_stage(apgd, noise(targets)), targets))
            elif name in ("fab", "fab-t"):
                fab = Fab(model, norm=self.norm, n_restarts=1, n_iter=self.n_iter, eps=1.0, seed=seed)
                targeted = name == "fab-t"
                stages.append(Stage(place, name, fab_stage(fab, targeted), fab_targets if targeted else 1, "once"))
            else:
                square = Square(
                    model, p_init=0.8, n_queries=self.n_queries, norm=self.norm, n_restarts=1, eps=1.0, seed=seed,
                    resc_schedule=False,
                )  # fmt: skip
                stages.append(Stage(place, name, square_stage(square)))
        return stages

    def _authors_loop(self, target: Target, strengths: Sequence[float]) -> Outcome:
        model, images, labels, size = target.model, target.images, target.labels, target.batch_size
        examples, needed, correct = images.clone(), torch.where(target.right, torch.inf, 0.0), []
        for i, eps in enumerate(strengths):
            left, eps = needed.isinf().nonzero().flatten(), min(eps, widest(images.shape[1:], self.norm))
            if eps > 0 and len(left):
                adversary = pyautoattack.AutoAttack(
                    model, norm=self.norm, eps=eps, version=self.version, seed=target.seed, device=images.device
                )
                for targeted in (adversary.apgd_targeted, adversary.fab):
                    targeted.n_target_classes = min(targeted.n_target_classes, target.classes - 1)
                found, seen = adversary.run_standard_evaluation(images[left], labels[left], batch_size=size)
                nan = predicted(logits_of(model, found, size)) < 0  # the authors take it for a class
                broken = nan | (seen != labels[left])
                examples[left[broken]], needed[left[broken]] = found[broken], eps
            correct.append(needed.isinf())
            target.on_progress(len(images) * (i + 1) // len(strengths), len(images))
        return Outcome(torch.stack(correct), examples, needed)


def strongest(classes: int, norm: Norm = "Linf") -> AutoAttack:
    """Return the standard version, or, for fewer classes than its targeted DLR compares, its other attacks."""
    return AutoAttack(norm=norm).for_classes(classes)
