"""Searches on a real cluster: several raylets on this machine, as many nodes to Ray."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
import ray
import torch
from conftest import ROOT
from ray.cluster_utils import Cluster

from brainreg.data.load import load_dataset, split_files
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.records.results import load_results
from brainreg.records.trial import read_trials
from brainreg.search.cluster import Machine, Machines, _temporary_folder, machines, start_ray
from brainreg.search.nodes import check_gpus, check_nodes, pack, unpack
from brainreg.storage import Storage
from brainreg.training.data import load_training_data

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


class TestWhereRayCannotStart:
    """One line, or another place that does."""

    @pytest.fixture(autouse=True)
    def plain(self, monkeypatch):
        for name in ("RAY_TMPDIR", "TMPDIR", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"):
            monkeypatch.delenv(name, raising=False)

    @pytest.mark.long
    def test_a_long_temporary_folder(self, tmp_path):
        """As batch systems set it: Ray runs all the same, and leaves nothing behind."""
        folder = tmp_path / ("slurm_job_scratch_" * 5)
        folder.mkdir()
        begin = "from brainreg.search.cluster import start_ray; import ray; start_ray(None, '127.0.0.1');"
        begin += "print(ray.get_runtime_context().get_temp_dir())"
        environment = {**os.environ, "TMPDIR": str(folder), "PYTHONPATH": str(ROOT)}
        ended = subprocess.run([sys.executable, "-c", begin], env=environment, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stderr
        used = Path(ended.stdout.splitlines()[-1])
        assert used.name.startswith("ray-") and not used.exists()

    @pytest.mark.parametrize("kind", ["long", "a file", "that cannot be written to"])
    def test_a_temporary_folder_that_does_not_do(self, kind, tmp_path, monkeypatch):
        folder = tmp_path / ("slurm_job_scratch_" * 5 if kind == "long" else "t")
        if kind == "a file":
            folder.write_text("")
        elif kind == "long":
            folder.mkdir()
        else:
            folder = Path("/proc/none")
        monkeypatch.setenv("TMPDIR", str(folder))
        own = Path(_temporary_folder())
        assert own.name.startswith("ray-") and own.stat().st_mode & 0o777 == 0o700
        own.rmdir()
        monkeypatch.setenv("RAY_TMPDIR", str(folder))  # who says it wants it
        with pytest.raises(InputError, match=rf"^RAY_TMPDIR={folder}: .*; must be a short path of a folder"):
            _temporary_folder()

    def test_a_usual_folder_stays(self, tmp_path, monkeypatch):
        monkeypatch.setenv("RAY_TMPDIR", "/tmp")
        assert _temporary_folder() == "/tmp/ray"

    @pytest.mark.parametrize("home", ["/proc/nohome", "file"])
    def test_a_home_that_cannot_be_written_to(self, home, tmp_path, monkeypatch):
        (tmp_path / "file").write_text("")
        monkeypatch.setenv("HOME", str(tmp_path / home))
        with pytest.raises(InputError, match=r"^HOME=.*: Ray cannot keep its token in .ray/auth_token there"):
            machines(None, "127.0.0.1")
        monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", str(tmp_path / "token"))
        machines(None, "127.0.0.1")

    def test_whatever_else_fails(self, monkeypatch):
        ray.shutdown()

        def fail(**options):
            raise RuntimeError("The current node timed out during startup.\nmore")

        monkeypatch.setattr(ray, "init", fail)  # what else may fail there, nobody can list
        with pytest.raises(
            InputError, match=r"^Ray does not start on this machine: The current node timed out"
        ) as caught:
            start_ray(None, "127.0.0.1")
        assert "\n" not in str(caught.value) and "RAY_TMPDIR" in str(caught.value)


@pytest.mark.long
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


@pytest.mark.long
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
    check_nodes(digits, "absent", seen, "seen", data=load_training_data(digits).fingerprints)
    with pytest.raises(InputError, match=r"^node .*: --data_dir=absent: the images for training are not"):
        check_nodes(digits, "absent", seen, "seen", ("train", "test"), {"training": "1438x1x16x16-00000000"})


@pytest.mark.long
def test_a_node_that_is_lost_meanwhile_is_left_out(cluster, tmp_path, monkeypatch):
    cluster, _ = cluster
    start_ray(cluster.address, "127.0.0.1")
    seen = Storage(tmp_path)
    seen.write("seen", "")
    now = ray.nodes
    lost = {**now()[0], "NodeID": "0" * 56}
    before = iter([[*now(), lost]])  # what the first look saw
    monkeypatch.setattr(ray, "nodes", lambda: next(before, None) or now())
    check_nodes(Hyperparameters(task="digits"), "absent", seen, "seen")
    assert next(before, None) is None


@pytest.mark.long
def test_a_node_whose_gpu_cannot_be_used_is_named(cluster, monkeypatch):
    """Ray believes the number that it was given; a trial would fail there, again and again."""
    cluster, _ = cluster
    start_ray(cluster.address, "127.0.0.1")
    assert check_gpus(0.5) == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    node = cluster.add_node(num_cpus=1, num_gpus=2)
    cluster.wait_for_nodes()
    try:
        there = machines(cluster.address, "127.0.0.1")
        assert there.gpus == 2 and there.slots(0.1, 0.3) == 6 and there.slots(1, 0.3) == 1
        with pytest.raises(
            InputError, match=r"^node \S+ \(\S+\): Ray counts 2 GPUs there, but PyTorch cannot use"
        ) as caught:
            check_gpus(0.5)
        assert "\n" not in str(caught.value) and "--num-gpus=0" in str(caught.value)
    finally:
        cluster.remove_node(node)


@pytest.mark.parametrize(
    ("machines", "cpus_each", "gpus_each", "slots"),
    [
        ([(8, 1)], 0.5, 0.1, 10),
        ([(8, 1)], 0.5, 0.2, 5),
        ([(8, 1)], 1, 0.3, 3),
        ([(8, 2)], 1, 0.4, 4),  # two a GPU; five would need a part of both
        ([(8, 1), (8, 1)], 1, 0.6, 2),
        ([(8, 1), (8, 3)], 1, 2, 1),  # no trial runs on two nodes
        ([(2, 4), (8, 0)], 1, 0.5, 2),  # the cores are on the node without a GPU
        ([(1, 0)], 0.1, 0, 10),
    ],
)
def test_trials_that_machines_hold(machines, cpus_each, gpus_each, slots):
    assert Machines(tuple(Machine(*one) for one in machines)).slots(cpus_each, gpus_each) == slots


@pytest.mark.parametrize("name", ["MNIST", "CIFAR10"])
def test_data_that_a_node_lacks_are_sent(name, request, tmp_path):
    here = request.getfixturevalue("mnist_folder" if name == "MNIST" else "cifar_folder")
    there = tmp_path / "there"
    assert split_files(name, there) == []
    unpack(pack(name, "train", str(here)), str(there))
    for now, then in zip(load_dataset(name, "train", there), load_dataset(name, "train", here), strict=True):
        assert torch.equal(now, then)
