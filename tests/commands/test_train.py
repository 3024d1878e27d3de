"""The training command line: what it refuses, and one run as a user starts it."""

import json
import shlex
import shutil
import subprocess
import sys

import pandas as pd
import pytest
from conftest import ROOT

from brainreg.commands import train
from brainreg.commands.training_run import run_name
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.records.driver import Driver
from brainreg.storage import Storage
from brainreg.training.checkpoint import load_classifier

SMALL = "--task=digits --base_channels=2 --train_image_num=128 --epoch_num=2 --valid_portion=0.1"
QUICK = "--num_epsilons=2 --num_images=2 --eps=0.5"


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
        ("--task=digits --threads=none", "--threads=none: must be a whole number from 1 to 1024"),
        ("--task=digits --eps=2", "--eps=2: must be in [0, 1]"),
        ("--task=digits --eps=-1", "--eps=-1: must be at least 0"),
        ("--task=digits --attacks=pdg", "--attacks=pdg: no such attack; did you mean pgd?"),
        ("--task=digits --attacks=fog", "--attacks=fog: images: 16x16 pixels; corruptions need 32x32 or more"),
        ("--task=digits --num_epsilon=3", "--num_epsilon: no such flag; did you mean --num_epsilons"),
        ("--seed=4294967296", "--seed=4294967296: must be at most 4294967295"),
        ("--archi=timm:convnext_ato", "--archi=timm:convnext_ato: timm has no such model; did you mean"),
        ("--task=digits --archi=timm:test_vit", "archi=timm:test_vit: its stage blocks.0 gives (2, 64), not 64 maps"),
        ("--published=SVHN", "published=SVHN: no such row of the published table"),
        ("--task=MNIST --data_dir={}/data", "task=MNIST: not found; looked for {}/data/MNIST/raw"),
        ("--task=digits --reg_data=MNIST --reg_alpha=1 --data_dir={}/data", "reg_data=MNIST: not found; looked for"),
        ("--task=", "--task=: no such data set"),
        ("--task=digits --threads=\u00b2", "--threads=\u00b2: must be a whole number from 1 to 1024"),
        (
            "--task=digits --archi=timm:resnet18 --train_image_num=65",
            "resnet_batch_size=64: a last batch of one image in batches of 64 is too little for this network",
        ),
        (
            "--task=digits --archi=timm:resnet18 --reg_alpha=1 --reg_image_num=20 --reg_batch_size=1",
            "reg_batch_size=1: one pair is too little for this network and images of 16x16",
        ),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(line, message, tmp_path):
    with pytest.raises(InputError) as caught:
        run(line.format(tmp_path), tmp_path / "runs")
    assert str(caught.value).startswith(message.format(tmp_path)) and "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_is_a_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"--save_dir=.*file/runs: .*file is a file; must be a folder"):
        run(SMALL, tmp_path / "file" / "runs")


def test_test_images_of_another_size(tmp_path, write_folder):
    folder = write_folder({"train": 16, "test": 20})
    with pytest.raises(InputError, match="training images of 16x16, test images of 20x20"):
        run(f"--task={folder} --valid_portion=0.2 --base_channels=2", tmp_path / "runs")
    assert not (tmp_path / "runs").exists()


def test_other_images_under_the_same_name_are_another_run(tmp_path, write_folder, capsys):
    """The same flags with another data folder neither repeat old numbers nor go on from another's checkpoint."""
    line = "--task={} --valid_portion=0.2 --base_channels=2 --epoch_num=1 --attack=False"
    folder = write_folder({"train": 16, "test": 16})
    assert run(line.format(folder), tmp_path / "runs") == 0
    shutil.rmtree(folder)
    write_folder({"train": 16, "test": 16}, seed=1)
    with pytest.raises(InputError, match=r"the images for (training|regularization) are not those of"):
        run(line.format(folder), tmp_path / "runs")


def test_other_regularization_or_test_images_are_another_run(tmp_path, write_folder, capsys):
    folder = write_folder({"train": 16, "test": 16})
    regularizing = tmp_path / "regularizing"
    shutil.copytree(folder / "test", regularizing)
    line = (
        f"--task={folder} --reg_data={regularizing} --reg_alpha=1 --reg_image_num=20 --reg_batch_size=4"
        " --valid_portion=0.2 --base_channels=2 --epoch_num=1 --attack=False"
    )
    assert run(line, tmp_path / "runs") == 0
    assert run(line, tmp_path / "runs") == 0 and "already done" in capsys.readouterr().out
    shutil.rmtree(folder / "test")
    shutil.copytree(folder / "train", folder / "test")
    assert run(line, tmp_path / "runs") == 0 and "already done" not in capsys.readouterr().out
    shutil.rmtree(regularizing)
    shutil.copytree(folder / "train", regularizing)
    with pytest.raises(InputError, match=r"the images for (training|regularization) are not those of"):
        run(line, tmp_path / "runs")


