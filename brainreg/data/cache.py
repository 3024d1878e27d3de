"""Decoded images in a file of the cache, checked by their checksum each time."""

from pathlib import Path

import torch

from brainreg.data.files import logger, write_cache
from brainreg.data.fingerprints import checksum
from brainreg.data.image_set import ImageSet
from brainreg.data.sources import Source
from brainreg.data.types import View
from brainreg.errors import first_line


def load_cached(path: Path, key: str, source: Source, mode: str, view: View | None) -> ImageSet:
    """Return what `source` decodes, from the file at `path` where that is whole and was made for `key`."""
    stored = _read_cache(path, key)
    if stored is not None:
        return stored
    images, labels = source.decode(mode, view)
    known = checksum(images, labels)
    content = {"key": key, "checksum": known, "images": images, "labels": labels}
    written = write_cache(path, lambda file: torch.save(content, file))
    return (written and _read_cache(path, key)) or ImageSet(images, labels, known)


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
