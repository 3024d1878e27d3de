"""Which data sets there are, and what is special about each: strengths, scaling, augmentation."""

from dataclasses import dataclass
from pathlib import Path

from brainreg._utils.paths import expand_home
from brainreg.data.augmentation import no_augmentation, random_crop_and_flip, random_flip, random_resized_crop_and_flip
from brainreg.data.torchvision_names import TORCHVISION, TORCHVISION_NAMES
from brainreg.data.types import Augmentation
from brainreg.errors import InputError, nearest


@dataclass(frozen=True)
class Dataset:
    """What the method and its evaluation need to know of a data set.

    Attributes:
        name: its name, the path of a folder of images or of a file of arrays, or `torchvision:NAME`.
        gray: whether the images have one channel; RGB cannot be asked of those.
        centered: whether pixels are scaled to 5 * (x - 0.5) for the network, instead of left in [0, 1].
        augment: applied to each training batch.
        augment_regularization: applied once to the regularization images.
        noise_eps: largest strength of each noise curve (Gaussian, Uniform, SaltPepper), fraction of the pixel range.
        transfer_eps: largest strength of the curve of transferred FGSM, in units of [0, 1] pixels.
        attack_eps: strength of AutoAttack (Linf) in an evaluation, in units of [0, 1] pixels: one at which an
            unregularized network keeps between a fifth and four fifths of the images that it has right; for ImageNet
            and folders it is a guess. At the usual strengths (8/255, MNIST 0.3) no network of this kind keeps any.
        varied_sizes: whether the files have many sizes: images are cropped and resized as they are decoded, and
            those that are trained on stay in their files.

    Source: arXiv 2410.03952, appendix; noise_eps and transfer_eps of digits follow MNIST's, those of ImageNet and
    folders CIFAR-10's.
    """

    name: str
    gray: bool = False
    centered: bool = False
    augment: Augmentation = no_augmentation
    augment_regularization: Augmentation = no_augmentation
    noise_eps: tuple[float, float, float] = (0.1, 0.1, 0.1)
    transfer_eps: float = 0.02
    attack_eps: float = 0.004
    varied_sizes: bool = False


_MNIST_NOISE = (0.5, 0.5, 0.3)

DATASETS = {
    data.name: data
    for data in (
        Dataset("digits", gray=True, noise_eps=_MNIST_NOISE, transfer_eps=0.5, attack_eps=0.1),
        Dataset("MNIST", gray=True, noise_eps=_MNIST_NOISE, transfer_eps=0.5, attack_eps=0.07),
        Dataset("FashionMNIST", gray=True, noise_eps=_MNIST_NOISE, transfer_eps=0.5, attack_eps=0.02),
        Dataset("CIFAR10", centered=True, augment=random_crop_and_flip, augment_regularization=random_crop_and_flip),
        Dataset(
            "CIFAR100",
            centered=True,
            transfer_eps=0.005,
            attack_eps=0.002,
            augment=random_crop_and_flip,
            augment_regularization=random_crop_and_flip,
        ),
        Dataset(
            "ImageNet",
            augment=random_resized_crop_and_flip,
            augment_regularization=random_flip,
            varied_sizes=True,
        ),
    )
}

# How the name of a file of NumPy arrays ends.
ARRAYS = ".npz"


def is_path(name: str) -> bool:
    """Return whether a data set is named by where it lies: neither a known name nor one of torchvision's."""
    return name not in DATASETS and not name.startswith(TORCHVISION)


def find_dataset(name: str) -> Dataset:
    """Return the data set of a name, of the path of an image folder or a file of arrays, or one of torchvision's.

    Raises:
        InputError: there is none.
    """
    if name in DATASETS:
        return DATASETS[name]
    if name.startswith(TORCHVISION):
        _check_torchvision(name)
        return Dataset(name)
    path = Path(expand_home(name))
    if name.strip() and (path.is_dir() or (path.is_file() and name.endswith(ARRAYS))):
        return Dataset(expand_home(name))
    raise InputError(
        f"{name}: no such data set, and no folder of images or {ARRAYS} file there; {nearest(name, DATASETS)}"
    )


def _check_torchvision(name: str) -> None:
    own = name.removeprefix(TORCHVISION)
    if own in DATASETS:
        raise InputError(f"{name}: is known by its own name; must be {own}")
    if own not in TORCHVISION_NAMES:
        raise InputError(f"{name}: not a data set of torchvision that is known; {nearest(own, TORCHVISION_NAMES)}")
