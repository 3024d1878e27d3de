"""The scripts of `examples/`, run by what they are for."""

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from services import Slurm, questions_of_grafana, slurm

from brainreg.records.driver import driver_of
from brainreg.records.manifest import MANIFEST
from brainreg.records.results import load_results
from brainreg.records.trial import FINISHED
from brainreg.storage import Storage

SCRIPT = ROOT / "examples" / "slurm" / "search.sh"
RAY_UP = ROOT / "examples" / "ray_up" / "cluster.yaml"
KUBERAY = ROOT / "examples" / "kuberay" / "search.yaml"


def entrypoint() -> str:
    """What the job of KubeRay runs."""
    return yaml.safe_load(KUBERAY.read_text())["spec"]["entrypoint"]


def typed_for_ray_up() -> str:
    """What the file's comment lets the head run."""
    return re.search(r"(brainreg tune [^']*)'", RAY_UP.read_text().replace("\\\n#", ""))[1]


@pytest.mark.parametrize("command", [entrypoint, typed_for_ray_up])
def test_what_a_cluster_runs_goes_on_where_the_search_was_begun(command):
    """Its flags are flags of today, and running it again is resuming it."""
    from brainreg._utils.flags import parser_of
    from brainreg.commands import tune

    program, name, *flags = shlex.split(command())
    given = vars(parser_of(tune.main).parse_args(flags))
    assert (program, name) == ("brainreg", "tune") and given["space"] == "cifar10_double"
    assert given["resume_if_begun"] and given["name"] == "week" and given["address"] == "auto"


def test_ray_takes_the_file_of_ray_up():
    from ray.autoscaler._private.util import prepare_config, validate_config

    config = prepare_config(yaml.safe_load(RAY_UP.read_text()))
    validate_config(config)
    workers = {name: kind["min_workers"] for name, kind in config["available_node_types"].items()}
    assert workers == {"head": 0, "gpu": config["max_workers"]}, "a search takes the GPUs that are there when it begins"
    with pytest.raises(Exception, match="max_wokers"):
        validate_config({**config, "max_wokers": 1})


