"""Names of networks."""

from brainreg.errors import InputError, nearest

# The residual networks of `models.resnet`.
RESNETS = ("ResNet18", "ResNet34", "ResNet50", "ResNet101")

# What the name of one of timm's networks begins with.
TIMM = "timm:"


def check_architecture(archi: str) -> None:
    """Raise InputError unless there is such an architecture: a name in `RESNETS`, or `timm:` and timm's name."""
    if archi.startswith(TIMM):
        from brainreg.models.timm import check_timm_name  # with torch, which takes seconds

        check_timm_name(archi.removeprefix(TIMM))
    elif archi not in RESNETS:
        raise InputError(f"{archi}: no such architecture; {nearest(archi, [*RESNETS, f'{TIMM}NAME'])}")
