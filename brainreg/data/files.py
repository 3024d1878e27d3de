"""Files of data: whether they have changed; those of the cache, written as a whole, or not at all."""

import contextlib
import hashlib
import logging
import os
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from pathlib import Path
from typing import Any

from brainreg.data.images import readable
from brainreg.errors import first_line

logger = logging.getLogger(__name__)
keeps_files: ContextVar[bool] = ContextVar("keeps_files", default=True)


@contextlib.contextmanager
def nothing_written() -> Iterator[None]:
    """Load data without downloading them, and without writing what was decoded to `data_dir/cache`."""
    token = keeps_files.set(False)
    try:
        yield
    finally:
        keeps_files.reset(token)


_UMASK = os.umask(0o077)  # can only be read by setting it
os.umask(_UMASK)


def write_cache(path: Path, write: Callable[[Any], object]) -> bool:
    """Let `write` make an open file as a whole; False where that is impossible, or nothing shall be written."""
    if not keeps_files.get():
        return False
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=path.parent, prefix=path.name, suffix=".part", delete=False) as file:
            try:
                write(file)
                file.close()
                os.chmod(file.name, 0o666 & ~_UMASK)  # a temporary file is its owner's alone
                os.replace(file.name, path)
            except BaseException:
                os.unlink(file.name)
                raise
    except OSError as error:
        logger.warning("%s: cannot be written (%s); the images are read again each time", path, first_line(error))
        return False
    return True


def files_fingerprint(paths: Sequence[str | Path], root: str | None = None) -> str:
    """Return a digest of names (below `root`, or of the files alone), sizes and times: whether to decode them again.

    Raises:
        InputError: one of them cannot be read.
    """
    digest, path = hashlib.sha256(b"2"), ""  # which changes when what is decoded does
    try:
        for path in (os.fspath(one) for one in paths):  # texts, since a data set may have a million files
            status = os.stat(path)
            name = os.path.basename(path) if root is None else path[len(root) :]
            digest.update(os.fsencode(f"{name}\0{status.st_size}\0{status.st_mtime_ns}\n"))
    except OSError as error:
        with readable(path):
            raise error
    return digest.hexdigest()
