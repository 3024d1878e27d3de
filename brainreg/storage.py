"""Where files are kept: a folder, on this machine or on NFS, or `s3://BUCKET/PATH`."""

import contextlib
import os
import time
from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from urllib.parse import parse_qsl

import pyarrow.fs

from brainreg._utils.paths import expand_home
from brainreg._utils.timeouts import Value
from brainreg.errors import InputError

# Seconds within which what is asked for over a network must answer.
PATIENCE = 8.0

# What fails over a network is tried again after so many seconds.
_PAUSES = (0.5, 2.0, 5.0, 10.0)

# Each time, a request is sent so often: a server that is silent for 3 s is asked again, and given up within PATIENCE.
# (pyarrow's own `from_uri` asks thirty times, and lets the process end only then.)
_REQUESTS = 2

# What may stand behind the question mark of an address.
_S3_OPTIONS = ("endpoint_override", "scheme", "region")


class StorageError(InputError):
    """What was to be kept could not be written or read: a full disk, a lost network."""


class Storage:
    """A folder of files. Names are relative to it, with `/` between their parts.

    Args:
        uri: path of a folder (`~` is the home folder), or `s3://BUCKET/PATH`, of another server than Amazon's with
            `?endpoint_override=HOST:PORT&scheme=http` behind it or AWS_ENDPOINT_URL in the environment.
    """

    def __init__(self, uri: str | Path):
        base, question, query = str(uri).partition("?")
        self.is_local = "://" not in base
        if not self.is_local and "@" in base.split("/")[2]:
            raise InputError(
                "s3://***@...: keys do not belong into an address, which is stored; AWS_ACCESS_KEY_ID and"
                " AWS_SECRET_ACCESS_KEY in the environment, or ~/.aws/credentials, have them"
            )
        self._query = question + query
        self._base = str(Path(expand_home(uri)).resolve()) if self.is_local else base.rstrip("/")

    @property
    def uri(self) -> str:
        """What `Storage` makes this folder of."""
        return self._base if self.is_local else self._base + self._query

    def child(self, name: str) -> "Storage":
        """Return a folder in this one."""
        return Storage(f"{self._base}/{name}" + ("" if self.is_local else self._query))

    def path(self, name: str) -> str:
        """Return what a person calls a file in it."""
        return f"{self._base}/{name}"

    def __str__(self) -> str:
        return self._base

    @cached_property
    def _opened(self) -> tuple[pyarrow.fs.FileSystem, str]:
        if self.is_local:
            return pyarrow.fs.LocalFileSystem(), self._base
        try:
            return _open_s3(self._base, self._query)
        except (ValueError, OSError) as error:
            raise InputError(f"{self._base}: {_reason(error)}; must be a folder or s3://BUCKET/PATH") from error

    @property
    def filesystem(self) -> pyarrow.fs.FileSystem:
        """What pyarrow reads and writes it with."""
        return self._opened[0]

    @property
    def root(self) -> str:
        """Its path on `filesystem`."""
        return self._opened[1]

    def read(self, name: str) -> bytes | None:
        """Return a file's content, or None where there is no such file.

        Raises:
            StorageError: it cannot be read.
        """
        try:
            return self._trying(lambda: self._read(name))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            raise StorageError(f"{self.path(name)}: cannot be read ({_reason(error)})") from error

    def _read(self, name: str) -> bytes:
        if self.is_local:
            return Path(self._base, name).read_bytes()
        with self.filesystem.open_input_file(f"{self.root}/{name}") as file:
            return file.read()

    def _trying(self, action: Callable[[], Value]) -> Value:
        """Do something, again and again where it fails over a network."""
        for pause in () if self.is_local else _PAUSES:
            try:
                return action()
            except FileNotFoundError:
                raise
            except OSError:
                time.sleep(pause)
        return action()

    def exists(self, name: str) -> bool:
        """Return whether there is such a file or folder.

        Raises:
            StorageError: the storage does not answer.
        """
        try:
            if self.filesystem.get_file_info(f"{self.root}/{name}").type != pyarrow.fs.FileType.NotFound:
                return True
            self._check_bucket()
            return False
        except OSError as error:
            raise StorageError(f"{self.path(name)}: cannot be read ({_reason(error)})") from error

    def _check_bucket(self) -> None:
        """Raise StorageError where nothing is found because there is no such bucket."""
        bucket = self.root.partition("/")[0]
        if not self.is_local and self.filesystem.get_file_info(bucket).type == pyarrow.fs.FileType.NotFound:
            raise StorageError(f"{self}: there is no bucket {bucket}")

    def write(self, name: str, content: bytes | str) -> None:
        """Write a file so that a reader sees the old content or the new one, never a part, even after a power cut.

        Raises:
            StorageError: it cannot be written.
        """
        content = content.encode() if isinstance(content, str) else content
        write = self._write_local if self.is_local else self._write_remote
        try:
            self._trying(lambda: write(name, content))
        except OSError as error:
            raise StorageError(f"{self.path(name)}: cannot be written ({_reason(error)})") from error

    def _write_local(self, name: str, content: bytes) -> None:
        path = Path(self._base, name)
        part = path.with_name(f"{path.name}.part")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with part.open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            os.replace(part, path)
        except OSError:
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)  # on a full disk, it would take what is left
            raise

    def _write_remote(self, name: str, content: bytes) -> None:
        with self.filesystem.open_output_stream(f"{self.root}/{name}") as file:  # S3 shows an object when it is whole
            file.write(content)

    def fetch(self, name: str, folder: str | Path) -> Path:
        """Return the path of a file on this machine: its own, or that of a copy in `folder`.

        Raises:
            StorageError: there is no such file, or it cannot be read.
        """
        own = Path(self._base, name)
        content = self.read(name) if not self.is_local else None
        if content is None and not (self.is_local and own.is_file()):
            raise StorageError(f"{self.path(name)}: no such file")
        if content is None:
            return own
        copy = Path(folder, Path(name).name)
        copy.write_bytes(content)
        return copy

    def remove(self, name: str) -> None:
        """Remove a file.

        Raises:
            StorageError: it cannot be removed.
        """
        try:
            self._trying(lambda: self.filesystem.delete_file(f"{self.root}/{name}"))
        except OSError as error:
            raise StorageError(f"{self.path(name)}: cannot be removed ({_reason(error)})") from error

    def make(self) -> None:
        """Make the folder, where it is one of this machine.

        Raises:
            StorageError: it cannot be made.
        """
        try:
            Path(self._base).mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"{self}: cannot be made ({_reason(error)})") from error

    def names(self) -> list[str]:
        """Return the names of the files and folders directly in it, sorted; none where it does not exist."""
        selector = pyarrow.fs.FileSelector(self.root, allow_not_found=True)
        try:
            names = sorted(info.base_name for info in self.filesystem.get_file_info(selector))
            if not names:
                self._check_bucket()
            return names
        except OSError as error:
            raise StorageError(f"{self}: cannot be read ({_reason(error)})") from error


