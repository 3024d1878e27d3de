"""Searches on one machine leave each other what they have taken: the others are real processes."""

import os
import subprocess
import sys
from contextlib import contextmanager

import pytest
from conftest import ROOT

from brainreg.search import cluster as search_cluster
from brainreg.search import run as search_run
from brainreg.search.claims import claims_of_others, kept, make_claim
from brainreg.search.cluster import Machine, Machines, share_of_machines
from brainreg.search.options import SearchOptions
from brainreg.search.run import claimed_share

_OTHER = """
import sys
from brainreg.search.claims import kept, make_claim
with kept(make_claim("other", float(sys.argv[1]), [gpu for gpu in sys.argv[2].split(",") if gpu])):
    print("taken", flush=True)
    sys.stdin.read()
"""


@pytest.fixture(autouse=True)
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("BRAINREG_CLAIMS", str(tmp_path / "claims"))
    return tmp_path / "claims"


@pytest.fixture
def machine(monkeypatch):
    """A machine of eight cores and four GPUs, as far as a plan can see."""
    monkeypatch.setattr(search_cluster, "machines", lambda address, host: Machines((Machine(8.0, 4.0),)))
    for module in (search_cluster, search_run):
        monkeypatch.setattr(module, "visible_gpus", lambda: ["0", "1", "2", "3"])


@contextmanager
def other(cores: float, gpus: str = ""):
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    line = [sys.executable, "-c", _OTHER, str(cores), gpus]
    process = subprocess.Popen(line, env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "taken\n"
    try:
        yield process
    finally:
        process.communicate("")


def test_what_another_has_taken_is_left_to_it_and_one_slot_remains(machine):
    options = SearchOptions(gpus_per_trial=0)
    assert share_of_machines(options, 100)[0] == 8
    with other(6):
        assert share_of_machines(options, 100)[0] == 2 and share_of_machines(options, 1)[0] == 1
        assert share_of_machines(SearchOptions(gpus_per_trial=0, cpus_per_trial=2), 100)[0] == 1
        assert share_of_machines(SearchOptions(gpus_per_trial=0, max_concurrent=5), 100)[0] == 5
        with other(8):
            assert share_of_machines(options, 100)[0] == 1
    assert share_of_machines(options, 100)[0] == 8


def test_gpus(machine, monkeypatch):
    """The free ones, and those alone are what Ray sees."""
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    said: list[str] = []
    with other(1, "0,2"):
        with claimed_share(SearchOptions(), 100, "s", said.append) as slots:
            assert slots == 2 and os.environ["CUDA_VISIBLE_DEVICES"] == "1,3"
        with claimed_share(SearchOptions(gpus_per_trial=0.5), 3, "s", said.append) as slots:
            assert slots == 3 and os.environ["CUDA_VISIBLE_DEVICES"] == "1,3"
        with other(1, "1,3"), claimed_share(SearchOptions(), 100, "s", said.append) as slots:
            assert slots == 1 and os.environ["CUDA_VISIBLE_DEVICES"] == "0"
    assert os.environ["CUDA_VISIBLE_DEVICES"] == "0,1,2,3"
    assert all("other (process " in line and "--max-concurrent" in line and "\n" not in line for line in said)


def test_a_claim_ends_with_its_process_however_that_ends(machine, folder):
    with other(4) as process:
        assert [(claim.name, claim.cores) for claim in claims_of_others()] == [("other", 4)]
        process.kill()
        process.wait()
        assert claims_of_others() == [] and list(folder.iterdir()) == []


def test_own_claims_and_those_on_other_cores_do_not_count(machine, monkeypatch):
    with kept(make_claim("s", 3, [])):
        assert claims_of_others() == []
    with other(4):
        monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {10_000})
        assert claims_of_others() == []


def test_where_the_system_confines_nobody_all_cores_are_shared(machine, monkeypatch):
    """macOS has no affinity of processes."""
    monkeypatch.delattr(os, "sched_getaffinity")
    assert make_claim("s", 3, []).affinity == tuple(range(os.cpu_count()))
    with other(4):
        assert [claim.name for claim in claims_of_others()] == ["other"]


@pytest.mark.parametrize("kind", ["open to all", "a file", "damaged"])
def test_a_folder_that_is_not_ours_alone_is_no_registry(kind, folder, machine):
    if kind == "a file":
        folder.write_text("")
    else:
        folder.mkdir()
        (folder / "1.json").write_text("{}")
        folder.chmod(0o777 if kind == "open to all" else 0o700)
    assert claims_of_others() == []
    with claimed_share(SearchOptions(gpus_per_trial=0), 100, "s", print) as slots:
        assert slots == 8
