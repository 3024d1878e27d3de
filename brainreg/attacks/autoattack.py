"""AutoAttack with its authors' attacks, over a grid of strengths at little more than the price of one.

What costs is surviving: an image that withstands a strength pays for every attack in full, one that breaks mostly
breaks in the first. An adversarial example at one strength is one at every larger strength, and an image that
withstands a strength withstands the smaller ones: each image has one breaking point on the grid, just under which it
has to pay. It is looked for with APGD on the cross-entropy, or DLR, from the largest strength down, each example
scaled down to the next strength before it is attacked there; then with FAB, which seeks the smallest perturbation
whatever the strength and is run once an image; what is left of the attacks then runs where the image seems to
withstand.

That an image withstands the smaller strengths too is not certain of an attack that fails for another reason than the
image's robustness, as where gradients are masked. APGD on the cross-entropy therefore runs at every strength that is
not known to break an image, and FAB begins at the image; and the inference is tried on a sample of images, where every
attack runs at a smaller strength, too. If one of them breaks there, if Square broke an image that the attacks before
it could not, or if an image has no gradient, nothing is inferred: every attack runs at every strength that is not
known to break an image. What is inferred, an outcome says.
"""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import pyautoattack
import torch
import torch.nn.functional as F
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted, L1_projection
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from pydantic import BaseModel, ConfigDict, Field, model_validator
from torch import nn

from brainreg.attacks.base import (
    Norm,
    Outcome,
    Progress,
    check_strengths,
    logits_of,
    predicted,
    prepared,
)
from brainreg.attacks.inputs import as_images, as_labels, check_labels
from brainreg.errors import InputError
from brainreg.seeds import Stream, seeded_generator

# The attacks on the difference-of-logits ratio, and the logits that it compares.
_DLR, _DLR_CLASSES = ("apgd-dlr", "apgd-t"), 4

# Steps of the APGD that comes before a longer one: most images that break at all break in it.
_QUICK_STEPS = 10

AttackName = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]
_VERSIONS: dict[str, tuple[AttackName, ...]] = {
    "standard": ("apgd-ce", "apgd-t", "fab-t", "square"),
    "plus": ("apgd-ce", "apgd-dlr", "fab", "square", "apgd-t", "fab-t"),
    "rand": ("apgd-ce", "apgd-dlr"),
}

# How far rounding carries an example beyond a strength: of the strength, and of the distance from black to white
# (a unit in the last place of each pixel).
_ROUNDING = 1e-5, 2**-24

# Signs of masked gradients, as `Outcome.masked` counts them.
_NO_GRADIENT, _BY_SQUARE, _BELOW = 1, 2, 3

# Margin and loss of an image that Square has asked about before: it does not take it.
_REFUSED = 1e30

# The authors' attacks report through it, what they warn of among the rest.
_logger = logging.getLogger("auto-attack")


