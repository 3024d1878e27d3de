"""The files of a trial: what was proposed, its epochs, what was measured.

Each file has one writer and is replaced as a whole; whoever runs a trial goes on from what is there.
"""

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any

from brainreg.errors import InputError
from brainreg.storage import Storage, StorageError

CHECKPOINT = "checkpoint.pt"
_TRIAL, _PROGRESS = "trial.json", "progress.json"

# How a trial stands. A stopped one was no longer worth its time; an unfinished one runs or was interrupted.
FINISHED, STOPPED, FAILED, UNFINISHED = "finished", "stopped", "failed", "unfinished"

_READERS = 32  # of trials at a time, over a network


@dataclass
class TrialRecord:
    """One trial: a run of a setting with a seed.

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
        data: fingerprints of what it trained on and was measured on; see `brainreg.data.fingerprints`.
        setting_number: number of the first trial with these hyperparameters, whatever their seeds; its own one where
            it is the first.
        copied_from: folder of the other search's trial that it is a copy of, or empty. A copy took no time.
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
    setting_number: int = -1
    copied_from: str = ""

    def __post_init__(self) -> None:
        if self.setting_number < 0:
            self.setting_number = self.number

    @property
    def is_repeat(self) -> bool:
        """Whether it runs a setting that an earlier trial ran, with another seed."""
        return self.setting_number != self.number

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

    def is_known(self) -> bool:
        """Return whether the driver wrote its part, damaged or not."""
        return self.folder.exists(_TRIAL) or self.folder.exists(f"{_TRIAL}.damaged")

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
