"""Ray itself: started here or found, and the machines that it has."""

import atexit
import contextlib
import logging
import math
import os
import shutil
import socket
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
import torch

from brainreg._utils.commands import tool_name
from brainreg._utils.machine import cpu_cores
from brainreg._utils.timeouts import call_with_timeout
from brainreg.errors import InputError, first_line
from brainreg.search.claims import claims_of_others
from brainreg.search.options import AUTO, SearchOptions
from brainreg.storage import PATIENCE

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing goes to Ray's makers unless the user wants it

os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's own tables would repeat ours

os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # an epoch's report has no objective yet

_PACKAGE = Path(__file__).parent.parent

# What is left of a division by a share such as 0.1, which no float is.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Machine:
    """CPU cores and GPUs of one machine."""

    cpus: float
    gpus: float

    def slots(self, cpus_each: float, gpus_each: float) -> int:
        """Return how many jobs fit on it at a time; one that takes a part of a GPU takes it of one GPU."""
        by_cores = math.floor(self.cpus / cpus_each + _ROUNDING)
        if not gpus_each:
            return by_cores
        if gpus_each < 1:
            return min(by_cores, int(self.gpus) * math.floor(1 / gpus_each + _ROUNDING))
        return min(by_cores, int(self.gpus // gpus_each))


@dataclass(frozen=True)
class Machines:
    """This machine, or all nodes of a cluster."""

    each: tuple[Machine, ...]

    @property
    def cpus(self) -> float:
        """CPU cores of all together."""
        return sum(machine.cpus for machine in self.each)

    @property
    def gpus(self) -> float:
        """GPUs of all together."""
        return sum(machine.gpus for machine in self.each)

    def slots(self, cpus_each: float, gpus_each: float) -> int:
        """Return how many jobs fit on all of them at a time; a job runs on one."""
        return sum(machine.slots(cpus_each, gpus_each) for machine in self.each)


def gpus_needed(jobs: int, gpus_each: float) -> int:
    """Return how many GPUs so many jobs take at a time.

    >>> gpus_needed(10, 0.1), gpus_needed(5, 0.4), gpus_needed(3, 2)
    (1, 3, 6)
    """
    if gpus_each < 1:
        return math.ceil(jobs / math.floor(1 / gpus_each + _ROUNDING))
    return int(jobs * gpus_each)


def start_ray(address: str | None, dashboard_host: str) -> str:
    """Start Ray on this machine, or connect to a cluster, unless that was done before.

    Args:
        address: of a cluster; None starts Ray here.
        dashboard_host: where the dashboard of a Ray that is started here listens.

    Returns:
        The dashboard's address, empty where there is none.

    Raises:
        InputError: no cluster answers.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "ignore_reinit_error": True}
    if address is None:
        if ray.is_initialized():
            return ray.init(**quiet).dashboard_url or ""
        quiet["_temp_dir"] = _temporary_folder()
        _check_token()
        try:
            # "local" starts one even where another cluster runs on this machine.
            # Ray counts GPUs in its own way, which parts of a GPU (MIG) or another driver can lead astray.
            quiet |= {"num_cpus": cpu_cores(), "num_gpus": len(visible_gpus())}
            started = ray.init(address="local", dashboard_host=dashboard_host, **quiet)
            return started.dashboard_url or ""
        except Exception as error:  # Ray's own errors, of many kinds
            reason = " ".join(str(error).split()) or type(error).__name__
            raise InputError(
                f"Ray does not start on this machine: {reason} (its folder, for logs and sockets: {quiet['_temp_dir']};"
                " RAY_TMPDIR says where another one is)"
            ) from error
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a submitted job brings its code itself
        quiet["runtime_env"] = {"py_modules": [str(_PACKAGE)]}
    try:
        _knock(address)
        return call_with_timeout(PATIENCE, lambda: ray.init(address=address, **quiet)).dashboard_url or ""
    except (OSError, ValueError, RuntimeError) as error:  # a ConnectionError is an OSError, and so is a TimeoutError
        reason = first_line(error)
        if isinstance(error, TimeoutError):
            reason += "; if it asks for a token, set RAY_AUTH_MODE=token, with its head's token in ~/.ray/auth_token"
        raise InputError(f"--address={address}: no Ray cluster answers there ({reason})") from error


# A socket's path may have so many bytes, and Ray puts so many behind its temporary folder.
_SOCKET, _BEHIND = 107, len("/session_2026-01-01_00-00-00_000000_4194304/sockets/plasma_store")

# Where a short folder can be made on Linux.
_SHORT = ("/tmp", "/var/tmp", "/dev/shm")


def _temporary_folder() -> str:
    """Return where Ray is to keep its logs and sockets: where it would itself, or, if it cannot, a folder of our own.

    Batch systems set a long TMPDIR, and another user may own the usual folder.

    Raises:
        InputError: RAY_TMPDIR names a folder that does not do, or there is none.
    """
    variable = next((name for name in ("RAY_TMPDIR", "TMPDIR") if os.environ.get(name)), None)
    parent = Path(os.environ[variable] if variable else tempfile.gettempdir())
    usual, problem = parent / "ray", ""
    if len(os.fsencode(usual)) + _BEHIND > _SOCKET:
        problem = (
            f"too long for the names of Ray's sockets, by {len(os.fsencode(usual)) + _BEHIND - _SOCKET} characters"
        )
    else:
        try:
            usual.mkdir(mode=0o777, parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=usual):
                return str(usual)
        except OSError as error:
            problem = f"{error.filename if isinstance(error.filename, str) else usual}: {error.strerror}"
    if variable == "RAY_TMPDIR":
        raise InputError(f"RAY_TMPDIR={parent}: {problem}; must be a short path of a folder that you may write to")
    for short in _SHORT:
        with contextlib.suppress(OSError):
            own = tempfile.mkdtemp(prefix="ray-", dir=short)  # nobody else may enter it
            atexit.register(_remove, own)
            return own
    raise InputError(
        f"{variable or 'TMPDIR'}={parent}: {problem}; and none of {', '.join(_SHORT)} can be written to. RAY_TMPDIR"
        " must be a short path of a folder that you may write to"
    )


def _remove(folder: str) -> None:
    ray.shutdown()
    shutil.rmtree(folder, ignore_errors=True)


def _check_token() -> None:
    """Raise InputError where Ray cannot keep the token that lets people in."""
    mode, given = os.environ.get("RAY_AUTH_MODE", "token"), ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
    if mode.lower() != "token" or any(os.environ.get(name) for name in given):
        return
    try:
        token = Path.home() / ".ray" / "auth_token"
        if token.is_file():
            return
        token.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=token.parent):
            return
    except (OSError, RuntimeError) as error:  # RuntimeError: no home is known
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise InputError(
            f"HOME={os.environ.get('HOME')}: Ray cannot keep its token in .ray/auth_token there ({reason}); let HOME"
            " be a folder that you may write to, or RAY_AUTH_TOKEN_PATH a file with a token"
        ) from error


def _check_host(host: str) -> None:
    try:
        with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
            probe.bind((host, 0))
    except OSError as error:
        raise InputError(
            f"--dashboard_host={host}: not an address of this machine ({error.strerror}); 127.0.0.1 lets only this"
            " machine in, 0.0.0.0 whoever reaches it"
        ) from error


def _knock(address: str) -> None:
    """Raise OSError if nothing listens at HOST:PORT; Ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if colon and port.isdigit():
        socket.create_connection((host, int(port)), timeout=5).close()


def visible_gpus() -> list[str]:
    """Return this machine's GPUs, as CUDA_VISIBLE_DEVICES calls them."""
    count, given = torch.cuda.device_count(), os.environ.get("CUDA_VISIBLE_DEVICES")
    return [name.strip() for name in given.split(",")][:count] if given else [str(i) for i in range(count)]


def machines(address: str | None, dashboard_host: str) -> Machines:
    """Return what trials can run on; connects to the cluster at `address`, starts nothing where that is None.

    Raises:
        InputError: no cluster answers, or the dashboard of a Ray that is started here cannot listen there.
    """
    if address is None:
        _check_host(dashboard_host)
        _check_token()
        return Machines((Machine(float(cpu_cores()), float(torch.cuda.device_count())),))
    start_ray(address, dashboard_host)
    resources = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return Machines(tuple(Machine(one.get("CPU", 0.0), one.get("GPU", 0.0)) for one in resources))


def say_dashboard(dashboard: str, say: Callable[[str], None]) -> None:
    """Say where Ray's dashboard is, and how it is opened; nothing where there is none."""
    if dashboard:
        asks = f"it asks for a token, which `{tool_name('ray')} get-auth-token` prints"
        if os.environ.get("RAY_AUTH_MODE") == "disabled":
            asks = "open to whoever reaches it, and so is running code: RAY_AUTH_MODE=disabled"
        say(f"Ray dashboard: http://{dashboard} ({asks})")


def share_of_machines(options: SearchOptions, jobs: int) -> tuple[int, float]:
    """Return how many of the jobs run at a time, and the GPUs that each takes.

    On this machine, that is what other searches leave, and one at least; `max_concurrent` overrules them.

    Raises:
        InputError: a job takes more than there is; no cluster answers.
    """
    if options.gpus_per_trial == AUTO:
        raise InputError(f"--gpus_per_trial={AUTO}: only a search that begins tries that; must be a number here")
    there = machines(options.address, options.dashboard_host)
    gpus = options.gpus_per_trial if options.gpus_per_trial is not None else float(there.gpus > 0)
    for name, value, most, what in (
        ("gpus_per_trial", gpus, there.gpus, "GPUs"),
        ("cpus_per_trial", options.cpus_per_trial, there.cpus, "CPU cores"),
    ):
        if value > most:
            raise InputError(f"--{name}={value:g}: there are {most:g} {what}")
    if gpus > 1 and gpus != int(gpus):
        raise InputError(f"--gpus_per_trial={gpus:g}: must be a part of one GPU, up to 1, or a whole number of GPUs")
    if not there.slots(options.cpus_per_trial, gpus):
        raise InputError(
            f"--gpus_per_trial={gpus:g}: no machine has so many, with --cpus_per_trial={options.cpus_per_trial:g}"
        )
    others = claims_of_others() if options.address is None and options.max_concurrent is None else []
    if others:
        taken = {gpu for claim in others for gpu in claim.gpus} & {*visible_gpus()}
        there = Machines((Machine(there.cpus - sum(claim.cores for claim in others), there.gpus - len(taken)),))
    slots = max(there.slots(options.cpus_per_trial, gpus), 1)
    return min(slots, options.max_concurrent or slots, jobs), gpus
