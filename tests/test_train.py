"""The training command line: what it refuses, and one run as a user starts it."""

import json
import shlex
import subprocess
import sys

import pandas as pd
import pytest
from conftest import ROOT

import train
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.training import load_classifier

SMALL = "--task=digits --base_channels=2 --train_image_num=128 --epoch_num=2 --valid_portion=0.1"
QUICK = "--num_epsilons=2 --attack_image_num=2 --attack_eps=0.5"


def run(line: str, folder) -> int:
    return train.main([*shlex.split(line), f"--save_dir={folder}"])


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("--task=CIFR10", "--task=CIFR10: no such data set"),
        ("--reg_alpha=-1", "--reg_alpha=-1: must be at least 0"),
        ("--reg_range=double", "--reg_thresh_2 is missing: the range double needs a second threshold"),
        ("--reg_range=double --reg_thresh=0.2 --reg_thresh_2=0.4", "--reg_thresh_2=0.4: must be below reg_thresh=0.2"),
        ("--task=digits --rgb=True", "rgb=True: the images of digits are gray"),
        ("--task=digits --reg_alpha=1", "reg_image_num=5000: digits has 1424 training images"),
        ("--task=digits --threads=none", "--threads=none: must be a whole number, at least 1"),
        ("--task=digits --attack_eps=2", "--attack_eps=2: must be at most 1"),
        ("--task=digits --num_epsilon=3", "--num_epsilon: no such flag; did you mean --num_epsilons"),
        ("--task=MNIST --data_dir=/nowhere/at/all", "MNIST: not found; looked for /nowhere/at/all/MNIST/raw"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(line, message, tmp_path):
    with pytest.raises(InputError) as caught:
        run(line, tmp_path / "runs")
    assert str(caught.value).startswith(message) and "\n" not in str(caught.value)
    assert not (tmp_path / "runs").exists()


def test_a_run_reports_saves_and_is_found_again(tmp_path, capsys):
    line = f"{SMALL} {QUICK} --reg_alpha=1 --reg_thresh=0.5 --reg_image_num=60"
    assert run(line, tmp_path) == 0
    shown = capsys.readouterr().out
    (folder,) = tmp_path.iterdir()
    assert folder.name.startswith("digits_ResNet18_alpha1_all_Th0.5_seed0_")
    assert "128 training, 144 validation, 359 test images\n1,770 of 1,770 pairs of 60 images regularize\n" in shown
    assert [line.split(":")[0] for line in shown.splitlines()[2:5]] == ["epoch 0/2", "epoch 1/2", "epoch 2/2"]

    summary = json.loads((folder / "results.json").read_text())
    robustness = pd.read_csv(folder / "robustness.csv")
    assert robustness.attack.tolist() == [
        "clean",
        *["Gaussian"] * 2,
        *["Uniform"] * 2,
        *["SaltPepper"] * 2,
        "AutoAttack standard Linf",
    ]
    assert robustness.n.tolist() == [359] * 7 + [2]
    assert summary["test_accuracy"] == robustness.accuracy[0]
    assert f"test accuracy {summary['test_accuracy']:.4f} (95% interval" in shown
    assert (
        "Gaussian noise, accuracy at eps: 0: 0." in shown
        and "AutoAttack standard Linf, eps 0.5: robust accuracy 0." in shown
    )
    assert len(pd.read_csv(folder / "epochs.csv")) == 3
    _, settings = load_classifier(folder / "checkpoint.pt")
    assert settings == Hyperparameters(**summary["hyperparameters"])
    assert f"checkpoint: {folder / 'checkpoint.pt'}" in shown

    written = (folder / "results.json").stat().st_mtime_ns
    assert run(line, tmp_path) == 0
    again = capsys.readouterr().out
    assert again.startswith("already done (--ignore_existing repeats it)")
    report = [text for text in shown.splitlines()[5:] if not text.startswith("evaluating: ")]
    assert again.splitlines()[1:] == report
    assert (folder / "results.json").stat().st_mtime_ns == written

    assert run(f"{line} --ignore_existing", tmp_path) == 0
    assert "epoch 1/2" in capsys.readouterr().out
    assert json.loads((folder / "results.json").read_text())["test_accuracy"] == summary["test_accuracy"]


def test_another_evaluation_of_a_finished_run_trains_nothing(tmp_path, capsys):
    run(f"{SMALL} --attack=False", tmp_path)
    first = capsys.readouterr().out
    assert "epoch 2/2" in first and "AutoAttack" not in first and "noise" not in first
    run(f"{SMALL} {QUICK}", tmp_path)
    second = capsys.readouterr().out
    assert "epoch" not in second.replace("epochs.csv", "").replace("best epoch", "") and "AutoAttack standard" in second


def test_runs_of_other_settings_have_folders_of_their_own():
    names = {
        train.run_name(Hyperparameters(**settings)) for settings in ({}, {"lr": 0.2}, {"seed": 1}, {"reg_alpha": 1})
    }
    assert len(names) == 4


def test_a_wrong_flag_ends_the_process_with_status_2():
    ended = subprocess.run([sys.executable, "train.py", "--lr=0"], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", "error: --lr=0: must be greater than 0\n")
