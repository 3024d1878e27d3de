"""Names of attacks, of noise and of corruptions, and of groups of them."""

from collections.abc import Iterable
from typing import Literal

from brainreg.errors import InputError, nearest

Norm = Literal["Linf", "L2", "L1"]

# The four attacks of AutoAttack, two of them with and without a target.
AttackName = Literal["apgd-ce", "apgd-dlr", "apgd-t", "fab", "fab-t", "square"]

NoiseName = Literal["Gaussian", "Uniform", "SaltPepper"]

# In the order of Hendrycks and Dietterich, arXiv 1903.12261.
CORRUPTIONS = (
    "gaussian_noise",
    "shot_noise",
    "impulse_noise",
    "defocus_blur",
    "glass_blur",
    "motion_blur",
    "zoom_blur",
    "snow",
    "frost",
    "fog",
    "brightness",
    "contrast",
    "elastic_transform",
    "pixelate",
    "jpeg_compression",
)

# What can be asked for; `registry.ATTACKS` says how each is made.
ATTACK_NAMES = (
    "gaussian",
    "uniform",
    "saltpepper",
    "fgsm",
    "pgd",
    "transfer-fgsm",
    "boundary",
    "autoattack",
    "autoattack-l2",
    "autoattack-l1",
    "square",
    *CORRUPTIONS,
)

# Names that stand for several.
GROUPS: dict[str, tuple[str, ...]] = {
    "noise": ("gaussian", "uniform", "saltpepper"),
    "published": ("gaussian", "uniform", "saltpepper", "transfer-fgsm", "boundary"),
    "corruptions": CORRUPTIONS,
    "all": ATTACK_NAMES,
}


def attack_names(asked: Iterable[str]) -> tuple[str, ...]:
    """Return the names of attacks that are asked for, groups taken apart, each once, in the order of `ATTACK_NAMES`.

    Raises:
        InputError: a name that is neither an attack nor a group.
    """
    names: set[str] = set()
    for name in asked:
        if name not in GROUPS and name not in ATTACK_NAMES:
            known = [*(name for name in ATTACK_NAMES if name not in CORRUPTIONS), *CORRUPTIONS, *GROUPS]
            raise InputError(f"{name}: no such attack; {nearest(name, known)}")
        names |= {*GROUPS.get(name, (name,))}
    return tuple(name for name in ATTACK_NAMES if name in names)