class AutoAttack(BaseModel):
    """AutoAttack, as its authors package it, with one outcome an image and strength.

    The versions `standard`, `plus` and `rand` are the authors' own. A `custom` one names its attacks and
    may shorten them; it is cheaper and weaker, and its name says so wherever a result is shown. As in the
    authors' code, the targeted attacks try nine target classes at the most (five in L1), or all the wrong ones if
    there are fewer.

    `standard` and `custom` run the authors' attacks, unchanged, from this module's search for each image's breaking
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
            raise ValueError(f"attacks: missing; a custom version names them: {', '.join(AttackName.__args__)}")
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
        steps = [f"{self.n_iter} steps"] if {"apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t"} & {*self.attacks} else []
        steps += [f"{self.n_restarts} starts"] if self.n_restarts > 1 else []
        steps += [f"{self.n_target_classes} targets"] if {"apgd-t", "fab-t"} & {*self.attacks} else []
        steps += [f"{self.n_queries} queries"] if "square" in self.attacks else []
        return f"AutoAttack custom {self.norm} ({', '.join(self.attacks)}; {', '.join(steps)})"

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
        images, labels = as_images(images), as_labels(labels, images)
        check_strengths(strengths, self.largest)
        with prepared(model, images.device) as model:
            logits = logits_of(model, images, batch_size)
            classes = logits.shape[1]
            check_labels(labels, classes)
            right = predicted(logits) == labels
            levels = [strength for strength in strengths if strength > 0]
            if levels:
                self.check_classes(classes)
                self.check_shape(images.shape[1:])
            if self.version in ("plus", "rand"):
                return self._authors_loop(
                    model, images, labels, right, strengths, classes, seed, batch_size, on_progress
                )
            search = _Search(model, images, labels, right, self.norm, levels)
            if levels:
                search.run(self._stages(model, images.shape[1:], classes, seed), batch_size, on_progress, infer)
            return search.outcome(strengths, self._names)

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

    def _stages(self, model: nn.Module, shape: torch.Size, classes: int, seed: int) -> "list[_Stage]":
        """The authors' attacks one start, one target class at a time, with the settings of the version.

        The settings of `standard` are those of the authors' `_set_version`.
        """
        l1 = self.version == "standard" and self.norm == "L1"
        starts = 5 if l1 else self.n_restarts
        targets = range(2, 2 + min(5 if l1 else self.n_target_classes, classes - 1))
        fab_targets = range(2, 2 + min(self.n_target_classes, classes - 1))
        common = {"norm": self.norm, "eps": 1.0, "seed": seed, "logger": _logger}
        stages: list[_Stage] = []

        def noise() -> torch.Tensor:
            return _noise(shape, self.norm, seed, len(stages))

        for place, name in enumerate(self._names):
            if name in ("apgd-ce", "apgd-dlr"):
                apgd = APGDAttack(model, n_iter=self.n_iter, loss=name.removeprefix("apgd-"), **common)
                if self.n_iter > 2 * _QUICK_STEPS:
                    quick = APGDAttack(model, n_iter=_QUICK_STEPS, loss=apgd.loss, **common)
                    stages.append(_Stage(place, name, _apgd(quick, noise()), "everywhere"))
                for start in range(starts):
                    stages.append(_Stage(place, name, _apgd(apgd, noise()), "last" if start else "everywhere"))
            elif name == "apgd-t":
                apgd = APGDAttack_targeted(model, n_iter=self.n_iter, n_target_classes=len(targets), **common)
                for target in targets:
                    stages.append(_Stage(place, name, _apgd(apgd, noise(), target)))
            elif name in ("fab", "fab-t"):
                fab = FABAttack_PT(model, norm=self.norm, n_restarts=1, n_iter=self.n_iter, eps=1.0, seed=seed)
                for target in fab_targets if name == "fab-t" else [None]:
                    stages.append(_Stage(place, name, _fab(fab, target), "once"))
            else:
                square = _Square(
                    model, p_init=0.8, n_queries=self.n_queries, norm=self.norm, n_restarts=1, eps=1.0, seed=seed,
                    resc_schedule=False,
                )  # fmt: skip
                stages.append(_Stage(place, name, _square(square)))
        return stages

    def _authors_loop(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        right: torch.Tensor,
        strengths: Sequence[float],
        classes: int,
        seed: int,
        batch_size: int,
        on_progress: Progress | None,
    ) -> Outcome:
        examples, needed, correct = images.clone(), torch.where(right, torch.inf, 0.0), []
        for i, eps in enumerate(strengths):
            left, eps = needed.isinf().nonzero().flatten(), min(eps, _widest(images.shape[1:], self.norm))
            if eps > 0 and len(left):
                adversary = pyautoattack.AutoAttack(
                    model, norm=self.norm, eps=eps, version=self.version, seed=seed, device=images.device
                )
                for targeted in (adversary.apgd_targeted, adversary.fab):
                    targeted.n_target_classes = min(targeted.n_target_classes, classes - 1)
                found, seen = adversary.run_standard_evaluation(images[left], labels[left], batch_size=batch_size)
                nan = predicted(logits_of(model, found, batch_size)) < 0  # the authors take it for a class
                broken = nan | (seen != labels[left])
                examples[left[broken]], needed[left[broken]] = found[broken], eps
            correct.append(needed.isinf())
            if on_progress is not None:
                on_progress(len(images) * (i + 1) // len(strengths), len(images))
        return Outcome(torch.stack(correct), examples, needed)


def strongest(classes: int, norm: Norm = "Linf") -> AutoAttack:
    """Return the standard version, or, for fewer classes than its targeted DLR compares, its other attacks."""
    return AutoAttack(norm=norm).for_classes(classes)


def _widest(shape: torch.Size, norm: Norm) -> float:
    """The distance of a black image (c, h, w) from a white one."""
    return {"Linf": 1.0, "L2": shape.numel() ** 0.5, "L1": float(shape.numel())}[norm]


def perturbation(images: torch.Tensor, others: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Return the norms (n,) of the differences of images (n, c, h, w)."""
    difference = (others - images).flatten(1)
    return difference.norm(p={"Linf": torch.inf, "L2": 2, "L1": 1}[norm], dim=1)


