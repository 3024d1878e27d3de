"""The evaluation's command line: what it refuses, what it writes, and that it goes on after an interruption."""

import shlex
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import ROOT

from brainreg.attacks import corruptions
from brainreg.commands import evaluate as commands_evaluate
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.training.checkpoint import load_checkpoint, save_checkpoint
from brainreg.training.data import load_training_data
from brainreg.training.loop import train

SMALL = {"task": "digits", "base_channels": 2, "resnet_batch_size": 16, "epoch_num": 2, "valid_portion": 0.1}
QUICK = "--num-images=20 --num_epsilons=2 --attack_minutes=5"


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The checkpoint of a small network of digits."""
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    settings = Hyperparameters(**SMALL)
    train(settings, load_training_data(settings), device="cpu", checkpoint=path)
    return path


def run(line: str) -> int:
    return commands_evaluate.main(shlex.split(line))


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("", "--checkpoint: missing"),
        ("--checkpoint=nowhere.pt", "--checkpoint=nowhere.pt: no such checkpoint"),
        ("--checkpoint={} --attacks=pdg", r"--attacks=pdg: no such attack; did you mean pgd\?"),
        ("--checkpoint={} --attacks=fog", "--attacks=fog: images: 16x16 pixels; corruptions need 32x32 or more"),
        ("--checkpoint={} --eps=-0.1", "--eps=-0.1: must be at least 0"),
        ("--checkpoint={} --eps=8", r"eps=8: must be in \[0, 1\]"),
        ("--checkpoint={} --split=tests", r"--split=tests: no such split; did you mean test\?"),
        ("--checkpoint={} --seed=x", "--seed=x: must be a whole number"),
        ("--checkpoint={} --num-images=0", "--num_images=0: must be at least 1"),
        (
            "--checkpoint={} --surrogate=nowhere.pt --attacks=transfer-fgsm",
            "--surrogate=nowhere.pt: no such checkpoint",
        ),
        ("--checkpoint={} --attack=False", "--attack: no such flag"),
    ],
)
def test_bad_input_is_one_line_and_nothing_is_written(flags, message, checkpoint):
    before = sorted(checkpoint.parent.iterdir())
    with pytest.raises(InputError, match=message) as caught:
        run(flags.format(checkpoint))
    assert "\n" not in str(caught.value)
    assert sorted(checkpoint.parent.iterdir()) == before


def test_files_that_are_no_checkpoint_of_this_project(tmp_path, checkpoint):
    path = tmp_path / "weights.pt"
    torch.save({"weight": torch.zeros(3)}, path)
    with pytest.raises(InputError, match=r"--checkpoint=.*weights.pt: not a checkpoint of this project"):
        run(f"--checkpoint={path}")
    content = load_checkpoint(checkpoint)
    save_checkpoint(path, {**content, "format": 99})
    with pytest.raises(InputError, match="checkpoint of format 99; this version reads format"):
        run(f"--checkpoint={path}")
    save_checkpoint(path, {**content, "hyperparameters": {**content["hyperparameters"], "reg_beta": 1}})
    with pytest.raises(InputError, match="reg_beta: no such key"):
        run(f"--checkpoint={path}")
    save_checkpoint(path, {**content, "image_size": 64})
    with pytest.raises(InputError, match="its weights are those of another network"):
        run(f"--checkpoint={path}")


@pytest.mark.long
def test_table_and_report(checkpoint, tmp_path, capsys):
    assert run(f"--checkpoint={checkpoint} --attacks=noise,pgd,transfer-fgsm {QUICK} --save_dir={tmp_path}") == 0
    shown = capsys.readouterr().out
    table = pd.read_csv(tmp_path / "robustness.csv")
    assert table.attack.unique().tolist() == [
        "clean", "Gaussian", "Uniform", "SaltPepper", "PGD Linf (20 steps)",
        "transferred FGSM (from unregularized, seed 1)",
    ]  # fmt: skip
    assert table.n.tolist() == [359] * 7 + [20] * 6
    assert f"clean accuracy {table.accuracy[0]:.4f} (359 images" in shown
    assert "20 for PGD Linf (20 steps), transferred FGSM (from unregularized, seed 1)): a 95% interval is" in shown
    page = (tmp_path / "robustness.html").read_text(encoding="utf-8")
    assert "Robustness of ResNet18 on digits" in page and "few images" in page and page.count("data:image/png") >= 24

    surrogate = load_checkpoint(tmp_path / "surrogate.pt")["hyperparameters"]
    assert surrogate["seed"] == 1 and surrogate["reg_alpha"] is None and surrogate["base_channels"] == 2
    given = tmp_path / "given"
    assert run(
        f"--checkpoint={checkpoint} --attacks=transfer-fgsm {QUICK} --save_dir={given}"
        f" --surrogate={tmp_path / 'surrogate.pt'}"
    ) == 0  # fmt: skip
    again = pd.read_csv(given / "robustness.csv")
    assert again.attack[1].endswith("surrogate.pt)") and not (given / "surrogate.pt").exists()
    assert again.correct[1:].tolist() == table.correct[-2:].tolist()


def test_validation_images_and_the_default_folder(checkpoint, capsys):
    assert run(f"--checkpoint={checkpoint} --attacks=fgsm --split=validation {QUICK}") == 0
    folder = checkpoint.parent / "evaluation-validation"
    table = pd.read_csv(folder / "robustness.csv")
    assert table.n[0] == 144 and f"report: {folder / 'robustness.html'}" in capsys.readouterr().out
    expected = load_checkpoint(checkpoint)
    best = expected["history"][expected["best_epoch"]]["valid_accuracy"]
    assert table.accuracy[0] == pytest.approx(best)
    shutil.rmtree(folder)


def test_a_surrogate_of_other_images(checkpoint, tmp_path, write_folder):
    folder = write_folder({"train": 20, "test": 20})
    settings = Hyperparameters(task=str(folder), valid_portion=0.2, base_channels=2, epoch_num=1)
    train(settings, load_training_data(settings), device="cpu", checkpoint=tmp_path / "other.pt")
    with pytest.raises(InputError, match="takes other images or tells other classes apart"):
        run(
            f"--checkpoint={checkpoint} --attacks=transfer-fgsm {QUICK} --save_dir={tmp_path / 'out'}"
            f" --surrogate={tmp_path / 'other.pt'}"
        )


def test_published_corruptions_are_used_where_they_are(cifar_folder, tmp_path, monkeypatch, capsys):
    """CIFAR-10-C of the ten test images that there are, one a class; its folder's order is that of the classes."""
    settings = Hyperparameters(base_channels=2, epoch_num=1, valid_portion=0.25, rgb=True)
    train(settings, load_training_data(settings, cifar_folder), device="cpu", checkpoint=tmp_path / "checkpoint.pt")
    monkeypatch.setattr(corruptions, "_TEST_IMAGES", 10)
    published = cifar_folder / "CIFAR-10-C"
    published.mkdir()
    for kind in corruptions.CORRUPTIONS:
        np.save(published / f"{kind}.npy", np.zeros((50, 32, 32, 3), np.uint8))
    np.save(published / "labels.npy", np.tile(np.arange(10), 5))
    line = f"--checkpoint={tmp_path / 'checkpoint.pt'} --data_dir={cifar_folder} --attacks=fog,corruptions"
    assert run(f"{line} --save_dir={tmp_path / 'out'}") == 0
    table = pd.read_csv(tmp_path / "out" / "robustness.csv")
    assert table.attack[1:].str.endswith("(CIFAR-10-C)").all() and len(table) == 1 + 15 * 5
    assert (table.accuracy[1:] == 0.1).all()  # one class is seen in all black images
    assert "mean corruption accuracy: 0.100" in capsys.readouterr().out
    assert "Corruptions (CIFAR-10-C)" in (tmp_path / "out" / "robustness.html").read_text(encoding="utf-8")

    np.save(published / "labels.npy", np.tile(np.arange(10)[::-1], 5))
    with pytest.raises(InputError, match=r"labels.npy: not the labels of these test images"):
        run(f"{line} --save_dir={tmp_path / 'other'}")
    assert not (tmp_path / "other").exists()


