"""Attacks, noise and corruptions, by name: each a module behind the protocol of `base.Attack`.

Models take images in [0, 1], scale them themselves, and return logits.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from brainreg.attacks.autoattack.attack import AutoAttack, strongest
from brainreg.attacks.base import Attack, Norm, Outcome
from brainreg.attacks.boundary import Boundary, median_squared_distance
from brainreg.attacks.corruptions import CORRUPTIONS, Corruption
from brainreg.attacks.fgsm import FGSM
from brainreg.attacks.noise import NOISES, Noise, add_noise
from brainreg.attacks.pgd import PGD
from brainreg.attacks.transferred_fgsm import TransferredFGSM
from brainreg.errors import InputError, nearest

__all__ = [
    "ATTACKS",
    "CORRUPTIONS",
    "FGSM",
    "GROUPS",
    "NOISES",
    "PGD",
    "Attack",
    "AutoAttack",
    "Boundary",
    "Context",
    "Corruption",
    "Noise",
    "Norm",
    "Outcome",
    "TransferredFGSM",
    "add_noise",
    "attack_names",
    "median_squared_distance",
    "strongest",
]


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


# How each attack is made, by the name that it is asked for with.
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

# Names that stand for several.
GROUPS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian", "uniform", "saltpepper"),
    "published": ("gaussian", "uniform", "saltpepper", "transfer-fgsm", "boundary"),
    "corruptions": CORRUPTIONS,
    "all": tuple(ATTACKS),
}


def attack_names(asked: Iterable[str]) -> tuple[str, ...]:
    """Return the names of attacks that are asked for, groups taken apart, each once, in the order of `ATTACKS`.

    Raises:
        InputError: a name that is neither an attack nor a group.
    """
    names: set[str] = set()
    for name in asked:
        if name not in GROUPS and name not in ATTACKS:
            known = [*(name for name in ATTACKS if name not in CORRUPTIONS), *CORRUPTIONS, *GROUPS]
            raise InputError(f"{name}: no such attack; {nearest(name, known)}")
        names |= {*GROUPS.get(name, (name,))}
    return tuple(name for name in ATTACKS if name in names)
