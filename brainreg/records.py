"""What a search keeps of itself, so that nothing is lost when a process, a machine or the network fails.

A search's folder holds `search.json`, what is searched; `driver.json`, who runs it; and a folder for each trial:

* `trial.json`, written by the driver: what was proposed, and how it ended if it did not finish;
* `progress.json`, written by the worker: its epochs and, at last, what was measured;
* `checkpoint.pt`, written by the worker before each `progress.json`.

Each file has one writer and is replaced as a whole. Whoever runs a trial goes on from what is there.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

import psutil

from brainreg.errors import InputError
from brainreg.storage import Storage, StorageError

MANIFEST = "search.json"
FORMAT = 3
_WITHOUT_FINGERPRINTS = 2  # of data; all else is as it is now
CHECKPOINT = "checkpoint.pt"
DRIVER = "driver.json"
_TRIAL, _PROGRESS = "trial.json", "progress.json"

# How a trial stands. A stopped one was no longer worth its time; an unfinished one runs or was interrupted.
FINISHED, STOPPED, FAILED, UNFINISHED = "finished", "stopped", "failed", "unfinished"

# The driver says so often that it lives; silent for longer than _SILENCE it is dead.
_BEAT, _SILENCE = 5.0, 30.0

# Without a lock, who wants to be the driver looks again after so many seconds: others that looked at the same time have
# written by then.
_SETTLED = 3.0

_READERS = 32  # of trials at a time, over a network


@dataclass
class TrialRecord:
    """One trial.

    Attributes:
        number: in Optuna's study.
        setting: name of a given setting, or empty.
        hyperparameters: what it trains with.
        params, distributions: what Optuna drew, and what from (JSON, each).
        noted: what its sampler keeps of it, such as its generation.
        began: when it was proposed, seconds since 1970.
        ended: STOPPED or FAILED; empty while it runs, and where it finished.
        error: why it failed, in one line.
        retries: why it was tried again, each time.
        epochs: the per-epoch metrics.
        measured: the objective and its parts; empty until it finished.
        seconds: that workers spent on it.
        node: where it ran last.
        data: fingerprints of what it trained on and was measured on; see `brainreg.fingerprints`.
    """

    number: int
    setting: str
    hyperparameters: dict[str, Any]
    params: dict[str, Any] = field(default_factory=dict)
    distributions: dict[str, str] = field(default_factory=dict)
    noted: dict[str, Any] = field(default_factory=dict)
    began: float = 0.0
    ended: str = ""
    error: str = ""
    retries: list[str] = field(default_factory=list)
    epochs: list[dict[str, float]] = field(default_factory=list)
    measured: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None
    node: str = ""
    data: dict[str, str] = field(default_factory=dict)

    @property
    def state(self) -> str:
        """How it stands."""
        return self.ended or (FINISHED if self.measured else UNFINISHED)


_WORKERS_PART = ("epochs", "measured", "seconds", "node", "data")


def trial_name(number: int) -> str:
    """Return the name of a trial's folder."""
    return f"trial_{number:04d}"


class TrialFiles:
    """The files of one trial."""

    def __init__(self, search: Storage, number: int):
        self.folder = search.child(trial_name(number))

    def write_trial(self, record: TrialRecord) -> None:
        """Write the driver's part."""
        content = {name: value for name, value in asdict(record).items() if name not in _WORKERS_PART}
        self.folder.write(_TRIAL, json.dumps(content))

    def write_progress(self, **content: Any) -> None:
        """Write the worker's part: epochs, measured, seconds, node and data."""
        self.folder.write(_PROGRESS, json.dumps(content))

    def read_progress(self) -> dict[str, Any]:
        """Return the worker's part, empty where there is none yet."""
        return self._read(_PROGRESS)

    def read(self) -> TrialRecord | None:
        """Return the record, or None before the driver wrote its part."""
        trial = self._read(_TRIAL)
        if not trial:
            return None
        try:
            return TrialRecord(**trial, **self.read_progress())
        except TypeError as error:
            raise InputError(f"{self.folder}: its record says what this version does not know ({error})") from error

    def _read(self, name: str) -> dict[str, Any]:
        content = self.folder.read(name)
        if content is None:
            return {}
        try:
            record = json.loads(content)
            if not isinstance(record, dict):
                raise ValueError("it is no mapping")
            return record
        except ValueError as error:
            raise DamagedError(f"{self.folder.path(name)}: damaged ({error})") from error

    def mend(self) -> list[str]:
        """Set aside what is damaged of a trial's two records, so that it can go on; return a note for each.

        Without the worker's part, the trial goes on from its checkpoint. Without the driver's, the study may know what
        was proposed, and then it goes on too; else another setting is proposed for this number.
        """
        notes = []
        for name, then in ((_TRIAL, "the study is asked for it"), (_PROGRESS, "the trial goes on from its checkpoint")):
            try:
                self._read(name)
            except DamagedError as error:
                self.set_aside(name)
                notes.append(f"{error}; kept as {name}.damaged, and {then}")
        return notes

    def set_aside(self, *names: str) -> None:
        """Let files of the trial be called otherwise; those that are not there are left out."""
        for name in names:
            content = self.folder.read(name)
            if content is not None:
                self.folder.write(f"{name}.damaged", content)
                self.folder.remove(name)

    def begin_anew(self) -> None:
        """Set aside what a worker left of another setting."""
        self.set_aside(CHECKPOINT, _PROGRESS)


