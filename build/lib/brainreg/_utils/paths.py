"""Paths as people write them."""

import os
from collections.abc import Callable
from pathlib import Path

from brainreg.errors import InputError


def expand_home(path: str | Path) -> str:
    """Return a path with its first `~` or `~USER` replaced by that home folder, which a shell does not do after `=`.

    Raises:
        InputError: nobody knows that home folder.
    """
    given = str(path)
    expanded = os.path.expanduser(given)
    if expanded.startswith("~"):
        user = given.split("/")[0]
        raise InputError(f"{given}: there is no home folder {user}; a folder of that very name is ./{given}")
    return expanded


def split_paths(text: str, is_one: Callable[[str], bool]) -> list[str]:
    """Return the paths that a text lists, separated by commas, which may also be in a path itself.

    Args:
        is_one: whether a path is one of those that are looked for; of two that begin alike, the shorter is taken.

    >>> split_paths("a=1,b=2, c", {"a=1,b=2", "c"}.__contains__)
    ['a=1,b=2', 'c']
    """
    parts, paths = text.split(","), []
    while parts:
        lengths = range(1, 1 + next((at for at, part in enumerate(parts) if at and "://" in part), len(parts)))
        joined = {length: ",".join(parts[:length]).strip() for length in lengths}
        length = next((length for length in lengths if parts[0].strip() and is_one(joined[length])), 1)
        paths += [joined[length]] if joined[length] else []
        parts = parts[length:]
    return paths
