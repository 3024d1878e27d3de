import math
import time

import pytest
import torch
from torch import nn

from brainreg.attacks import NOISES, AutoAttack
from brainreg.data import DATASETS
from brainreg.evaluation import (
    Evaluation,
    correct,
    evaluate,
    noise_curves,
    robust_accuracy,
    survivors_within,
    wilson_interval,
)


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


def test_correct_in_batches():
    images, labels = flat(0.1, 0.2, 0.3, 0.44), torch.tensor([1, 2, 0, 4])
    for batch_size in (1, 3, 100):
        assert correct(Brightness(), images, labels, batch_size).tolist() == [True, True, False, True]


def test_robust_accuracy_of_a_model_where_it_is_known():
    # Distances to the nearest boundary: 0.05, 0.05, 0.01, and one image that is wrong to begin with.
    images, labels = flat(0.4, 0.5, 0.44, 0.6), torch.tensor([4, 5, 4, 2])
    known = {0.0: 3 / 4, 0.005: 3 / 4, 0.03: 2 / 4, 0.06: 0.0}
    for eps, accuracy in known.items():
        assert robust_accuracy(Brightness(), images, labels, eps=eps, batch_size=3) == accuracy


def test_robust_accuracy_is_a_plain_number():
    assert isinstance(robust_accuracy(Brightness(), flat(0.4), torch.tensor([4]), eps=0.1), float)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # From the formula in exact arithmetic; 8 of 10 is the textbook's 0.490 to 0.943.
    [(8, 10, 0.4902, 0.9433), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0), (500, 1000, 0.4691, 0.5309)],
)
def test_wilson_interval(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_wilson_interval_of_nothing_is_everything():
    assert wilson_interval(0, 0) == (0, 1)


class TestSurvivorsWithin:
    images, labels = flat(*[0.4] * 10), torch.full((10,), 4)
    attack = AutoAttack(version="custom", attacks=("apgd-ce",), n_iter=2)

    def survivors(self, seconds, **options):
        return survivors_within(
            self.attack, Brightness(), self.images, self.labels, eps=0.01, seconds=seconds, batch_size=3, **options
        )

    def test_all_images_where_there_is_time(self):
        progress = []
        assert self.survivors(60, on_progress=lambda *numbers: progress.append(numbers)).tolist() == [True] * 10
        assert progress == [(3, 10), (6, 10), (9, 10), (10, 10)]

    def test_one_batch_where_there_is_none(self):
        assert len(self.survivors(0)) == 3

    def test_no_batch_is_begun_that_would_end_too_late(self, monkeypatch):
        clock = [0.0]
        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        monkeypatch.setattr(
            AutoAttack, "__call__", lambda *arguments, **options: clock.__setitem__(0, clock[0] + 10) or torch.ones(3)
        )
        assert len(self.survivors(29)) == 6 and clock == [20.0]


def test_noise_curves_begin_with_clean_accuracy_and_fall():
    images = torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = Brightness()(images).argmax(dim=1)
    rows = noise_curves(Brightness(), images, labels, largest=(0.5, 0.4, 0.3), num_epsilons=3)
    assert [row["attack"] for row in rows] == [kind for kind in NOISES for _ in range(3)]
    assert [row["eps"] for row in rows] == pytest.approx([0, 0.25, 0.5, 0, 0.2, 0.4, 0, 0.15, 0.3])
    for i in (0, 3, 6):
        assert rows[i]["accuracy"] == 1 > rows[i + 2]["accuracy"]
    assert all(row["n"] == 200 and row["low"] <= row["accuracy"] <= row["high"] for row in rows)


class TestEvaluate:
    images = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = Brightness()(images).argmax(dim=1)

    def rows(self, **settings):
        return evaluate(Brightness(), self.images, self.labels, DATASETS["MNIST"], Evaluation(**settings), seed=0)

    def test_a_row_for_each_attack_and_strength(self):
        rows = self.rows(num_epsilons=2, attack_image_num=5)
        assert [(row["attack"], row["eps"], row["n"]) for row in rows] == [
            ("clean", 0, 30),
            ("Gaussian", 0, 30), ("Gaussian", 0.5, 30),
            ("Uniform", 0, 30), ("Uniform", 0.5, 30),
            ("SaltPepper", 0, 30), ("SaltPepper", 0.3, 30),
            ("AutoAttack standard Linf", 0.07, 5),
        ]  # fmt: skip
        assert all(math.isfinite(row["seconds"]) and row["seed"] == 0 for row in rows)

    def test_strength_of_the_attack(self):
        assert self.rows(num_epsilons=2, attack_image_num=2, attack_eps=0.2)[-1]["eps"] == 0.2

    def test_attack_false_leaves_only_clean_accuracy(self):
        assert [row["attack"] for row in self.rows(attack=False)] == ["clean"]
