"""A network that is taken along: what other tools open gives the same logits."""

import json
import re
import shlex
import shutil

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from safetensors import safe_open

from brainreg import load_classifier, load_exported
from brainreg.commands import export
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.training.data import load_training_data
from brainreg.training.export import save_onnx
from brainreg.training.loop import train


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    """The checkpoint of a small network of digits."""
    path = tmp_path_factory.mktemp("run") / "checkpoint.pt"
    settings = Hyperparameters(task="digits", base_channels=4, resnet_batch_size=64, epoch_num=1, valid_portion=0.1)
    train(settings, load_training_data(settings), device="cpu", checkpoint=path)
    return path


@pytest.fixture(scope="module")
def exported(checkpoint):
    """The folder of its files."""
    assert export.main([str(checkpoint)]) == 0
    return checkpoint.parent / "export"


def images(count: int) -> torch.Tensor:
    return torch.rand(count, 1, 16, 16, generator=torch.Generator().manual_seed(count))


def test_safetensors_hold_the_same_network(checkpoint, exported):
    wanted, settings = load_classifier(checkpoint)
    found = load_exported(exported / "model.safetensors")
    with torch.no_grad():
        torch.testing.assert_close(found(images(5)), wanted(images(5)))
    assert not found.training
    with safe_open(str(exported / "model.safetensors"), framework="pt") as file:
        about = json.loads(file.metadata()["brainreg"])
    assert Hyperparameters(**about["hyperparameters"]) == settings and about["image_shape"] == [1, 16, 16]


@pytest.mark.parametrize("count", [1, 7])
def test_onnx_runtime_computes_the_same_for_any_number_of_images(checkpoint, exported, count):
    session = onnxruntime.InferenceSession(str(exported / "model.onnx"))
    (found,) = session.run(["logits"], {"images": images(count).numpy()})
    with torch.no_grad():
        np.testing.assert_allclose(found, load_classifier(checkpoint)[0](images(count)).numpy(), rtol=1e-3, atol=1e-4)
    onnx.checker.check_model(str(exported / "model.onnx"), full_check=True)


def test_the_lines_of_its_card_run(exported, monkeypatch, capsys):
    card = (exported / "README.md").read_text(encoding="utf-8")
    (lines,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    monkeypatch.chdir(exported)
    exec(lines, {})
    first, second = capsys.readouterr().out.splitlines()
    assert re.findall(r"\d+", first) == re.findall(r"\d+", second)
    assert "brainreg train" in card and "| base_channels | 4 |" in card and "was found" not in card


def test_of_a_search_it_is_what_that_recommends(confirmed_search, tmp_path, capsys):
    pytest.importorskip("ray")
    folder = tmp_path / "taken"
    assert export.main([str(confirmed_search), f"--save_dir={folder}"]) == 0
    assert sorted(path.name for path in folder.iterdir()) == ["README.md", "model.onnx", "model.safetensors"]
    wanted, _ = load_classifier(confirmed_search / "best" / "checkpoint.pt")
    with torch.no_grad():
        torch.testing.assert_close(load_exported(folder / "model.safetensors")(images(3)), wanted(images(3)))
    card = (folder / "README.md").read_text(encoding="utf-8")
    advice = json.loads((confirmed_search / "best" / "recommendation.json").read_text())
    assert f"| objective | {advice['expected']['objective']['mean']:.3f} |" in card
    assert "robust under AutoAttack custom Linf (" in card
    modes = {path.stat().st_mode & 0o777 for path in folder.iterdir()}
    assert len(modes) == 1  # who may read one may read all
    assert "## On test images" in card and "unregularized" in card
    assert (confirmed_search / "best" / "command.txt").read_text().strip() in card


def test_a_network_that_computes_something_else_in_onnx_is_refused(tmp_path, monkeypatch):
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(4, 2)).eval()
    run = onnxruntime.InferenceSession.run
    monkeypatch.setattr(onnxruntime.InferenceSession, "run", lambda *given: [run(*given)[0] + 1])
    with pytest.raises(InputError, match="ONNX Runtime computes other logits than PyTorch, by up to 1"):
        save_onnx(tmp_path / "a.onnx", network, (1, 2, 2))


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "NAME: missing"),
        ("nowhere.pt", "nowhere.pt: no such checkpoint"),
        ("nowhere", "NAME=nowhere: no such search"),
        ("{} --save_dir={}/below", "--save_dir=.*is a file; must be a folder"),
    ],
)
def test_bad_input(line, message, checkpoint):
    with pytest.raises(InputError, match=message):
        export.main(shlex.split(line.replace("{}", str(checkpoint))))


def test_a_search_without_a_recommendation(searched, tmp_path):
    folder = shutil.copytree(searched, tmp_path / "small")
    shutil.rmtree(folder / "best")
    with pytest.raises(InputError, match="recommends no setting yet"):
        export.main([str(folder)])


def test_files_that_are_none(tmp_path, checkpoint):
    with pytest.raises(InputError, match="no such file"):
        load_exported(tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"must be a model.safetensors that brainreg export wrote"):
        load_exported(checkpoint)
