"""The data sets of torchvision that are asked for by name, as torchvision itself reads them."""

import inspect
import os
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from tqdm import tqdm

from brainreg._utils.lazy import torchvision
from brainreg.data.datasets import TORCHVISION
from brainreg.data.files import files_fingerprint
from brainreg.data.images import readable, stack_pixels
from brainreg.data.splits import held_out_test
from brainreg.data.types import Split, View
from brainreg.errors import InputError, first_line


class TorchvisionSet:
    """A data set of images and classes in torchvision, of the folder that torchvision calls its root.

    Its training split is `train=True` or `split="train"`; its test split `train=False`, `split="test"` or, where there
    is none, `split="val"`. Of one without splits, a fixed class-balanced fifth is the test split.

    Attributes:
        arguments: what chooses the split.
        problem: why it cannot be opened, after `exists` said so.

    Raises:
        InputError: it has no such split.
    """

    def __init__(self, name: str, split: Split, root: Path):
        self.name, self.split, self.root, self.problem = name, split, root, ""
        self._kind = getattr(torchvision.datasets, name)
        parameters = inspect.signature(self._kind).parameters
        self._divided = "train" in parameters or "split" in parameters
        self.arguments: dict[str, Any] = {"train": split == "train"} if "train" in parameters else {}
        if not self.arguments and self._divided:
            self.arguments = {"split": split}
        self._opened: Any = None

    def exists(self) -> bool:
        """Return whether torchvision finds its files."""
        for arguments in (self.arguments, {"split": "val"} if self.arguments == {"split": "test"} else None):
            if arguments is None:
                break
            try:
                self._opened = self._kind(self.root, **arguments)
            except Exception as error:  # each kind has its own way to say that files or a split are missing
                self.problem = first_line(error)
            else:
                self.arguments = arguments
                return True
        return False

    def fingerprint(self) -> str:
        """A digest of names, sizes and times of its files: those beside each other in the root, and the folders that
        bear its name.
        """
        own = _plain(self.name)
        paths: list[str] = []
        with os.scandir(self.root) as entries:
            for entry in sorted(entries, key=lambda one: one.name):
                if entry.is_file():
                    paths.append(entry.path)
                elif _plain(entry.name).startswith(own) or own.startswith(_plain(entry.name) or "?"):
                    below = (os.path.join(folder, file) for folder, _, files in os.walk(entry.path) for file in files)
                    paths += sorted(below)
        return files_fingerprint(paths, os.fspath(self.root))

    def decode(self, mode: str, view: View | None) -> tuple[torch.Tensor, torch.Tensor]:
        """Return images (n, c, h, w) uint8 and labels (n,) int64.

        Raises:
            InputError: its items are not an image and a class, or the images have many sizes.
        """
        where = f"{TORCHVISION}{self.name}"
        if self._opened is None and not self.exists():
            raise InputError(f"{where}: {self.problem}")
        labels: list[int] = []

        def images() -> Any:
            shown = tqdm(range(len(self._opened)), f"decoding {where}", leave=False, disable=None)
            for i in shown:
                with readable(where):
                    item = self._opened[i]
                if not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], Image.Image)):
                    raise InputError(f"{where}: its items are not an image and a class; must be a set to classify")
                if not isinstance(item[1], int | np.integer):
                    raise InputError(f"{where}: a label is {item[1]!r:.40}; must be the number of a class")
                if mode == "RGB" and i == 0 and item[0].mode in ("1", "L"):
                    raise InputError(f"rgb=True: the images of {where} are gray; leave rgb out")
                labels.append(int(item[1]))
                image = item[0].convert(mode)
                yield f"{where}: image {i}", np.array(view(image) if view else image)

        pixels = stack_pixels(images(), len(self._opened))
        classes = torch.tensor(labels)
        if not self._divided:
            keep = held_out_test(classes, self.split)
            pixels, classes = pixels[keep], classes[keep]
        return pixels, classes


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