def test_the_job_of_kuberay_has_the_packages_versions():
    job = yaml.safe_load(KUBERAY.read_text())
    assert (job["apiVersion"], job["kind"]) == ("ray.io/v1", "RayJob") and job["spec"]["backoffLimit"] > 0
    pinned = re.search(r"^ray\[?.*==(.+?)(?: ;.*)?$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)[1]
    assert job["spec"]["rayClusterSpec"]["rayVersion"] == pinned


def test_a_job_array_is_refused(tmp_path):
    environment = {**os.environ, "SLURM_ARRAY_JOB_ID": "1", "SLURM_JOB_ID": "2", "SLURM_SUBMIT_DIR": str(tmp_path)}
    ended = subprocess.run(["bash", SCRIPT], env=environment, capture_output=True, text=True, timeout=60)
    assert ended.returncode == 2 and ended.stderr.startswith("error: --array: ") and ended.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


class Job:
    """A search without an end, submitted to a Slurm."""

    def __init__(self, server: Slurm, folder: Path, *limits: str, path: Path = Path(sys.executable).parent):
        flags = ["--space=digits_double", "--base_channels=4", "--reg_image_num=200", "--attack_image_num=20"]
        flags += ["--final_attack_seconds=0", "--num-samples=500", "--scheduler=none", "--epoch_num=4"]
        server.environment |= {"PATH": f"{path}:{os.environ['PATH']}", "NAME": "first"}
        self.server, self.search, self.log = server, folder / "results" / "first", folder / "log"
        limits = (*limits, "--signal=B:TERM@60", "--cpus-per-task=2", f"--output={self.log}")
        self.id = re.search(r"\d+", server.run("sbatch", *limits, str(SCRIPT), *flags, cwd=folder))[0]

    def about(self, key: str) -> str:
        return re.search(rf"\b{key}=(\S+)", self.server.run("scontrol", "show", "job", self.id))[1]

    def until(self, condition: Callable[[], bool], seconds: float) -> None:
        for _ in range(int(seconds)):
            if condition():
                return
            time.sleep(1)
        shown = self.server.run("scontrol", "show", "job", self.id)
        raise AssertionError(f"{shown}\n{self.log.read_text() if self.log.exists() else ''}")

    def cancel(self) -> None:
        """Cancel it, and see that it does not come back; one that is put back waits ten seconds."""
        self.server.run("scancel", self.id)
        self.until(lambda: self.about("JobState") != "COMPLETING", 90)
        time.sleep(15)
        assert (self.about("JobState"), self.about("Restarts")) == ("CANCELLED", "0"), self.log.read_text()

    def finished(self) -> int:
        """How many trials of the search have finished."""
        return int((load_results(self.search).state == FINISHED).sum()) if (self.search / MANIFEST).exists() else 0


@pytest.mark.slow
def test_a_search_that_a_time_limit_ends_goes_on_in_the_jobs_next_turn(tmp_path):
    """On a real Slurm: the signal before the limit, the requeue, and the search that is the same one."""
    with slurm() as server:
        job = Job(server, tmp_path, "--time=4")
        job.until(lambda: job.about("Restarts") == "1", 300)
        assert "brainreg resume" in job.log.read_text() and f"runs job {job.id} again" in job.log.read_text()
        before = job.finished()
        stop = [sys.executable, "-m", "brainreg", "stop", str(job.search)]

        def is_stopped() -> bool:
            """Whether the search has heard that it is to end, after another trial; its job may just wait for a turn."""
            more = job.finished() > before
            return bool(more and subprocess.run(stop, capture_output=True, timeout=120).returncode == 0)

        job.until(is_stopped, 400)
        job.until(lambda: job.about("JobState") == "COMPLETED", 120)
        assert job.about("ExitCode") == "0:0"
    results = load_results(job.search)
    assert results.trial.is_unique and (results.state == FINISHED).all() and len(results) < 500
    assert "recommended: setting" in job.log.read_text()


@pytest.mark.slow
def test_a_job_that_is_cancelled_does_not_come_back(tmp_path):
    """On a real Slurm: `scancel` sends SIGTERM to everything, and the script leaves the queue alone."""
    with slurm() as server:
        job = Job(server, tmp_path, "--time=20")
        job.until(lambda: job.finished() > 0, 300)
        job.cancel()
        assert "nothing is lost, go on: " in job.log.read_text() or "interrupted: " in job.log.read_text()
    assert driver_of(Storage(job.search)) is None
    assert load_results(job.search).trial.is_unique


@pytest.mark.slow
def test_a_cancelled_job_whose_search_ends_as_interrupted_does_not_come_back_either(tmp_path):
    """Which of Ray and the driver ends first is chance, so a program that ends so stands for `brainreg`."""
    program = tmp_path / "bin" / "brainreg"
    program.parent.mkdir()
    program.write_text("#!/bin/bash\ntrap 'sleep 2; exit 130' TERM\ntouch begun\nwhile sleep 0.2; do :; done\n")
    program.chmod(0o755)
    with slurm() as server:
        job = Job(server, tmp_path, "--time=20", path=program.parent)
        job.until((tmp_path / "begun").exists, 60)
        job.cancel()


@pytest.mark.slow
def test_a_search_takes_several_nodes(tmp_path):
    """On a real Slurm of two nodes with a core each, both on this machine: Ray's head, a worker, and the driver."""
    flags = ["--space=digits_double", "--base_channels=4", "--reg_image_num=200", "--attack_image_num=20"]
    flags += ["--final_attack_seconds=0", "--num-samples=4", "--scheduler=none", "--epoch_num=2"]
    log = tmp_path / "log"
    own = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with slurm(nodes=2) as server:
        server.environment |= {"PATH": own, "NAME": "first"}
        limits = ["--nodes=2", "--cpus-per-task=1", "--time=20", "--signal=B:TERM@60", f"--output={log}"]
        server.run("sbatch", *limits, str(SCRIPT), *flags, cwd=tmp_path)
        end = time.monotonic() + 900
        while server.run("squeue", "--noheader").strip():
            assert time.monotonic() < end, log.read_text()
            time.sleep(1)
    text = log.read_text()
    assert "4 trials, 2 at a time" in text and "recommended: setting" in text, text
    results = load_results(tmp_path / "results" / "first")
    assert len(results) == 4 and (results.state == FINISHED).all()


def test_the_dashboard_of_grafana_asks_for_all_that_a_search_exports():
    from brainreg.search.callbacks import GAUGES

    asked = {
        re.fullmatch(r'ray_brainreg_(\w+)\{search=~"\$search"\}', question)[1] for question in questions_of_grafana()
    }
    assert asked == {*GAUGES}
