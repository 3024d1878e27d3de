"""Images in a file of NumPy arrays, as MedMNIST and Keras have them."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import torch

from brainreg.data.files import files_fingerprint
from brainreg.data.images import readable, to_eight_bits, view_pixels
from brainreg.data.splits import held_out_test
from brainreg.data.types import Split, View
from brainreg.errors import InputError

# Names of the arrays of images and labels of a split: MedMNIST's, then Keras'.
_NAMES = {
    "train": (("train_images", "train_labels"), ("x_train", "y_train")),
    "test": (("test_images", "test_labels"), ("x_test", "y_test")),
}

# Those of a file without a test split of its own.
_UNDIVIDED = ("images", "labels")


class ArrayFile:
    """A `.npz` file: images (n, h, w) or (n, h, w, c), uint8 or floats in [0, 1], and labels (n,) or (n, 1).

    Its arrays are called `train_images`, `train_labels`, `test_images`, `test_labels`; or `x_train`, `y_train`,
    `x_test`, `y_test`; or `images` and `labels`, of which a fixed class-balanced fifth is the test split. Others are
    not read.
    """

    def __init__(self, path: Path, split: Split):
        self.path, self.split = path, split

    def fingerprint(self) -> str:
        """A digest of the file's name, size and time."""
        return files_fingerprint([self.path])

    def decode(self, mode: str, view: View | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images (n, c, h, w) uint8 and labels (n,) int64.

        Raises:
            InputError: an array that is missing or is not what it must be.
        """
        with readable(self.path):
            try:
                stored: Any = np.load(self.path, allow_pickle=False)
                names = self._names(stored.files)
                images, labels = (stored[name] for name in names)
                known = np.unique(stored[self._labels_of_training(stored.files)])
            except (zipfile.BadZipFile, AttributeError) as error:  # a single array has no files
                raise ValueError("no file of arrays, as numpy.savez makes it") from error
        classes = self._check_labels(names[1], labels, len(images), known)
        pixels = self._pixels(names[0], images, mode == "RGB")
        if names == _UNDIVIDED:
            keep = held_out_test(classes, self.split)
            pixels, classes = pixels[keep], classes[keep]
        return view_pixels(pixels, view, mode).contiguous(), classes

    def _names(self, there: list[str]) -> tuple[str, str]:
        for pair in (*_NAMES[self.split], _UNDIVIDED):
            if {*pair} <= {*there}:
                return pair
        wanted = "; or ".join(" and ".join(pair) for pair in (*_NAMES[self.split], _UNDIVIDED))
        raise InputError(f"{self.path}: has the arrays {', '.join(sorted(there)) or '(none)'}; must have {wanted}")

    def _labels_of_training(self, there: list[str]) -> str:
        return next((labels for _, labels in _NAMES["train"] if labels in there), _UNDIVIDED[1])

    def _check_labels(self, name: str, labels: np.ndarray, count: int, known: np.ndarray) -> torch.Tensor:
        """Classes from 0, in the order of the training labels' values."""
        if labels.ndim == 2 and labels.shape[1] == 1:
            labels = labels[:, 0]
        where = f"{self.path}: {name}"
        if labels.ndim != 1 or not (np.issubdtype(labels.dtype, np.integer) or labels.dtype == bool):
            raise InputError(f"{where} is {labels.dtype} {labels.shape}; must be whole numbers, one for each image")
        if len(labels) != count:
            raise InputError(f"{where} has {len(labels)} labels for {count} images")
        if len(odd := np.setdiff1d(labels, known)):
            raise InputError(f"{where} has the class {odd[0]}, of which there are no training images")
        return torch.from_numpy(np.searchsorted(known.ravel(), labels)).long()

    def _pixels(self, name: str, images: np.ndarray, rgb: bool) -> torch.Tensor:
        where = f"{self.path}: {name}"
        if images.ndim == 3:
            images = images[..., None]
        if images.ndim != 4 or images.shape[3] not in (1, 3) or not len(images):
            raise InputError(f"{where} is {images.shape}; must be (n, h, w), (n, h, w, 1) or (n, h, w, 3)")
        if rgb and images.shape[3] == 1:
            raise InputError(f"rgb=True: the images of {self.path} are gray; leave rgb out")
        if np.issubdtype(images.dtype, np.floating):
            images = to_eight_bits(images, where)
        if images.dtype != np.uint8:
            raise InputError(f"{where} is {images.dtype}; must be uint8, or floats from 0 to 1")
        return torch.from_numpy(images).permute(0, 3, 1, 2)