class DamagedError(InputError):
    """A file that holds something else than what was written."""


def mend_trials(search: Storage) -> list[str]:
    """Set aside the damaged records of a search's trials; return a note for each."""
    return [note for number in sorted(trial_numbers(search)) for note in TrialFiles(search, number).mend()]


def trial_numbers(search: Storage) -> set[int]:
    """Return the numbers of the trials that have a folder."""
    parts = [name.partition("trial_") for name in search.names()]
    return {int(number) for before, there, number in parts if there and not before and number.isdecimal()}


def read_trials(search: Storage, damaged: list[str] | None = None) -> list[TrialRecord]:
    """Return the records of a search, by their numbers.

    Args:
        search: the folder.
        damaged: where it is given, records that are damaged are left out, and what is wrong with them is added to it.

    Raises:
        InputError: one is damaged, or cannot be read.
    """

    def read(files: TrialFiles) -> TrialRecord | None:
        try:
            return files.read()
        except StorageError:
            raise
        except InputError as error:
            if damaged is None:
                raise
            damaged.append(str(error))
            return None

    files = [TrialFiles(search, number) for number in trial_numbers(search)]
    if search.is_local:
        records = [read(one) for one in files]
    else:
        with ThreadPoolExecutor(_READERS) as pool:
            records = list(pool.map(read, files))
    return sorted((record for record in records if record is not None), key=lambda record: record.number)


def write_manifest(search: Storage, content: dict[str, Any]) -> None:
    """Write what is searched, and with which versions: the first file of a search's folder."""
    search.write(MANIFEST, json.dumps({"format": FORMAT, **content}, indent=2) + "\n")


class FormatError(InputError):
    """A search was written by another version of this project.

    Attributes:
        manifest: what it says of itself.
    """

    def __init__(self, text: str, manifest: dict[str, Any]):
        super().__init__(text)
        self.manifest = manifest


def read_manifest(search: Storage) -> dict[str, Any]:
    """Return what is searched: the space, the strategy, the options, the versions, and the data's fingerprints.

    Raises:
        InputError: `search` holds no search of this project, or one of another format (`FormatError`).
    """
    content = search.read(MANIFEST)
    if content is None:
        raise InputError(f"{search}: not the folder of a search; {MANIFEST} is missing")
    try:
        manifest = json.loads(content)
    except ValueError as error:
        raise InputError(f"{search.path(MANIFEST)}: damaged ({error})") from error
    if not isinstance(manifest, dict):
        raise InputError(f"{search.path(MANIFEST)}: damaged (it is no mapping)")
    if manifest.get("format") not in (FORMAT, _WITHOUT_FINGERPRINTS):
        raise FormatError(
            f"{search.path(MANIFEST)}: written in format {manifest.get('format')}; this version reads format {FORMAT}",
            manifest,
        )
    if not isinstance(manifest.get("space"), dict) or "objective" not in manifest["space"]:
        raise InputError(f"{search.path(MANIFEST)}: damaged (it does not say what is searched)")
    return manifest


def search_id(manifest: Mapping[str, Any]) -> str:
    """Return what tells a search from every other one: its own id, or what stands for it in an earlier version."""
    if "id" in manifest:
        return str(manifest["id"])
    return json.dumps([manifest.get("started"), manifest["space"]], sort_keys=True)


# ---------------------------------------------------------------------------------------------
# One driver at a time
# ---------------------------------------------------------------------------------------------


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
        if not isinstance(driver, dict) or not {"host", "beat", "pid", "process_began"} <= driver.keys():
            raise ValueError("it does not name a process")
        return driver
    except ValueError as error:
        raise InputError(f"{search.path(file)}: damaged ({error}); delete it if nobody runs this search") from error


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
                self._search.write(self._file, json.dumps({**self._content, "beat": 0.0, "process_began": 0.0}))

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


def check_no_driver(search: Storage, file: str = DRIVER) -> None:
    """Raise InputError if another process runs a search."""
    driver = driver_of(search, file)
    if driver is not None:
        name = str(search).rsplit("/", 1)[-1]
        raise InputError(
            f"--resume={name}: process {driver['pid']} on {driver['host']} runs this search; wait for its end, or stop"
            " it first (--status shows how far it is)"
        )
