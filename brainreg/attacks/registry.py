"""Attacks, noise and corruptions by name, and what each needs to know before it can be made."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from brainreg.attacks.autoattack.attack import AutoAttack, strongest
from brainreg.attacks.base import Attack
from brainreg.attacks.boundary import Boundary
from brainreg.attacks.corruptions import Corruption
from brainreg.attacks.fgsm import FGSM
from brainreg.attacks.names import CORRUPTIONS
from brainreg.attacks.noise import Noise
from brainreg.attacks.pgd import PGD
from brainreg.attacks.transferred_fgsm import TransferredFGSM
from brainreg.errors import InputError


@dataclass(frozen=True)
class Context:
    """What some attacks need to know before they can be made.

    Attributes:
        classes: of the model.
        surrogate: another model of the same task, whose gradient is transferred.
        surrogate_name: what it is called in results.
        corrupted: (5, n, c, h, w) uint8 for each kind of corruption, published versions of the very images that are
            attacked; absent: corrupted images are generated.
        corrupted_source: what the published ones are called.
    """

    classes: int
    surrogate: nn.Module | None = None
    surrogate_name: str = "surrogate"
    corrupted: Mapping[str, torch.Tensor] | None = None
    corrupted_source: str = "published"


def _transferred(context: Context) -> TransferredFGSM:
    if context.surrogate is None:
        raise InputError("transfer-fgsm: needs another network whose gradient is transferred, a surrogate")
    return TransferredFGSM(context.surrogate, context.surrogate_name)


def _corruption(kind: str, context: Context) -> Corruption:
    if context.corrupted is None:
        return Corruption(kind)
    return Corruption(kind, context.corrupted[kind], context.corrupted_source)


# How each attack is made, by its name in `names.ATTACK_NAMES`.
ATTACKS: dict[str, Callable[[Context], Attack]] = {
    "gaussian": lambda context: Noise("Gaussian"),
    "uniform": lambda context: Noise("Uniform"),
    "saltpepper": lambda context: Noise("SaltPepper"),
    "fgsm": lambda context: FGSM(),
    "pgd": lambda context: PGD(),
    "transfer-fgsm": _transferred,
    "boundary": lambda context: Boundary(),
    "autoattack": lambda context: strongest(context.classes, "Linf"),
    "autoattack-l2": lambda context: strongest(context.classes, "L2"),
    "autoattack-l1": lambda context: strongest(context.classes, "L1"),
    "square": lambda context: AutoAttack(version="custom", attacks=("square",)),
    **{kind: partial(_corruption, kind) for kind in CORRUPTIONS},
}
