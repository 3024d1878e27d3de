"""Searches that are paused, stopped and extended from another terminal while they run."""

import re
import threading
import time

import pytest
import ray
from testing import TINY, make_space, search

from brainreg.commands import extend, pause, stop
from brainreg.errors import InputError
from brainreg.records import driver, requests
from brainreg.records.manifest import read_manifest, trials_asked
from brainreg.records.requests import Request
from brainreg.records.trial import UNFINISHED, trial_numbers
from brainreg.storage import Storage

SPACE = make_space(
    fixed={**TINY, "epoch_num": 20, "reg_range": "double", "reg_image_num": 100},
    budget={"num_samples": 2, "final_attack_seconds": 0},
)


@pytest.fixture(scope="module", autouse=True)
def ray_shut_down_at_the_end():
    yield
    ray.shutdown()


@pytest.fixture(autouse=True)
def soon(monkeypatch):
    """Drivers look for what is asked ten times a second."""
    monkeypatch.setattr(driver, "_BEAT", 0.1)


class Terminal(threading.Thread):
    """Another terminal: it types commands as soon as a search has begun so many trials.

    Args:
        folder: of the searches' folders.
        begun: trials that have begun, at least.
        lines: (command, arguments) in their order; the name and the folder are added.
    """

    def __init__(self, folder, begun, *lines):
        super().__init__()
        self.search, self.begun, self.lines, self.errors = Storage(folder / "s"), begun, lines, []

    def run(self):
        while driver.driver_of(self.search) is None or len(trial_numbers(self.search)) < self.begun:
            time.sleep(0.05)
        for command, *rest in self.lines:
            try:
                command.main(["s", f"--storage_path={str(self.search).rsplit('/', 1)[0]}", *rest])
            except InputError as error:
                self.errors.append(str(error))


def searched(folder, begun, *lines, **options):
    terminal = Terminal(folder, begun, *lines)
    terminal.start()
    results, text = search(SPACE, folder, **options)
    terminal.join()
    return results, text, terminal.errors


@pytest.mark.long
def test_it_is_extended_and_one_of_its_trials_is_stopped(tmp_path, capsys):
    lines = [
        (extend, "--num-samples=4"),
        (extend, "--num-samples=1"),
        (extend,),
        (stop, "--trial=1"),
        (stop, "--trial=30"),
        (stop, "--trial=x"),
    ]
    results, text, errors = searched(tmp_path, 2, *lines)
    assert [error.split(":")[0] for error in errors] == ["--num_samples=1", "--num-samples", "--trial=30", "--trial=x"]
    assert results.state.tolist()[:2] == ["finished", "stopped"]
    assert len(results) == 4 and UNFINISHED not in {*results.state}
    assert results.epochs[1][-1]["epoch"] < 20
    assert trials_asked(read_manifest(Storage(tmp_path / "s"))) == 4
    assert "4 trials: that was asked for (brainreg extend)" in text and "4/4 trials done" in text
    printed = capsys.readouterr().out
    assert "goes on with 4 trials" in printed
    assert "nothing is compared with unregularized, epoch by objective until it runs again" in printed
    assert not Storage(tmp_path / "s" / "requests").names()


@pytest.mark.long
def test_it_is_stopped_and_recommends(tmp_path):
    results, text, errors = searched(tmp_path, 2, (stop,), num_samples=40)
    assert not errors and len(results) < 10 and UNFINISHED not in {*results.state}
    ended = read_manifest(Storage(tmp_path / "s"))["ended"]
    assert ended["trials"] == len(results) and "brainreg stop" in ended["reason"]
    assert "recommended" in text and "interrupted" not in text


@pytest.mark.long
def test_it_is_paused(tmp_path):
    results, text, errors = searched(tmp_path, 2, (pause,), num_samples=40)
    assert not errors and UNFINISHED in {*results.state}
    assert re.search(r"of 40 trials are done; go on: .*brainreg resume \S+/s$", text, re.MULTILINE)


class TestBadInput:
    @pytest.mark.parametrize("command", [pause, stop, extend])
    def test_no_name(self, command):
        with pytest.raises(InputError, match=r"^NAME: missing"):
            command.main([])

    def test_no_such_search(self, tmp_path):
        with pytest.raises(InputError, match=r"^NAME=other: no such search"):
            pause.main(["other", f"--storage_path={tmp_path}"])

    def test_nobody_runs_it(self, searched):
        for command, *rest in ((pause,), (stop,), (extend, "--minutes=3")):
            with pytest.raises(InputError, match=r"^NAME=small: no process runs this search"):
                command.main([str(searched), *rest])
        with pytest.raises(InputError, match=r"^--trial=0: has ended already \(finished\)"):
            stop.main([str(searched), "--trial=0"])


class TestRequests:
    def test_only_the_driver_that_is_asked_hears(self, tmp_path):
        folder = Storage(tmp_path)
        with driver.Driver(folder, 1) as running:
            heard = []
            running.on_beat = lambda token: heard.extend(requests.take(folder, token))
            requests.ask(folder, Request(trial=3))
        assert heard == [Request(trial=3)]
        with driver.Driver(folder, 1), pytest.raises(InputError, match="does not hear"):
            requests.ask(folder, Request(stop=True), patience=0.5)
        assert not folder.child("requests").names()

    def test_what_an_earlier_driver_was_asked_is_taken_away(self, tmp_path):
        folder = Storage(tmp_path / "requests")
        folder.make()
        folder.write("a.json", '{"driver": "earlier", "pause": true}')
        folder.write("b.json", "damaged")
        folder.write("c.json", '{"driver": "own", "unknown": 1}')
        assert requests.take(Storage(tmp_path), "own") == [] and not folder.names()
