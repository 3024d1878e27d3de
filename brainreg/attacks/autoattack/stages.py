"""The four attacks of AutoAttack as its authors package them: APGD, targeted APGD, FAB and Square."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from pyautoattack.autopgd_base import APGDAttack, APGDAttack_targeted, L1_projection
from pyautoattack.fab_pt import FABAttack_PT
from pyautoattack.square import SquareAttack
from torch import nn

from brainreg.attacks.names import AttackName, Norm
from brainreg.seeds import Stream, seeded_generator

# Margin and loss of an image that Square has asked about before: it does not take it.
_REFUSED = 1e30

# The authors' attacks report through it, what they warn of among the rest.
logger = logging.getLogger("auto-attack")


def widest(shape: torch.Size, norm: Norm) -> float:
    """The distance of a black image (c, h, w) from a white one."""
    return {"Linf": 1.0, "L2": shape.numel() ** 0.5, "L1": float(shape.numel())}[norm]


def perturbation(images: torch.Tensor, others: torch.Tensor, norm: Norm) -> torch.Tensor:
    """Return the norms (n,) of the differences of images (n, c, h, w)."""
    difference = (others - images).flatten(1)
    return difference.norm(p={"Linf": torch.inf, "L2": 2, "L1": 1}[norm], dim=1)


# When a stage runs, and what it runs; see `Stage`.
When = Literal["everywhere", "once", "last"]
Run = Callable[[torch.Tensor, torch.Tensor, float, torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Stage:
    """One of the authors' attacks from one start, toward one target class after the other where it has targets.

    Attributes:
        place: of the attack in the version's list.
        name: of the attack.
        run: (images, labels, eps, target) to changed images of the same shape, misclassified or not. `target` (n,)
            counts each image's own target from 0.
        targets: how many there are; 1 for an attack that has none.
        when: "everywhere" to run at every strength that is not known to break an image, "once" for an attack that
            looks for the smallest perturbation whatever eps is, "last" to run only where the image seems to withstand.
    """

    place: int
    name: AttackName
    run: Run
    targets: int = 1
    when: When = "last"


def start_noise(shape: torch.Size, norm: Norm, seed: int, part: int) -> torch.Tensor:
    """(1, c, h, w) direction of a random start: in the unit ball's surface for Linf and L2, normal for L1."""
    generator = seeded_generator(seed, Stream.ATTACK, part)
    if norm == "Linf":
        noise = 2 * torch.rand(1, *shape, generator=generator) - 1
        return noise / noise.abs().max()
    noise = torch.randn(1, *shape, generator=generator)
    return noise / noise.norm() if norm == "L2" else noise


def apgd_stage(apgd: APGDAttack, noise: torch.Tensor) -> Run:
    """APGD from starts that are given, (1, c, h, w), or (t, c, h, w) with one for each of t targets.

    The first target is the class with the second largest logit, the next one that with the third, and so on.
    """

    def run(images: torch.Tensor, labels: torch.Tensor, eps: float, target: torch.Tensor) -> torch.Tensor:
        apgd.device = images.device
        apgd.init_hyperparam(images)
        if isinstance(apgd, APGDAttack_targeted):
            apgd.y_target = _target_classes(apgd.model, images, target)
        start = noise.to(images)[target]
        if apgd.norm != "L1":
            apgd.eps = eps
            return apgd.attack_single_run(images, labels, x_init=images + eps * start)[3]
        # In L1, as the authors: from three times the strength down to it, with 3, 3 and 4 tenths of the steps.
        total = apgd.n_iter_orig
        steps = [-(-3 * total // 10)] * 2
        point = images + start
        point = point + L1_projection(images, point - images, 3 * eps)
        found = images
        for apgd.eps, apgd.n_iter in zip((3 * eps, 2 * eps, eps), (*steps, max(total - sum(steps), 0)), strict=True):
            point = point + L1_projection(images, point - images, apgd.eps)
            point, _, _, found = apgd.attack_single_run(images, labels, x_init=point)
        return found

    return run


@torch.no_grad()
def _target_classes(model: nn.Module, images: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """(n,) the class that is each image's target: 0 for the one with the second largest logit."""
    order = model(images).sort(dim=1)[1]
    return order.gather(1, (order.shape[1] - 2 - target)[:, None])[:, 0]


class Fab(FABAttack_PT):
    """The authors' FAB attack, toward a target of each image's own, so that several targets can run side by side.

    `own` (n,) are the classes that are the targets of the images, of which it attacks those that are classified right.
    """

    own: torch.Tensor
    _attacked: torch.Tensor

    def attack_single_run(self, x: torch.Tensor, y: torch.Tensor, **options: bool) -> torch.Tensor:
        self._attacked = self._get_predicted_label(x) == y
        return super().attack_single_run(x, y, **options)

    def get_diff_logits_grads_batch_targeted(
        self, imgs: torch.Tensor, la: torch.Tensor, la_target: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        return super().get_diff_logits_grads_batch_targeted(imgs, la, self.own[self._attacked])


def fab_stage(fab: Fab, targeted: bool) -> Run:
    """FAB from the clean image, which needs no draw and does not depend on eps."""

    def run(images: torch.Tensor, labels: torch.Tensor, eps: float, target: torch.Tensor) -> torch.Tensor:
        fab.device, fab.target_class = images.device, 2  # not used, but looked up
        if targeted:
            fab.own = _target_classes(fab.predict, images, target)
        with torch.no_grad():
            return fab.attack_single_run(images, labels, use_rand_start=False, is_targeted=targeted)

    return run


class Square(SquareAttack):
    """The authors' Square attack; what it draws for each image is drawn once for all of them.

    In Linf it asks the network once about an image: few squares fit, and once most of them have been refused it draws
    again what it has tried. Such an image has lost to the best one of its time, and the best only gets better. On a
    GPU, which would wait for each of these answers, it asks again, and finds the same examples.
    """

    def random_int(self, low: int = 0, high: int = 1, shape: Sequence[int] = (1,)) -> torch.Tensor:
        """Draw whole numbers (shape), on the CPU: the authors slice by them, and a GPU would wait for each."""
        return (low + (high - low) * torch.rand([*shape])).long()

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
        if x.is_cuda:  # what the authors compute, without indices that come from the CPU
            logits, right = self.predict(x), y[:, None]
            margin = logits.gather(1, right)[:, 0] - logits.scatter(1, right, -torch.inf).amax(dim=1)
            return margin, margin if self.loss == "margin" else -F.cross_entropy(logits, y, reduction="none")
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


def square_stage(square: Square) -> Run:
    """Return Square at the strength that it is asked for."""

    def run(images: torch.Tensor, labels: torch.Tensor, eps: float, target: torch.Tensor) -> torch.Tensor:
        square.device, square.eps = images.device, eps
        return square.perturb(images, labels)

    return run
