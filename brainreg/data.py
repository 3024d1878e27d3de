"""Image data sets: where they are found, how they are decoded and cached, split, and augmented.

Images travel as uint8 tensors (n, c, h, w), the whole data set at once; batches are cut from it and
augmented as tensors, on whatever device it lies. ImageNet's training images, of many sizes and too many to
hold, stay in their files (`ImageFiles`) until a batch is cut.
"""

import contextlib
import functools
import gzip
import hashlib
import importlib
import json
import logging
import os
import pickle
import shutil
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextvars import ContextVar
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from brainreg.errors import InputError, nearest
from brainreg.fingerprints import checksum, fingerprint
from brainreg.images import class_names, first_line, is_gray, list_images, note_left_out, read_image, readable
from brainreg.paths import expand_home
from brainreg.seeds import Stream, seeded_generator

logger = logging.getLogger(__name__)


class _LazyModule:
    """A module that is imported when it is first used: torchvision takes over a second, and many searches need none."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


torchvision, v2 = _LazyModule("torchvision"), _LazyModule("torchvision.transforms.v2")

Split = Literal["train", "test"]
Purpose = Literal["task", "regularization"]
View = Callable[[Image.Image], Image.Image]
Augmentation = Callable[[torch.Tensor | Sequence[torch.Tensor], torch.Generator], torch.Tensor]

# ---------------------------------------------------------------------------------------------
# Augmentation: uint8 batches in, uint8 batches out; every draw comes from the given CPU generator
# ---------------------------------------------------------------------------------------------


def no_augmentation(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Return the images as they are."""
    return images


