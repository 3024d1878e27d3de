"""The data sets of torchvision that are asked for by name, as torchvision itself reads them."""

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from brainreg._utils.lazy import torchvision
from brainreg.data.files import files_fingerprint
from brainreg.data.images import GRAY_MODES, readable, stack_pixels
from brainreg.data.splits import held_out_test
from brainreg.data.torchvision_names import TORCHVISION, TORCHVISION_NAMES
from brainreg.data.types import Split, View
from brainreg.errors import InputError, first_line


@dataclass(frozen=True)
class _Part:
    """A split: what torchvision's class is called with beside the folder, and the files or folders it needs there."""

    arguments: Mapping[str, Any]
    paths: tuple[str, ...]


def _by_train(*paths: str, test: tuple[str, ...] | None = None, **others: Any) -> dict[Split, _Part]:
    return {
        "train": _Part({"train": True, **others}, paths),
        "test": _Part({"train": False, **others}, test or paths),
    }


def _by_split(
    *paths: str, test: tuple[str, ...] | None = None, names: tuple[str, str] = ("train", "test")
) -> dict[Split, _Part]:
    return {"train": _Part({"split": names[0]}, paths), "test": _Part({"split": names[1]}, test or paths)}


# Of each: its splits, or the one part of which a fifth is the test split.
_SETS: dict[str, dict[Split, _Part] | _Part] = {
    "Caltech101": _Part({}, ("caltech101/101_ObjectCategories",)),
    "Country211": _by_split("country211/train", test=("country211/test",)),
    "DTD": _by_split("dtd/dtd/images", "dtd/dtd/labels"),
    "EMNIST": _by_train("EMNIST/raw", split="balanced"),
    "EuroSAT": _Part({}, ("eurosat/2750",)),
    "FGVCAircraft": _by_split("fgvc-aircraft-2013b/data"),
    "Flowers102": _by_split("flowers-102/jpg", "flowers-102/imagelabels.mat", "flowers-102/setid.mat"),
    "Food101": _by_split("food-101/images", "food-101/meta"),
    "GTSRB": _by_split("gtsrb/GTSRB/Training", test=("gtsrb/GTSRB/Final_Test", "gtsrb/GT-final_test.csv")),
    "Imagenette": _by_split("imagenette2/train", test=("imagenette2/val",), names=("train", "val")),
    "KMNIST": _by_train("KMNIST/raw"),
    "OxfordIIITPet": _by_split("oxford-iiit-pet/images", "oxford-iiit-pet/annotations", names=("trainval", "test")),
    "QMNIST": _by_train("QMNIST/raw"),
    "RenderedSST2": _by_split("rendered-sst2/train", test=("rendered-sst2/test",)),
    "SEMEION": _Part({}, ("semeion.data",)),
    "STL10": _by_split("stl10_binary"),
    "SUN397": _Part({}, ("SUN397",)),
    "SVHN": _by_split("train_32x32.mat", test=("test_32x32.mat",)),
    "StanfordCars": _by_split("stanford_cars/cars_train", test=("stanford_cars/cars_test",)),
    "USPS": _by_train("usps.bz2", test=("usps.t.bz2",)),
}
assert tuple(_SETS) == TORCHVISION_NAMES

# How many items are looked at to tell whether a set is gray.
_LOOKED_AT = 16


class TorchvisionSet:
    """A data set of images and classes in torchvision, of the folder that torchvision calls its root.

    Of one without splits, a fixed class-balanced fifth is the test split.

    Attributes:
        arguments: what torchvision's class is called with beside the folder.
    """

    def __init__(self, name: str, split: Split, root: Path):
        self.name, self.split, self.root = name, split, root
        known = _SETS[name]
        self._divided = isinstance(known, dict)
        part = known[split] if isinstance(known, dict) else known
        self.arguments, self._paths = dict(part.arguments), [root / path for path in part.paths]

    def exists(self) -> bool:
        """Return whether its files and folders are there; whether they are whole, `decode` tells."""
        return not self.missing()

    def missing(self) -> list[Path]:
        """Return those of its files and folders that are not there."""
        return [path for path in self._paths if not path.exists()]

    def fingerprint(self) -> str:
        """A digest of names, sizes and times of its files."""
        paths: list[str] = []
        for path in map(os.fspath, self._paths):
            walked = os.walk(path, followlinks=True) if os.path.isdir(path) else ()
            paths += sorted(os.path.join(folder, file) for folder, _, files in walked for file in files) or [path]
        return files_fingerprint(paths, os.fspath(self.root))

    def decode(self, mode: str, view: View | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images (n, c, h, w) uint8 and labels (n,) int64.

        Raises:
            InputError: its files are not whole, or the images have many sizes.
        """
        where = f"{TORCHVISION}{self.name}"
        try:
            opened = getattr(torchvision.datasets, self.name)(self.root, **self.arguments, **self._never_download())
            count = len(opened)
        except Exception as error:  # each class has its own way to say what is wrong with its files
            raise InputError(f"{where}: {self.root}: cannot be read ({first_line(error)})") from error
        looked_at = range(0, count, max(1, count // _LOOKED_AT))
        if mode == "RGB" and all(self._item(opened, where, i)[0].mode in GRAY_MODES for i in looked_at):
            raise InputError(f"rgb=True: the images of {where} are gray; leave rgb out")
        labels: list[int] = []

        def images() -> Iterator[tuple[str, np.ndarray]]:
            for i in tqdm(range(count), f"decoding {where}", leave=False, disable=None):
                image, label = self._item(opened, where, i)
                labels.append(label)
                image = image.convert(mode)
                yield f"{where}: image {i}", np.array(view(image) if view else image)

        pixels, classes = stack_pixels(images(), count), torch.tensor(labels)
        if not self._divided:
            keep = held_out_test(classes, self.split)
            pixels, classes = pixels[keep], classes[keep]
        return pixels, classes

    def _never_download(self) -> dict[str, Any]:
        return {"download": False} if self.name == "SEMEION" else {}  # whose class downloads unless it is told not to

    def _item(self, opened: Any, where: str, i: int) -> tuple[Image.Image, int]:
        with readable(f"{where}: image {i}"):
            image, label = opened[i]
        return image, int(label)