def test_the_seconds_of_a_run_are_those_of_all_its_starts(tmp_path, capsys):
    line = f"{SMALL} --attack=False"
    assert run(line, tmp_path) == 0
    (folder,) = tmp_path.iterdir()
    first = json.loads((folder / "results.json").read_text())["training_seconds"]
    (folder / "results.json").unlink()
    capsys.readouterr()
    assert run(line, tmp_path) == 0
    assert f"going on from {folder / 'checkpoint.pt'}" in capsys.readouterr().out
    assert json.loads((folder / "results.json").read_text())["training_seconds"] == first > 0
    (folder / "checkpoint.pt").unlink()
    assert run(line, tmp_path) == 0 and "already done" not in capsys.readouterr().out


def test_a_damaged_summary_is_no_result(tmp_path, capsys):
    line = f"{SMALL} --attack=False"
    assert run(line, tmp_path) == 0
    (folder,) = tmp_path.iterdir()
    for content in ("", "[1]", '{"hyper'):
        (folder / "results.json").write_text(content)
        capsys.readouterr()
        assert run(line, tmp_path) == 0
        assert "already done" not in capsys.readouterr().out
    assert run(line, tmp_path) == 0 and "already done" in capsys.readouterr().out


def test_divergence_is_one_line_and_status_1(tmp_path, capsys):
    assert run(f"{SMALL} --lr=1e30", tmp_path) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: diverged in epoch 1") and error.count("\n") == 1


def test_a_published_row(tmp_path, capsys, cifar_folder):
    line = (
        f"--published=cifar10-cifar100 --reg_data=CIFAR10 --data_dir={cifar_folder} --reg_image_num=20"
        " --epoch_num=1 --base_channels=2 --attack=False --valid_portion=0.25"
    )
    assert run(line, tmp_path / "runs") == 0
    (folder,) = (tmp_path / "runs").iterdir()
    settings = json.loads((folder / "results.json").read_text())["hyperparameters"]
    assert (settings["task"], settings["reg_data"]) == ("CIFAR10", "CIFAR10")
    assert (settings["reg_alpha"], settings["reg_thresh"], settings["reg_range"]) == (10, 0.8, "all")


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
        "FGSM Linf",
        "PGD Linf (20 steps)",
        "AutoAttack standard Linf",
    ]
    assert robustness.n.tolist() == [359] * 7 + [2] * 3
    assert summary["test_accuracy"] == robustness.accuracy[0]
    assert f"clean accuracy {summary['test_accuracy']:.4f} (359 images" in shown
    assert "Gaussian, accuracy at strength 0: 0." in shown
    assert "AutoAttack standard Linf, accuracy at strength 0.5: 0." in shown
    assert summary["warnings"] and all(f"warning: {text}\n" in shown for text in summary["warnings"])
    assert "<html" in (folder / "robustness.html").read_text(encoding="utf-8")
    assert len(pd.read_csv(folder / "epochs.csv")) == 3
    _, settings = load_classifier(folder / "checkpoint.pt")
    assert settings == Hyperparameters(**summary["hyperparameters"])
    assert f"checkpoint: {folder / 'checkpoint.pt'}" in shown

    written = (folder / "results.json").stat().st_mtime_ns
    assert run(line, tmp_path) == 0
    again = capsys.readouterr().out
    assert again.startswith("already done (--ignore_existing repeats it)")
    assert shown.endswith(again.partition("\n")[2])
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
    assert "\nepoch " not in second and "AutoAttack standard" in second


def test_runs_of_other_settings_have_folders_of_their_own():
    names = {run_name(Hyperparameters(**settings)) for settings in ({}, {"lr": 0.2}, {"seed": 1}, {"reg_alpha": 1})}
    assert len(names) == 4


@pytest.mark.parametrize("content", [b"", b"half"])
def test_a_damaged_checkpoint_costs_its_training_and_nothing_else(content, tmp_path, capsys):
    line = f"{SMALL} --attack=False"
    assert run(line, tmp_path) == 0
    (folder,) = tmp_path.iterdir()
    first = json.loads((folder / "results.json").read_text())
    whole = (folder / "checkpoint.pt").read_bytes()
    (folder / "checkpoint.pt").write_bytes(whole[: len(whole) // 2] if content else content)
    (folder / "results.json").unlink()
    capsys.readouterr()
    assert run(line, tmp_path) == 0
    shown = capsys.readouterr().out
    assert "trained from the beginning" in shown and "epoch 1/2" in shown
    assert json.loads((folder / "results.json").read_text())["test_accuracy"] == first["test_accuracy"]


def test_two_of_one_run_at_once(tmp_path):
    """The second one is refused, and changes nothing."""
    fields = dict(flag.removeprefix("--").split("=") for flag in SMALL.split())
    folder = tmp_path / run_name(Hyperparameters(**fields))
    with Driver(Storage(folder), 1):
        before = {path: path.read_bytes() for path in folder.iterdir()}
        with pytest.raises(InputError, match=r"^--save_dir: process \d+ on \S+ trains this network in "):
            run(f"{SMALL} --ignore_existing", tmp_path)
        assert {path: path.read_bytes() for path in folder.iterdir()} == before


def test_a_wrong_flag_ends_the_process_with_status_2():
    ended = subprocess.run([sys.executable, "train.py", "--lr=0"], cwd=ROOT, capture_output=True, text=True)
    assert (ended.returncode, ended.stdout, ended.stderr) == (2, "", "error: --lr=0: must be greater than 0\n")
