"""Data sets in their publishers' own files: MNIST's, CIFAR's, scikit-learn's digits."""

import gzip
import hashlib
import pickle
import shutil
import tarfile
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch

from brainreg._utils.lazy import torchvision
from brainreg.data.files import files_fingerprint
from brainreg.data.images import readable, view_pixels
from brainreg.data.splits import held_out_test
from brainreg.data.types import Split, View
from brainreg.errors import InputError


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
        keep = held_out_test(labels, self.split)
        return view_pixels(images[keep].contiguous(), view), labels[keep]


class IdxFiles:
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
        return files_fingerprint(self.files())

    def decode(self, mode: str, view: View | None) -> tuple[torch.Tensor, torch.Tensor]:
        images = _read_idx(self.images, torchvision.datasets.mnist.read_image_file)
        labels = _read_idx(self.labels, torchvision.datasets.mnist.read_label_file)
        if len(images) != len(labels):
            raise InputError(f"{self.labels}: {len(labels)} labels for the {len(images)} images of {self.images.name}")
        return view_pixels(images[:, None].contiguous(), view), labels.long()


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


class CifarFiles:
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
            return files_fingerprint([self.archive])
        for name, _ in self.listed:
            if not (self.folder / name).is_file():
                raise self._incomplete(self.folder / name)
        return files_fingerprint([self.folder / name for name, _ in self.listed])

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
        return view_pixels(torch.from_numpy(pixels), view, mode), torch.tensor(labels)


TORCHVISION_FILES: dict[str, type[IdxFiles] | type[CifarFiles]] = {
    "MNIST": IdxFiles,
    "FashionMNIST": IdxFiles,
    "CIFAR10": CifarFiles,
    "CIFAR100": CifarFiles,
}
