"""Fingerprints of data: the same bytes have the same, wherever they lie."""

import zlib
from collections.abc import Mapping
from typing import Protocol

import torch

from brainreg.errors import InputError

TRAINING, VALIDATION, REGULARIZATION, TEST = "training", "validation", "regularization", "test"

# What the name of a fingerprint begins with that is of a network's code, and of no images.
CODE = "code of "

# What is said where there is nothing to compare with.
UNKNOWN_DATA = "this {} was begun by a version that kept no fingerprints: whether the data are the same cannot be told"


def checksum(*tensors: torch.Tensor) -> int:
    """Return the CRC-32 of all bytes of some tensors, one after the other."""
    total = 0
    for tensor in tensors:
        total = zlib.crc32(tensor.contiguous().numpy().data, total)
    return total


def fingerprint(images: torch.Tensor, labels: torch.Tensor, known: int | None = None) -> str:
    """Return the fingerprint of images (n, c, h, w) and labels (n,): their shape, and the checksum of all bytes.

    Args:
        known: the checksum of both, where it was computed before.
    """
    return f"{'x'.join(map(str, images.shape))}-{checksum(images, labels) if known is None else known:08x}"


class Choices(Protocol):
    """What decides which images a run gets, and how they look; hyperparameters have it."""

    @property
    def rgb(self) -> bool: ...
    @property
    def image_size(self) -> int | None: ...
    @property
    def valid_portion(self) -> float: ...
    @property
    def seed(self) -> int: ...


def part_name(part: str, settings: Choices) -> str:
    """Return under which name a fingerprint is kept: those of one name can be compared.

    Args:
        part: training (the whole split, validation images too), validation, regularization (its whole training
            split) or test.
        settings: of the run; only validation images depend on its portion and its seed.
    """
    divided = f", portion {settings.valid_portion:g}, seed {settings.seed}" if part == VALIDATION else ""
    size = "" if settings.image_size is None else f", {settings.image_size}x{settings.image_size}"
    return f"{part}{divided}{', RGB' if settings.rgb else ''}{size}"


def check_same_data(now: Mapping[str, str], then: Mapping[str, str] | None, where: str, what: str) -> None:
    """Raise InputError if any part of the data is not what it was.

    Args:
        now, then: fingerprints by `part_name`; parts that one of them lacks are not compared.
        where: what the message begins with: the flag and its value.
        what: which has the data of then, such as `this search`.
    """
    for name in now:
        if not then or now[name] == then.get(name, now[name]):
            continue
        if name.startswith(CODE):
            raise InputError(
                f"archi={name.removeprefix(CODE)}: its module's file is not what it was for {what}; restore it, or"
                " begin anew under another name"
            )
        raise InputError(
            f"{where}: the images for {name} are not those of {what}: {now[name]}, there {then[name]}; name the"
            " folder that holds the same ones"
        )