def _open_s3(base: str, query: str) -> tuple[pyarrow.fs.FileSystem, str]:
    """What pyarrow reads and writes `s3://BUCKET/PATH` with, and what it calls that.

    Raises:
        ValueError: it is no such address.
        OSError: nobody says in which of Amazon's regions the bucket is.
    """
    scheme, _, path = base.partition("://")
    bucket = path.partition("/")[0]
    path = "/".join(part for part in path.split("/") if part)
    options = dict(parse_qsl(query.removeprefix("?"), keep_blank_values=True))
    if scheme != "s3" or not bucket:
        raise ValueError("no such storage")
    for name in options:
        if name not in _S3_OPTIONS:
            raise ValueError(f"{name}: no such option, known: {', '.join(_S3_OPTIONS)}")
    server = os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
    if server and "endpoint_override" not in options:
        protocol, separator, host = server.rpartition("://")
        options |= {"endpoint_override": host.rstrip("/"), **({"scheme": protocol} if separator else {})}
    if "endpoint_override" not in options and "region" not in options:
        options["region"] = pyarrow.fs.resolve_s3_region(bucket)
    retries = pyarrow.fs.AwsStandardS3RetryStrategy(max_attempts=_REQUESTS)
    return pyarrow.fs.S3FileSystem(**options, retry_strategy=retries), path


def _reason(error: BaseException) -> str:
    """What an error says, in one line."""
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return " ".join(str(error).split()) or type(error).__name__
