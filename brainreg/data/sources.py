"""Where images come from: files of publishers, folders of images, arrays, torchvision's other data sets."""

import socket
import tempfile
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from brainreg._utils.lazy import torchvision
from brainreg._utils.paths import expand_home
from brainreg.data.arrays import ArrayFile
from brainreg.data.datasets import ARRAYS, DATASETS, Dataset
from brainreg.data.files import keeps_files, logger
from brainreg.data.folders import ImageFolder
from brainreg.data.published_files import TORCHVISION_FILES, CifarFiles, Digits, IdxFiles
from brainreg.data.torchvision_names import TORCHVISION
from brainreg.data.torchvision_sets import TorchvisionSet
from brainreg.data.types import Split
from brainreg.errors import InputError, first_line

Source = Digits | IdxFiles | CifarFiles | ImageFolder | ArrayFile | TorchvisionSet


def to_download(names: Iterable[str | None], data_dir: str | Path, split: Split = "train") -> list[str]:
    """Return those of some data sets of which `data_dir` has nothing, so that loading them begins with a download."""
    folder = Path(expand_home(data_dir))
    absent = []
    for name in dict.fromkeys(name for name in names if name):
        if name.startswith(TORCHVISION):
            there = TorchvisionSet(name.removeprefix(TORCHVISION), split, folder).exists()
        else:
            there = name not in TORCHVISION_FILES or _stored(name, split, folder) is not None
        absent += [] if there else [name]
    return absent


def find_source(dataset: Dataset, split: Split, data_dir: Path, rgb: bool) -> tuple[Source, str]:
    """Return where the images of a split come from, and the mode (Pillow's name) to decode them in."""
    if rgb and dataset.gray:
        raise InputError(f"rgb=True: the images of {dataset.name} are gray; leave rgb out")
    return _locate(dataset.name, split, data_dir), "RGB" if rgb else "L"


def _locate(name: str, split: Split, data_dir: Path) -> Source:
    if name == "digits":
        return Digits(split)
    if name.startswith(TORCHVISION):
        return _torchvision_set(name, split, data_dir)
    if name.endswith(ARRAYS):
        return ArrayFile(Path(name), split)
    if name not in DATASETS:
        folder = Path(name)
        if not (folder / "train").is_dir():
            return ImageFolder(folder, split=split)
        return _split_folder(folder, split)
    if (stored := _stored(name, split, data_dir)) is not None:
        return stored
    looked = f"{data_dir / name / 'train'}/<class>/*.png"
    if name not in TORCHVISION_FILES:
        raise InputError(f"{name}: not found; looked for {looked}; put the images there, a folder a class")
    files = TORCHVISION_FILES[name](name, split, data_dir)
    looked = f"{files.folder} and {looked}"
    if missing := files.missing():
        looked += f"; {missing[0]} is missing"
    try:
        _download(name, data_dir)
    except Exception as error:  # torchvision raises whatever the network did
        raise InputError(
            f"{name}: not found; looked for {looked}, and the download failed ({first_line(error)});"
            f" put torchvision's files or the image folders there, or name another folder with --data_dir"
        ) from error
    return files


def _torchvision_set(name: str, split: Split, data_dir: Path) -> TorchvisionSet:
    files = TorchvisionSet(name.removeprefix(TORCHVISION), split, data_dir)
    if files.exists():
        return files
    try:
        _download(files.name, data_dir, **files.arguments)
    except Exception as error:  # torchvision raises whatever the network did
        raise InputError(
            f"{name}: not found; looked for {files.missing()[0]}, and the download failed ({first_line(error)}); put"
            f" torchvision's files there, or name another folder with --data_dir"
        ) from error
    return files


def _stored(name: str, split: Split, data_dir: Path) -> Source | None:
    """What `data_dir` has of a known data set: torchvision's files, or folders of images; None where it has neither."""
    files = TORCHVISION_FILES[name](name, split, data_dir) if name in TORCHVISION_FILES else None
    if files is not None and files.exists():
        return files
    return _split_folder(data_dir / name, split) if (data_dir / name / "train").is_dir() else None


def _split_folder(folder: Path, split: Split) -> ImageFolder:
    if split == "train":
        return ImageFolder(folder / "train")
    for name in ("test", "val"):
        if (folder / name).is_dir():
            return ImageFolder(folder / name, like=folder / "train")
    raise InputError(f"{folder}: no test images; looked for {folder / 'test'} and {folder / 'val'}")


def _download(name: str, data_dir: Path, **arguments: Any) -> None:
    """Download a data set with torchvision; where that fails, nothing of it is left.

    `arguments` are those of its class beside the folder.
    """
    if not keeps_files.get():
        raise OSError("nothing is downloaded now")
    logger.info("%s is not in %s; downloading it", name, data_dir)
    timeout, began = socket.getdefaulttimeout(), not data_dir.exists()
    socket.setdefaulttimeout(20)  # torchvision sets none, and a silent network would hold the run for ever
    data_dir.mkdir(parents=True, exist_ok=True)
    try:
        with tempfile.TemporaryDirectory(dir=data_dir, prefix=".download") as folder:
            getattr(torchvision.datasets, name)(folder, download=True, **arguments)
            _move_files(Path(folder), data_dir)
    except BaseException:
        if began:
            data_dir.rmdir()
        raise
    finally:
        socket.setdefaulttimeout(timeout)


def _move_files(source: Path, target: Path) -> None:
    """Move what a folder holds into another one on the same disk, which needs no room: nothing of it is half there."""
    for path in sorted(source.iterdir()):
        if path.is_dir() and (target / path.name).is_dir():
            _move_files(path, target / path.name)
        else:
            path.replace(target / path.name)
