"""How many cores of a machine a process may use, as its affinity, a container and a batch system limit them."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

from brainreg._utils.machine import allowed_cores, cpu_cores
from brainreg.errors import InputError

COUNT = "from brainreg._utils.machine import cpu_cores; print(cpu_cores())"
# What a plan, a device's name and PyTorch make of it.
USES = """
import torch
from brainreg._utils.flags import use_threads
from brainreg.search.cluster import machines
from brainreg.training.device import device_name
torch.set_num_threads(8)
use_threads(None)
print(machines(None, "127.0.0.1").cpus, device_name("cpu").rpartition(", ")[2], torch.get_num_threads())
"""


def counted(code: str, **variables: str) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **variables}
    return subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    ).stdout.strip()


def in_container(files: dict[str, str], code: str) -> str:
    """What a program prints in a mount namespace of its own, with such files below /sys/fs/cgroup."""
    made = [f"mkdir -p /sys/fs/cgroup/{name.rpartition('/')[0]}; echo {text} > /sys/fs/cgroup/{name}"
            for name, text in files.items()]  # fmt: skip
    script = "; ".join(["mount -t tmpfs none /sys/fs/cgroup || exit 77", *made, f"{sys.executable} -c '{code}'"])
    done = subprocess.run(
        ["unshare", "--user", "--map-root-user", "--mount", "bash", "-c", script],
        env={**os.environ, "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}, capture_output=True, text=True,
    )  # fmt: skip
    if done.returncode == 77 or "unshare" in done.stderr:
        pytest.skip("this machine lets no test mount anything")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.mark.skipif(len(allowed_cores()) < 2, reason="needs two cores")
class TestCores:
    @pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="this system confines no process to cores")
    def test_affinity_limits_them(self):
        own = min(allowed_cores())
        assert counted(f"import os; os.sched_setaffinity(0, [{own}]); {COUNT}") == "1"

    @pytest.mark.parametrize(
        "files",
        [
            {"cpu.max": "100000 100000"},
            {"cpu.max": "50000 100000"},  # half a core
            {"cpu/cpu.cfs_quota_us": "100000", "cpu/cpu.cfs_period_us": "100000"},
        ],
    )
    def test_a_quota_limits_them_wherever_they_are_used(self, files):
        assert in_container(files, COUNT) == "1"

    def test_a_quota_limits_what_uses_them(self):
        assert in_container({"cpu.max": "100000 100000"}, USES.replace("'", '"')) == "1.0 1 cores) 1"

    @pytest.mark.parametrize(
        "files",
        [{"cpu.max": "max 100000"}, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}],
    )
    def test_no_quota_is_no_limit(self, files):
        assert in_container(files, COUNT) == str(len(allowed_cores()))

    @pytest.mark.parametrize("name", ["SLURM_CPUS_ON_NODE", "LOKY_MAX_CPU_COUNT"])
    def test_variables_lower_them_and_never_raise_them(self, name):
        assert counted(COUNT, **{name: "1"}) == "1"
        assert counted(COUNT, **{name: "1000"}) == str(cpu_cores())


def test_a_variable_that_is_no_number_is_one_line(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_ON_NODE", "4(x2)")
    with pytest.raises(InputError, match=r"^SLURM_CPUS_ON_NODE=4\(x2\): must be"):
        cpu_cores()
