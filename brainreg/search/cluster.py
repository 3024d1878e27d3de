"""Ray itself: started here or found, its machines, its nodes checked."""

import atexit
import contextlib
import io
import logging
import math
import os
import shutil
import socket
import tarfile
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from brainreg._utils.commands import tool_name
from brainreg._utils.machine import cpu_cores
from brainreg._utils.timeouts import call_with_timeout
from brainreg.data.datasets import DATASETS
from brainreg.data.fingerprints import TEST, check_same_data, part_name
from brainreg.data.load import split_files
from brainreg.data.types import Split
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.storage import PATIENCE, Storage
from brainreg.training.data import load_test_images, load_training_data

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
        reason = str(error).strip().splitlines()[0]
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


# How long GPUs are waited for that may be in use, in seconds.
_GPU_PATIENCE = 60.0


# Larger data sets are not sent to a node that lacks them, in bytes.
_MOST_SENT = 2 * 2**30


# How often the driver looks whether its own node lives, and how long it waits for an answer, in seconds.
_LOOK, _ANSWER = 1.0, 20.0


def watch_own_node(on_lost: Callable[[str], None]) -> None:
    """Call `on_lost`, in another thread, with the reason, when Ray's processes on the driver's node have died.

    Ray Tune would wait for ever: the nodes that are left cannot reach the driver any more.
    """
    own = ray.get_runtime_context().get_node_id()
    # Where Ray was started here, its processes are this one's children: their end is seen at once.
    children = [child for child in psutil.Process().children() if child.name() in ("raylet", "gcs_server")]

    def lives() -> bool:
        if children:
            return all(child.is_running() and child.status() != psutil.STATUS_ZOMBIE for child in children)
        return any(node["NodeID"] == own and node["Alive"] for node in ray.nodes())

    def watch() -> None:
        while ray.is_initialized():
            try:
                alive = call_with_timeout(_ANSWER, lives)
            except Exception:  # Ray's own errors, of many kinds
                alive = False
            if not alive and ray.is_initialized():
                return on_lost("Ray's processes on the driver's machine have died")
            time.sleep(_LOOK)

    threading.Thread(target=watch, daemon=True).start()


def check_nodes(
    settings: Hyperparameters,
    data_dir: str,
    search: Storage,
    seen: str,
    splits: Sequence[Split] = ("train",),
    data: Mapping[str, str] | None = None,
) -> None:
    """Let every node of the cluster load the data, which must be the driver's, and read a file of the search's folder.

    Data that a node lacks are sent to it, up to a size; this also fills the nodes' caches. A node that is lost
    meanwhile gets no trials and is no problem.

    Args:
        settings: of a trial.
        data_dir: folder of the data sets, the same path on each node.
        search: the folder of the search.
        seen: a file in it.
        splits: of the task that are needed; of the regularization data, it is the training split.
        data: fingerprints of what the driver has.

    Raises:
        InputError: the first node that cannot, by its name.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    wanted = {(settings.task, split) for split in splits} | {(settings.reg_data, "train")}
    parts = [(name, split) for name, split in wanted if name in DATASETS]
    answers = _on_each(nodes, _missing, parts, data_dir)
    packed = {
        part: ray.put(pack(part[0], part[1], data_dir))
        for part in {part for answer in answers if isinstance(answer, list) for part in answer}
        if 0 < sum(path.stat().st_size for path in split_files(part[0], data_dir, part[1])) <= _MOST_SENT
    }
    for node, answer in zip(nodes, answers, strict=True):
        for part in answer if isinstance(answer, list) else []:
            if part in packed:
                _on_each([node], unpack, packed[part], data_dir)
    problems = _on_each(nodes, _check_node, settings, data_dir, search.uri, seen, splits, data or {})
    for node, problem in zip(nodes, problems, strict=True):
        if isinstance(problem, ray.exceptions.RayError):
            if not _lives(node):
                continue
            last = str(problem).strip().splitlines()[-1]
            problem = f"cannot run trials ({last}); it needs the same Python packages"
        if problem:
            raise InputError(f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}): {problem}")


def check_gpus(gpus_each: float) -> list[str]:
    """Let every node that has GPUs, as Ray counts, compute on one; return the names of the GPUs that did, each once.

    A node whose GPUs are all in use for a while, by another search, is not waited for.

    Args:
        gpus_each: what a trial takes, above 0.

    Raises:
        InputError: a node whose GPU cannot be used, by its name: it would fail every trial that it gets.
    """
    remote = ray.remote(num_cpus=0, num_gpus=min(gpus_each, 1.0), max_retries=0)(_use_gpu)
    nodes = [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("GPU")]
    asked = {
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(): node
        for node in nodes
    }
    names = []
    answered, waiting = ray.wait([*asked], num_returns=len(asked), timeout=_GPU_PATIENCE) if asked else ([], [])
    for one in answered:
        node = asked[one]
        try:
            name, problem = ray.get(one)
        except ray.exceptions.RayError as error:
            if not _lives(node):
                continue
            name, problem = "", str(error).strip().splitlines()[-1]
        if problem:
            raise InputError(
                f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']}): Ray counts"
                f" {node['Resources']['GPU']:g} GPUs there, but PyTorch cannot use one ({problem}); mend that, or start"
                " its Ray with --num-gpus=0"
            )
        names.append(name)
    for one in waiting:
        ray.cancel(one)
    return [*dict.fromkeys(names)]


def _use_gpu() -> tuple[str, str]:
    """The name of this process's GPU, or why it cannot be used, in one line."""
    try:
        ones = torch.ones(2, 2, device="cuda")
        (ones @ ones).sum().item()
        return torch.cuda.get_device_name(), ""
    except (RuntimeError, AssertionError) as error:  # AssertionError: PyTorch without CUDA
        return "", (str(error).strip() or type(error).__name__).splitlines()[0]


