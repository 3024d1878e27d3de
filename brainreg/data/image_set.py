"""Images with their labels and checksum; those of many sizes stay in their files."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from brainreg.data.augmentation import image_view
from brainreg.data.files import write_cache
from brainreg.data.fingerprints import fingerprint
from brainreg.data.folders import ImageFolder


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
    def tensor(self) -> torch.Tensor:
        """The images (n, c, h, w) uint8, of a set that is in memory."""
        assert isinstance(self.images, torch.Tensor)
        return self.images

    @property
    def fingerprint(self) -> str:
        """A short text that differs between sets, from all bytes of the images and all labels; see
        `brainreg.data.fingerprints`.
        """
        if isinstance(self.images, ImageFiles):
            return self.images.fingerprint()
        return fingerprint(self.images, self.labels, self.checksum)


class ImageFiles:
    """Images of many sizes that stay in their files. `files[index]` decodes those of an index (k,): a list of
    uint8 tensors (c, h, w).
    """

    def __init__(self, source: "ImageFolder", mode: str, checksums: Path):
        """`checksums`: file that keeps the fingerprint, so that all bytes are read but once."""
        self._source, self._mode, self._checksums = source, mode, checksums

    def __len__(self) -> int:
        return len(self._source.labels)

    def __getitem__(self, index: torch.Tensor) -> list[torch.Tensor]:
        return [_channels_first(pixels) for pixels in self._source.read(index.tolist(), self._mode, None)]

    def classified(self, index: torch.Tensor) -> torch.Tensor:
        """Return the images of an index (k,) as they are classified without augmentation: (k, c, 224, 224)."""
        views = self._source.read(index.tolist(), self._mode, image_view("task"))
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
        write_cache(path, lambda file: file.write(json.dumps({"key": key, "fingerprint": found}).encode()))
        return found


def _channels_first(pixels: np.ndarray) -> torch.Tensor:
    """Return decoded pixels, (h, w) or (h, w, c), as (c, h, w)."""
    image = torch.from_numpy(pixels)
    return image[None] if image.ndim == 2 else image.permute(2, 0, 1).contiguous()
