"""What another terminal asks of the process that runs a search: files that it reads, and takes away."""

import json
import time
import uuid
from dataclasses import asdict, dataclass
from typing import Any

from brainreg.errors import InputError
from brainreg.records.driver import driver_of
from brainreg.storage import Storage, StorageError

_FOLDER = "requests"

# A driver looks every five seconds.
_PATIENCE = 30.0


@dataclass(frozen=True)
class Request:
    """What is asked; each field stands for itself.

    Attributes:
        pause: end the process now, as Ctrl-C does.
        stop: begin no further trial, and recommend when the running ones have ended.
        trial: number of a trial that is stopped at its next epoch.
        num_samples, minutes, gpu_hours: limits of the search that take the place of its own.
    """

    pause: bool = False
    stop: bool = False
    trial: int | None = None
    num_samples: int | None = None
    minutes: float | None = None
    gpu_hours: float | None = None

    @property
    def limits(self) -> dict[str, Any]:
        """The limits that are asked for."""
        named = {"num_samples": self.num_samples, "minutes": self.minutes, "gpu_hours": self.gpu_hours}
        return {name: value for name, value in named.items() if value is not None}


def ask(search: Storage, request: Request, patience: float = _PATIENCE) -> str:
    """Ask the driver of a search, and wait until it has heard; return who it is, in words.

    A request is for the process that runs the search now: none that comes later hears it.

    Raises:
        InputError: no process runs the search, or it does not hear.
    """
    name = str(search).rsplit("/", 1)[-1]
    driver = driver_of(search)
    if driver is None:
        raise InputError(f"NAME={name}: no process runs this search; `brainreg status {name}` shows how far it is")
    folder, file = search.child(_FOLDER), f"{uuid.uuid4().hex}.json"
    folder.make()
    folder.write(file, json.dumps({"driver": driver["token"], **asdict(request)}))
    who = f"process {driver['pid']} on {driver['host']}"
    end = time.monotonic() + patience
    while folder.exists(file):
        if time.monotonic() > end:
            folder.remove(file)
            raise InputError(f"NAME={name}: {who} does not hear; it may be starting, or at its end: try again")
        time.sleep(0.2)
    return who


def take(search: Storage, driver: str) -> list[Request]:
    """Return what is asked of a driver, by its token, and remove it; and remove what was asked of earlier ones."""
    folder = search.child(_FOLDER)
    taken = []
    for file in (name for name in folder.names() if name.endswith(".json")):  # others are being written
        content = folder.read(file)
        try:
            fields = json.loads(content or b"{}")
            own = fields.pop("driver", None) == driver
            request = Request(**fields)
        except (ValueError, TypeError, AttributeError):  # of another version, or none
            own = False
        try:
            folder.remove(file)
        except StorageError:
            continue  # who asked has given up
        if own:
            taken.append(request)
    return taken