def _lives(node: Mapping[str, Any]) -> bool:
    """Whether a node that `ray.nodes` named is part of the cluster still."""
    return any(one["NodeID"] == node["NodeID"] and one["Alive"] for one in ray.nodes())


def _on_each(nodes: Sequence[Mapping[str, Any]], function: Callable[..., Any], *arguments: Any) -> list[Any]:
    """What a function returns on each of some nodes, or Ray's error."""
    remote = ray.remote(num_cpus=0)(function)
    waiting = [
        remote.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            *arguments
        )
        for node in nodes
    ]
    answers = []
    for answer in waiting:
        try:
            answers.append(ray.get(answer))
        except ray.exceptions.RayError as error:
            answers.append(error)
    return answers


def _missing(parts: Sequence[tuple[str, Split]], data_dir: str) -> list[tuple[str, Split]]:
    """Those of some data sets' splits that this node lacks."""
    return [(name, split) for name, split in parts if name != "digits" and not split_files(name, data_dir, split)]


def pack(name: str, split: Split, data_dir: str) -> bytes:
    """Return the files of a data set's split as an archive."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for path in split_files(name, data_dir, split):
            archive.add(path, arcname=str(path.relative_to(data_dir)))
    return content.getvalue()


def unpack(packed: bytes, data_dir: str) -> None:
    """Write the files of an archive of `pack` below `data_dir`."""
    Path(data_dir).mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(data_dir, filter="data")


def _check_node(
    settings: Hyperparameters, data_dir: str, search: str, seen: str, splits: Sequence[Split], data: Mapping[str, str]
) -> str:
    """What is wrong on this node, in one line, or nothing."""
    try:
        if Storage(search).read(seen) is None:
            return (
                f"does not see the search's folder {search}; --storage_path must be a folder that all nodes share,"
                " or s3://BUCKET/PATH"
            )
        found = load_training_data(settings, data_dir, "cpu").fingerprints
        if "test" in splits:
            found[part_name(TEST, settings.rgb)] = load_test_images(settings, data_dir).fingerprint
    except InputError as error:
        return f"--data_dir={data_dir}: {error}"
    try:
        check_same_data(found, data, f"--data_dir={data_dir}", "the driver")
    except InputError as error:
        return str(error)
    return ""


def say_dashboard(dashboard: str, say: Callable[[str], None]) -> None:
    """Say where Ray's dashboard is, and how it is opened; nothing where there is none."""
    if dashboard:
        asks = f"it asks for a token, which `{tool_name('ray')} get-auth-token` prints"
        if os.environ.get("RAY_AUTH_MODE") == "disabled":
            asks = "open to whoever reaches it, and so is running code: RAY_AUTH_MODE=disabled"
        say(f"Ray dashboard: http://{dashboard} ({asks})")
