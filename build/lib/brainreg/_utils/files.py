"""Files and folders: checked before they are needed, written as a whole."""

import os
from pathlib import Path

from brainreg.errors import InputError


def check_writable(flag: str, folder: str | Path) -> None:
    """Raise InputError unless `folder` is a folder that files can be written to, or can be made into one."""
    nearest_there = Path(folder).resolve()
    while not nearest_there.exists():
        nearest_there = nearest_there.parent
    if not nearest_there.is_dir():
        raise InputError(f"{flag}={folder}: {nearest_there} is a file; must be a folder")
    if not os.access(nearest_there, os.W_OK | os.X_OK):
        raise InputError(f"{flag}={folder}: {nearest_there} cannot be written to")


def make_folder(flag: str, folder: Path) -> None:
    """Make a folder that a flag names, or one in it; raise InputError where that is impossible."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{flag}: {folder} cannot be made ({error.strerror}); choose another folder") from error


def write_text(path: Path, text: str) -> None:
    """Write a file so that a reader sees the old one or the new one, never a part."""
    part = path.with_name(f"{path.name}.part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)
