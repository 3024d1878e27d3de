"""The scripts of `examples/`, run by what they are for."""

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT
from services import slurm

from brainreg.records.results import load_results
from brainreg.records.trial import FINISHED

SCRIPT = ROOT / "examples" / "slurm" / "search.sh"


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
        assert "--resume=first" in log.read_text() and f"runs job {job} again" in log.read_text()
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
