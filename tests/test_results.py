import json

import pandas as pd
import pytest

from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.results import (
    EPOCHS_TABLE,
    TABLE,
    epochs_of,
    load_results,
    raised,
    ranked,
    read_manifest,
    settings_of,
    write_manifest,
    write_tables,
)

SETTING = {"task": "digits", "reg_alpha": 0.3, "reg_image_num": 500, "epoch_num": 2}
OBJECTIVE = {"eps": 0.1, "noise_eps": 0.4, "weight": 0.25}


def epoch(number: int, accuracy: float) -> dict:
    return {
        "epoch": number,
        "valid_accuracy": accuracy,
        "valid_cross_entropy": 1 - accuracy,
        "time_total_s": number * 2.0,
    }


def final(objective: float) -> dict:
    return {
        "epoch": 2, "best_epoch": 1, "objective": objective, "clean_accuracy": 0.9, "clean_n": 300,
        "robust_accuracy": 0.4, "robust_n": 200, "noise_accuracy": 0.8, "attack_seconds": 3.0, "time_total_s": 7.5,
    }  # fmt: skip


@pytest.fixture
def folder(tmp_path):
    """The files that Ray Tune leaves of five trials: two finished, one failed, one running, one just begun."""
    write_manifest(tmp_path, {"space": {"objective": OBJECTIVE}})

    def trial(number, setting, hyperparameters, reports, error=None, torn=""):
        own = tmp_path / f"trial_{number:04d}"
        (own / "checkpoint_000001").mkdir(parents=True)
        (own / "checkpoint_000001" / "checkpoint.pt").touch()
        config = {"number": number, "setting": setting, "hyperparameters": hyperparameters}
        (own / "params.json").write_text(json.dumps(config))
        (own / "result.json").write_text("".join(json.dumps(report) + "\n" for report in reports) + torn)
        if error:
            (own / "error.txt").write_text(f"Traceback ...\n{error}\n")

    trial(1, "", SETTING, [epoch(0, 0.1), epoch(1, 0.6), epoch(2, 0.7), final(0.7)])
    trial(0, "unregularized", {"task": "digits", "reg_alpha": 0.0, "epoch_num": 2}, [epoch(0, 0.1), final(0.6)])
    trial(2, "", SETTING, [epoch(0, 0.1)], error="brainreg.training.DivergedError: epoch 1: the loss is nan")
    trial(3, "", SETTING, [epoch(0, 0.1), epoch(1, 0.5)], torn='{"epoch": 2, "valid_acc')
    trial(4, "", SETTING, [])
    return tmp_path


def test_a_row_for_each_trial_in_order(folder):
    results = load_results(folder)
    assert results.trial.tolist() == [0, 1, 2, 3, 4]
    assert results.state.tolist() == ["finished", "finished", "failed", "unfinished", "unfinished"]
    assert results.setting.tolist() == ["unregularized", "", "", "", ""]
    assert results.error[2] == "brainreg.training.DivergedError: epoch 1: the loss is nan"
    assert results.objective.tolist()[:2] == [0.6, 0.7] and results.objective[2:].isna().all()
    assert results.seconds.tolist()[:4] == [7.5, 7.5, 0, 2]
    assert results.checkpoint[1] == str(folder / "trial_0001/checkpoint_000001/checkpoint.pt")


def test_every_hyperparameter_is_a_column_and_missing_where_it_means_nothing(folder):
    results = load_results(folder)
    assert set(Hyperparameters.model_fields) <= set(results.columns)
    assert results.reg_alpha.tolist() == [0, 0.3, 0.3, 0.3, 0.3]
    assert pd.isna(results.reg_image_num[0]) and pd.isna(results.reg_thresh[0]) and pd.isna(results.arctanh[0])
    assert results.reg_image_num[1] == 500 and results.reg_image_num.dtype == "Int64"
    assert results.lr.tolist() == [0.1] * 5


def test_how_it_was_measured_stands_in_every_row(folder):
    results = load_results(folder)
    assert set(results.attack) == {"AutoAttack standard Linf"} and set(results.eps) == {0.1}
    assert set(results.noise) == {"Gaussian"} and set(results.noise_eps) == {0.4} and set(results.weight) == {0.25}


def test_epochs(folder):
    results = load_results(folder)
    assert [len(epochs) for epochs in results.epochs] == [1, 3, 1, 2, 0]
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
    assert table.objective.tolist()[:2] == [0.6, 0.7] and len(table) == 5
    assert len(pd.read_csv(folder / EPOCHS_TABLE)) == 7


def test_a_search_without_trials_is_an_empty_table(tmp_path):
    write_manifest(tmp_path, {"space": {"objective": OBJECTIVE}})
    results = load_results(tmp_path)
    assert len(results) == 0 and "objective" in results.columns and len(ranked(results)) == 0


def test_a_damaged_line_in_the_middle_is_named(folder):
    path = folder / "trial_0001" / "result.json"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "{broken", *lines[2:]]))
    with pytest.raises(InputError, match=r"result.json: line 2 is damaged"):
        load_results(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "not the folder of a search; search.json is missing"),
        ("{", "search.json: damaged"),
        ('{"format": 7}', "written in format 7; this version reads format 1"),
    ],
)
def test_a_folder_that_is_none_of_ours(tmp_path, content, message):
    if content is not None:
        (tmp_path / "search.json").write_text(content)
    with pytest.raises(InputError, match=message):
        read_manifest(tmp_path)


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
