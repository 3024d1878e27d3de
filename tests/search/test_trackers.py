"""A search in MLflow and in Weights & Biases: real ones, MLflow's server beside it and W&B without a network."""

import contextlib
import io
import struct
import sys
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
import ray
from rich.console import Console
from services import mlflow_server, unanswered
from testing import make_space, search

from brainreg.commands import tune
from brainreg.errors import InputError
from brainreg.search import trackers
from brainreg.search.plan import plan_resume
from brainreg.search.run import run_search
from brainreg.search.strategy import Strategy
from brainreg.storage import Storage

SPACE = make_space(budget={"num_samples": 4, "final_attack_seconds": 0})


@pytest.fixture(scope="module", autouse=True)
def ray_shut_down_at_the_end():
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def tracked(tmp_path_factory) -> tuple:
    """A search that tells both, is extended, and goes on: its folder, its results, what it printed, both places."""
    pytest.importorskip("mlflow"), pytest.importorskip("wandb")
    folder = tmp_path_factory.mktemp("tracked")
    with mlflow_server(folder / "mlflow") as server, pytest.MonkeyPatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", server)
        patch.setenv("WANDB_MODE", "offline")
        patch.setenv("WANDB_DIR", str(folder))
        options = {"log": ("mlflow", "wandb"), "max_concurrent": 2}
        with contextlib.redirect_stdout(io.StringIO()) as of_the_trackers:
            _, printed = search(SPACE, folder, strategy=Strategy(scheduler="none", seeds=2), **options)
        printed += of_the_trackers.getvalue()
        with (folder / "again.txt").open("w+") as file:
            results = run_search(plan_resume(Storage(folder / "s"), {"num_samples": 6}), Console(file=file))
        yield folder, results, printed, server


@pytest.mark.slow
class TestMlflow:
    @pytest.fixture
    def runs(self, tracked) -> pd.DataFrame:
        """All runs of the search's experiment, by what they are called."""
        from mlflow import MlflowClient

        client = MlflowClient(tracked[3])
        experiment = client.get_experiment_by_name("s")
        rows = [
            {
                "name": run.info.run_name,
                "id": run.info.run_id,
                "status": run.info.status,
                "parent": run.data.tags.get("mlflow.parentRunId"),
                "params": run.data.params,
                "metrics": run.data.metrics,
                "history": client.get_metric_history(run.info.run_id, "valid_accuracy"),
            }
            for run in client.search_runs([experiment.experiment_id])
        ]
        return pd.DataFrame(rows).set_index("name")

    def test_each_trial_is_a_run_with_its_numbers(self, tracked, runs):
        results = tracked[1]
        assert len(results) == 6
        for trial in results.itertuples():
            run = runs.loc[f"trial_{trial.trial:04d}"]  # one, although the search was resumed
            assert run.status == "FINISHED"
            for name in ("objective", "clean_accuracy", "robust_accuracy", "noise_accuracy"):
                assert run.metrics[name] == pytest.approx(getattr(trial, name))
            assert {*run.params} >= {"reg_alpha"} and run.params["seed"] == str(trial.seed)
            # each once, although the search that is resumed knows them, too
            assert sorted((one.step, one.value) for one in run.history) == [
                (epoch["epoch"], pytest.approx(epoch["valid_accuracy"])) for epoch in trial.epochs
            ]

    def test_the_runs_of_a_setting_are_in_one(self, tracked, runs):
        results = tracked[1]
        parents = runs[runs.parent.isna()]
        assert len(parents) == results.setting_number.nunique() and (parents.status == "FINISHED").all()
        names = {parent.id: name for name, parent in parents.iterrows()}
        for trial in results.itertuples():
            name = names[runs.loc[f"trial_{trial.trial:04d}"].parent]
            assert name.split(",")[0] == f"setting {trial.setting_number}"
        assert "setting 0, unregularized" in names.values()
        for number, own in results.groupby("setting_number"):
            (mean,) = (parent for name, parent in parents.iterrows() if name.split(",")[0] == f"setting {number}")
            assert mean.metrics["runs"] == len(own)
            for name in ("objective", "clean_accuracy", "robust_accuracy", "noise_accuracy"):
                assert mean.metrics[name] == pytest.approx(own[name].mean())

    def test_where_it_is_seen_is_said(self, tracked):
        assert f"MLflow: {tracked[3]}" in tracked[2]
        assert "View run" not in tracked[2]  # a line for each of them, between those of the search


