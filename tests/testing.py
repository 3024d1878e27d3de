"""What tests of several modules use: models whose numbers are known, small searches, and pages as text."""

import base64
import io
import math

import pandas as pd
import torch
from PIL import Image
from rich.console import Console
from torch import nn

from brainreg.search.options import SearchOptions
from brainreg.search.plan import plan_search
from brainreg.search.run import run_search
from brainreg.search.strategy import Strategy
from brainreg.spaces.space import Space


class Brightness(nn.Module):
    """Ten classes by an image's mean brightness: a model whose robust accuracy is known.

    The logit of class c is -(10 m - c)^2 up to a term that all classes share, so the boundary between two
    neighbours lies half way, and an Linf perturbation of eps moves m by eps at the most.
    """

    def forward(self, images):
        mean = 10 * images.mean(dim=(1, 2, 3))
        classes = torch.arange(10.0)
        return 20 * (mean[:, None] * classes - classes**2 / 2)


def flat(*values: float) -> torch.Tensor:
    return torch.tensor(values)[:, None, None, None].expand(-1, 1, 4, 4).clone()


class Counted(nn.Module):
    """Brightness, which counts the images that it sees, and breaks off after so many."""

    def __init__(self, most: float = math.inf):
        super().__init__()
        self.seen, self.most = 0, most

    def forward(self, images):
        self.seen += len(images)
        if self.seen > self.most:
            raise KeyboardInterrupt
        return Brightness()(images)


TINY = {"base_channels": 2, "train_image_num": 64, "epoch_num": 2, "valid_portion": 0.05, "resnet_batch_size": 32}


SHORT_ATTACK = {"version": "custom", "attacks": ["apgd-ce"], "n_iter": 2}


def make_space(**changes) -> Space:
    content = {
        "name": "tiny",
        "description": "a test",
        "task": "digits",
        "fixed": {**TINY, "reg_range": "double", "reg_image_num": 100},
        "search": {
            "reg_alpha": {"low": 0.1, "high": 10, "log": True},
            "reg_thresh": {"low": 0.3, "high": 0.8},
            "reg_thresh_2": {"low": 0.1, "high": 0.9, "times": "reg_thresh"},
            "reg_batch_size": {"choices": [4, 8]},
        },
        "objective": {"eps": 0.02, "noise_eps": 0.2, "attack": SHORT_ATTACK, "attack_image_num": 40},
        "budget": {"num_samples": 6, "final_attack": SHORT_ATTACK, "final_attack_seconds": 5},
    }
    return Space(**{**content, **changes})


TO_THE_END = Strategy(scheduler="none")


def search(space: Space, folder, name="s", strategy=TO_THE_END, **options) -> tuple[pd.DataFrame, str]:
    """Run a search for real; return its trials and what it printed."""
    with (folder / f"{name}.txt").open("w+") as file:
        plan = plan_search(space, SearchOptions(name=name, storage_path=str(folder), **options), strategy)
        results = run_search(plan, Console(file=file, width=120))
        file.seek(0)
        return results, file.read()


def decoded(image):
    head, data = image["src"].split(",")
    assert head == "data:image/png;base64"
    return Image.open(io.BytesIO(base64.b64decode(data)))
