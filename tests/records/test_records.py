"""What a search keeps of itself, and that one process at a time runs it."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import psutil
import pytest
from conftest import ROOT
from services import s3_server

from brainreg._utils.commands import brainreg_command
from brainreg.errors import InputError
from brainreg.records import driver as records_driver
from brainreg.records.driver import Driver, check_no_driver, driver_of
from brainreg.records.manifest import FORMAT, MANIFEST, read_manifest, read_part, trials_asked, write_manifest
from brainreg.records.trial import TrialFiles, TrialRecord, mend_trials, read_trials, trial_numbers
from brainreg.search.options import SearchOptions
from brainreg.search.strategy import Strategy
from brainreg.spaces.space import Space
from brainreg.storage import Storage, StorageError


@pytest.fixture(scope="module")
def server():
    with s3_server() as running:
        yield running


@pytest.fixture(params=["folder", "s3"])
def search(request, tmp_path) -> Storage:
    """The empty folder of a search called s."""
    if request.param == "folder":
        return Storage(tmp_path / "s")
    return Storage(request.getfixturevalue("server").uri(f"{tmp_path.name}/s"))


@pytest.fixture
def folder(tmp_path) -> Storage:
    """The same, on this machine."""
    return Storage(tmp_path / "s")


def record(number: int, **others) -> TrialRecord:
    return TrialRecord(
        number,
        "" if number else "unregularized",
        {"task": "digits", "reg_alpha": 0.1 + 0.2, "seed": 0},
        params={"reg_alpha": 0.1 + 0.2, "reg_range": "low"},
        distributions={"reg_alpha": "{}"},
        noted={"NSGAIISampler:generation": 1},
        began=1000.5,
        **others,
    )


EPOCHS = [{"epoch": 0, "valid_accuracy": 0.1}, {"epoch": 1, "valid_accuracy": 0.5, "cross_entropy": float("inf")}]


class TestTrials:
    def test_each_of_two_writers_has_a_part(self, search):
        files, written = TrialFiles(search, 3), record(3, retries=["node lost"])
        assert files.read() is None and files.read_progress() == {}
        files.write_trial(written)
        assert files.read() == written
        files.write_progress(epochs=EPOCHS, measured={}, seconds=1.5, node="here")
        expected = replace(written, epochs=EPOCHS, seconds=1.5, node="here")
        assert files.read() == expected
        # The driver knows nothing of epochs when it writes again, and takes none away.
        files.write_trial(replace(written, ended="failed", error="E: x"))
        assert files.read() == replace(expected, ended="failed", error="E: x")

    def test_a_workers_part_alone_is_no_trial(self, search):
        TrialFiles(search, 0).write_progress(epochs=EPOCHS, measured={}, seconds=1.5, node="here")
        assert TrialFiles(search, 0).read() is None and read_trials(search) == []

    def test_states(self):
        measured = {"objective": 0.5}
        assert record(0).state == "unfinished" and record(0, epochs=EPOCHS).state == "unfinished"
        assert record(0, measured=measured).state == "finished"
        assert record(0, ended="stopped").state == "stopped" and record(0, ended="failed").state == "failed"

    def test_all_trials_are_read_in_order(self, search):
        assert read_trials(search) == []
        for number in (11, 0, 40, 2, *range(100, 140)):
            TrialFiles(search, number).write_trial(record(number))
        for other in ("search.json", "results.csv", "ray/trial_0007/result.json", "7/trial.json", "trial_x/trial.json"):
            search.write(other, "{}")
        assert read_trials(search) == [record(number) for number in (0, 2, 11, 40, *range(100, 140))]

    @pytest.mark.parametrize("content", ["", "{", "[]", "\0" * 50])
    def test_damaged_records_are_set_aside(self, search, content):
        for number in range(3):
            TrialFiles(search, number).write_trial(TrialRecord(number, "", {"reg_alpha": 1.0}, ended="stopped"))
            TrialFiles(search, number).write_progress(epochs=[{"epoch": 0}], measured={}, seconds=1.0, node="n")
        search.child("trial_0000").write("progress.json", content)
        search.child("trial_0001").write("trial.json", content)
        notes = mend_trials(search)
        assert len(notes) == 2 and all("\n" not in note for note in notes)
        assert "trial_0000/progress.json" in notes[0] and "trial_0001/trial.json" in notes[1]
        read = read_trials(search)
        assert [(one.number, len(one.epochs)) for one in read] == [(0, 0), (2, 1)]
        assert trial_numbers(search) == {0, 1, 2}
        assert search.child("trial_0000").read("progress.json.damaged") == content.encode()
        assert mend_trials(search) == []

    def test_a_record_of_another_version_is_named_and_not_set_aside(self, search):
        search.child("trial_0000").write("trial.json", '{"number": 0, "setting": "", "hyperparameters": {}, "new": 1}')
        assert mend_trials(search) == []
        with pytest.raises(InputError, match=r"trial_0000: its record says what this version does not know"):
            read_trials(search)

    def test_a_damaged_file_is_named(self, search):
        files = TrialFiles(search, 1)
        files.write_trial(record(1))
        for name in ("progress.json", "trial.json"):
            files.folder.write(name, '{"epochs": [{"epo')
            with pytest.raises(InputError, match=rf"/s/trial_0001/{name}: damaged \(.*\)$"):
                read_trials(search)
            files.folder.write(name, "{}")


class TestManifest:
    def test_what_was_written_is_read(self, search):
        write_manifest(search, {"seed": 3, "space": {"objective": {}}})
        assert read_manifest(search) == {"format": FORMAT, "seed": 3, "space": {"objective": {}}}

    def test_what_cannot_be_read_is_one_line(self, search):
        for content, words in (
            (None, f"{search}: not the folder of a search; search.json is missing"),
            ('{"format": 1}', f"{search}/search.json: written in format 1; this version reads format {FORMAT}"),
            ("{}", f"{search}/search.json: written in format None; this version reads format {FORMAT}"),
            ("[]", f"{search}/search.json: damaged (it is no mapping)"),
            (f'{{"format": {FORMAT}}}', f"{search}/search.json: damaged (it does not say what is searched)"),
            ('{"format', f"{search}/search.json: damaged ("),
        ):
            if content is not None:
                search.write(MANIFEST, content)
            with pytest.raises(InputError) as caught:
                read_manifest(search)
            assert str(caught.value).startswith(words) and "\n" not in str(caught.value)

    def test_a_part_of_another_version_is_one_line(self, search):
        write_manifest(search, {"space": {"objective": {}}, "options": {"gone": 1, "max_retries": -1}, "strategy": []})
        manifest = read_manifest(search)
        for model, key, words in (
            (SearchOptions, "options", "options.gone: no such key; known: num_samples"),
            (SearchOptions, "options", "options.max_retries=-1: must be at least 0"),
            (Strategy, "strategy", "damaged (strategy is no mapping)"),
            (Space, "other", "damaged (other is missing)"),
        ):
            with pytest.raises(InputError) as caught:
                read_part(model, search, manifest, key)
            assert words in str(caught.value) and "\n" not in str(caught.value)
            assert str(caught.value).startswith(f"{search}/search.json: ")
        with pytest.raises(InputError, match=r"search\.json: damaged \(num_samples, seed: missing\)$"):
            read_manifest(search, ("seed", "num_samples", "space"))


HERE = socket.gethostname()


@pytest.fixture
def fast(monkeypatch):
    """A driver that says often that it lives."""
    monkeypatch.setattr(records_driver, "_BEAT", 0.05)


def stored(search: Storage) -> dict:
    return json.loads(search.read("driver.json"))


def beat(search: Storage) -> float:
    """When a driver lived last; 0 where the server of the tests gives a part of a file that is being written."""
    try:
        return stored(search)["beat"]
    except ValueError:
        return 0.0


def wait_for(condition) -> None:
    end = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


class TestDriver:
    @pytest.mark.parametrize(
        ("key", "value"), [("token", None), ("slots", "two"), ("beat", "now"), ("host", 3), ("pid", None)]
    )
    def test_what_does_not_name_a_process_is_one_line(self, search, key, value):
        with Driver(search, slots=2):
            pass
        search.write("driver.json", json.dumps(stored(search) | {key: value}))
        with pytest.raises(InputError, match=r"driver\.json: damaged \(it does not name a process\); delete it"):
            driver_of(search)

    def test_the_one_that_runs_is_known(self, search):
        assert driver_of(search) is None
        with Driver(search, slots=2):
            driver = driver_of(search)
            assert (driver["host"], driver["pid"], driver["slots"]) == (HERE, os.getpid(), 2)
            assert abs(driver["began"] - time.time()) < 10
        assert driver_of(search) is None
        check_no_driver(search)

    def test_on_a_full_disk_a_driver_that_has_ended_is_not_taken_for_one_that_runs(self, tmp_path, monkeypatch):
        """The same process may go on at once."""
        search = Storage(tmp_path)
        with Driver(search, slots=2):
            assert driver_of(search) is not None

            def full(*arguments):
                raise StorageError("full")

            monkeypatch.setattr(Storage, "write", full)
        assert driver_of(search) is None

    def test_a_second_one_is_refused(self, search):
        message = (
            f"search s: process {os.getpid()} on {HERE} runs this search; wait for its end, or end it first:"
            f" {brainreg_command('pause', search.uri)}"
        )
        with Driver(search, slots=2):
            before = stored(search)
            with pytest.raises(InputError) as caught, Driver(search, slots=1):
                pass
            assert str(caught.value) == message
            assert stored(search)["token"] == before["token"] and driver_of(search)["slots"] == 2
        with Driver(search, slots=1):
            assert driver_of(search)["slots"] == 1

    def test_of_many_that_begin_at_once_one_drives(self, search):
        """Each looks, sees nobody, and writes, at the same moment."""
        ready, refused = threading.Barrier(8), []

        def begin() -> str:
            with contextlib.ExitStack() as stack:
                driver = Driver(search, slots=1)
                ready.wait()
                try:
                    stack.enter_context(driver)
                except InputError as error:
                    refused.append(str(error))
                ready.wait()
                return stored(search)["token"]

        with ThreadPoolExecutor(8) as pool:
            tokens = [one.result() for one in [pool.submit(begin) for _ in range(8)]]
        assert len(refused) == 7 and len({*tokens}) == 1
        assert all(re.match(r"search s: process \d+ on \S+ runs this search", text) for text in refused)

    def test_drivers_of_two_files_of_a_folder_are_two(self, folder):
        with Driver(folder, slots=1, file="a.json"), Driver(folder, slots=1, file="b.json"):
            assert driver_of(folder, "a.json") and driver_of(folder) is None

    def test_one_that_was_killed_is_dead_at_once(self, folder):
        code = (
            "import time\n"
            "from brainreg.records.driver import Driver\n"
            "from brainreg.storage import Storage\n"
            f"with Driver(Storage({str(folder)!r}), 2):\n"
            "    print('runs', flush=True)\n"
            "    time.sleep(60)\n"
        )
        process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
        try:
            assert process.stdout.readline() == "runs\n"
            with pytest.raises(InputError, match=rf"^search s: process {process.pid} on {HERE} runs this search"):
                check_no_driver(folder)
        finally:
            process.send_signal(signal.SIGKILL)
        wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_ZOMBIE)
        assert driver_of(folder) is None  # while its parent has not asked for it
        process.communicate()
        assert driver_of(folder) is None
        with Driver(folder, slots=1):
            assert driver_of(folder)["pid"] == os.getpid()

    def test_another_process_of_the_same_number_is_not_the_driver(self, folder):
        with Driver(folder, slots=1):
            content = stored(folder)
        began = psutil.Process().create_time()
        folder.write("driver.json", json.dumps({**content, "process_began": began - 60}))
        assert driver_of(folder) is None
        folder.write("driver.json", json.dumps({**content, "process_began": began + 0.5}))  # the clock was set
        assert driver_of(folder) is not None

    def test_one_of_another_host_lives_until_it_is_silent(self, folder):
        other = {"host": "elsewhere", "pid": os.getpid(), "process_began": 0.0, "token": "x", "slots": 1, "began": 0.0}
        folder.write("driver.json", json.dumps({**other, "beat": time.time() - 25}))
        assert driver_of(folder)["host"] == "elsewhere"
        with (
            pytest.raises(InputError, match=r"^search s: process \d+ on elsewhere runs this search"),
            Driver(folder, slots=1),
        ):
            pass
        folder.write("driver.json", json.dumps({**other, "beat": time.time() - 31}))
        assert driver_of(folder) is None
        with Driver(folder, slots=1):
            assert driver_of(folder)["host"] == HERE

    def test_it_says_again_and_again_that_it_lives(self, search, fast):
        with Driver(search, slots=1):
            first = beat(search)
            wait_for(lambda: beat(search) > first + 0.2)

    def test_a_take_over_is_noticed(self, folder, fast):
        """After a silence, say of a suspended machine, another process may have taken the search."""
        reasons = []
        with Driver(folder, slots=1) as driver:
            driver.on_lost = reasons.append
            other = {**stored(folder), "host": "elsewhere", "pid": 7, "token": "other", "beat": time.time()}
            folder.write("driver.json", json.dumps(other))
            wait_for(lambda: reasons)
            assert reasons[0].startswith("search s: process 7 on elsewhere runs this search")
            time.sleep(0.2)
            assert len(reasons) == 1
        assert stored(folder) == other  # its end is not that of the other

    def test_another_that_ended_takes_nothing_over(self, folder, fast):
        reasons = []
        with Driver(folder, slots=1) as driver:
            driver.on_lost = reasons.append
            other = {**stored(folder), "host": "elsewhere", "pid": 7, "token": "other", "beat": 0.0}
            folder.write("driver.json", json.dumps(other))
            wait_for(lambda: stored(folder)["token"] != "other")
            assert not reasons

    def test_a_storage_that_fails_for_a_while_does_not_end_it(self, folder, fast, monkeypatch):
        reasons = []
        with Driver(folder, slots=1) as driver:
            driver.on_lost = reasons.append
            calls = []

            def fail(*arguments):
                calls.append(arguments)
                raise StorageError("no network")

            with monkeypatch.context() as patch:
                patch.setattr(folder, "write", fail)
                wait_for(lambda: len(calls) > 2)
            now = time.time()
            wait_for(lambda: stored(folder)["beat"] > now)
            monkeypatch.setattr(folder, "write", fail)
        assert not reasons  # and its end is no error, either

    def test_a_damaged_file_is_named(self, folder):
        folder.write("driver.json", '{"host"')
        with pytest.raises(InputError, match=r"/s/driver.json: damaged \(.*\); delete it if nobody runs what"):
            check_no_driver(folder)


@pytest.mark.parametrize(
    ("content", "asked"),
    [
        ({"options": {"num_samples": None}}, 8),
        ({"options": {"num_samples": 8, "minutes": 5}}, 8),
        ({"options": {"num_samples": None, "minutes": 5}}, None),
        ({"options": {"num_samples": None, "gpu_hours": 5.0}}, None),
        ({"options": {"num_samples": None, "minutes": 5}, "ended": {"trials": 3, "reason": "its time is over"}}, 3),
    ],
)
def test_how_many_trials_a_search_has(content, asked):
    assert trials_asked({"num_samples": 8, **content}) == asked
