"""A search that is killed again and again loses nothing and counts nothing twice."""

import re
import subprocess
import sys

import pytest
from conftest import ROOT


@pytest.mark.slow
def test_ten_kills_at_random_moments_of_one_search(tmp_path):
    """Of the driver, of a worker, of Ray's process on the machine, of everything at once: see the script."""
    ended = subprocess.run(
        [sys.executable, "benchmarks/kill.py", "--kills=10", "--trials=10", f"--folder={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=900,
    )
    log = tmp_path / "log.txt"
    assert ended.returncode == 0, f"{ended.stdout}\n{ended.stderr}\n{log.read_text()[-5000:]}"
    died = re.search(r"killed (\d+) times .*, and 10 of 10 trials are there, each once", ended.stdout)
    assert died and int(died[1]) == 10, ended.stdout
