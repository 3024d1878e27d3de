"""Images in a file of NumPy arrays, as MedMNIST and Keras have them."""

import itertools
import zipfile
from pathlib import Path

import numpy as np
import torch

from brainreg.data.files import files_fingerprint
from brainreg.data.images import readable, to_eight_bits, view_pixels
from brainreg.data.splits import held_out_test
from brainreg.data.types import Split, View
from brainreg.errors import InputError

# Names of the arrays of images and labels, of training and test: MedMNIST's, Keras', and those of an undivided file.
_SCHEMES = (
    (("train_images", "train_labels"), ("test_images", "test_labels")),
    (("x_train", "y_train"), ("x_test", "y_test")),
    (("images", "labels"),),
)


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
                with np.load(self.path, allow_pickle=False) as stored:
                    scheme = self._scheme({*stored.files})
                    names = scheme[-1] if self.split == "test" else scheme[0]
                    (images, labels), known = (stored[name] for name in names), np.unique(stored[scheme[0][1]])
            except (zipfile.BadZipFile, AttributeError, TypeError) as error:  # of a single array, numpy's own errors
                raise ValueError("no file of arrays, as numpy.savez makes it") from error
        pixels = self._pixels(names[0], images, mode == "RGB")
        classes = self._check_labels(names[1], labels, len(pixels), known)
        if len(scheme) == 1:
            keep = held_out_test(classes, self.split)
            if not len(keep):
                raise InputError(f"{self.path}: no class has two images, so that none is left to test on")
            pixels, classes = pixels[keep], classes[keep]
        return view_pixels(pixels, view, mode).contiguous(), classes

    def _scheme(self, there: set[str]) -> tuple[tuple[str, str], ...]:
        """The names by which the file is read, the same for both splits."""
        whole = [one for one in _SCHEMES if {*itertools.chain(*one)} <= there]
        if len(whole) == 1:
            return whole[0]
        wanted = "; or ".join(", ".join(itertools.chain(*one)) for one in _SCHEMES)
        listed = ", ".join(sorted(there)) or "(none)"
        raise InputError(f"{self.path}: has the arrays {listed}; must have just one of these: {wanted}")

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
        if images.ndim != 4 or images.shape[3] not in (1, 3) or 0 in images.shape:
            raise InputError(f"{where} is {images.shape}; must be (n, h, w), (n, h, w, 1) or (n, h, w, 3)")
        if rgb and images.shape[3] == 1:
            raise InputError(f"rgb=True: the images of {self.path} are gray; leave rgb out")
        if np.issubdtype(images.dtype, np.floating):
            images = to_eight_bits(images, where)
        if images.dtype != np.uint8:
            raise InputError(f"{where} is {images.dtype}; must be uint8, or floats from 0 to 1")
        return torch.from_numpy(images).permute(0, 3, 1, 2)