@pytest.mark.long
def test_it_goes_on_after_it_was_killed(checkpoint, tmp_path):
    line = [
        sys.executable, "-m", "brainreg", "evaluate", f"--checkpoint={checkpoint}", "--attacks=pgd", "--threads=1",
        "--num-images=100", "--attack_batch_size=5", "--eps=0.02,0.05,0.1",
    ]  # fmt: skip
    whole = subprocess.run([*line, f"--save_dir={tmp_path / 'whole'}"], cwd=ROOT, capture_output=True, text=True)
    assert whole.returncode == 0, whole.stderr
    killed = subprocess.Popen([*line, f"--save_dir={tmp_path / 'killed'}"], cwd=ROOT, stdout=subprocess.DEVNULL)
    parts = tmp_path / "killed" / "parts"
    deadline = time.monotonic() + 300
    while len(list(parts.glob("*.pt"))) < 2 and time.monotonic() < deadline:
        time.sleep(0.05)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    before = {path.name: path.stat().st_mtime_ns for path in parts.glob("*.pt")}
    assert 2 <= len(before) < 20 and not (tmp_path / "killed" / "robustness.csv").exists()
    rest = subprocess.run([*line, f"--save_dir={tmp_path / 'killed'}"], cwd=ROOT, capture_output=True, text=True)
    assert rest.returncode == 0, rest.stderr
    assert all((parts / name).stat().st_mtime_ns == time_ for name, time_ in before.items())
    tables = [pd.read_csv(tmp_path / name / "robustness.csv") for name in ("whole", "killed")]
    assert np.array_equal(tables[0].correct, tables[1].correct) and tables[0].n.tolist() == [359, 100, 100, 100]