# ---------------------------------------------------------------------------------------------
# Each image's breaking point
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Stage:
    """One start or target of one of the authors' attacks.

    Attributes:
        place: of the attack in the version's list.
        name: of the attack.
        run: (images, labels, eps) to changed images of the same shape, misclassified or not.
        when: "everywhere" to run at every strength that is not known to break an image, "once" for an attack that
            looks for the smallest perturbation whatever eps is, "last" to run only where the image seems to withstand.
    """

    place: int
    name: AttackName
    run: Callable[[torch.Tensor, torch.Tensor, float], torch.Tensor]
    when: Literal["everywhere", "once", "last"] = "last"


class _Search:
    """Finds the smallest strength of a grid at which each image breaks.

    `needed` (n,) is the strength of the nearest adversarial example known. An image's level is the largest strength
    that is not known to break it, as an index of `levels`, -1 where all do; `withstood` (s, n) tells at which levels it
    has withstood every attack. It is settled when it has at its level.
    """

    def __init__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        right: torch.Tensor,
        norm: Norm,
        levels: list[float],
    ):
        self.model, self.images, self.labels, self.norm = model, images, labels, norm
        self.widest = _widest(images.shape[1:], norm)
        self.levels = [min(level, self.widest) for level in levels]
        self.grid = torch.tensor(self.levels, device=images.device)
        self.examples = images.clone()
        self.needed = torch.where(right, torch.inf, 0.0)
        self.withstood = torch.zeros(len(levels), len(labels), dtype=torch.bool, device=images.device)
        self.broken_by = torch.full((len(levels), len(labels)), -1, device=images.device)
        self.masked = torch.zeros_like(labels)

    @torch.no_grad()  # the attacks switch gradients on where they need them
    def run(self, stages: "list[_Stage]", batch_size: int, on_progress: Progress | None, infer: bool) -> None:
        everywhere, once, last = (
            [stage for stage in stages if stage.when == when] for when in ("everywhere", "once", "last")
        )
        known = 0

        def tell() -> None:
            nonlocal known
            known = max(known, int(self._settled().sum()))  # an image that breaks at a smaller strength is open again
            if on_progress is not None:
                on_progress(known, len(self.labels))

        def run_last(level: int, index: torch.Tensor) -> None:
            """Run what is left of the attacks at a level; an image that breaks below one it withstood is a sign."""
            for batch in index.split(batch_size):
                left = self._attack(batch, level, last)
                self.withstood[level, left] = True
                broken = batch[(self.level(batch) < level) & self.withstood[level + 1 :, batch].any(dim=0)]
                self.masked[broken] = _BELOW
                tell()

        for level in reversed(range(len(self.levels))):
            for batch in (self.level() >= level).nonzero().flatten().split(batch_size):
                self._attack(batch, level, everywhere)
                tell()
        for batch in (self.level() >= 0).nonzero().flatten().split(batch_size):
            for stage in once:
                batch = batch[self.level(batch) >= 0]
                if len(batch):
                    self._take(batch, stage.run(self.images[batch], self.labels[batch], 1.0), None, stage.place)
            tell()
        for level in reversed(range(len(self.levels))):
            run_last(level, (self.level() == level).nonzero().flatten())
        if len(self.levels) == 1:
            return
        self._look_for_masks(stages, batch_size)
        if infer and not self.masked.any():
            for level, index in self._sampled():
                run_last(level, index)
        if not infer or self.masked.any():
            for level in reversed(range(len(self.levels))):
                run_last(level, ((self.level() >= level) & ~self.withstood[level]).nonzero().flatten())

    def _settled(self) -> torch.Tensor:
        """(n,) whether the smallest strength that breaks an image is known, if nothing masks its gradient."""
        level = self.level()
        return (level < 0) | self.withstood.gather(0, level.clamp(min=0)[None])[0]

    def _look_for_masks(self, stages: "list[_Stage]", batch_size: int) -> None:
        """Note which images have no gradient, and which Square broke where attacks with gradients failed."""
        squares = {stage.place for stage in stages if stage.name == "square"}
        if len({stage.place for stage in stages}) > 1:
            for place in squares:
                self.masked[(self.broken_by == place).any(dim=0)] = _BY_SQUARE
        for batch in (self.needed > 0).nonzero().flatten().split(batch_size):
            images = self.images[batch].requires_grad_()
            with torch.enable_grad():
                loss = F.cross_entropy(self.model(images), self.labels[batch], reduction="sum")
            (gradient,) = torch.autograd.grad(loss, images)
            zero = ~(gradient.flatten(1).abs().amax(dim=1) > 0)  # NaN leads nowhere either
            self.masked[batch[zero]] = _NO_GRADIENT

    def _sampled(self) -> list[tuple[int, torch.Tensor]]:
        """A tenth of the images, two at least, that withstand a strength: at a smaller one, each in its turn."""
        withstanding = (self.level() > 0).nonzero().flatten()
        count = min(len(withstanding), max(2, -(-len(withstanding) // 10)))
        sample = withstanding[torch.linspace(0, len(withstanding) - 1, count).long()] if count else withstanding
        levels = torch.arange(len(sample), device=sample.device) % self.level(sample)
        return [(level, sample[levels == level]) for level in reversed(range(len(self.levels)))]

    def level(self, batch: torch.Tensor | slice = slice(None)) -> torch.Tensor:
        """The levels of a batch of images, or of all."""
        return (self.grid[:, None] < self.needed[batch]).sum(dim=0) - 1

    def _attack(self, batch: torch.Tensor, level: int, stages: "list[_Stage]") -> torch.Tensor:
        """Run stages at a level, each on the images that the former have left; return those that the last has left.

        Before them, the examples that the next larger strength has left are scaled down to this one.
        """
        eps = self.levels[level]
        shrunk = batch[self.level(batch) == level]
        if level + 1 < len(self.levels) and len(shrunk):
            self._take(shrunk, self._scaled(shrunk, eps), eps, self.broken_by[level + 1, shrunk])
        for stage in stages:
            batch = batch[self.level(batch) >= level]
            if len(batch):
                self._take(batch, stage.run(self.images[batch], self.labels[batch], eps), eps, stage.place)
        return batch[self.level(batch) >= level]

    def _scaled(self, batch: torch.Tensor, eps: float) -> torch.Tensor:
        """The examples known of a batch of images, scaled down to `eps`; images without one as they are."""
        clean = self.images[batch]
        size = perturbation(clean, self.examples[batch], self.norm)
        factor = torch.where(size > 0, eps / size.clamp(min=1e-12), 0.0).clamp(max=1)
        return clean + factor[:, None, None, None] * (self.examples[batch] - clean)

    def _take(self, batch: torch.Tensor, found: torch.Tensor, eps: float | None, place: int | torch.Tensor) -> None:
        """Keep the nearest examples that the model misclassifies.

        Args:
            batch: (b,) indices of images.
            found: (b, c, h, w), what an attack made of them.
            eps: radius of the ball that they were made in, None for no ball. What lies beyond it by more than the
                rounding of pixels is no example.
            place: of the attack, or of each image's attack.
        """
        found = found.clamp(0, 1)
        fooled = predicted(logits_of(self.model, found, len(found))) != self.labels[batch]
        size = perturbation(self.images[batch], found, self.norm)
        nearer = fooled & (size > 0)  # without a change, another batch has rounded the logits otherwise
        if eps is not None:
            nearer &= size <= eps + _ROUNDING[0] * eps + _ROUNDING[1] * self.widest
            size = size.clamp(max=eps)
        nearer &= size < self.needed[batch]
        before = self.level(batch)
        self.examples[batch[nearer]], self.needed[batch[nearer]] = found[nearer], size[nearer]
        levels = torch.arange(len(self.levels), device=batch.device)[:, None]
        newly = (levels <= before) & (levels > self.level(batch))
        self.broken_by[:, batch] = torch.where(newly, place, self.broken_by[:, batch])

    def outcome(self, strengths: Sequence[float], stages: tuple[str, ...]) -> Outcome:
        asked = torch.tensor(strengths, device=self.images.device).clamp(max=self.widest)
        # Zero changes nothing: there, what needs no strength is wrong, and nothing else.
        correct = torch.where(asked[:, None] > 0, asked[:, None] < self.needed, self.needed > 0)
        broken_by, withstood = self.broken_by, self.withstood
        if len(strengths) > len(self.levels):
            broken_by = torch.cat([torch.full_like(self.labels, -1)[None], broken_by])
            withstood = torch.cat([torch.ones_like(self.labels, dtype=torch.bool)[None], withstood])
        return Outcome(
            correct, self.examples, self.needed, broken_by, stages, inferred=correct & ~withstood, masked=self.masked
        )


# ---------------------------------------------------------------------------------------------
# The authors' attacks, with draws that all images share
# ---------------------------------------------------------------------------------------------


def _noise(shape: torch.Size, norm: Norm, seed: int, part: int) -> torch.Tensor:
    """(1, c, h, w) direction of a random start: in the unit ball's surface for Linf and L2, normal for L1."""
    generator = seeded_generator(seed, Stream.ATTACK, part)
    if norm == "Linf":
        noise = 2 * torch.rand(1, *shape, generator=generator) - 1
        return noise / noise.abs().max()
    noise = torch.randn(1, *shape, generator=generator)
    return noise / noise.norm() if norm == "L2" else noise


def _apgd(apgd: APGDAttack, noise: torch.Tensor, target: int | None = None) -> Callable[..., torch.Tensor]:
    """APGD from a start that is given; `target`: 2 for the class with the second largest logit, and so on."""

    def run(images: torch.Tensor, labels: torch.Tensor, eps: float) -> torch.Tensor:
        apgd.device = images.device
        apgd.init_hyperparam(images)
        if target is not None:
            with torch.no_grad():
                apgd.y_target = apgd.model(images).sort(dim=1)[1][:, -target]
        if apgd.norm != "L1":
            apgd.eps = eps
            return apgd.attack_single_run(images, labels, x_init=images + eps * noise.to(images))[3]
        # In L1, as the authors: from three times the strength down to it, with 3, 3 and 4 tenths of the steps.
        total = apgd.n_iter_orig
        steps = [-(-3 * total // 10)] * 2
        point = images + noise.to(images)
        point = point + L1_projection(images, point - images, 3 * eps)
        found = images
        for apgd.eps, apgd.n_iter in zip((3 * eps, 2 * eps, eps), (*steps, max(total - sum(steps), 0)), strict=True):
            point = point + L1_projection(images, point - images, apgd.eps)
            point, _, _, found = apgd.attack_single_run(images, labels, x_init=point)
        return found

    return run


def _fab(fab: FABAttack_PT, target: int | None) -> Callable[..., torch.Tensor]:
    """FAB from the clean image, which needs no draw and does not depend on eps."""

    def run(images: torch.Tensor, labels: torch.Tensor, eps: float) -> torch.Tensor:
        fab.device, fab.target_class = images.device, target
        with torch.no_grad():
            return fab.attack_single_run(images, labels, use_rand_start=False, is_targeted=target is not None)

    return run


class _Square(SquareAttack):
    """The authors' Square attack; what it draws for each image is drawn once for all of them.

    In Linf it asks the network once about an image: few squares fit, and once most of them have been refused it draws
    again what it has tried. Such an image has lost to the best one of its time, and the best only gets better.
    """

    def random_choice(self, shape: Sequence[int]) -> torch.Tensor:
        if len(shape) == 4:
            return super().random_choice([1, *shape[1:]]).expand(*shape)
        return super().random_choice(shape)

    def attack_single_run(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        draws = torch.Generator().manual_seed(0)
        self._weights = torch.randint(-(2**62), 2**62, x.shape[1:], generator=draws).to(x.device)
        self._asked: set[tuple[int, int]] = set()
        return super().attack_single_run(x, y)

    def margin_and_loss(self, x: torch.Tensor, y: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        if self.norm != "Linf":
            return super().margin_and_loss(x, y)
        # An image is known by 64 bits, so that one in 10^19 comparisons is wrong.
        hashes = (x.contiguous().view(torch.int32) * self._weights).sum(dim=(1, 2, 3)).tolist()
        asked = [*zip(hashes, y.tolist(), strict=True)]
        new = [i for i, one in enumerate(asked) if one not in self._asked]
        margin, loss = torch.full((2, len(x)), _REFUSED, device=x.device)
        if new:
            margin[new], loss[new] = super().margin_and_loss(x[new], y[new])
        self._asked.update(asked)
        return margin, loss


def _square(square: _Square) -> Callable[..., torch.Tensor]:
    def run(images: torch.Tensor, labels: torch.Tensor, eps: float) -> torch.Tensor:
        square.device, square.eps = images.device, eps
        return square.perturb(images, labels)

    return run
