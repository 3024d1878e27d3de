"""Names of networks."""

import re

from brainreg.errors import InputError, nearest

# The residual networks of `models.resnet`.
RESNETS = ("ResNet18", "ResNet34", "ResNet50", "ResNet101")

# What the name of one of timm's networks begins with.
TIMM = "timm:"

# A function of the user's.
_OWN = re.compile(r"(?!timm:)[^\W\d]\w*(\.[^\W\d]\w*)*:[^\W\d]\w*")


def check_architecture(archi: str) -> None:
    """Raise InputError unless there is such an architecture: a name in `RESNETS`, `timm:` and timm's name, or
    PACKAGE.MODULE:FUNCTION, which is imported only when the network is built.
    """
    if archi.startswith(TIMM):
        from brainreg.models.timm import check_timm_name  # with torch, which takes seconds

        check_timm_name(archi.removeprefix(TIMM))
    elif archi not in RESNETS and not is_own(archi):
        known = [*RESNETS, f"{TIMM}NAME", "PACKAGE.MODULE:FUNCTION"]
        raise InputError(f"{archi}: no such architecture; {nearest(archi, known)}")


def is_own(archi: str) -> bool:
    """Return whether a network's name is PACKAGE.MODULE:FUNCTION, a function of the user's that makes it."""
    return _OWN.fullmatch(archi) is not None
