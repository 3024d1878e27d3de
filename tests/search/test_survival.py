"""What a search does when something fails, and how it goes on."""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace

import optuna
import pandas as pd
import psutil
import pytest
import torch
from conftest import ROOT
from ray.tune import ExperimentAnalysis
from ray.tune.logger import JsonLoggerCallback
from rich.console import Console
from testing import TO_THE_END, make_space, search

from brainreg.errors import InputError
from brainreg.evaluation.accuracy import as_large_as_fits
from brainreg.records.driver import Driver
from brainreg.records.trial import TrialFiles, read_trials
from brainreg.reports.search import report
from brainreg.search import trial as search_trial
from brainreg.search.options import SearchOptions
from brainreg.search.plan import plan_resume, plan_search
from brainreg.search.run import run_search
from brainreg.search.searcher import StudySearch
from brainreg.search.strategy import Strategy
from brainreg.search.study import SearchStudy
from brainreg.search.trial import is_retryable
from brainreg.spaces.measurement import measure_objective, measure_proxy
from brainreg.spaces.names import EARLY_STOPPED
from brainreg.spaces.objective import Objective
from brainreg.statistics import front
from brainreg.storage import Storage


def resume(folder, **options):
    return run_search(plan_resume(Storage(folder), options), Console(file=io.StringIO(), width=120))


def study_of(folder) -> optuna.Study:
    return optuna.load_study(study_name=folder.name, storage=f"sqlite:///{folder}/study.db")


def check_whole(folder, results, states: list[str]) -> None:
    """The files, the study and Ray Tune's table hold the same trials."""
    assert results.state.tolist() == states
    told = {"finished": "COMPLETE", "stopped": "PRUNED", "failed": "FAIL"}
    assert [trial.state.name for trial in study_of(folder).trials] == [told[state] for state in states]
    table = ExperimentAnalysis(str(folder / "ray")).dataframe().sort_values("config/number")
    assert table["config/number"].tolist() == list(range(len(states)))


@pytest.mark.long
class TestResumed:
    """A search of which one trial finished, one was stopped, one failed, and two were interrupted; then resumed."""

    @pytest.fixture(scope="class")
    @staticmethod
    def interrupted(tmp_path_factory):
        """What a driver that was killed leaves, made by the parts of a real one."""
        folder = tmp_path_factory.mktemp("interrupted")
        plan = plan_search(make_space(), SearchOptions(name="s", storage_path=str(folder), num_samples=3), TO_THE_END)
        first = run_search(plan, Console(file=io.StringIO(), width=120))
        files = Storage(folder / "s")
        records = read_trials(files)
        TrialFiles(files, 1).write_trial(replace(records[1], ended="stopped"))
        TrialFiles(files, 2).write_trial(replace(records[2], ended="failed", error="some.Error: of then"))
        (folder / "s" / "study.db").unlink()  # it is made again from the files
        study = SearchStudy(plan.space, plan.strategy, "s", plan.database, read_trials(files))
        bridge = StudySearch(study, files, read_trials(files))
        assert [bridge.suggest(str(i))["ended"] for i in range(3)] == ["finished", "stopped", "failed"]
        bridge.suggest("3")  # recorded, and not begun
        study.ask()  # the driver died before it was recorded
        return folder / "s", first

    @pytest.fixture(scope="class")
    @staticmethod
    def resumed(interrupted):
        folder, first = interrupted
        return folder, first, resume(folder, num_samples=6)

    def test_nothing_is_lost_and_nothing_is_counted_twice(self, resumed):
        folder, first, results = resumed
        check_whole(folder, results, ["finished", "stopped", "failed", "finished", "finished", "finished"])
        assert results.objective[0] == first.objective[0] and results.error[2] == "some.Error: of then"
        assert results.seconds[0] == first.seconds[0]

    def test_a_search_that_is_done_has_nothing_to_resume(self, resumed):
        folder, _, results = resumed
        began = time.monotonic()
        (folder / "study.db").write_bytes(b"what a power cut leaves" * 1000)
        again = resume(folder)
        check_whole(folder, again, ["finished", "stopped", "failed", "finished", "finished", "finished"])
        assert (folder / "study.db.damaged").exists()
        assert again.objective.tolist()[3:] == results.objective.tolist()[3:] and len(again) == 6
        assert time.monotonic() - began < 60

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"options": {"id": "another"}}, "--id=another: this search has "),
            ({"strategy": {"sampler_seed": 7}}, "search s: sampler_seed=7: this search has "),
            ({"options": {"num_samples": 2}}, "--num_samples=2: this search has begun"),
            ({"strategy": {"sampler": "gp"}}, "search s: sampler=gp: this search has thompson; resume it without"),
            ({"strategy": {"objective": "pareto"}}, "search s: objective=pareto: this search has combined"),
            ({"space": {"epoch_num": 7}}, "search s: fixed.epoch_num=7: this search has 2"),
            ({"space": {"reg_alpha": 3.0}}, "search s: fixed.reg_alpha=3: this search has none"),
            ({"objective": {"eps": 0.5}}, "search s: objective.eps=0.5: this search has 0.02"),
        ],
    )
    def test_it_stays_the_search_that_it_is(self, resumed, change, message):
        folder, _, _ = resumed
        before = {path: path.stat().st_mtime for path in folder.rglob("*")}
        with pytest.raises(InputError) as caught:
            plan_resume(
                Storage(folder),
                change.get("options", {}),
                lambda stored: stored.override(change.get("space", {}), change.get("objective")),
                change.get("strategy"),
            )
        assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
        assert {path: path.stat().st_mtime for path in folder.rglob("*")} == before

    def test_two_drivers(self, resumed):
        folder, _, _ = resumed
        message = rf"^search s: process {os.getpid()} on \S+ runs this search; wait"
        with Driver(Storage(folder), slots=1), pytest.raises(InputError, match=message):
            plan_resume(Storage(folder), {})
        plan_resume(Storage(folder), {})


