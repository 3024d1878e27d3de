"""Networks of users."""

import re
import sys

import pytest
import torch

from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.models.build import build_model
from brainreg.training.checkpoint import load_classifier
from brainreg.training.data import load_training_data
from brainreg.training.loop import train

MODULE = """
import torchvision
from torch import nn


def small(in_channels, num_classes, image_size):
    network = nn.Sequential()
    network.add_module("first", nn.Sequential(nn.Conv2d(in_channels, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU()))
    network.add_module("second", nn.Conv2d(4, 6, 3, 2, 1))
    network.add_module("head", nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(6, num_classes)))
    return network, ["first", "second"]


def resnet(in_channels, num_classes, image_size):
    network = torchvision.models.resnet18(num_classes=num_classes)
    network.conv1 = nn.Conv2d(in_channels, 64, 3, padding=1, bias=False)
    return network, ["layer1", "layer2", "layer3", "layer4"]


def alone(in_channels, num_classes, image_size):
    return small(in_channels, num_classes, image_size)[0]


def unknown(in_channels, num_classes, image_size):
    return small(in_channels, num_classes, image_size)[0], ["frist"]


def none(in_channels, num_classes, image_size):
    return small(in_channels, num_classes, image_size)[0], []


def flat(in_channels, num_classes, image_size):
    return small(in_channels, num_classes, image_size)[0], ["head"]


def classes(in_channels, num_classes, image_size):
    return small(in_channels, num_classes + 1, image_size)


def colors(in_channels, num_classes, image_size):
    return small(in_channels + 2, num_classes, image_size)


def silent(in_channels, num_classes, image_size):
    network, stages = small(in_channels, num_classes, image_size)
    network.head.spare = nn.Identity()
    network.head.forward = lambda maps: nn.functional.adaptive_avg_pool2d(maps, 1).flatten(1) @ network.head[2].weight.T
    return network, ["head.spare"]


class Two(nn.Module):
    # Two outputs in train mode, as GoogLeNet has.

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        logits = self.network(images)
        return (logits, logits) if self.training else logits


def two(in_channels, num_classes, image_size):
    return Two(small(in_channels, num_classes, image_size)[0]), ["network.first"]


def three(in_channels, num_classes, image_size):
    return small(in_channels, num_classes, image_size)[0], 3


def weightless(in_channels, num_classes, image_size):
    network = small(in_channels, num_classes, image_size)[0]
    for weights in network.parameters():
        weights.requires_grad_(False)
    return network, ["first"]


def fixed(in_channels, num_classes, image_size):
    maps = nn.Sequential(nn.Conv2d(in_channels, 4, 3, 2, 1), nn.BatchNorm2d(4), nn.ReLU())
    head = nn.Sequential(nn.Flatten(), nn.Linear(4 * (-(-image_size // 2)) ** 2, num_classes))
    return nn.Sequential(maps, head), ["0"]


def raises(in_channels, num_classes, image_size):
    raise RuntimeError("no\\nmore")


def takes_nothing():
    return None


answer = 42
"""


