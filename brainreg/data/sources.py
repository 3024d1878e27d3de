"""Where images come from: torchvision's own files, packed or not, folders of images, scikit-learn's digits."""

import gzip
import hashlib
import os
import pickle
import shutil
import socket
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from brainreg._utils.lazy import torchvision
from brainreg._utils.paths import expand_home
from brainreg.data.datasets import DATASETS, Dataset
from brainreg.data.files import keeps_files, logger
from brainreg.data.images import class_names, first_line, is_gray, list_images, note_left_out, read_image, readable
from brainreg.data.splits import split_train_validation
from brainreg.data.types import Split, View
from brainreg.errors import InputError


def to_download(names: Iterable[str | None], data_dir: str | Path, split: Split = "train") -> list[str]:
    """Return those of some data sets of which `data_dir` has nothing, so that loading them begins with a download."""
    known = dict.fromkeys(name for name in names if name in TORCHVISION_FILES)
    return [name for name in known if _stored(name, split, Path(expand_home(data_dir))) is None]


class Digits:
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
                    member = archive.extractfile(f"{self.kind.base_folder}/{name}")
                    if member is None:
                        raise self._incomplete(self.archive)
                    yield self.archive, member.read()
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


class ImageFolder:
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
        assert pixels is not None  # no class is without images
        if (brightest := pixels.max()) < _DARK:
            logger.warning(
                "%s: the brightest pixel of all is %d of 255: masks, or 16-bit files of fewer bits?",
                self.folder,
                brightest,
            )
        images = torch.from_numpy(pixels)
        images = images[:, None] if mode == "L" else images.permute(0, 3, 1, 2).contiguous()
        return images, self.labels


Source = Digits | _IdxFiles | _CifarFiles | ImageFolder


TORCHVISION_FILES: dict[str, type[_IdxFiles] | type[_CifarFiles]] = {
    "MNIST": _IdxFiles,
    "FashionMNIST": _IdxFiles,
    "CIFAR10": _CifarFiles,
    "CIFAR100": _CifarFiles,
}


def find_source(dataset: Dataset, split: Split, data_dir: Path, rgb: bool) -> tuple[Source, str]:
    """Return where the images of a split come from, and the mode (Pillow's name) to decode them in."""
    if rgb and dataset.gray:
        raise InputError(f"rgb=True: the images of {dataset.name} are gray; leave rgb out")
    return _locate(dataset.name, split, data_dir), "RGB" if rgb else "L"


def _locate(name: str, split: Split, data_dir: Path) -> Source:
    if name == "digits":
        return Digits(split)
    if name not in DATASETS:
        folder = Path(name)
        if not (folder / "train").is_dir():
            return ImageFolder(folder, split=split)
        return _split_folder(folder, split)
    if (stored := _stored(name, split, data_dir)) is not None:
        return stored
    looked = f"{data_dir / name / 'train'}/<class>/*.png"
    if name not in TORCHVISION_FILES:
        raise InputError(f"{name}: not found; looked for {looked}; put the images there, a folder a class")
    files = TORCHVISION_FILES[name](name, split, data_dir)
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


def _stored(name: str, split: Split, data_dir: Path) -> Source | None:
    """What `data_dir` has of a known data set: torchvision's files, or folders of images; None where it has neither."""
    files = TORCHVISION_FILES[name](name, split, data_dir) if name in TORCHVISION_FILES else None
    if files is not None and files.exists():
        return files
    return _split_folder(data_dir / name, split) if (data_dir / name / "train").is_dir() else None


def _split_folder(folder: Path, split: Split) -> ImageFolder:
    if split == "train":
        return ImageFolder(folder / "train")
    for name in ("test", "val"):
        if (folder / name).is_dir():
            return ImageFolder(folder / name, like=folder / "train")
    raise InputError(f"{folder}: no test images; looked for {folder / 'test'} and {folder / 'val'}")


def _download(name: str, data_dir: Path) -> None:
    """Download a data set with torchvision; where that fails, nothing of it is left."""
    if not keeps_files.get():
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
        for path in (os.fspath(one) for one in paths):  # texts, since a data set may have a million files
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
