"""A folder of images as a data set: a folder for each class."""

import hashlib
import os
import zlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from brainreg.data.files import files_fingerprint, logger
from brainreg.data.images import class_names, is_gray, list_images, note_left_out, read_image, readable, stack_pixels
from brainreg.data.splits import held_out_test
from brainreg.data.types import Split, View
from brainreg.errors import InputError

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
            keep = held_out_test(self.labels, split)
            self.samples = [self.samples[i] for i in keep]
            if not self.samples:
                raise InputError(f"{folder}: no class has two images, so that none is left to test on")

    @property
    def labels(self) -> torch.Tensor:
        return torch.tensor([label for _, label in self.samples])

    def fingerprint(self) -> str:
        return files_fingerprint([path for path, _ in self.samples], os.fspath(self.folder))

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
        decoded = self.read(range(len(self.samples)), mode, view)
        shown = tqdm(decoded, f"decoding {self.folder}", len(self.samples), leave=False, disable=None)
        images = stack_pixels(zip((path for path, _ in self.samples), shown, strict=True), len(self.samples))
        if (brightest := images.max()) < _DARK:
            logger.warning(
                "%s: the brightest pixel of all is %d of 255: masks, or 16-bit files of fewer bits?",
                self.folder,
                brightest,
            )
        return images, self.labels