@pytest.fixture(autouse=True)
def module(tmp_path, monkeypatch):
    """A folder with a module of the user's, in which the command is typed."""
    (tmp_path / "own_nets.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delitem(sys.modules, "own_nets", raising=False)


@pytest.mark.parametrize("name", ["small", "resnet"])
def test_what_comes_out_of_its_modules_is_compared(name):
    network = build_model(f"own_nets:{name}", in_channels=1, num_classes=10, image_size=32).eval()
    images = torch.rand(3, 1, 32, 32)
    maps = network.features(images)
    own = network.backbone.first(images) if name == "small" else network.backbone.layer1[1].bn2
    if name == "small":
        torch.testing.assert_close(maps[0], own)
    assert [one.shape[1] for one in maps] == ([4, 6] if name == "small" else [64, 128, 256, 512])
    torch.testing.assert_close(network.pair_similarity(images, images), torch.ones(3))
    assert network(images).shape == (3, 10)
    network.pair_similarity(images, images.flip(0)).sum().backward()
    first = network.backbone.first[0] if name == "small" else network.backbone.conv1
    assert first.weight.grad.abs().sum() > 0


def test_it_trains_and_its_checkpoint_opens(tmp_path):
    settings = Hyperparameters(
        task="digits", archi="own_nets:small", epoch_num=2, phase_duration=1, valid_portion=0.2, reg_alpha=1,
        reg_image_num=50, reg_thresh=0.1,
    )  # fmt: skip
    data = load_training_data(settings, device="cpu")
    trained = train(settings, data, device="cpu", checkpoint=tmp_path / "checkpoint.pt")
    assert trained.history[-1]["similarity_loss"] > 0
    opened, known = load_classifier(tmp_path / "checkpoint.pt")
    images = data.valid_images[:5] / 255
    assert known == settings
    torch.testing.assert_close(opened(images), trained.classifier(images))


def test_regularization_images_of_another_size_need_no_layer_after_the_stages(tmp_path):
    """A linear layer takes one size alone; the pairs end before it."""
    network = build_model("own_nets:fixed", in_channels=1, num_classes=10, image_size=16)
    other = torch.rand(2, 1, 24, 24)
    assert network.pair_similarity(other, other).shape == (2,)
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        network(other)


def test_an_edited_module_is_another_network(tmp_path):
    """What was trained with the module as it was does not go on with another one."""
    settings = Hyperparameters(
        task="digits", archi="own_nets:small", epoch_num=1, phase_duration=1, valid_portion=0.2, train_image_num=100
    )
    data = load_training_data(settings, device="cpu")
    train(settings, data, device="cpu", checkpoint=tmp_path / "checkpoint.pt")
    (tmp_path / "own_nets.py").write_text(MODULE.replace("nn.ReLU()", "nn.GELU()"))
    edited = load_training_data(settings, device="cpu")
    longer = settings.model_copy(update={"epoch_num": 2})
    with pytest.raises(InputError, match="archi=own_nets:small: its module's file is not what it was for ") as caught:
        train(longer, edited, device="cpu", checkpoint=tmp_path / "checkpoint.pt")
    assert "\n" not in str(caught.value)
    assert len(train(longer, data, device="cpu", checkpoint=tmp_path / "checkpoint.pt").history) == 3


@pytest.mark.parametrize(
    ("archi", "told"),
    [
        ("no_nets:small", "no module no_nets among the installed packages, on PYTHONPATH or in the current folder"),
        ("own_nets:smal", "own_nets has no function smal; did you mean small"),
        ("own_nets:answer", "own_nets has no function answer; known: "),
        ("own_nets:alone", "returns a Sequential; must return a torch.nn.Module and names of its modules"),
        ("own_nets:unknown", "frist: its network has no such module; did you mean first? known: first, second, head"),
        ("own_nets:none", "names no module to compare by; known: first, second, head"),
        ("own_nets:flat", "its module head gives a tensor (2, 10) for two images; must give maps (2, c, h, w)"),
        ("own_nets:classes", "returns a tensor (2, 11) for two images; must return logits (2, 10)"),
        ("own_nets:colors", "fails on images of 1x16x16: conv.py, line "),
        ("own_nets:silent", "its module head.spare is not run; must be one that every image passes"),
        ("own_nets:raises", "own_nets.py, line "),
        ("own_nets:two", "returns a tuple for two images in train mode; must return logits (2, 10)"),
        ("own_nets:three", "returns a tuple; must return a torch.nn.Module and names of its modules"),
        ("own_nets:weightless", "its network has no weights to train"),
        ("own_nets:takes_nothing", "TypeError: takes_nothing() got an unexpected keyword argument 'in_channels'"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(archi, told):
    with pytest.raises(InputError) as caught:
        build_model(archi, in_channels=1, num_classes=10, image_size=16)
    assert str(caught.value).startswith(f"archi={archi}: ") and told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_module_that_fails_names_its_line(tmp_path):
    (tmp_path / "broken.py").write_text("import torch\n\n1 / 0\n")
    (tmp_path / "needs.py").write_text("import not_installed\n")
    (tmp_path / "spelled.py").write_text("import torch\n\ndef f(:\n    pass\n")
    (tmp_path / "ends.py").write_text("import sys\n\nsys.exit(0)\n")
    for archi, told in [
        ("broken:f", "cannot be imported: broken.py, line 3: ZeroDivisionError: division by zero"),
        ("needs:f", "cannot be imported: needs.py, line 1: ModuleNotFoundError: No module named 'not_installed'"),
        ("spelled:f", "cannot be imported: spelled.py, line 3: SyntaxError: "),
        ("ends:f", "cannot be imported: ends.py, line 3: SystemExit: 0"),
    ]:
        with pytest.raises(InputError, match=re.escape(told)):
            build_model(archi)


@pytest.mark.parametrize("archi", ["own nets:f", "own_nets:", ":f", "own-nets:f", "own_nets.:f", "nets/own.py:f"])
def test_what_is_no_name_of_a_function_is_no_architecture(archi):
    with pytest.raises(ValueError, match=r"no such architecture; .*PACKAGE\.MODULE:FUNCTION"):
        Hyperparameters(archi=archi)
