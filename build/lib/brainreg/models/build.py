"""Networks by name."""

from brainreg.errors import InputError, nearest
from brainreg.models.base import SimilarityNetwork
from brainreg.models.resnet import ARCHITECTURES, ResNet
from brainreg.models.timm import TIMM, TimmNetwork, check_timm_name


def check_architecture(archi: str) -> None:
    """Raise InputError unless there is such an architecture: a name in `ARCHITECTURES`, or `timm:` and timm's name."""
    if archi.startswith(TIMM):
        check_timm_name(archi.removeprefix(TIMM))
    elif archi not in ARCHITECTURES:
        known = [*ARCHITECTURES, f"{TIMM}NAME"]
        raise InputError(f"{archi}: no such architecture; {nearest(archi, known)}")


def build_model(
    archi: str, in_channels: int = 1, num_classes: int = 10, base_channels: int = 64, image_size: int = 32
) -> SimilarityNetwork:
    """Build an untrained network, with PyTorch's default initialization, or timm's for its own.

    Args:
        archi: ResNet18, ResNet34, ResNet50 or ResNet101; or any convolutional network of timm, say
            `timm:convnext_atto`.
        in_channels: 1 for gray images, 3 for RGB.
        num_classes: number of logits.
        base_channels: width c of the stem; the sections are c, 2c, 4c and 8c wide. timm's networks have their own.
        image_size: side of the square images that are classified. It fixes the linear layer: 28 and 32
            end at 1x1, 224 at 7x7.

    Raises:
        InputError: unknown architecture, or one of timm's that cannot be compared by its maps.
    """
    check_architecture(archi)
    if archi.startswith(TIMM):
        return TimmNetwork(archi.removeprefix(TIMM), in_channels, num_classes, image_size)
    return ResNet(ARCHITECTURES[archi], in_channels, num_classes, base_channels, image_size)
