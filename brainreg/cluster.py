"""Ray itself: started on this machine or found on a cluster, and whether every node can run trials."""

import logging
import os
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # nothing goes to Ray's makers unless the user wants it
os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")  # Tune's own tables would repeat ours
os.environ.setdefault("TUNE_DISABLE_STRICT_METRIC_CHECKING", "1")  # an epoch's report has no objective yet

import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.storage import PATIENCE, Storage, within
from brainreg.training import load_training_data

_PACKAGE = Path(__file__).parent


@dataclass(frozen=True)
class Machines:
    """CPU cores and GPUs of this machine, or of all nodes of a cluster."""

    cpus: float
    gpus: float


def start_ray(address: str | None, dashboard_host: str) -> str:
    """Start Ray on this machine, or connect to a cluster, unless that was done before.

    Args:
        address: of a cluster; None starts Ray here.
        dashboard_host: where the dashboard of a Ray that is started here listens.

    Returns:
        The dashboard's address, empty where there is none.

    Raises:
        InputError: no cluster answers, or the dashboard cannot listen there.
    """
    quiet: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR, "ignore_reinit_error": True}
    if address is None:
        _check_host(dashboard_host)
        # "local" starts one even where another cluster runs on this machine.
        return ray.init(
            address="local", num_cpus=len(os.sched_getaffinity(0)), dashboard_host=dashboard_host, **quiet
        ).dashboard_url
    if "RAY_JOB_CONFIG_JSON_ENV_VAR" not in os.environ:  # a submitted job brings its code itself
        quiet["runtime_env"] = {"py_modules": [str(_PACKAGE)]}
    try:
        _knock(address)
        return within(PATIENCE, lambda: ray.init(address=address, **quiet)).dashboard_url
    except (OSError, ValueError, RuntimeError) as error:  # a ConnectionError is an OSError, and so is a TimeoutError
        reason = str(error).strip().splitlines()[0]
        raise InputError(f"--address={address}: no Ray cluster answers there ({reason})") from error


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


def machines(address: str | None, dashboard_host: str) -> Machines:
    """Return what trials can run on; connects to the cluster at `address`, starts nothing where that is None."""
    if address is None:
        return Machines(float(len(os.sched_getaffinity(0))), float(torch.cuda.device_count()))
    start_ray(address, dashboard_host)
    resources = ray.cluster_resources()
    return Machines(resources.get("CPU", 0.0), resources.get("GPU", 0.0))


def check_nodes(settings: Hyperparameters, data_dir: str, search: Storage, seen: str) -> None:
    """Let every node of the cluster load the data and read a file of the search's folder.

    This also fills the nodes' caches, and downloads what can be downloaded there.

    Args:
        settings: of a trial.
        data_dir: as each node finds it.
        search: the folder of the search.
        seen: a file in it.

    Raises:
        InputError: the first node that cannot, by its name.
    """
    check = ray.remote(num_cpus=0)(_check_node)
    nodes = [node for node in ray.nodes() if node["Alive"]]
    waiting = [
        check.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            settings, data_dir, search.uri, seen
        )
        for node in nodes
    ]
    for node, answer in zip(nodes, waiting, strict=True):
        name = f"node {node['NodeManagerHostname']} ({node['NodeManagerAddress']})"
        try:
            problem = ray.get(answer)
        except ray.exceptions.RayError as error:
            problem = f"cannot run trials ({str(error).strip().splitlines()[-1]}); it needs the same Python packages"
        if problem:
            raise InputError(f"--address: {name}: {problem}")


def _check_node(settings: Hyperparameters, data_dir: str, search: str, seen: str) -> str:
    """What is wrong on this node, in one line, or nothing."""
    try:
        if Storage(search).read(seen) is None:
            return (
                f"does not see the search's folder {search}; --storage_path must be a folder that all nodes share,"
                " or s3://BUCKET/PATH"
            )
        load_training_data(settings, data_dir, "cpu")
    except InputError as error:
        return f"--data_dir={data_dir}: {error}" if "not found" in str(error) else str(error)
    return ""
