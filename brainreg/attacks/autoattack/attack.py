"""AutoAttack (Croce and Hein, arXiv 2003.01690): its versions, and what each asks of data and model."""

from collections.abc import Sequence
from functools import partial
from typing import Literal, get_args

import pyautoattack
import torch
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted
from pyautoattack.fab_pt import FABAttack_PT
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from brainreg.attacks.autoattack.cascade import Cascade
from brainreg.attacks.autoattack.stages import (
    AttackName,
    Square,
    Stage,
    apgd_stage,
    fab_stage,
    logger,
    square_stage,
    start_noise,
    widest,
)
from brainreg.attacks.base import Attack, Norm, Outcome, Progress, Target, logits_of, predicted
from brainreg.errors import InputError

# The attacks on the difference-of-logits ratio, and the logits that it compares.
_DLR, _DLR_CLASSES = ("apgd-dlr", "apgd-t"), 4


# Steps of the APGD that comes before a longer one: most images that break at all break in it.
_QUICK_STEPS = 10


_VERSIONS: dict[str, tuple[AttackName, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}


class AutoAttack(BaseModel, Attack):
    """AutoAttack, as its authors package it, with one outcome an image and strength.

    The versions `standard`, `plus` and `rand` are the authors' own. A `custom` one names its attacks and
    may shorten them; it is cheaper and weaker, and its name says so wherever a result is shown. As in the
    authors' code, the targeted attacks try nine target classes at the most (five in L1), or all the wrong ones if
    there are fewer.

    `standard` and `custom` run the authors' attacks, unchanged, from the search (`Cascade`) for each image's breaking
    point; random starts are shared by all images, so that an image's outcome depends neither on the size of a batch
    nor on the images beside it. `plus` and `rand` are run by the authors' own loop, once a strength, on the images
    that smaller strengths have left; there, starts depend on both.

    Source: Croce and Hein, "Reliable evaluation of adversarial robustness with an ensemble of diverse
    parameter-free attacks", arXiv 2003.01690; L1: "Mind the box", arXiv 2103.01208.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    version: Literal["standard", "plus", "rand", "custom"] = Field("standard", description="version of AutoAttack")
    norm: Norm = Field("Linf", description="norm that bounds the perturbation")
    attacks: tuple[AttackName, ...] | None = Field(None, description="attacks of a custom version, in order")
    n_iter: int = Field(100, ge=1, description="steps of APGD and FAB in a custom version")
    n_restarts: int = Field(1, ge=1, description="random starts of APGD-CE and APGD-DLR in a custom version")
    n_target_classes: int = Field(9, ge=1, description="target classes tried in a custom version")
    n_queries: int = Field(5000, ge=1, description="queries of Square in a custom version")

    @model_validator(mode="after")
    def _custom_names_its_attacks(self) -> "AutoAttack":
        if self.version == "custom" and not self.attacks:
            raise ValueError(f"attacks: missing; a custom version names them: {', '.join(get_args(AttackName))}")
        for name in ("attacks", "n_iter", "n_restarts", "n_target_classes", "n_queries"):
            given = getattr(self, name)
            if self.version != "custom" and given != type(self).model_fields[name].default:
                raise ValueError(f"{name}={given}: fixed by the version {self.version}; only a custom version sets it")
        return self

    @property
    def title(self) -> str:
        """What a result of this attack is called."""
        if self.version != "custom":
            return f"AutoAttack {self.version} {self.norm}"
        if self.attacks == ("square",):
            return f"Square {self.norm} ({self.n_queries} queries)"
        names = {*self._names}
        steps = [f"{self.n_iter} steps"] if names - {"square"} else []
        steps += [f"{self.n_restarts} starts"] if self.n_restarts > 1 else []
        steps += [f"{self.n_target_classes} targets"] if {"apgd-t", "fab-t"} & names else []
        steps += [f"{self.n_queries} queries"] if "square" in names else []
        return f"AutoAttack custom {self.norm} ({', '.join(self._names)}; {', '.join(steps)})"

    @property
    def largest(self) -> float:
        """The largest strength: the whole pixel range in Linf, no bound in the other norms."""
        return 1.0 if self.norm == "Linf" else torch.inf

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

    def check_shape(self, shape: Sequence[int]) -> None:
        """Raise InputError if Square cannot take images of this shape (c, h, w).

        In L2 and L1 it begins with tiles, a fifth of the height wide, which must not stick out. In Linf it takes any.
        """
        _, height, width = shape
        tile = height // 5
        margin = (height - 5 * tile) // 2
        fits = tile == 1 or (tile > 1 and all(margin + side // tile * tile <= side for side in (height, width)))
        if "square" in self._names and self.norm != "Linf" and not fits:
            raise InputError(
                f"images: {height}x{width} pixels; the Square attack in {self.norm} cannot take this size; a custom"
                " version without square can"
            )

    def check_classes(self, classes: int, key: str = "attack") -> None:
        """Raise InputError if there are too few classes for one of the attacks: targeted DLR compares four logits.

        Args:
            key: what the attack is called where it was asked for, say `objective.attack`.
        """
        dlr = [name for name in self._names if name in _DLR]
        if dlr and classes < _DLR_CLASSES:
            given = f"{key}.attacks={','.join(self._names)}" if self.attacks else f"{key}.version={self.version}"
            raise InputError(
                f"{given}: {' and '.join(dlr)} need at least {_DLR_CLASSES} classes, and there are {classes}; a custom"
                " version of apgd-ce, fab-t and square needs 2"
            )

    def for_classes(self, classes: int) -> "AutoAttack":
        """Return this attack; of the versions standard and plus, if there are too few classes for DLR, the others of
        their attacks, as a custom version, whose title names them.
        """
        if classes >= _DLR_CLASSES or self.version not in ("standard", "plus"):
            return self
        starts = 5 if self.version == "plus" or self.norm == "L1" else 1  # as those versions have
        attacks = tuple(name for name in self._names if name not in _DLR)
        return AutoAttack(norm=self.norm, version="custom", attacks=attacks, n_restarts=starts)

    @property
    def _names(self) -> tuple[AttackName, ...]:
        return self.attacks or _VERSIONS[self.version]

    def _stages(self, model: nn.Module, shape: torch.Size, classes: int, seed: int) -> "list[Stage]":
        """The authors' attacks one start, one target class at a time, with the settings of the version.

        The settings of `standard` are those of the authors' `_set_version`.
        """
        l1 = self.version == "standard" and self.norm == "L1"
        starts = 5 if l1 else self.n_restarts
        targets = range(2, 2 + min(5 if l1 else self.n_target_classes, classes - 1))
        fab_targets = range(2, 2 + min(self.n_target_classes, classes - 1))
        common = {"norm": self.norm, "eps": 1.0, "seed": seed, "logger": logger}
        stages: list[Stage] = []

        def noise() -> torch.Tensor:
            return start_noise(shape, self.norm, seed, len(stages))

        for place, name in enumerate(self._names):
            if name in ("apgd-ce", "apgd-dlr"):
                apgd = APGDAttack(model, n_iter=self.n_iter, loss=name.removeprefix("apgd-"), **common)
                if self.n_iter > 2 * _QUICK_STEPS:
                    quick = APGDAttack(model, n_iter=_QUICK_STEPS, loss=apgd.loss, **common)
                    stages.append(Stage(place, name, apgd_stage(quick, noise()), "everywhere"))
                for start in range(starts):
                    stages.append(Stage(place, name, apgd_stage(apgd, noise()), "last" if start else "everywhere"))
            elif name == "apgd-t":
                apgd = APGDAttack_targeted(model, n_iter=self.n_iter, n_target_classes=len(targets), **common)
                for target in targets:
                    stages.append(Stage(place, name, apgd_stage(apgd, noise(), target)))
            elif name in ("fab", "fab-t"):
                fab = FABAttack_PT(model, norm=self.norm, n_restarts=1, n_iter=self.n_iter, eps=1.0, seed=seed)
                own: list[int | None] = [*fab_targets] if name == "fab-t" else [None]
                stages += [Stage(place, name, fab_stage(fab, one), "once") for one in own]
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