def damage(trial, checkpoint=None, progress=None, record=None) -> None:
    """Put something else into files of a trial; a trial whose progress is None was interrupted after its last epoch."""
    known = json.loads((trial / "progress.json").read_text())
    (trial / "progress.json").write_bytes(
        json.dumps({**known, "measured": {}}).encode() if progress is None else progress
    )
    if checkpoint is not None:
        (trial / "checkpoint.pt").write_bytes(checkpoint)
    if record is not None:
        (trial / "trial.json").write_bytes(record)


@pytest.mark.long
def test_damaged_files_of_a_trial_cost_its_training_and_nothing_else(tmp_path):
    first, _ = search(make_space(), tmp_path, num_samples=5, max_concurrent=1)
    folder = tmp_path / "s"
    trials = [folder / f"trial_{number:04d}" for number in range(5)]
    whole = (trials[1] / "checkpoint.pt").read_bytes()
    other = io.BytesIO()
    torch.save({"format": 1}, other)
    damage(trials[0], checkpoint=other.getvalue())
    damage(trials[1], checkpoint=whole[: len(whole) // 2])
    damage(trials[2], checkpoint=b"", progress=b"")
    damage(trials[3], progress=b'{"epochs": [')
    damage(trials[4], record=b"")
    results = resume(folder)
    check_whole(folder, results, ["finished"] * 5)
    assert results.objective.tolist() == first.objective.tolist()
    assert results.reg_alpha.tolist() == first.reg_alpha.tolist()
    anew = results.retries.map(lambda notes: any("trained from the beginning" in note for note in notes))
    assert anew.tolist() == [True, True, True, False, False]
    assert (trials[1] / "checkpoint.pt.damaged").stat().st_size == len(whole) // 2

    damage(trials[4], record=b"\0\0")
    (folder / "study.db").unlink()  # now no file knows what was proposed
    results = resume(folder)
    check_whole(folder, results, ["finished"] * 5)
    assert results.objective.tolist()[:4] == first.objective.tolist()[:4]
    assert results.reg_alpha[4] == first.reg_alpha[4]  # the same number and the same knowledge propose the same


def test_ray_tunes_own_way_to_resume_says_what_to_do_instead(tmp_path):
    study = SearchStudy(make_space(), Strategy(), "s")
    with pytest.raises(SystemExit, match=r"go on: .*brainreg resume .*/s"):
        StudySearch(study, Storage(tmp_path / "s"), []).restore("anything")


@pytest.mark.long
def test_asha_stops_trials_and_the_study_knows(tmp_path):
    space = make_space(fixed={**make_space().fixed, "epoch_num": 3})
    results, text = search(space, tmp_path, strategy=Strategy(scheduler="asha"), num_samples=12, max_concurrent=1)
    check_whole(tmp_path / "s", results, results.state.tolist())
    stopped = results[results.state == "stopped"]
    assert len(stopped) and (results.state == "finished").sum() + len(stopped) == 12
    assert results.state[0] == "finished"  # the given setting
    assert stopped.objective.isna().all() and (stopped.epochs.map(len) <= 4).all()
    assert f"stopped early, and not counted: {len(stopped)} of 12 trials" in text
    for trial, row in zip(study_of(tmp_path / "s").trials, results.itertuples(), strict=True):
        reports = [epoch for epoch in row.epochs if epoch["epoch"] and row.setting != EARLY_STOPPED]  # it has no proxy
        proxies = {epoch["epoch"]: epoch["proxy_objective"] for epoch in reports}
        assert trial.intermediate_values == proxies
        if row.state == "finished":
            assert trial.value == row.objective
    assert study_of(tmp_path / "s").best_trial.value == results.objective.max()


@pytest.mark.long
def test_pareto(tmp_path):
    results, text = search(make_space(), tmp_path, strategy=Strategy(objective="pareto"), num_samples=4)
    study = study_of(tmp_path / "s")
    assert study.metric_names == ["clean_accuracy", "robust_accuracy"]
    finished = results[results.state == "finished"]
    values = [trial.values for trial in study.trials if trial.state.name == "COMPLETE"]
    assert values == finished[["clean_accuracy", "robust_accuracy"]].values.tolist()
    first = finished.drop_duplicates("setting_number")
    points = first.expected_clean_accuracy, first.expected_robust_accuracy
    members = sorted(first.setting_number[front(*points)])
    found = re.search(
        r"front of expected clean and robust accuracy: settings ([\d, ]+); hypervolume beyond unregularized 0\.\d+",
        text,
    )
    shown = [int(number) for number in found[1].split(", ")]
    assert shown == members


@pytest.mark.long
def test_noise_with_a_weight(tmp_path):
    """Trials, their table, the recommendation and the report of a search that asks for it."""
    space = make_space().override({}, {"weight": 0.4, "noise_weight": 0.4})
    results, text = search(space, tmp_path, num_samples=4)
    parts = 0.4 * results.clean_accuracy + 0.4 * results.noise_accuracy + 0.2 * results.robust_accuracy
    assert results.objective.tolist() == pytest.approx(parts.tolist()) and (results.noise_weight == 0.4).all()
    assert "objective = 0.4 clean + 0.2 robust + 0.4 noise accuracy" in text and "(not optimized)" not in text
    assert re.search(r"clean +robust +noise +objective", text)
    recommendation = json.loads((tmp_path / "s" / "best" / "recommendation.json").read_text())
    assert 0 < recommendation["expected"]["noise_accuracy"]["mean"] < 1
    assert {"noise", "noise_low", "noise_high"} <= {*pd.read_csv(tmp_path / "s" / "settings.csv")}
    page = report([tmp_path / "s"])
    assert "0.4 clean + 0.2 robust + 0.4 noise accuracy" in page and "not a part of the objective" not in page
    assert "not optimized" not in page


@pytest.mark.long
def test_sigterm_interrupts_as_ctrl_c_does(tmp_path):
    """A cluster that takes a machine back sends it."""
    command = [
        sys.executable, "tune_main.py", "--space=digits_double", "--num-samples=3", "--epoch_num=60",
        "--scheduler=none", "--base_channels=2", "--reg_image_num=100", "--name=s", f"--storage_path={tmp_path}",
    ]  # fmt: skip
    with (tmp_path / "log.txt").open("w+") as log:
        driver = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log)
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline and not list(tmp_path.glob("s/trial_*/checkpoint.pt")):
            time.sleep(0.2)
        driver.send_signal(signal.SIGTERM)
        status = driver.wait(120)
        log.seek(0)
        text = log.read()
    assert status == 130, text
    assert re.search(r"interrupted: 0 of 3 trials are done; go on: .*brainreg resume \S+/s$", text, re.MULTILINE)
    assert "Traceback" not in text
    assert not [child for child in psutil.Process().children(recursive=True) if child.pid == driver.pid]


@pytest.fixture
def small_disk(tmp_path):
    """A file system of one megabyte, and what makes it larger."""
    folder = tmp_path / "small"
    folder.mkdir()

    def mount(options: str) -> None:
        subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", folder], check=True, capture_output=True)

    try:
        mount("size=1m")
    except (subprocess.CalledProcessError, FileNotFoundError):
        pytest.skip("only root can mount a small disk")
    yield folder, lambda: mount("remount,size=50m")
    subprocess.run(["umount", "--lazy", folder], check=False)


@pytest.mark.long
def test_a_full_disk_ends_the_search_cleanly_and_it_goes_on_later(small_disk):
    disk, enlarge = small_disk
    space = make_space(fixed={**make_space().fixed, "base_channels": 4})
    plan = plan_search(space, SearchOptions(name="s", storage_path=str(disk), num_samples=4), TO_THE_END)
    with pytest.raises(InputError) as caught:
        run_search(plan, Console(file=io.StringIO(), width=120))
    text = str(caught.value)
    assert (
        "No space left on device" in text and re.search(r"go on: .*brainreg resume \S+/s$", text) and "\n" not in text
    )
    assert not any(record.ended for record in read_trials(Storage(disk / "s")))
    enlarge()
    results = resume(disk / "s")
    check_whole(disk / "s", results, ["finished"] * 4)


@pytest.mark.long
def test_a_full_disk_of_ray_tunes_own_folder_is_one_line_too(tmp_path, monkeypatch):
    """Ray Tune writes into a folder of its own below the temporary one, which may be another disk."""
    plan = plan_search(make_space(), SearchOptions(name="s", storage_path=str(tmp_path), num_samples=2), TO_THE_END)

    def full(*arguments, **options):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(JsonLoggerCallback, "log_trial_result", full)
    with pytest.raises(InputError) as caught:
        run_search(plan, Console(file=io.StringIO(), width=120))
    text = str(caught.value)
    assert (
        "No space left on device" in text and re.search(r"go on: .*brainreg resume \S+/s$", text) and "\n" not in text
    )


class TestOutOfMemory:
    """torch.OutOfMemoryError is what CUDA's allocator raises."""

    class Large(torch.nn.Module):
        """A classifier that holds no more than `most` images at a time."""

        def __init__(self, most: int):
            super().__init__()
            self.most, self.seen = most, []
            self.layer = torch.nn.Linear(16 * 16, 10)

        def forward(self, images):
            self.seen.append(len(images))
            if len(images) > self.most:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
            return self.layer(images.flatten(1))

    def test_the_evaluation_batch_is_halved_until_it_fits(self):
        torch.manual_seed(0)
        images, labels = torch.rand(40, 1, 16, 16), torch.arange(40) % 10
        objective = Objective(
            eps=0.1,
            noise_eps=0.1,
            attack_image_num=40,
            attack={"version": "custom", "attacks": ["apgd-ce"], "n_iter": 2},
        )
        large, small = self.Large(1000), self.Large(12)
        small.load_state_dict(large.state_dict())
        expected, measured = (measure_objective(objective, one, images, labels, seed=0) for one in (large, small))
        names = ("objective", "clean_accuracy", "robust_accuracy", "noise_accuracy")
        assert [measured[name] for name in names] == [expected[name] for name in names]
        assert max(small.seen) == 40 and small.seen[-1] <= 12
        proxies = [measure_proxy(objective, one, images, labels, 0, 0.5) for one in (large, small)]
        assert proxies[0] == proxies[1]

    @pytest.mark.parametrize("said", ["cuDNN error: CUDNN_STATUS_ALLOC_FAILED", "unable to find an engine to execute"])
    def test_batches_are_halved_for_libraries_that_lack_memory(self, said):
        tried = []

        def only_two(size: int) -> int:
            tried.append(size)
            if size > 2:
                raise RuntimeError(said)
            return size

        assert as_large_as_fits(only_two, 8) == 2 and tried == [8, 4, 2]
        with pytest.raises(RuntimeError, match="another"):
            as_large_as_fits(lambda size: (_ for _ in ()).throw(RuntimeError("another")), 8)

    def test_a_trial_that_lacked_a_gpus_memory_waits_before_it_is_tried_again(self, monkeypatch):
        waited = []
        monkeypatch.setattr(search_trial.time, "sleep", waited.append)
        monkeypatch.setattr(search_trial, "TrialFiles", lambda *arguments: None)
        monkeypatch.setattr(search_trial.tune, "report", lambda metrics: None)

        def lack(*arguments):
            raise torch.OutOfMemoryError("CUDA out of memory")

        monkeypatch.setattr(search_trial, "_run", lack)
        for device in ("cpu", "cuda"):
            job = search_trial.TrialJob(Objective(eps=0.1, noise_eps=0.1), "nowhere", "data", {}, 1, device, False)
            with pytest.raises(torch.OutOfMemoryError):
                search_trial.run_trial({"number": 0, "ended": ""}, job)
        assert waited == [search_trial.RETRY_PAUSE]

    def test_an_image_that_does_not_fit_is_an_error(self):
        def never(size: int) -> None:
            raise torch.OutOfMemoryError("CUDA out of memory")

        with pytest.raises(torch.OutOfMemoryError):
            as_large_as_fits(never, 8)

    @pytest.mark.parametrize(
        ("error", "again"),
        [
            (torch.OutOfMemoryError("CUDA out of memory"), True),
            (RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"), True),
            (RuntimeError("CUDA error: device-side assert triggered"), True),
            (RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"), True),
            (RuntimeError("GET was unable to find an engine to execute this computation"), True),
            (RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"), True),
            (RuntimeError("No CUDA GPUs are available"), True),
            (RuntimeError("CUDA unknown error - this may be due to an incorrectly set up environment"), True),
            (MemoryError(), True),
            (RuntimeError("mat1 and mat2 shapes cannot be multiplied"), False),
            (InputError("reg_range=high: selects 0 of 435 pairs"), False),
        ],
    )
    def test_what_is_tried_again(self, error, again):
        assert is_retryable(error) == again
