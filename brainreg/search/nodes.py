"""The nodes of a Ray cluster: each has the data, the folder and its GPUs, and the driver's own lives."""

import io
import tarfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil
import ray
import torch
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from brainreg._utils.timeouts import call_with_timeout
from brainreg.data.datasets import DATASETS
from brainreg.data.fingerprints import TEST, check_same_data, part_name
from brainreg.data.load import split_files
from brainreg.data.types import Split
from brainreg.errors import InputError, first_line
from brainreg.hyperparameters import Hyperparameters
from brainreg.storage import Storage
from brainreg.training.data import load_test_images, load_training_data

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
        return "", first_line(error)


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
            found[part_name(TEST, settings)] = load_test_images(settings, data_dir).fingerprint
    except InputError as error:
        return f"--data_dir={data_dir}: {error}"
    try:
        check_same_data(found, data, f"--data_dir={data_dir}", "the driver")
    except InputError as error:
        return str(error)
    return ""
