"""Image files: which of a folder's files are images, and how each format is read."""

import contextlib
import functools
import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from PIL import ExifTags, Image, ImageOps, UnidentifiedImageError

from brainreg.data.types import View
from brainreg.errors import InputError, first_line

if TYPE_CHECKING:
    import torch

logger = logging.getLogger(__name__)

# Those that torchvision's ImageFolder reads.
ENDINGS = (".jpg", ".jpeg", ".png", ".ppm", ".bmp", ".pgm", ".tif", ".tiff", ".webp")

# Pillow's modes of gray images.
GRAY_MODES = ("1", "L", "LA", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")

# What systems and their archives leave in folders; so does whatever begins with a dot.
_SYSTEM = {"__macosx", "__pycache__", "@eadir", "#recycle", "$recycle.bin", "lost+found", "system volume information"}

# Float pixels that rounding left a little outside [0, 1].
_ROUNDING = 1e-3


@dataclass(frozen=True)
class ImageList:
    """The images of a folder.

    Attributes:
        samples: path and class of each: class by class, and in each by folder and file name.
        left_out: how many files of each other ending, in lower case, lie among them.
    """

    samples: list[tuple[str, int]]
    left_out: Counter[str]


def class_names(folder: Path) -> list[str]:
    """Return the names of a folder's class folders, sorted; hidden ones and those of the system are none.

    Raises:
        InputError: there are none, or the folder cannot be read.
    """
    with readable(folder), os.scandir(folder) as entries:
        names = sorted(entry.name for entry in entries if not _is_hidden(entry.name) and os.path.isdir(entry))
    if not names:
        raise InputError(f"{folder}: no folders in it; must hold a folder of images for each class")
    return names


def list_images(folder: Path, classes: Sequence[str]) -> ImageList:
    """Return the images in the class folders of a folder, and in the folders below those.

    Links are followed, to the outside too, but no folder counts twice.

    Raises:
        InputError: a class without images, a link to a folder that counts already, something that is no file or
            cannot be read.
    """
    samples: list[tuple[str, int]] = []
    left_out: Counter[str] = Counter()
    met = {os.path.realpath(folder): os.fspath(folder)}
    for label, name in enumerate(classes):
        before = len(samples)
        others: Counter[str] = Counter()
        for below, files in sorted(_walk(os.path.join(folder, name), met)):
            for file in sorted(files):
                ending = os.path.splitext(file)[1].lower()
                if ending in ENDINGS:
                    samples.append((os.path.join(below, file), label))
                else:
                    others[ending] += 1
        if len(samples) == before:
            there = f" ({sum(others.values())} files of {_told(others)})" if others else ""
            raise InputError(
                f"{os.path.join(folder, name)}: no images in it{there}; must hold {', '.join(ENDINGS)}, or be removed"
            )
        left_out += others
    return ImageList(samples, left_out)


def _walk(folder: str, met: dict[str, str]) -> Iterator[tuple[str, list[str]]]:
    """A folder and those below it, each with the names of its files; `met` knows where each folder really lies."""
    real = os.path.realpath(folder)
    if real in met:
        raise InputError(f"{folder}: the same folder as {met[real]}, so its images would count twice; remove the link")
    met[real] = folder
    files, folders = [], []
    with readable(folder), os.scandir(folder) as entries:
        for entry in entries:
            if _is_hidden(entry.name):
                continue
            link = entry.is_symlink()  # of others, the system's listing says what they are
            if os.path.isdir(entry) if link else entry.is_dir():
                folders.append(entry.path)
            elif os.path.isfile(entry) if link else entry.is_file():
                files.append(entry.name)
            elif entry.name.lower().endswith(ENDINGS):
                what = "a link to nothing" if link else "not a file"
                raise InputError(f"{entry.path}: {what}; replace or remove it")
    yield folder, files
    for below in folders:
        yield from _walk(below, met)


def _is_hidden(name: str) -> bool:
    return name.startswith(".") or name.lower() in _SYSTEM


def _told(endings: Counter[str]) -> str:
    return ", ".join(ending or "no ending" for ending, _ in endings.most_common(5))


def note_left_out(folder: Path, left_out: Counter[str]) -> None:
    """Warn of files that are images, but of an ending that is not read."""
    if not left_out:
        return
    known = Counter({ending: n for ending, n in left_out.items() if ending in Image.registered_extensions()})
    if known:
        logger.warning("%s: left out are %d files of %s; images are %s", folder, known.total(), _told(known), ENDINGS)


def read_image(path: str, mode: str) -> Image.Image:
    """Decode a file's one image, upright as its EXIF data say.

    16 bits are scaled to 8, and so are floats in [0, 1]. Of transparent pixels, the color that is stored counts.

    Args:
        path: of the file, whatever its ending says.
        mode: L (gray, by PIL's luma) or RGB.

    Raises:
        InputError: it cannot be read, holds several images, or has pixels of no known range.
    """
    with readable(path), Image.open(path) as opened:
        frames = getattr(opened, "n_frames", 1)
        if opened.format != "MPO" and frames > 1:  # a camera's MPO adds previews
            raise InputError(f"{path}: holds {frames} images; a file must hold one")
        kind = opened.format
        image: Image.Image = opened
        if image.getexif().get(ExifTags.Base.Orientation, 1) != 1:
            image = ImageOps.exif_transpose(image)
        if _has_transparent_pixels(image):
            _note_transparent()
        image = _in_eight_bits(image, kind, path)
        if image.mode not in ("1", "L", "LA", "P", "RGB", "RGBA"):  # of the others, Pillow knows no luma
            image = image.convert("RGB")
        return image.convert(mode)


def _has_transparent_pixels(image: Image.Image) -> bool:
    if "A" in image.getbands():
        return _smallest(image.getchannel("A")) < 255
    coded = "transparency" in image.info and image.mode in ("1", "L", "P", "RGB")
    return coded and _smallest(image.convert("RGBA").getchannel("A")) < 255


def _smallest(band: Image.Image) -> float:
    """The smallest value of an image of one band."""
    return np.asarray(band).min()


@functools.cache
def _note_transparent() -> None:
    """Say so once in a process."""
    logger.warning("some images have transparent pixels; the colors that are stored there are used")


def _in_eight_bits(image: Image.Image, kind: str | None, path: str) -> Image.Image:
    # Pillow's own conversion cuts off at 255.
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        return Image.fromarray(np.rint(np.asarray(image) / 257).astype(np.uint8))
    if image.mode == "F":
        return Image.fromarray(to_eight_bits(np.asarray(image), path))
    if image.mode == "I":
        raise InputError(f"{path}: pixels of 32 bits; must have 8 or 16 bits, or be floats from 0 to 1")
    return image


def to_eight_bits(values: np.ndarray, where: str) -> np.ndarray:
    """Return floats in [0, 1] as uint8; `where` is what an error begins with."""
    low, high = values.min(), values.max()
    if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
        raise InputError(f"{where}: float pixels from {low:g} to {high:g}; must be from 0 to 1")
    return np.rint(values.clip(0, 1) * 255).astype(np.uint8)


def view_pixels(pixels: "torch.Tensor", view: View | None, mode: str | None = None) -> "torch.Tensor":
    """Return images (n, c, h, w) uint8 as files of them would be decoded.

    Pillow does it, whose numbers are the same on every processor.

    Args:
        view: what is made of each image; None leaves them as they are.
        mode: L makes colored images gray.
    """
    gray = mode == "L" and pixels.shape[1] == 3
    if view is None and not gray:
        return pixels

    def images() -> Iterator[tuple[str, np.ndarray]]:
        for i, one in enumerate(pixels.numpy()):
            image = Image.fromarray(one[0] if len(one) == 1 else one.transpose(1, 2, 0))
            image = image.convert("L") if gray else image
            yield f"image {i}", np.array(view(image) if view else image)

    return stack_pixels(images(), len(pixels))


def stack_pixels(images: Iterable[tuple[str, np.ndarray]], count: int) -> "torch.Tensor":
    """Return decoded images as (count, c, h, w) uint8.

    Args:
        images: `count` of them, at least one, each with what an error calls it: (h, w) or (h, w, c) uint8.

    Raises:
        InputError: they differ in size.
    """
    import torch  # which takes seconds

    pixels = None
    for i, (where, image) in enumerate(images):
        if pixels is None:
            pixels = np.empty((count, *image.shape), np.uint8)
        if image.shape != pixels.shape[1:]:
            raise InputError(
                f"{where}: {image.shape[1]}x{image.shape[0]} pixels, while the first image has"
                f" {pixels.shape[2]}x{pixels.shape[1]}; all must have one size, which image_size gives them"
            )
        pixels[i] = image
    assert pixels is not None
    stacked = torch.from_numpy(pixels)
    return stacked[:, None] if stacked.ndim == 3 else stacked.permute(0, 3, 1, 2).contiguous()


def is_gray(path: str) -> bool:
    """Return whether a file holds a gray image."""
    with readable(path), Image.open(path) as image:
        return image.mode in GRAY_MODES


@contextlib.contextmanager
def readable(path: str | os.PathLike) -> Iterator[None]:
    """Turn whatever a reader raises into one line that names the file."""
    try:
        yield
    except InputError:
        raise
    except UnidentifiedImageError as error:
        empty = os.path.isfile(path) and os.path.getsize(path) == 0
        what = "the file is empty" if empty else "no image, whatever its ending says"
        raise InputError(f"{path}: cannot be read ({what}); replace or remove it") from error
    except Exception as error:  # readers raise anything on damaged bytes: AssertionError, ValueError, OSError
        raise InputError(f"{path}: cannot be read ({first_line(error)}); replace or remove it") from error
