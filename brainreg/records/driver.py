"""Who runs a search now: one process at a time."""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any

import psutil

from brainreg._utils.commands import brainreg_command
from brainreg.errors import InputError
from brainreg.storage import Storage, StorageError

DRIVER = "driver.json"

# The driver says so often that it lives; silent for longer than _SILENCE it is dead.
_BEAT, _SILENCE = 5.0, 30.0

# Without a lock, who wants to be the driver looks again after so many seconds: others that looked at the same time have
# written by then.
_SETTLED = 3.0

# What a driver says of itself, and of which type.
_KEYS = {
    "host": str,
    "pid": int,
    "process_began": int | float,
    "token": str,
    "slots": int,
    "began": int | float,
    "beat": int | float,
}


def driver_of(search: Storage, file: str = DRIVER) -> dict[str, Any] | None:
    """Return who runs a search now: host, pid, slots and began; None where nobody does.

    Args:
        search: the folder.
        file: name of the file that says so.
    """
    driver = _stored_driver(search, file)
    return driver if driver and _alive(driver) else None


def _stored_driver(search: Storage, file: str) -> dict[str, Any] | None:
    content = search.read(file)
    if content is None:
        return None
    try:
        driver = json.loads(content)
        if not isinstance(driver, dict) or not all(isinstance(driver.get(key), kind) for key, kind in _KEYS.items()):
            raise ValueError("it does not name a process")
        return driver
    except ValueError as error:
        raise InputError(f"{search.path(file)}: damaged ({error}); delete it if nobody runs what is there") from error


def _alive(driver: dict[str, Any]) -> bool:
    if driver["host"] != socket.gethostname():
        return time.time() - driver["beat"] < _SILENCE
    try:
        process = psutil.Process(driver["pid"])
        # A dead process whose parent does not ask for it is still there, in some containers for ever. Times shift a
        # little when the clock is set.
        return process.status() != psutil.STATUS_ZOMBIE and abs(process.create_time() - driver["process_began"]) < 2
    except psutil.NoSuchProcess:
        return False


class Driver:
    """Says in a folder that this process runs what is there, as long as it does; a context manager.

    Of several processes that begin at once, one becomes the driver, and the others are refused before they have written
    anything.

    Args:
        search: the folder.
        slots: trials at a time.
        check: raises InputError if another process runs it; it gets the folder and `file`.
        file: name of the file that says so.

    Attributes:
        on_lost: called, in another thread, with the reason, if another process took the search over.
        on_beat: called, in that thread, every few seconds, with the token by which this process is known.

    Raises:
        InputError: another process runs it.
    """

    def __init__(
        self,
        search: Storage,
        slots: int,
        check: Callable[[Storage, str], None] | None = None,
        file: str = DRIVER,
    ):
        self._search, self._check, self._file = search, check or check_no_driver, file
        self.on_lost: Callable[[str], None] = lambda reason: None
        self.on_beat: Callable[[str], None] = lambda token: None
        self._end = threading.Event()
        self._content = {
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "process_began": psutil.Process().create_time(),
            "token": uuid.uuid4().hex,
            "slots": slots,
            "began": time.time(),
        }

    def __enter__(self) -> "Driver":
        with _one_at_a_time(self._search) as alone:
            self._check(self._search, self._file)
            self._beat()
        if not alone:  # of those that wrote at once, the last one remains
            time.sleep(_SETTLED)
            self._check_own()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._end.set()
        self._thread.join()
        with contextlib.suppress(InputError):  # silence says the same, a little later
            if not self._is_others():
                try:
                    self._search.write(self._file, json.dumps({**self._content, "beat": 0.0, "process_began": 0.0}))
                except StorageError:  # a full disk; what is removed needs no room
                    self._search.remove(self._file)

    def _beat(self) -> None:
        self._search.write(self._file, json.dumps({**self._content, "beat": time.time()}))

    def _is_others(self) -> bool:
        stored = _stored_driver(self._search, self._file)
        return stored is not None and stored["token"] != self._content["token"]

    def _check_own(self) -> None:
        if self._is_others():
            self._check(self._search, self._file)

    def _run(self) -> None:
        while not self._end.wait(_BEAT):
            try:
                self._check_own()
                self._beat()
                self.on_beat(str(self._content["token"]))
            except StorageError:
                continue  # a trial that cannot be written ends the search
            except InputError as error:
                return self.on_lost(str(error))


@contextlib.contextmanager
def _one_at_a_time(search: Storage) -> Iterator[bool]:
    """Let one process of this machine at a time look at a folder and write to it; yields whether that is so.

    A bucket has no locks, and NFS none of a folder.
    """
    if not search.is_local:
        yield False
        return
    search.make()
    folder = os.open(search.root, os.O_RDONLY)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX)
        except OSError:
            yield False
        else:
            yield True
    finally:
        os.close(folder)  # which unlocks it


def check_no_driver(
    folder: Storage, file: str = DRIVER, *, flag: str = "", runs: str = "runs this search", then: str = ""
) -> None:
    """Raise InputError if another process runs what a folder holds.

    Args:
        folder: of a search, a confirmation, a reproduction or a training.
        file: name of the file that says so.
        flag: how it was named on the command line; where it is not given, as the search that goes on.
        runs: what the other process does.
        then: what can be done beside waiting for its end.
    """
    if (driver := driver_of(folder, file)) is None:
        return
    if not flag:
        name = str(folder).rsplit("/", 1)[-1]
        flag, then = f"search {name}", f", or end it first: {brainreg_command('pause', folder.uri)}"
    raise InputError(f"{flag}: process {driver['pid']} on {driver['host']} {runs}; wait for its end{then}")
