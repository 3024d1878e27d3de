import json
import shutil

import pandas as pd
import pytest
from conftest import ROOT
from services import s3_server

from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.records.driver import Driver
from brainreg.records.manifest import FORMAT, read_manifest, write_manifest
from brainreg.records.results import (
    EPOCHS_TABLE,
    TABLE,
    epochs_of,
    last_error,
    load_results,
    rank_trials,
    read_table,
    settings_of,
    write_tables,
)
from brainreg.records.searches import CONFIRMATION, load_searches
from brainreg.records.trial import TrialFiles, TrialRecord
from brainreg.spaces.measurement import EPOCH_OBJECTIVE
from brainreg.storage import Storage

SEARCHES = ROOT / "tests" / "searches"  # of real searches, what their tables say; see test_plots.py

SETTING = {"task": "digits", "reg_alpha": 0.3, "reg_image_num": 500, "epoch_num": 2}
OBJECTIVE = {"eps": 0.1, "noise_eps": 0.4, "weight": 0.25}


def epoch(number: int, accuracy: float) -> dict:
    return {"epoch": number, "valid_accuracy": accuracy, "valid_cross_entropy": 1 - accuracy}


def final(objective: float) -> dict:
    return {
        "best_epoch": 1, "objective": objective, "clean_accuracy": 0.9, "clean_n": 300,
        "robust_accuracy": 0.4, "robust_n": 200, "noise_accuracy": 0.8, "attack_seconds": 3.0,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """The files of six trials: two finished, one failed, one running, one just begun, one stopped."""
    search = Storage(tmp_path)
    write_manifest(search, {"space": {"objective": OBJECTIVE}})

    def trial(number, setting, hyperparameters, epochs=None, measured=None, seconds=None, **others):
        files = TrialFiles(search, number)
        files.write_trial(TrialRecord(number, setting, hyperparameters, began=1000.0 + number, **others))
        if epochs is not None:
            files.write_progress(epochs=epochs, measured=measured or {}, seconds=seconds, node="here")

    trial(1, "", SETTING, [epoch(0, 0.1), epoch(1, 0.6), epoch(2, 0.7)], final(0.7), 7.5)
    trial(0, "unregularized", {"task": "digits", "reg_alpha": 0.0, "epoch_num": 2}, [epoch(0, 0.1)], final(0.6), 7.5)
    error = "brainreg.training.loop.DivergedError: epoch 1: the loss is nan"
    trial(2, "", SETTING, [epoch(0, 0.1)], seconds=0.0, ended="failed", error=error, retries=["node lost", "again"])
    trial(3, "", SETTING, [epoch(0, 0.1), epoch(1, 0.5)], seconds=2.0)
    trial(4, "", SETTING)
    trial(5, "", SETTING, [epoch(0, 0.1), epoch(1, 0.5)], seconds=2.0, ended="stopped")
    return tmp_path


def test_a_row_for_each_trial_in_order(folder):
    results = load_results(folder)
    assert results.trial.tolist() == [0, 1, 2, 3, 4, 5]
    assert results.state.tolist() == ["finished", "finished", "failed", "unfinished", "unfinished", "stopped"]
    assert results.setting.tolist() == ["unregularized", "", "", "", "", ""]
    assert results.error[2] == "brainreg.training.loop.DivergedError: epoch 1: the loss is nan"
    assert results.objective.tolist()[:2] == [0.6, 0.7] and results.objective[2:].isna().all()
    assert results.seconds.tolist()[:4] == [7.5, 7.5, 0, 2]
    assert results.retries.tolist()[:3] == [[], [], ["node lost", "again"]]
    assert results.checkpoint[1] == str(folder / "trial_0001/checkpoint.pt") and results.checkpoint[0] == ""


def test_every_hyperparameter_is_a_column_and_missing_where_it_means_nothing(folder):
    results = load_results(folder)
    assert set(Hyperparameters.model_fields) <= set(results.columns)
    assert results.reg_alpha.tolist() == [0, 0.3, 0.3, 0.3, 0.3, 0.3]
    assert pd.isna(results.reg_image_num[0]) and pd.isna(results.reg_thresh[0]) and pd.isna(results.arctanh[0])
    assert results.reg_image_num[1] == 500 and results.reg_image_num.dtype == "Int64"
    assert results.lr.tolist() == [0.1] * 6


def test_how_it_was_measured_stands_in_every_row(folder):
    results = load_results(folder)
    assert set(results.attack) == {"AutoAttack standard Linf"} and set(results.eps) == {0.1}
    assert set(results.noise) == {"Gaussian"} and set(results.noise_eps) == {0.4} and set(results.weight) == {0.25}


def test_epochs(folder):
    results = load_results(folder)
    assert [len(epochs) for epochs in results.epochs] == [1, 3, 1, 2, 0, 2]
    epochs = epochs_of(results)
    assert epochs[epochs.trial == 1].valid_accuracy.tolist() == [0.1, 0.6, 0.7]


def test_the_table_of_epochs_has_all_that_is_measured_after_an_epoch(folder):
    files = TrialFiles(Storage(folder), 1)
    measured = {"valid_noise_accuracy": 0.3, "proxy_robust_accuracy": 0.2, "proxy_objective": 0.5, EPOCH_OBJECTIVE: 0.4}
    files.write_progress(epochs=[epoch(0, 0.1) | measured], measured={}, seconds=None, node="here")
    (row,) = epochs_of(load_results(folder)).query("trial == 1").to_dict("records")
    assert {name: row[name] for name in measured} == measured


def test_ranked_by_objective(folder):
    assert rank_trials(load_results(folder)).trial.tolist() == [1, 0]


def test_settings_come_back_from_their_row(folder):
    results = load_results(folder)
    assert settings_of(results.iloc[1]) == Hyperparameters(**SETTING)
    assert settings_of(results.iloc[0]) == Hyperparameters(task="digits", reg_alpha=0, epoch_num=2)


def test_tables_as_files(folder):
    results = load_results(folder)
    write_tables(folder, results)
    table = pd.read_csv(folder / TABLE)
    assert table.objective.tolist()[:2] == [0.6, 0.7] and len(table) == 6
    assert len(pd.read_csv(folder / EPOCHS_TABLE)) == 9


def test_a_search_without_trials_is_an_empty_table(tmp_path):
    write_manifest(Storage(tmp_path), {"space": {"objective": OBJECTIVE}})
    results = load_results(tmp_path)
    assert len(results) == 0 and "objective" in results.columns and len(rank_trials(results)) == 0


def test_a_damaged_file_is_named(folder):
    (folder / "trial_0001" / "progress.json").write_text('{"epochs": [')
    with pytest.raises(InputError, match=r"trial_0001/progress.json: damaged"):
        load_results(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not the folder of a search; search.json is missing"),
        ("{", "search.json: damaged"),
        ('{"format": 7}', f"written in format 7; this version reads format {FORMAT}"),
    ],
)
def test_a_folder_that_is_none_of_ours(tmp_path, content, message):
    if content is not None:
        (tmp_path / "search.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_manifest(Storage(tmp_path))


@pytest.mark.parametrize(
    ("traceback", "line"),
    [
        ("Traceback:\n  File x\na.DivergedError: epoch 1: nan\n", "a.DivergedError: epoch 1: nan"),
        ("a.ValidationError: 1 error\ntask\n    For further information visit x", "a.ValidationError: 1 error"),
        ("KeyError: 'a'\n\nThe above\nray.exceptions.RayTaskError(ValueError): x\nValueError: b", "ValueError: b"),
        ("killed", "killed"),
        ("", "unknown error"),
    ],
)  # fmt: skip
def test_the_line_of_a_traceback_that_says_what_was_raised(traceback, line):
    assert last_error(traceback) == line


def edited(path, change):
    """Change what a JSON file says."""
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


class TestManySearches:
    @pytest.fixture
    def whole(self, folder):
        """The six trials again, in a search that says all of itself."""
        manifest = json.loads((SEARCHES / "digits_double" / "search.json").read_text())
        (folder / "search.json").write_text(json.dumps({**manifest, "num_samples": 8}))
        return folder

    def test_all_trials_in_one_table_with_their_search(self, whole):
        searches = load_searches([whole, SEARCHES / "mnist_seed0"])
        trials = searches.trials
        assert trials.columns[:5].tolist() == ["search", "space", "running", "data", "trial"]
        assert trials.groupby("search", sort=False).trial.count().to_dict() == {whole.name: 6, "mnist_seed0": 14}
        assert trials.data.unique().tolist() == ["digits - digits", "MNIST - MNIST"]
        assert not trials.running.any()
        pd.testing.assert_frame_equal(
            trials[trials.search == whole.name].iloc[:, 4:].reset_index(drop=True),
            load_results(whole),
            check_dtype=False,
        )
        first, second = searches.overview.to_dict("records")
        assert (first["state"], second["state"]) == ("interrupted", "done")
        assert [first[state] for state in ("trials", "of", "finished", "stopped", "failed", "unfinished")] == [
            6, 8, 2, 1, 1, 2
        ]  # fmt: skip
        assert first["hours"] == pytest.approx(19 / 3600, abs=1e-4) and second["seed"] == 0

    def test_a_text_may_hold_several_and_one_counts_once(self, whole):
        searches = load_searches(f"{whole}, {SEARCHES / 'digits_double'},{whole}/")
        assert searches.overview.search.tolist() == [whole.name, "digits_double"]
        assert load_searches(whole).overview.search.tolist() == [whole.name]

    def test_a_name_may_have_commas(self, whole, tmp_path):
        odd = tmp_path / "alpha=0.1,th=0.5,,c"
        shutil.copytree(whole, odd)
        names = [odd.name, "digits_double"]
        assert load_searches(str(odd)).overview.search.tolist() == names[:1]
        assert load_searches(f"{odd}, {SEARCHES / 'digits_double'}").overview.search.tolist() == names
        assert load_searches(f"{SEARCHES / 'digits_double'},{odd},").overview.search.tolist() == names[::-1]
        with pytest.raises(InputError, match=r"alpha=0.2: no such folder"):
            load_searches(f"{tmp_path / 'alpha=0.2,th=0.5'},{odd}")

    def test_remote_ones_too(self, whole, tmp_path_factory):
        with s3_server() as server:
            remote = Storage(server.uri("results/remote"))
            for path in whole.rglob("*.json"):
                remote.write(str(path.relative_to(whole)), path.read_bytes())
            searches = load_searches(f"{remote.uri},{whole}")
            with pytest.raises(InputError, match="nowhere: no such folder"):
                load_searches(server.uri("results/nowhere"))
        assert searches.overview.search.tolist() == ["remote", whole.name]
        trials = [searches.trials[searches.trials.search == name].iloc[:, 4:-1] for name in searches.overview.search]
        pd.testing.assert_frame_equal(*(one.reset_index(drop=True) for one in trials))

    def test_searches_of_one_name_are_told_apart(self, whole, tmp_path_factory):
        other = tmp_path_factory.mktemp("elsewhere") / whole.name
        shutil.copytree(whole, other)
        names = load_searches([whole, other]).overview.search.tolist()
        assert names == [f"{one.parent.name}/{one.name}" for one in (whole, other)]

    def test_a_running_search_is_shown_and_marked(self, whole):
        with Driver(Storage(whole), slots=2):
            searches = load_searches(whole)
        assert searches.trials.running.all() and searches.overview.state[0] == "running"
        assert f"{whole.name}: running, 6 of 8 trials begun" in searches.notes

    def test_what_is_damaged_is_left_out_and_told(self, whole):
        path = whole / "trial_0001" / "progress.json"
        path.write_text(path.read_text()[:40])
        edited(whole / "trial_0002" / "trial.json", lambda trial: trial["hyperparameters"].update(reg_new=1))
        edited(whole / "trial_0003" / "trial.json", lambda trial: trial.update(new=1))
        searches = load_searches(whole)
        assert searches.trials.trial.tolist() == [0, 4, 5]
        notes = "\n".join(searches.notes)
        assert "trial_0001/progress.json: damaged" in notes
        assert "trial_0002: reg_new: no such key" in notes
        assert "trial_0003: " in notes and "'new'" in notes
        (whole / "driver.json").write_text("{")
        assert "driver.json: damaged" in "\n".join(load_searches(whole).notes)

    def test_another_version_is_told_and_shown_as_far_as_its_table_says(self):
        searches = load_searches(SEARCHES / "format_1")
        assert len(searches.notes) == 2
        assert searches.notes[0].endswith(f"search.json: written in format 1; this version reads format {FORMAT}")
        assert searches.notes[1] == f"format_1: shown is what its {TABLE} says"
        assert searches.overview.state[0] == "of another version" and searches.overview.space[0] == "digits_double"
        trials = searches.trials
        assert trials.state.tolist() == ["finished"] * 3 and trials.objective[1] == pytest.approx(0.3777778)
        assert trials.setting.tolist() == ["unregularized", "", ""] and pd.isna(trials.reg_image_num[0])
        assert trials.retries.tolist() == trials.epochs.tolist() == [[], [], []] and trials.began.isna().all()
        assert trials.dtypes.equals(load_searches(SEARCHES / "mnist_seed0").trials.dtypes)

    def test_a_version_that_measures_otherwise_is_told_too(self, whole):
        edited(whole / "search.json", lambda manifest: manifest["space"]["objective"].update(new=1))
        searches = load_searches(whole)
        assert "space.objective.new: no such key" in searches.notes[0] and len(searches.trials) == 0
        assert searches.notes[1] == f"{whole.name}: it has no trials that can be shown"
        shutil.copy(SEARCHES / "digits_double" / TABLE, whole)
        assert len(load_searches(whole).trials) == 14
        (whole / TABLE).write_text("a,b\n1,2\n")
        assert "not a table of trials" in " ".join(load_searches(whole).notes)

    def test_the_version_is_told_where_it_is_not_this_one(self, whole):
        edited(whole / "search.json", lambda manifest: manifest["versions"].update(brainreg="0.0.9"))
        (note,) = [note for note in load_searches(whole).notes if "made by" in note]
        assert note.startswith(f"{whole.name}: made by brainreg 0.0.9; this is ")

    def test_objectives_that_cannot_be_compared_are_told(self):
        names = ("digits_double", "digits_ranges", "mnist_seed0")
        notes = load_searches([SEARCHES / name for name in names]).notes
        (said,) = [note for note in notes if "cannot be compared" in note]
        assert "digits_double, digits_ranges: 0.5 clean + 0.5 robust" in said and "mnist_seed0: " in said
        assert not any("cannot be compared" in note for note in load_searches(SEARCHES / "mnist_seed0").notes)

    def test_other_noise_is_another_objective_where_it_has_a_weight(self, whole, tmp_path_factory):
        def notes(**objective) -> list[str]:
            copies = tmp_path_factory.mktemp("copies")
            folders = [copies / name for name in ("one", "other")]
            for folder, changes in zip(folders, ({"noise_weight": 0.2, "noise_eps": 0.3}, objective), strict=True):
                shutil.copytree(whole, folder)
                edited(folder / "search.json", lambda search, own=changes: search["space"]["objective"].update(own))
            return [note for note in load_searches(folders).notes if "cannot be compared" in note]

        assert notes(noise_weight=0.2, noise_eps=0.3) == []
        (said,) = notes(noise_weight=0.2, noise_eps=0.4)
        assert ": 0.5 clean + 0.3 robust + 0.2 noise under AutoAttack" in said and ", Gaussian noise of 0.4" in said
        (said,) = notes(noise_weight=0.1, noise_eps=0.3)
        assert "0.5 clean + 0.4 robust + 0.1 noise" in said

    def test_how_a_published_trial_departs_is_told(self):
        (note,) = [note for note in load_searches(SEARCHES / "mnist_seed0").notes if "departs" in note]
        assert "base_channels 4, epoch_num 3, train_image_num 3000, phase_duration 1" in note

    def test_a_search_before_its_first_trial(self, whole):
        for trial in whole.glob("trial_*"):
            shutil.rmtree(trial)
        searches = load_searches(whole)
        assert len(searches.trials) == 0 and len(searches.overview) == 1
        assert f"{whole.name}: it has no trials yet" in searches.notes
        assert "search" in searches.trials and "objective" in searches.trials

    def test_what_was_confirmed_comes_along(self, whole):
        assert load_searches(whole).confirmation.empty
        table = "setting,rank,trial,seed,split,measure,attack,eps,n,accuracy,low,high,weight,seeds,of_later\n"
        (whole / CONFIRMATION).write_text(table)
        assert load_searches(whole).confirmation.columns.tolist() == ["search", *table.strip().split(",")]
        (whole / CONFIRMATION).write_text("setting,rank,trial\n")
        searches = load_searches(whole)
        assert searches.confirmation.empty
        assert "confirmation.csv: damaged (it has no column seed)" in "\n".join(searches.notes)

    @pytest.mark.parametrize(
        ("folders", "message"),
        [
            ("", "experiment: missing"),
            (" , ", "experiment: missing"),
            ("{}/empty", "empty: empty; known: search"),
            ("{}/serch", r"serch: no such folder; did you mean search\? known: search"),
            ("{0}/search,{0}/nowhere", "nowhere: no such folder; known: search"),
            ("{}", "holds no search itself, but these: search; name one of them"),
            ("{}/other", "other: not the folder of a search; search.json is missing"),
            ("{}/damaged", "damaged/search.json: damaged"),
            ("{}/search/search.json", "search.json: cannot be read"),
        ],
    )
    def test_what_is_no_search_is_one_line(self, tmp_path, folders, message, monkeypatch):
        monkeypatch.chdir(tmp_path)  # where no folder of searches lies, whose names would be told, too
        shutil.copytree(SEARCHES / "digits_double", tmp_path / "search")
        for name in ("empty", "other"):
            (tmp_path / name).mkdir()
        (tmp_path / "other" / "notes.txt").write_text("x")
        if "damaged" in folders:
            (tmp_path / "damaged").mkdir()
            (tmp_path / "damaged" / "search.json").write_text('{"format": 2, "sp')
        with pytest.raises(InputError, match=message) as caught:
            load_searches(folders.format(tmp_path))
        assert "\n" not in str(caught.value)


def test_a_table_that_was_written_is_read_again(folder):
    results = load_results(folder)
    write_tables(folder, results)
    again = read_table((folder / TABLE).read_text())
    assert again.retries.tolist() == results.retries.tolist() and again.epochs.tolist() == [[]] * 6
    for name in results.columns.drop(["epochs", "checkpoint", "retries"]):
        assert again[name].isna().tolist() == results[name].isna().tolist(), name
        assert again[name].dropna().tolist() == results[name].dropna().tolist(), name
    earlier = results.drop(columns="noise_weight").to_csv(index=False)  # in which noise had no weight
    assert read_table(earlier).noise_weight.tolist() == [0.0] * 6
