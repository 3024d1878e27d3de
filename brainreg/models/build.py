"""Networks by name."""

from brainreg.models.base import SimilarityNetwork
from brainreg.models.names import TIMM, check_architecture, is_own
from brainreg.models.own import build_own
from brainreg.models.resnet import ARCHITECTURES, ResNet
from brainreg.models.timm import TimmNetwork


def build_model(
    archi: str, in_channels: int = 1, num_classes: int = 10, base_channels: int = 64, image_size: int = 32
) -> SimilarityNetwork:
    """Build an untrained network, with PyTorch's default initialization, or timm's for its own.

    Args:
        archi: ResNet18, ResNet34, ResNet50 or ResNet101; or any convolutional network of timm, say
            `timm:convnext_atto`; or PACKAGE.MODULE:FUNCTION, see `brainreg.models.own`.
        in_channels: 1 for gray images, 3 for RGB.
        num_classes: number of logits.
        base_channels: width c of the stem; the sections are c, 2c, 4c and 8c wide. timm's networks have their own.
        image_size: side of the square images that are classified. It fixes the linear layer: 28 and 32
            end at 1x1, 224 at 7x7.

    Raises:
        InputError: unknown architecture, or one of timm's or the user's that cannot be compared by its maps.
    """
    check_architecture(archi)
    if archi.startswith(TIMM):
        return TimmNetwork(archi.removeprefix(TIMM), in_channels, num_classes, image_size)
    if is_own(archi):
        return build_own(archi, in_channels, num_classes, image_size)
    return ResNet(ARCHITECTURES[archi], in_channels, num_classes, base_channels, image_size)
