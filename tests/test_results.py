import pandas as pd
import pytest

from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.records import FORMAT, TrialFiles, TrialRecord, read_manifest, write_manifest
from brainreg.results import EPOCHS_TABLE, TABLE, epochs_of, load_results, raised, ranked, settings_of, write_tables
from brainreg.storage import Storage

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
    error = "brainreg.training.DivergedError: epoch 1: the loss is nan"
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
    assert results.error[2] == "brainreg.training.DivergedError: epoch 1: the loss is nan"
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


def test_ranked_by_objective(folder):
    assert ranked(load_results(folder)).trial.tolist() == [1, 0]


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
    assert len(results) == 0 and "objective" in results.columns and len(ranked(results)) == 0


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
    assert raised(traceback) == line
