"""The folders of searches: a new one, the one that is named, and what they say when they do not answer."""

from collections.abc import Callable
from functools import partial
from typing import Any

from brainreg._utils.commands import brainreg_command
from brainreg._utils.timeouts import call_with_timeout
from brainreg.errors import InputError
from brainreg.records.driver import driver_of
from brainreg.records.manifest import MANIFEST
from brainreg.storage import PATIENCE, Storage, StorageError


def check_new(folder: Storage, name: str) -> None:
    """Raise InputError if a folder holds a search, or if one is being begun there."""
    holds = folder.exists(MANIFEST)  # asked first: a storage that does not answer is named with this file
    driver = driver_of(folder)
    if driver is not None:
        raise InputError(
            f"--name={name}: process {driver['pid']} on {driver['host']} runs a search in {folder}; choose another name"
        )
    if holds:
        raise InputError(
            f"--name={name}: {folder} already holds a search; choose another name, or go on with it:"
            f" {brainreg_command('resume', folder.uri)}"
        )


def is_begun(name: str, storage_path: str) -> bool:
    """Return whether there is a search of this name."""
    folder = storage_of(storage_path).child(name)
    return bool(answer_of(folder, partial(folder.exists, MANIFEST)))


def find_search(name: str, storage_path: str, flag: str) -> Storage:
    """Return the folder of a search by its name in `storage_path`, or by its path.

    Raises:
        InputError: there is none; the line begins with `flag`.
    """
    below = storage_of(storage_path).child(name) if "/" not in name else None
    for folder in (below, Storage(name)):
        if folder is not None and answer_of(folder, partial(folder.exists, MANIFEST)):
            return folder
    where = storage_of(storage_path)
    known = [one for one in answer_of(where, where.names) if where.child(one).exists(MANIFEST)]
    there = f"there {'is' if len(known) == 1 else 'are'} {', '.join(known)}" if known else "there is none"
    raise InputError(f"{flag}={name}: no such search in {where}; {there}")


def storage_of(path: str) -> Storage:
    """Return the folder of the searches' folders.

    Raises:
        InputError: neither a folder nor an address of S3.
    """
    if not path.startswith("s3://") and "://" in path:
        raise InputError(f"--storage_path={path}: must be a folder or s3://BUCKET/PATH")
    return Storage(path)


def answer_of(storage: Storage, action: Callable[[], Any]) -> Any:
    """Do something that needs an answer of the storage.

    Raises:
        InputError: it does not answer.
    """
    try:
        return action() if storage.is_local else call_with_timeout(PATIENCE, action)
    except (TimeoutError, StorageError) as error:
        raise InputError(f"--storage_path={storage}: {error}") from error
