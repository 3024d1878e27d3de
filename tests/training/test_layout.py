"""In which layout a CPU trains: channels_last where that pays, and never where oneDNN crashes."""

import subprocess
import sys

import pytest
import torch
from conftest import ROOT
from testing import TINY

from brainreg.hyperparameters import Hyperparameters
from brainreg.models.base import SimilarityNetwork
from brainreg.training import loop
from brainreg.training.data import load_training_data
from brainreg.training.loop import train

# Forward and backward, of all sizes of batches and images that a training may have.
PASSES = """
import torch
from brainreg import build_model
torch.set_num_threads(1)
for archi, channels in (("ResNet18", 16), ("ResNet18", 32), ("ResNet18", 48), ("ResNet50", 16)):
    for size in (8, 11, 16, 20, 28, 32, 48):
        for colors in (1, 3):
            network = build_model(archi, colors, 10, channels, size).to(memory_format=torch.channels_last)
            for batch in (1, 2, 7, 16):
                network.train(batch > 1 and size > 8 or batch > 2)
                network(torch.rand(batch, colors, size, size)).sum().backward()
"""


@pytest.mark.long
def test_it_survives_all_shapes():
    ended = subprocess.run([sys.executable, "-c", PASSES], cwd=ROOT, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


@pytest.mark.parametrize(
    ("channels", "precision", "last"), [(16, "float32", True), (8, "float32", False), (16, "bfloat16", False)]
)
def test_sixteen_channels_side_by_side(channels, precision, last, monkeypatch):
    """A pixel's channels are, and only where their number is safe."""
    seen: list[bool] = []

    def forward(self: SimilarityNetwork, images: torch.Tensor) -> torch.Tensor:
        weights = [one for one in self.parameters() if one.dim() == 4 and one.shape[1] > 1 and one.shape[2] > 1]
        seen.append(all(one.is_contiguous(memory_format=torch.channels_last) for one in weights))
        return plain(self, images)

    built = loop.build_model
    plain = None

    def build(*arguments):
        nonlocal plain
        network = built(*arguments)
        if plain is None:
            plain = type(network).forward
            monkeypatch.setattr(type(network), "forward", forward)
        return network

    monkeypatch.setattr(loop, "build_model", build)
    settings = Hyperparameters(
        task="digits", **{**TINY, "base_channels": channels, "precision": precision, "epoch_num": 1, "reg_alpha": 0.0}
    )
    train(settings, load_training_data(settings), device="cpu")
    assert {*seen} == {last}


@pytest.mark.parametrize(
    ("capability", "precision", "warned"),
    [("AVX2", "bfloat16", True), ("AVX2", "float32", False), ("AVX512", "bfloat16", False)],
)
def test_bfloat16_in_software_is_warned_of(capability, precision, warned, monkeypatch, caplog):
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    settings = Hyperparameters(task="digits", **{**TINY, "precision": precision, "epoch_num": 1, "reg_alpha": 0.0})
    train(settings, load_training_data(settings), device="cpu")
    assert ("precision=bfloat16: this processor" in caplog.text) == warned
