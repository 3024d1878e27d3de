"""A search whose files lie on an S3 server, one whose study lies in PostgreSQL, and both where nobody answers."""

import io
import os
import re
import shlex
import signal
import time

import optuna
import pandas as pd
import pytest
import ray
from rich.console import Console
from services import BUCKET, PASSWORD, postgresql_server, s3_server, unanswered
from testing import SHORT_ATTACK, TO_THE_END, make_space

from brainreg.commands import tune
from brainreg.errors import InputError
from brainreg.records.driver import driver_of
from brainreg.records.manifest import read_manifest
from brainreg.records.results import BEST, load_results, rank_trials, recommended_trial
from brainreg.records.trial import TrialFiles
from brainreg.search.folders import find_search
from brainreg.search.options import SearchOptions
from brainreg.search.plan import plan_resume, plan_search
from brainreg.search.run import run_search
from brainreg.search.status import show_status
from brainreg.storage import Storage
from brainreg.training.checkpoint import load_checkpoint

SPACE = make_space(budget={"num_samples": 4, "final_attack": SHORT_ATTACK, "final_attack_seconds": 1})


@pytest.fixture(scope="module")
def server():
    """An S3 server that Ray's workers know, too."""
    ray.shutdown()
    with s3_server() as running:
        yield running
        ray.shutdown()


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The folder in which the searches are started."""
    folder = tmp_path_factory.mktemp("home")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        yield folder


class Terminal(io.StringIO):
    """Presses Ctrl-C as soon as something is printed."""

    def __init__(self, until: str | None = None):
        super().__init__()
        self._until = until

    def write(self, text: str) -> int:
        if self._until is not None and self._until in text:
            self._until = None
            os.kill(os.getpid(), signal.SIGINT)
        return super().write(text)


def run(plan, until: str | None = None) -> tuple[pd.DataFrame, str]:
    """Run a search for real; return its trials and what it printed."""
    terminal = Terminal(until)
    return run_search(plan, Console(file=terminal, width=120)), terminal.getvalue()


def status(folder: Storage) -> list[str]:
    terminal = Terminal()
    show_status(folder, Console(file=terminal, width=120))
    return terminal.getvalue().splitlines()


def files_in(folder) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def interrupted(server, home):
    """A search of four trials on S3 that was interrupted after two: its folder, its trials, and what it printed."""
    options = SearchOptions(name="s", storage_path=server.uri("searches"))
    results, text = run(plan_search(SPACE, options, TO_THE_END), until="2/4 trials done")
    return Storage(server.uri("searches/s")), results, text


@pytest.fixture(scope="module")
def resumed(interrupted, server, home):
    """The same, resumed where its database is not: its folder, its trials, what it printed, and the status between."""
    folder, _, _ = interrupted
    (home / "results" / "s" / "study.db").unlink()
    between = status(find_search("s", server.uri("searches"), "--status"))
    results, text = run(plan_resume(find_search("s", server.uri("searches"), "--resume"), {}))
    return folder, results, text, between


@pytest.mark.long
class TestS3:
    def test_an_interrupted_search_says_how_it_goes_on(self, interrupted):
        folder, results, text = interrupted
        assert f"starting Ray for 4 trials, 2 at a time, in s3://{BUCKET}/searches/s" in text.splitlines()
        done = int((results.state == "finished").sum())
        assert 2 <= done < 4 and set(results.state) <= {"finished", "unfinished"}
        assert re.search(
            rf"^interrupted: {done} of 4 trials are done; go on: .*brainreg resume .*/s", text, re.MULTILINE
        )

    def test_its_status_is_read_from_there(self, interrupted, resumed):
        done = int((interrupted[1].state == "finished").sum())
        _, _, _, between = resumed
        assert re.match(r"s: interrupted; go on: .*brainreg resume .*s3://\S+/s", between[0])
        assert between[1].startswith(f"{done} of 4 trials done, ") and f", {done} finished" in between[1]
        assert "settings so far:" in between

    def test_the_resumed_search_is_whole(self, interrupted, resumed):
        before = interrupted[1]
        folder, results, text, _ = resumed
        assert results.trial.tolist() == list(range(4)) and set(results.state) == {"finished"}
        pd.testing.assert_frame_equal(load_results(folder), results)
        pd.testing.assert_frame_equal(load_results(folder.uri), results)
        done = before[before.state == "finished"]
        for name in ("objective", "reg_alpha", "seconds", "began"):
            assert results.set_index("trial")[name][done.trial].tolist() == done[name].tolist()
        assert f"starting Ray for 4 trials, {len(done)} of them done before, 2 at a time" in text
        assert "AutoAttack custom Linf (apgd-ce; 2 steps), eps 0.02, for 0m01s on each of" in text
        assert f"trials:   s3://{BUCKET}/searches/s/results.csv" in text.splitlines()

    def test_the_study_was_made_again(self, resumed, home):
        _, results, _, _ = resumed
        study = optuna.load_study(study_name="s", storage=f"sqlite:///{home}/results/s/study.db")
        assert [trial.state.name for trial in study.trials] == ["COMPLETE"] * 4
        assert [trial.value for trial in study.trials] == pytest.approx(results.objective.tolist())

    def test_all_its_files_are_there(self, resumed, home):
        folder, results, _, _ = resumed
        assert {"search.json", "driver.json", "results.csv", "epochs.csv", "final_attack.csv", BEST} <= {
            *folder.names()
        }
        assert set(pd.read_csv(io.BytesIO(folder.read("results.csv"))).trial) == set(range(4))
        assert len(read_manifest(folder)["resumed"]) == 1 and driver_of(folder) is None
        assert files_in(home) == ["results/s/study.db"]

    def test_its_checkpoints_are_there(self, resumed, tmp_path):
        folder, results, _, _ = resumed
        best = recommended_trial(rank_trials(results))
        assert best.checkpoint == f"s3://{BUCKET}/searches/s/trial_{best.trial:04d}/checkpoint.pt"
        kept = load_checkpoint(folder.child(BEST).fetch("checkpoint.pt", tmp_path))
        for number in range(4):
            stored = load_checkpoint(TrialFiles(folder, number).folder.fetch("checkpoint.pt", tmp_path))
            assert [epoch["epoch"] for epoch in stored["history"]] == [0, 1, 2]
            if number == best.trial:
                assert stored["hyperparameters"] == kept["hyperparameters"]

    def test_its_status_at_the_end(self, resumed, server, capsys):
        arguments = ["--status=s", f"--storage-path={server.uri('searches')}"]
        assert tune.main(arguments) == 0
        shown = capsys.readouterr().out.splitlines()
        assert shown[:2] == ["s: done", "4 of 4 trials done, 0 interrupted, 4 finished"]
        assert status(Storage(server.uri("searches/s")))[:2] == shown[:2]

    def test_a_name_that_is_taken_there(self, resumed, server):
        with pytest.raises(
            InputError,
            match=rf"^--name=s: s3://{BUCKET}/searches/s already holds a search; .*brainreg resume .*s3://\S+/s.*$",
        ):
            plan_search(SPACE, SearchOptions(name="s", storage_path=server.uri("searches")))

    def test_a_name_that_is_not_there(self, resumed, server):
        message = rf"^--status=t: no such search in s3://{BUCKET}/searches; there is s$"
        with pytest.raises(InputError, match=message):
            find_search("t", server.uri("searches"), "--status")

    def test_its_trials_are_copied_into_another_search_there(self, resumed, server):
        options = SearchOptions(name="after", prior="s", storage_path=server.uri("searches"), num_samples=1)
        results, text = run(plan_search(SPACE, options, TO_THE_END))
        assert len(results) == 5 and (results.state == "finished").all()
        assert "note: 4 of the 4 trials that ended in s are copied" in text.splitlines()
        folder = Storage(server.uri("searches/after"))
        records = [TrialFiles(folder, number).read() for number in range(5)]
        assert [one.copied_from for one in records] == [
            *(f"s3://{BUCKET}/searches/s/trial_{number:04d}" for number in range(4)),
            "",
        ]
        for number in range(4):
            there, here = (one.child(f"trial_{number:04d}").read("checkpoint.pt") for one in (resumed[0], folder))
            assert here is not None and here == there


@pytest.fixture(scope="module")
def database():
    with postgresql_server() as running:
        yield running


@pytest.mark.slow
class TestPostgreSQL:
    @pytest.fixture(scope="class")
    @staticmethod
    def finished(database, home):
        """A search of three trials whose study lies in PostgreSQL: its folder, its trials, and what it printed."""
        options = SearchOptions(name="p", storage_path=str(home / "out"), study=database.url, num_samples=3)
        yield home / "out" / "p", *run(plan_search(SPACE, options, TO_THE_END))
        ray.shutdown()

    def test_the_study_is_there(self, finished, database):
        folder, results, _ = finished
        study = optuna.load_study(study_name="p", storage=database.url)
        assert set(results.state) == {"finished"} and not (folder / "study.db").exists()
        assert [trial.value for trial in study.trials] == pytest.approx(results.objective.tolist())

    def test_the_password_is_in_no_file(self, finished):
        folder, _, text = finished
        assert len(files_in(folder)) > 10 and PASSWORD not in text
        for name in files_in(folder):
            assert PASSWORD.encode() not in (folder / name).read_bytes(), name

    def test_a_resumed_search_asks_for_what_it_does_not_store(self, finished, database):
        folder, _, _ = finished
        with pytest.raises(InputError) as caught:
            plan_resume(Storage(folder), {"num_samples": 4})
        shown = database.url.replace(PASSWORD, "***")
        assert str(caught.value) == (
            f"--study: missing; this search keeps its study in {shown}, and passwords are not stored"
        )

    def test_a_name_that_another_study_has(self, finished, database, tmp_path):
        options = SearchOptions(name="p", storage_path=str(tmp_path), study=database.url)
        with pytest.raises(
            InputError, match=r"^--study=postgresql.*:\*\*\*@.*: already holds a study p; choose another"
        ):
            plan_search(SPACE, options)
        with pytest.raises(InputError, match=r":\*\*\*@.*: already holds a study p; choose another"):
            plan_search(SPACE, options, dry_run=True)
        assert files_in(tmp_path) == []

    def test_it_goes_on_with_the_study_that_is_there(self, finished, database):
        folder, before, _ = finished
        results, text = run(plan_resume(Storage(folder), {"num_samples": 4, "study": database.url}))
        assert "starting Ray for 4 trials, 3 of them done before" in text
        assert results.objective.tolist()[:3] == before.objective.tolist() and set(results.state) == {"finished"}
        study = optuna.load_study(study_name="p", storage=database.url)
        assert [trial.value for trial in study.trials] == pytest.approx(results.objective.tolist())
        assert all(PASSWORD.encode() not in (folder / name).read_bytes() for name in files_in(folder))


class TestBadInput:
    """Each is one line within 10 s, and nothing is written."""

    @pytest.fixture
    def refused(self, server, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)

        def run_main(flags: str, space: str = "--space=digits_double") -> str:
            began = time.monotonic()
            with pytest.raises(InputError) as caught:
                tune.main(shlex.split(f"{space} {flags}"))
            assert time.monotonic() - began < 10
            assert "\n" not in str(caught.value) and PASSWORD not in str(caught.value)
            assert list(tmp_path.iterdir()) == []
            return str(caught.value)

        return run_main

    def test_a_storage_that_is_none(self, refused):
        message = "--storage_path=gs://x: must be a folder or s3://BUCKET/PATH"
        assert refused("--storage_path=gs://x") == message
        for flag in ("--status=s", "--resume=s"):
            assert refused(f"{flag} --storage_path=gs://x", space="") == message
        assert refused("--status=gs://x/s", space="").endswith("no such storage; must be a folder or s3://BUCKET/PATH")

    def test_a_bucket_that_is_not_there(self, refused, server):
        path = server.uri("out").replace(BUCKET, "bukket")
        for flags, space in (("", "--space=digits_double"), ("--status=s", ""), ("--resume=s", "")):
            assert refused(f"{flags} '--storage_path={path}'", space).endswith("there is no bucket bukket")

    @pytest.mark.parametrize("listening", [False, pytest.param(True, marks=pytest.mark.slow)])
    def test_a_storage_that_does_not_answer(self, listening, refused):
        with unanswered(listening) as address:
            path = f"s3://{BUCKET}/out?endpoint_override={address}&scheme=http"
            for flags, space in (("--name=s", "--space=digits_double"), ("--status=s", ""), ("--resume=s", "")):
                message = refused(f"{flags} '--storage_path={path}'", space)
                assert message.startswith(
                    f"--storage_path=s3://{BUCKET}/out/s: s3://{BUCKET}/out/s/search.json: cannot be"
                )

    def test_a_study_that_is_none(self, refused):
        assert refused("--study=nonsense").startswith(
            "--study=nonsense: must be an address such as postgresql+psycopg://"
        )

    @pytest.mark.parametrize("listening", [False, pytest.param(True, marks=pytest.mark.slow)])
    def test_a_study_that_does_not_answer(self, listening, refused):
        pytest.importorskip("psycopg", reason="psycopg is not installed")
        with unanswered(listening) as address:
            message = refused(f"--study=postgresql+psycopg://user:{PASSWORD}@{address}/db")
            assert message.startswith(
                f"--study=postgresql+psycopg://user:***@{address}/db: no database answers there ("
            )

    def test_a_study_of_the_same_name(self, refused, tmp_path_factory):
        url = f"sqlite:///{tmp_path_factory.mktemp('database')}/study.db"
        optuna.create_study(study_name="s", storage=url)
        message = refused(f"--study={url} --name=s")
        assert message == f"--study={url}: already holds a study s; choose another --name"