def random_flip(images: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """Flip each image of (n, c, h, w) horizontally with probability one half."""
    flips = (torch.rand(len(images), generator=generator) < 0.5).to(images.device)
    return torch.where(flips[:, None, None, None], images.flip(-1), images)


def random_crop_and_flip(images: torch.Tensor, generator: torch.Generator, padding: int = 4) -> torch.Tensor:
    """Crop each image of (n, c, h, w) at its own size from its reflection-padded self, and flip half of them.

    Source: arXiv 2410.03952, appendix (CIFAR augmentation).
    """
    n, channels, height, width = images.shape
    shifts = torch.randint(-padding, padding + 1, (2, n, 1), generator=generator)
    flips = torch.rand(n, 1, generator=generator) < 0.5
    rows = _reflect(torch.arange(height) + shifts[0], height)
    columns = _reflect(torch.arange(width) + shifts[1], width)
    columns = torch.where(flips, columns.flip(1), columns)
    rows, columns = rows.to(images.device), columns.to(images.device)
    image = torch.arange(n, device=images.device)[:, None, None, None]
    channel = torch.arange(channels, device=images.device)[None, :, None, None]
    return images[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _reflect(index: torch.Tensor, size: int) -> torch.Tensor:
    """Mirror indices that lie outside 0 .. size - 1 at the edge pixel, which is not repeated."""
    index = index.abs()
    return torch.where(index >= size, 2 * (size - 1) - index, index)


def random_resized_crop_and_flip(
    images: torch.Tensor | Sequence[torch.Tensor], generator: torch.Generator, size: int = 224
) -> torch.Tensor:
    """Crop 8% to 100% of each image (c, h, w) at aspect 3:4 to 4:3, resize to `size`, flip half of them.

    The images may have many sizes; what returns is (n, c, size, size).

    Source: torchvision's RandomResizedCrop, whose rule this follows with draws of its own.
    """
    n, tries = len(images), 10
    area = torch.empty(n, tries).uniform_(0.08, 1, generator=generator)
    aspect = torch.empty(n, tries).uniform_(np.log(3 / 4), np.log(4 / 3), generator=generator).exp()
    corner = torch.rand(n, 2, generator=generator)
    crops = []
    for image, areas, aspects, (down, right) in zip(images, area, aspect, corner.tolist(), strict=True):
        height, width = image.shape[-2:]
        heights = (height * width * areas / aspects).sqrt().round().long()
        widths = (height * width * areas * aspects).sqrt().round().long()
        fits = ((heights <= height) & (widths <= width)).nonzero().flatten()
        if len(fits):
            h, w = int(heights[fits[0]]), int(widths[fits[0]])
            top, left = int(down * (height - h + 1)), int(right * (width - w + 1))
        else:  # of a very long image, the middle, at the aspect that is nearest to its own
            h, w = min(height, round(width * 4 / 3)), min(width, round(height * 4 / 3))
            top, left = (height - h) // 2, (width - w) // 2
        crops.append(v2.functional.resized_crop(image, top, left, h, w, [size, size], antialias=True))
    return random_flip(torch.stack(crops), generator)


# ---------------------------------------------------------------------------------------------
# The data sets
# ---------------------------------------------------------------------------------------------


@functools.cache
def _view(purpose: Purpose) -> View:
    """What is made of an image where images come in many sizes: to classify it, or to regularize with it."""
    if purpose == "task":
        return v2.Compose([v2.Resize(224), v2.CenterCrop(224)])
    return v2.Compose([v2.CenterCrop((144, 256)), v2.Resize((36, 64))])


@dataclass(frozen=True)
class Dataset:
    """What the method and its evaluation need to know of a data set.

    Attributes:
        name: its name, or the path of a folder in torchvision's ImageFolder layout.
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


def find_dataset(name: str) -> Dataset:
    """Return the data set of a name, or of the path of an image folder.

    Raises:
        InputError: neither a known name nor a folder.
    """
    if name in DATASETS:
        return DATASETS[name]
    if name.strip() and Path(expand_home(name)).is_dir():
        return Dataset(expand_home(name))
    raise InputError(f"{name}: no such data set, and no folder of images there; {nearest(name, DATASETS)}")


def load_dataset(
    name: str,
    split: Split,
    data_dir: str | Path = "data",
    rgb: bool = False,
    purpose: Purpose = "task",
) -> tuple[torch.Tensor, torch.Tensor]:
    """Load every image of a split, in the order of its source.

    Looks in `data_dir` for torchvision's own files, then for folders in its ImageFolder layout
    (`CIFAR10/train/<class>/*.png`), then downloads with torchvision. What was decoded is kept beside the
    data, in `data_dir/cache`, and memory-mapped from there by every later call; the file is made anew when
    the source has changed or the file is damaged.

    Args:
        name: digits, MNIST, FashionMNIST, CIFAR10, CIFAR100, ImageNet, or the path of an image folder, which
            holds `train/` and `test/` (or `val/`), or the class folders themselves, of which a fixed
            class-balanced fifth is then the test split.
        split: train or test.
        rgb: three channels instead of one; gray is PIL's luma.
        purpose: ImageNet's images have many sizes. As they are classified, they are resized to a shorter side of
            224 and cropped to the centre square; as regularization images they are cropped to the centre 144x256
            and resized to 36x64. No other data set depends on it.

    Returns:
        images (n, c, h, w) uint8 and labels (n,) int64.

    Raises:
        InputError: the data set is unknown, absent, unreadable, or gray while RGB is asked for.
    """
    loaded = load_images(name, split, data_dir, rgb, purpose)
    return loaded.images, loaded.labels


@dataclass(frozen=True)
class ImageSet:
    """Images and what tells them from others.

    Attributes:
        images: (n, c, h, w) uint8, or files.
        labels: (n,) int64.
        checksum: of both, where it is known.
    """

    images: "torch.Tensor | ImageFiles"
    labels: torch.Tensor
    checksum: int | None = None

    @property
    def fingerprint(self) -> str:
        """A short text that differs between sets, from all bytes of the images and all labels; see
        `brainreg.fingerprints`."""
        if isinstance(self.images, ImageFiles):
            return self.images.fingerprint()
        return fingerprint(self.images, self.labels, self.checksum)


def load_images(
    name: str, split: Split, data_dir: str | Path = "data", rgb: bool = False, purpose: Purpose = "task"
) -> ImageSet:
    """Load as `load_dataset` does, with the checksum that the cache knows."""
    dataset, data_dir = find_dataset(name), Path(expand_home(data_dir))
    source, mode = _find_source(dataset, split, data_dir, rgb)
    view = _view(purpose) if dataset.varied_sizes else None
    if isinstance(source, _Digits):
        return ImageSet(*source.decode(mode, view))
    label = f"{_label(dataset.name)}-{split}-{mode}" + (f"-{purpose}" if view else "")
    path = data_dir / "cache" / f"{label}.pt"
    return _cached(path, f"{source.fingerprint()} {mode} {view}", source, mode, view)


def load_training_images(name: str, data_dir: str | Path = "data", rgb: bool = False) -> ImageSet:
    """Return the images of the training split as batches are cut from them, and their labels.

    Those are the tensors of `load_dataset`, except where the files have many sizes (ImageNet): augmentation
    crops those from the whole image, which is decoded when it is asked for.

    Raises:
        InputError: as `load_dataset`.
    """
    dataset = find_dataset(name)
    if not dataset.varied_sizes:
        return load_images(name, "train", data_dir, rgb)
    data_dir = Path(expand_home(data_dir))
    source, mode = _find_source(dataset, "train", data_dir, rgb)
    checksums = data_dir / "cache" / f"{_label(dataset.name)}-train-files.json"
    return ImageSet(ImageFiles(source, mode, checksums), source.labels)


def to_download(names: Iterable[str | None], data_dir: str | Path, split: Split = "train") -> list[str]:
    """Return those of some data sets of which `data_dir` has nothing, so that loading them begins with a download."""
    known = dict.fromkeys(name for name in names if name in _TORCHVISION_FILES)
    return [name for name in known if _stored(name, split, Path(expand_home(data_dir))) is None]


_keeps_files: ContextVar[bool] = ContextVar("keeps_files", default=True)


@contextlib.contextmanager
def nothing_written() -> Iterator[None]:
    """Load data without downloading them, and without writing what was decoded to `data_dir/cache`."""
    token = _keeps_files.set(False)
    try:
        yield
    finally:
        _keeps_files.reset(token)


def split_files(name: str, data_dir: str | Path, split: Split = "train") -> list[Path]:
    """Return the files of a known data set's split, those that are there: what another machine needs of it."""
    data_dir = Path(expand_home(data_dir))
    files = _TORCHVISION_FILES[name](name, split, data_dir) if name in _TORCHVISION_FILES else None
    if files is not None and files.exists():
        return files.files()
    folders = [data_dir / name / part for part in (("train",) if split == "train" else ("test", "val"))]
    return sorted(path for one in folders for path in one.rglob("*") if path.is_file()) if name in DATASETS else []


class ImageFiles:
    """Images of many sizes that stay in their files. `files[index]` decodes those of an index (k,): a list of
    uint8 tensors (c, h, w)."""

    def __init__(self, source: "_ImageFolder", mode: str, checksums: Path):
        """`checksums`: file that keeps the fingerprint, so that all bytes are read but once."""
        self._source, self._mode, self._checksums = source, mode, checksums

    def __len__(self) -> int:
        return len(self._source.labels)

    def __getitem__(self, index: torch.Tensor) -> list[torch.Tensor]:
        return [_channels_first(pixels) for pixels in self._source.read(index.tolist(), self._mode, None)]

    def classified(self, index: torch.Tensor) -> torch.Tensor:
        """Return the images of an index (k,) as they are classified without augmentation: (k, c, 224, 224)."""
        views = self._source.read(index.tolist(), self._mode, _view("task"))
        return torch.stack([_channels_first(pixels) for pixels in views])

    def fingerprint(self) -> str:
        """A short text that differs between sets of files, from all their bytes, wherever they lie.

        They are read when it is asked for first, and again when a name, a size or a time has changed.
        """
        key, path = self._source.fingerprint(), self._checksums
        with contextlib.suppress(OSError, ValueError, KeyError, TypeError):  # absent or damaged: made anew
            stored = json.loads(path.read_text())
            if stored["key"] == key:
                return stored["fingerprint"]
        found = f"{len(self)}-{self._source.checksum()[:16]}"
        _write_cache(path, lambda file: file.write(json.dumps({"key": key, "fingerprint": found}).encode()))
        return found


def _channels_first(pixels: np.ndarray) -> torch.Tensor:
    """Return decoded pixels, (h, w) or (h, w, c), as (c, h, w)."""
    pixels = torch.from_numpy(pixels)
    return pixels[None] if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()


def _label(name: str) -> str:
    """A file name for a data set; two folders of one name differ in a digest of their paths."""
    if name in DATASETS:
        return name
    path = Path(name).resolve()
    return f"{path.name}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}"


# ---------------------------------------------------------------------------------------------
# Sources: each says what it would decode (its fingerprint), and decodes it
# ---------------------------------------------------------------------------------------------


class _Digits:
    """scikit-learn's 1,797 handwritten digits, which ship with it.

    The 8x8 images are enlarged to 16x16, the least that leaves the network's last section more than one
    pixel. They have no test split of their own: a fixed class-balanced fifth serves as one.
    """

    def __init__(self, split: Split):
        self.split = split

    def decode(self, mode: str, view: View | None) -> tuple[torch.Tensor, torch.Tensor]:
        from sklearn.datasets import load_digits

        digits = load_digits()
        small = np.round(digits.images * (255 / 16)).astype(np.uint8)
        images = torch.from_numpy(small).repeat_interleave(2, dim=1).repeat_interleave(2, dim=2)[:, None]
        labels = torch.from_numpy(digits.target).long()
        keep = _held_out_test(labels, self.split)
        return images[keep].contiguous(), labels[keep]


class _IdxFiles:
    """MNIST's own files, in torchvision's layout `<name>/raw/*-ubyte`, or as they are downloaded, `*-ubyte.gz`."""

    def __init__(self, name: str, split: Split, data_dir: Path):
        prefix = "train" if split == "train" else "t10k"
        self.folder = data_dir / name / "raw"
        self.images, self.labels = (
            _packed_or_not(self.folder / f"{prefix}-{kind}-ubyte") for kind in ("images-idx3", "labels-idx1")
        )

    def exists(self) -> bool:
        return self.images.is_file() and self.labels.is_file()

    def missing(self) -> list[Path]:
        """Of files of which some are there, those that are not."""
        absent = [path for path in (self.images, self.labels) if not path.is_file()]
        return absent if len(absent) == 1 else []

    def files(self) -> list[Path]:
        return [self.images, self.labels]

    def fingerprint(self) -> str:
        return _fingerprint(self.files())

    def decode(self, mode: str, view: View | None) -> tuple[torch.Tensor, torch.Tensor]:
        images = _read_idx(self.images, torchvision.datasets.mnist.read_image_file)
        labels = _read_idx(self.labels, torchvision.datasets.mnist.read_label_file)
        if len(images) != len(labels):
            raise InputError(f"{self.labels}: {len(labels)} labels for the {len(images)} images of {self.images.name}")
        return images[:, None].contiguous(), labels.long()


def _packed_or_not(path: Path) -> Path:
    """A file, or what it is packed in where that alone is there."""
    packed = path.with_name(f"{path.name}.gz")
    return packed if packed.is_file() and not path.is_file() else path


def _read_idx(path: Path, read: Callable[[str], torch.Tensor]) -> torch.Tensor:
    with readable(path):
        try:
            if path.suffix != ".gz":
                return read(str(path))
            with tempfile.NamedTemporaryFile() as unpacked:
                with gzip.open(path) as content:
                    shutil.copyfileobj(content, unpacked)
                unpacked.flush()
                return read(unpacked.name)
        except AssertionError as error:  # which is all that torchvision says
            raise ValueError("its bytes do not fit its header; perhaps only a part was downloaded") from error


class _CifarFiles:
    """CIFAR's own pickles, in torchvision's layout or in the archive that it downloads; it knows their checksums."""

    def __init__(self, name: str, split: Split, data_dir: Path):
        self.kind = getattr(torchvision.datasets, name)
        self.folder, self.archive = data_dir / self.kind.base_folder, data_dir / self.kind.filename
        self.listed = self.kind.train_list if split == "train" else self.kind.test_list

    def exists(self) -> bool:
        return self.folder.is_dir() or self.archive.is_file()

    def missing(self) -> list[Path]:
        return []  # exists() is true where some are there, and decode() names what is missing

    def _packed(self) -> bool:
        return self.archive.is_file() and not all((self.folder / name).is_file() for name, _ in self.listed)

    def files(self) -> list[Path]:
        return [self.archive] if self._packed() else sorted(path for path in self.folder.iterdir() if path.is_file())

    def fingerprint(self) -> str:
        if self._packed():
            return _fingerprint([self.archive])
        for name, _ in self.listed:
            if not (self.folder / name).is_file():
                raise self._incomplete(self.folder / name)
        return _fingerprint([self.folder / name for name, _ in self.listed])

    def _incomplete(self, path: Path) -> InputError:
        whole = self.archive if self._packed() else self.folder
        return InputError(f"{path}: missing or damaged; remove {whole} to have it downloaded again")

    def _contents(self) -> Iterator[tuple[Path, bytes]]:
        if not self._packed():
            for name, _ in self.listed:
                with readable(self.folder / name):
                    yield self.folder / name, (self.folder / name).read_bytes()
            return
        try:
            with tarfile.open(self.archive) as archive:
                for name, _ in self.listed:
                    yield self.archive, archive.extractfile(f"{self.kind.base_folder}/{name}").read()
        except (tarfile.TarError, KeyError, OSError, EOFError, zlib.error) as error:
            raise self._incomplete(self.archive) from error

    def decode(self, mode: str, view: View | None) -> tuple[torch.Tensor, torch.Tensor]:
        images, labels = [], []
        for (path, content), (_, md5) in zip(self._contents(), self.listed, strict=True):
            if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
                raise self._incomplete(path)
            part = pickle.loads(content, encoding="latin1")  # the checksum says that it is the published pickle
            images.append(part["data"].reshape(-1, 3, 32, 32))
            labels.extend(part.get("labels", part.get("fine_labels")))
        pixels = np.concatenate(images)
        if mode == "L":
            gray = [np.asarray(Image.fromarray(image).convert("L")) for image in pixels.transpose(0, 2, 3, 1)]
            pixels = np.stack(gray)[:, None]
        return torch.from_numpy(np.ascontiguousarray(pixels)), torch.tensor(labels)


_DECODED_AHEAD = 1024  # images at a time, so that those of a million files do not pile up


def _file_checksum(path: str) -> str:
    size = total = 0
    with readable(path), open(path, "rb") as file:
        while content := file.read(2**20):
            size, total = size + len(content), zlib.crc32(content, total)
    return f"{size} {total}"


# Folders of these names are parts of a data set, not classes.
_PARTS = {"train", "training", "test", "testing", "val", "valid", "validation"}

# What 16-bit images that hold fewer bits stay below in 8 bits, and masks, too.
_DARK = 64


class _ImageFolder:
    """A folder in torchvision's ImageFolder layout: one folder a class, sorted by name."""

    def __init__(self, folder: Path, like: Path | None = None, split: Split | None = None):
        """`like`: a folder that must have the same classes. `split`: the part to take of a folder that is undivided."""
        self.folder = folder
        classes = class_names(folder)
        if like is not None:
            if os.path.realpath(folder) == os.path.realpath(like):
                raise InputError(f"{folder}: the same folder as {like}; images to test on must be others")
            if odd := sorted(set(classes) ^ set(class_names(like))):
                raise InputError(f"{folder}: its classes differ from those of {like}: {', '.join(odd[:5])}")
        if split is not None and (parts := [name for name in classes if name.lower() in _PARTS]):
            raise InputError(
                f"{folder}: {', '.join(parts)} in it, but no train; must hold train and test (or val), or a folder of"
                " images for each class"
            )
        listed = list_images(folder, classes)
        self.samples, self.left_out = listed.samples, listed.left_out
        if split is not None:
            keep = _held_out_test(self.labels, split)
            self.samples = [self.samples[i] for i in keep]
            if not self.samples:
                raise InputError(f"{folder}: no class has two images, so that none is left to test on")

    @property
    def labels(self) -> torch.Tensor:
        return torch.tensor([label for _, label in self.samples])

    def fingerprint(self) -> str:
        return _fingerprint([path for path, _ in self.samples], os.fspath(self.folder))

    def checksum(self) -> str:
        """A digest of all bytes of the files and of their classes."""
        digest = hashlib.sha256()
        paths = [path for path, _ in self.samples]
        with ThreadPoolExecutor() as pool:
            parts = pool.map(_file_checksum, paths)
            shown = tqdm(parts, f"reading {self.folder}", len(paths), leave=False, disable=None)
            for part, (_, label) in zip(shown, self.samples, strict=True):
                digest.update(f"{part} {label}\n".encode())
        return digest.hexdigest()

    def read(self, indices: Sequence[int], mode: str, view: View | None) -> Iterator[np.ndarray]:
        """Decode the images of these indices, in their order, each (h, w) or (h, w, c)."""

        def decode(i: int) -> np.ndarray:
            image = read_image(self.samples[i][0], mode)
            return np.array(view(image) if view else image)

        with ThreadPoolExecutor() as pool:  # Pillow decodes outside the interpreter's lock
            for start in range(0, len(indices), _DECODED_AHEAD):
                yield from pool.map(decode, indices[start : start + _DECODED_AHEAD])

    def decode(self, mode: str, view: View | None) -> tuple[torch.Tensor, torch.Tensor]:
        looked_at = self.samples[:: max(1, len(self.samples) // 16)]
        if mode == "RGB" and all(is_gray(path) for path, _ in looked_at):
            raise InputError(f"rgb=True: the images of {self.folder} are gray; leave rgb out")
        note_left_out(self.folder, self.left_out)
        pixels = None
        decoded = self.read(range(len(self.samples)), mode, view)
        shown = tqdm(decoded, f"decoding {self.folder}", len(self.samples), leave=False, disable=None)
        for i, image in enumerate(shown):
            if pixels is None:
                pixels = np.empty((len(self.samples), *image.shape), np.uint8)
            if image.shape != pixels.shape[1:]:
                raise InputError(
                    f"{self.samples[i][0]}: {image.shape[1]}x{image.shape[0]} pixels, while the first image of the"
                    f" folder has {pixels.shape[2]}x{pixels.shape[1]}; all must have one size"
                )
            pixels[i] = image
        if (brightest := pixels.max()) < _DARK:
            logger.warning(
                "%s: the brightest pixel of all is %d of 255: masks, or 16-bit files of fewer bits?",
                self.folder,
                brightest,
            )
        images = torch.from_numpy(pixels)
        images = images[:, None] if mode == "L" else images.permute(0, 3, 1, 2).contiguous()
        return images, self.labels


_Source = _Digits | _IdxFiles | _CifarFiles | _ImageFolder
_TORCHVISION_FILES = {"MNIST": _IdxFiles, "FashionMNIST": _IdxFiles, "CIFAR10": _CifarFiles, "CIFAR100": _CifarFiles}


def _find_source(dataset: Dataset, split: Split, data_dir: Path, rgb: bool) -> tuple[_Source, str]:
    """Return where the images of a split come from, and the mode (Pillow's name) to decode them in."""
    if rgb and dataset.gray:
        raise InputError(f"rgb=True: the images of {dataset.name} are gray; leave rgb out")
    return _locate(dataset.name, split, data_dir), "RGB" if rgb else "L"


def _locate(name: str, split: Split, data_dir: Path) -> _Source:
    if name == "digits":
        return _Digits(split)
    if name not in DATASETS:
        folder = Path(name)
        if not (folder / "train").is_dir():
            return _ImageFolder(folder, split=split)
        return _split_folder(folder, split)
    if (stored := _stored(name, split, data_dir)) is not None:
        return stored
    looked = f"{data_dir / name / 'train'}/<class>/*.png"
    if name not in _TORCHVISION_FILES:
        raise InputError(f"{name}: not found; looked for {looked}; put the images there, a folder a class")
    files = _TORCHVISION_FILES[name](name, split, data_dir)
    looked = f"{files.folder} and {looked}"
    if missing := files.missing():
        looked += f"; {missing[0]} is missing"
    try:
        _download(name, data_dir)
    except Exception as error:  # torchvision raises whatever the network did
        raise InputError(
            f"{name}: not found; looked for {looked}, and the download failed ({first_line(error)});"
            f" put torchvision's files or the image folders there, or name another folder with --data_dir"
        ) from error
    return files


def _stored(name: str, split: Split, data_dir: Path) -> _Source | None:
    """What `data_dir` has of a known data set: torchvision's files, or folders of images; None where it has neither."""
    files = _TORCHVISION_FILES[name](name, split, data_dir) if name in _TORCHVISION_FILES else None
    if files is not None and files.exists():
        return files
    return _split_folder(data_dir / name, split) if (data_dir / name / "train").is_dir() else None


def _split_folder(folder: Path, split: Split) -> _ImageFolder:
    if split == "train":
        return _ImageFolder(folder / "train")
    for name in ("test", "val"):
        if (folder / name).is_dir():
            return _ImageFolder(folder / name, like=folder / "train")
    raise InputError(f"{folder}: no test images; looked for {folder / 'test'} and {folder / 'val'}")


def _download(name: str, data_dir: Path) -> None:
    """Download a data set with torchvision; where that fails, nothing of it is left."""
    if not _keeps_files.get():
        raise OSError("nothing is downloaded now")
    logger.info("%s is not in %s; downloading it", name, data_dir)
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(20)  # torchvision sets none, and a silent network would hold the run for ever
    try:
        with tempfile.TemporaryDirectory() as folder:
            getattr(torchvision.datasets, name)(folder, download=True)
            shutil.copytree(folder, data_dir, dirs_exist_ok=True)
    finally:
        socket.setdefaulttimeout(timeout)


def _fingerprint(paths: Sequence[str | Path], root: str | None = None) -> str:
    """Names below `root` (or below their own folders), sizes and times of the files: whether to decode them again."""
    digest, path = hashlib.sha256(b"2"), ""  # which changes when what is decoded does
    try:
        for path in map(os.fspath, paths):  # texts, since a data set may have a million files
            status = os.stat(path)
            name = os.path.basename(path) if root is None else path[len(root) :]
            digest.update(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    except OSError as error:
        with readable(path):
            raise error
    return digest.hexdigest()


def _held_out_test(labels: torch.Tensor, split: Split) -> torch.Tensor:
    """Indices of a split, for data without a test split of its own: a class-balanced fifth, always the same."""
    train, test = split_train_validation(labels, 0.2, seed=0)
    return train if split == "train" else test


# ---------------------------------------------------------------------------------------------
# Cache
# ---------------------------------------------------------------------------------------------


_UMASK = os.umask(0o077)  # can only be read by setting it
os.umask(_UMASK)


def _cached(path: Path, key: str, source: _Source, mode: str, view: View | None) -> ImageSet:
    """Return what `source` decodes, from the file at `path` where that is whole and was made for `key`."""
    stored = _read_cache(path, key)
    if stored is not None:
        return stored
    images, labels = source.decode(mode, view)
    content = {"key": key, "checksum": checksum(images, labels), "images": images, "labels": labels}
    written = _write_cache(path, lambda file: torch.save(content, file))
    return (written and _read_cache(path, key)) or ImageSet(images, labels, content["checksum"])


def _write_cache(path: Path, write: Callable[[BinaryIO], object]) -> bool:
    """Let `write` make a file as a whole; False where that is impossible, or nothing shall be written."""
    if not _keeps_files.get():
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".part", delete=False) as file:
            try:
                write(file)
                file.close()
                os.chmod(file.name, 0o666 & ~_UMASK)  # a temporary file is its owner's alone
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        logger.warning("%s: cannot be written (%s); the images are read again each time", path, first_line(error))
        return False
    return True


def _read_cache(path: Path, key: str) -> ImageSet | None:
    if not path.exists():
        return None
    try:
        stored = torch.load(path, mmap=True, weights_only=True)
        if stored["key"] != key:
            return None
        images, labels = stored["images"], stored["labels"]
        if stored["checksum"] != (total := checksum(images, labels)):
            raise ValueError("its checksum does not fit its content")
        return ImageSet(images, labels, total)
    except Exception as error:  # a damaged file fails in many ways, and all are mended the same way
        logger.warning("%s: damaged (%s); it is made anew", path, first_line(error))
        return None


# ---------------------------------------------------------------------------------------------
# Splits and choices
# ---------------------------------------------------------------------------------------------


def split_train_validation(labels: torch.Tensor, portion: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide a training split at random, keeping the proportions of the classes; each class keeps an image to train on.

    Args:
        labels: (n,) int64.
        portion: fraction of the images that go to validation, in [0, 1); rounded to a whole number of images, where
            classes of one image do not make it fewer.
        seed: of the draw.

    Returns:
        Sorted indices of the training and of the validation images.
    """
    generator = seeded_generator(seed, Stream.SPLIT)
    wanted = round(portion * len(labels))
    counts = torch.bincount(labels)
    shares = counts.double() * wanted / max(len(labels), 1)
    quota = shares.floor().long().minimum((counts - 1).clamp(min=0))
    # What rounding down left over goes to the largest remainders, ties at random.
    order = torch.randperm(len(counts), generator=generator)
    order = order[(shares - quota)[order].argsort(descending=True, stable=True)]
    while (left := wanted - int(quota.sum())) > 0 and len(order := order[(quota < counts - 1)[order]]):
        quota[order[:left]] += 1
    taken = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(quota.tolist()):
        members = (labels == label).nonzero().flatten()
        taken[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~taken).nonzero().flatten(), taken.nonzero().flatten()


def first_images(labels: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Return the indices of the first `count` images; where the images are ordered by class, of a random `count`.

    torchvision's own files mix the classes; a folder holds one class after the other, and its first images
    would all be of one class.
    """
    if bool((labels[1:] >= labels[:-1]).all()):
        return torch.randperm(len(labels), generator=seeded_generator(seed, Stream.FIRST_IMAGES))[:count]
    return torch.arange(count)