def wandb_records(file: Path) -> Iterator:
    """What a file of a run holds: records in LevelDB's log format, behind a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    content, at, parts, block = file.read_bytes(), 7, b"", 32768
    while at + 7 <= len(content):
        if block - at % block < 7:  # nothing begins in the last bytes of a block
            at += block - at % block
            continue
        _, length, kind = struct.unpack("<IHB", content[at : at + 7])
        parts += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield wandb_internal_pb2.Record.FromString(parts)
            parts = b""


@pytest.mark.slow
def test_weights_and_biases_groups_runs_by_setting(tracked):
    folder, results, printed, _ = tracked
    assert "W&B: project brainreg, group s/..." in printed
    groups, objectives, epochs = {}, {}, {}
    for file in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        for record in wandb_records(file):
            if record.WhichOneof("record_type") == "run":
                name, groups[record.run.display_name] = record.run.display_name, record.run.run_group
            values = {(item.key or item.nested_key[0]): item.value_json for item in record.history.item}
            if "objective" in values:
                objectives[name] = float(values["objective"])
            if "valid_accuracy" in values:
                epochs.setdefault(name, []).append(int(values["epoch"]))
    for trial in results.itertuples():
        name = f"s/trial_{trial.trial:04d}"
        assert groups[name].startswith(f"s/setting {trial.setting_number}")
        assert objectives[name] == pytest.approx(trial.objective)
        assert sorted(epochs[name]) == [epoch["epoch"] for epoch in trial.epochs]  # each once


@pytest.mark.slow
def test_a_tracker_that_fails_does_not_end_the_search(tmp_path, monkeypatch):
    pytest.importorskip("mlflow")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")

    def fail(*arguments):
        raise ConnectionError("the server is gone")

    monkeypatch.setattr(trackers.MlflowLogger, "log", fail)
    results, printed = search(SPACE, tmp_path, log=("mlflow",), num_samples=2)
    assert (results.state == "finished").all()
    assert printed.count("note: MLflow is told no more of this search (the server is gone)") == 1


class TestBadInput:
    def test_what_there_is_none_of(self):
        with pytest.raises(InputError, match=r"^--log=neptune: "):
            tune.main(["--space=digits_double", "--log=neptune", "--dry-run"])

    def test_what_is_not_installed(self, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, "mlflow", None)
        with pytest.raises(ModuleNotFoundError, match="mlflow"):
            search(SPACE, tmp_path, log=("mlflow",))
        assert [path.name for path in tmp_path.iterdir()] == ["s.txt"]

    @pytest.mark.slow
    def test_a_server_that_does_not_answer(self, tmp_path, monkeypatch):
        pytest.importorskip("mlflow")
        with unanswered(listening=False) as address:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://{address}")
            with pytest.raises(
                InputError, match=rf"^--log=mlflow: http://{address} does not answer \(.*\); set MLFLOW"
            ):
                search(SPACE, tmp_path, log=("mlflow",))

    @pytest.mark.slow
    def test_nobody_is_logged_in(self, tmp_path, monkeypatch):
        pytest.importorskip("wandb")
        monkeypatch.setenv("HOME", str(tmp_path))
        for name in ("WANDB_API_KEY", "WANDB_MODE"):
            monkeypatch.delenv(name, raising=False)
        with pytest.raises(
            InputError, match=r"^--log=wandb: nobody is logged in; run `wandb login`, or set WANDB_MODE="
        ):
            search(SPACE, tmp_path, log=("wandb",))
