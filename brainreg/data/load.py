"""A data set by its name or path: found, decoded, cached."""

import hashlib
from pathlib import Path

import torch

from brainreg._utils.paths import expand_home
from brainreg.data.augmentation import image_view, square_view
from brainreg.data.cache import load_cached
from brainreg.data.datasets import DATASETS, find_dataset, is_path
from brainreg.data.folders import ImageFolder
from brainreg.data.image_set import ImageFiles, ImageSet
from brainreg.data.published_files import TORCHVISION_FILES, Digits
from brainreg.data.sources import find_source
from brainreg.data.types import Purpose, Split


def load_dataset(
    name: str,
    split: Split,
    data_dir: str | Path = "data",
    rgb: bool = False,
    purpose: Purpose = "task",
    image_size: int | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Load every image of a split, in the order of its source.

    Looks in `data_dir` for torchvision's own files, then for folders in its ImageFolder layout
    (`CIFAR10/train/<class>/*.png`), then downloads with torchvision. What was decoded is kept beside the
    data, in `data_dir/cache`, and memory-mapped from there by every later call; the file is made anew when
    the source has changed or the file is damaged.

    Args:
        name: digits, MNIST, FashionMNIST, CIFAR10, CIFAR100, ImageNet; the path of an image folder, which
            holds `train/` and `test/` (or `val/`), or the class folders themselves; the path of a .npz file of
            arrays; or `torchvision:NAME`. Where there is no test split, it is a fixed class-balanced fifth.
        split: train or test.
        rgb: three channels instead of one; gray is PIL's luma.
        purpose: ImageNet's images have many sizes. As they are classified, they are resized to a shorter side of
            224 and cropped to the centre square; as regularization images they are cropped to the centre 144x256
            and resized to 36x64. No other data set depends on it.
        image_size: side of the images: each is resized so that its shorter side is as long, and the middle square
            is cut out. None leaves them as they are. Those of ImageNet do not depend on it.

    Returns:
        images (n, c, h, w) uint8 and labels (n,) int64.

    Raises:
        InputError: the data set is unknown, absent, unreadable, or gray while RGB is asked for.
    """
    loaded = load_images(name, split, data_dir, rgb, purpose, image_size)
    return loaded.tensor, loaded.labels


def load_images(
    name: str,
    split: Split,
    data_dir: str | Path = "data",
    rgb: bool = False,
    purpose: Purpose = "task",
    image_size: int | None = None,
) -> ImageSet:
    """Load as `load_dataset` does, with the checksum that the cache knows."""
    dataset, data_dir = find_dataset(name), Path(expand_home(data_dir))
    source, mode = find_source(dataset, split, data_dir, rgb)
    view, of_view = None, ""
    if dataset.varied_sizes:
        view, of_view = image_view(purpose), f"-{purpose}"
    elif image_size is not None:
        view, of_view = square_view(image_size), f"-{image_size}"
    if isinstance(source, Digits):
        return ImageSet(*source.decode(mode, view))
    label = f"{_label(dataset.name)}-{split}-{mode}{of_view}"
    path = data_dir / "cache" / f"{label}.pt"
    return load_cached(path, f"{source.fingerprint()} {mode} {view}", source, mode, view)


def load_training_images(
    name: str, data_dir: str | Path = "data", rgb: bool = False, image_size: int | None = None
) -> ImageSet:
    """Return the images of the training split as batches are cut from them, and their labels.

    Those are the tensors of `load_dataset`, except where the files have many sizes (ImageNet): augmentation
    crops those from the whole image, which is decoded when it is asked for.

    Raises:
        InputError: as `load_dataset`.
    """
    dataset = find_dataset(name)
    if not dataset.varied_sizes:
        return load_images(name, "train", data_dir, rgb, image_size=image_size)
    data_dir = Path(expand_home(data_dir))
    source, mode = find_source(dataset, "train", data_dir, rgb)
    assert isinstance(source, ImageFolder)  # what else there is has one size
    checksums = data_dir / "cache" / f"{_label(dataset.name)}-train-files.json"
    return ImageSet(ImageFiles(source, mode, checksums), source.labels)


def split_files(name: str, data_dir: str | Path, split: Split = "train") -> list[Path]:
    """Return the files of a known data set's split, those that are there: what another machine needs of it."""
    data_dir = Path(expand_home(data_dir))
    files = TORCHVISION_FILES[name](name, split, data_dir) if name in TORCHVISION_FILES else None
    if files is not None and files.exists():
        return files.files()
    folders = [data_dir / name / part for part in (("train",) if split == "train" else ("test", "val"))]
    return sorted(path for one in folders for path in one.rglob("*") if path.is_file()) if name in DATASETS else []


def _label(name: str) -> str:
    """A file name for a data set; two paths of one name differ in a digest of their paths."""
    if not is_path(name):
        return name.replace(":", "-")
    path = Path(name).resolve()
    return f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"
