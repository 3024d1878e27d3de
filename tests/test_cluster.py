"""Searches on a real cluster: several raylets on this machine, as many nodes to Ray."""

import re
import subprocess
import sys
import time

import psutil
import pytest
import ray
import torch
from conftest import ROOT
from ray.cluster_utils import Cluster

from brainreg.cluster import check_nodes, pack, start_ray, unpack
from brainreg.data import load_dataset, split_files
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.records import read_trials
from brainreg.results import load_results
from brainreg.storage import Storage

TRIALS = 6


@pytest.fixture(scope="module")
def cluster():
    """A head without workers, and three nodes with one CPU core each."""
    ray.shutdown()
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0, "include_dashboard": False})
    nodes = [cluster.add_node(num_cpus=1) for _ in range(3)]
    cluster.wait_for_nodes()
    yield cluster, nodes
    ray.shutdown()
    cluster.shutdown()


def command(cluster: Cluster, folder, *flags: str) -> list[str]:
    return [
        sys.executable, "tune_main.py", "--space=digits_double", "--scheduler=none", "--epoch_num=4",
        "--base_channels=4", "--reg_image_num=200", "--attack_image_num=20", "--final_attack_seconds=0",
        f"--num-samples={TRIALS}", "--name=s", f"--storage_path={folder}", f"--address={cluster.address}", *flags,
    ]  # fmt: skip


def test_a_search_loses_a_node_and_finishes(cluster, tmp_path):
    cluster, nodes = cluster
    with (tmp_path / "log.txt").open("w+") as log:
        search = subprocess.Popen(command(cluster, tmp_path), cwd=ROOT, stdout=log, stderr=log)
        killed = None
        deadline = time.monotonic() + 200
        while killed is None and search.poll() is None and time.monotonic() < deadline:
            time.sleep(0.2)
            for node in nodes:
                raylet = node.all_processes["raylet"][0].process.pid
                workers = [one for one in psutil.Process(raylet).children() if "ImplicitFunc" in one.name()]
                # A node on which a trial trains: it has trained an epoch at least.
                running = {str(one.pid) for one in workers}
                if running and any(record.epochs for record in read_trials(Storage(tmp_path / "s"))):
                    cluster.remove_node(node, allow_graceful=False)
                    killed = node
                    break
        status = search.wait(300)
        log.seek(0)
        text = log.read()
    assert status == 0 and killed is not None, text
    results = load_results(tmp_path / "s")
    assert results.trial.tolist() == list(range(TRIALS)) and set(results.state) == {"finished"}, text
    assert all([epoch["epoch"] for epoch in epochs] == [0, 1, 2, 3, 4] for epochs in results.epochs)
    retried = results[results.retries.map(len) > 0]
    assert len(retried) == 1, text
    assert re.search(rf"trial {retried.trial.iloc[0]}: tried again after ", text)
    assert "3 at a time" in text


def test_a_node_that_lacks_the_data_or_the_folder_is_named(cluster, tmp_path):
    cluster, _ = cluster
    start_ray(cluster.address, "127.0.0.1")
    digits, imagenet = Hyperparameters(task="digits"), Hyperparameters(task="ImageNet")
    seen = Storage(tmp_path)
    seen.write("seen", "")
    check_nodes(digits, "absent", seen, "seen")
    with pytest.raises(InputError, match=r"^node \S+ \(\S+\): does not see the search's folder .*; --storage"):
        check_nodes(digits, "absent", seen, "unseen")
    with pytest.raises(InputError, match=r"^node \S+ \(\S+\): --data_dir=absent: task=ImageNet: not found"):
        check_nodes(imagenet, "absent", seen, "seen")


@pytest.mark.parametrize("name", ["MNIST", "CIFAR10"])
def test_data_that_a_node_lacks_are_sent(name, request, tmp_path):
    here = request.getfixturevalue("mnist_folder" if name == "MNIST" else "cifar_folder")
    there = tmp_path / "there"
    assert split_files(name, there) == []
    unpack(pack(name, "train", str(here)), str(there))
    for now, then in zip(load_dataset(name, "train", there), load_dataset(name, "train", here), strict=True):
        assert torch.equal(now, then)
