"""The scripts of `examples/`, run by what they are for."""

import os
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from conftest import ROOT
from services import questions_of_grafana, slurm

from brainreg.records.results import load_results
from brainreg.records.trial import FINISHED

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


@pytest.mark.slow
def test_a_search_that_a_time_limit_ends_goes_on_in_the_jobs_next_turn(tmp_path):
    """On a real Slurm: the signal before the limit, the requeue, and the search that is the same one."""
    flags = ["--space=digits_double", "--base_channels=4", "--reg_image_num=200", "--attack_image_num=20"]
    flags += ["--final_attack_seconds=0", "--num-samples=500", "--scheduler=none", "--epoch_num=4"]
    search, log = tmp_path / "results" / "first", tmp_path / "log"
    own = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    with slurm() as server:
        server.environment |= {"PATH": own, "NAME": "first"}
        limits = ["--time=4", "--signal=B:TERM@60", "--cpus-per-task=2", f"--output={log}"]
        submitted = server.run("sbatch", *limits, str(SCRIPT), *flags, cwd=tmp_path)
        job = re.search(r"\d+", submitted)[0]

        def until(condition, seconds: float) -> None:
            for _ in range(int(seconds)):
                if condition():
                    return
                time.sleep(1)
            raise AssertionError(log.read_text() if log.exists() else server.run("scontrol", "show", "job", job))

        def about(key: str) -> str:
            return re.search(rf"\b{key}=(\S+)", server.run("scontrol", "show", "job", job))[1]

        until(lambda: about("Restarts") == "1", 300)
        assert "brainreg resume" in log.read_text() and f"runs job {job} again" in log.read_text()
        before = (load_results(search).state == FINISHED).sum()
        stop = [sys.executable, "-m", "brainreg", "stop", str(search)]

        def is_stopped() -> bool:
            """Whether the search has heard that it is to end, after another trial; its job may just wait for a turn."""
            more = (load_results(search).state == FINISHED).sum() > before
            return bool(more and subprocess.run(stop, capture_output=True, timeout=120).returncode == 0)

        until(is_stopped, 400)
        until(lambda: about("JobState") == "COMPLETED", 120)
        assert about("ExitCode") == "0:0"
    results = load_results(search)
    assert results.trial.is_unique and (results.state == FINISHED).all() and len(results) < 500
    assert "recommended: setting" in log.read_text()


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
