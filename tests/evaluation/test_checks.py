"""Each check is shown a model or an outcome that has what it looks for, and one that has not."""

from dataclasses import replace

import pytest
import torch
from testing import Brightness
from torch import nn

from brainreg.attacks.resumable import Measured
from brainreg.evaluation.checks import check_model, check_outcomes, check_rows

IMAGES = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = Brightness()(IMAGES).argmax(dim=1)


class Changed(nn.Module):
    """Brightness whose logits something is done to."""

    def __init__(self, change):
        super().__init__()
        self.change = change

    def forward(self, images):
        return self.change(Brightness()(images))


class Quantized(nn.Module):
    """Sees images in 16 levels: its gradient is zero everywhere, though its accuracy is not robust at all."""

    def forward(self, images):
        return Brightness()((images * 15).round() / 15)


def test_a_plain_model_raises_no_warning():
    assert check_model(Brightness().eval(), IMAGES, LABELS) == []


@pytest.mark.parametrize(
    ("model", "warning"),
    [
        (Changed(lambda logits: logits.softmax(dim=1)), "the outputs are probabilities"),
        (Changed(lambda logits: logits + 0.1 * torch.randn(logits.shape)), "two passes of the same images give"),
        (Changed(lambda logits: logits * torch.nan), "NaN logits for 40 of 40 images"),
        (Changed(lambda logits: logits.masked_fill(logits < 0, -torch.inf)), "infinite logits for"),
        (Quantized(), "no gradient at 40 of 40 images"),
        (Quantized(), "of 16 images withstand APGD at eps 0.5"),
        (Changed(lambda logits: 1e4 * logits), "the cross-entropy has no gradient at"),
    ],
)
def test_what_is_suspicious_of_a_model(model, warning):
    assert any(warning in text for text in check_model(model.eval(), IMAGES, LABELS))


def test_a_model_in_train_mode_is_told_and_left_so():
    model = nn.Sequential(Brightness(), nn.Dropout(0.0)).eval()
    model[1].train()
    assert check_model(model, IMAGES, LABELS) == [
        "the model was handed over in train mode; it is measured in eval mode"
    ]
    assert model[1].training and not model.training


def measured(correct: list[list[int]], broken_by: list[list[int]] | None = None, stages: tuple[str, ...] = ()):
    correct = torch.tensor(correct, dtype=torch.bool)
    nothing = torch.empty(0)
    broken = torch.full(correct.shape, -1) if broken_by is None else torch.tensor(broken_by)
    return Measured(correct, nothing, broken, nothing, nothing, nothing, 1.0, stages)


class TestSquareAlone:
    stages = ("apgd-ce", "square")

    def warnings(self, broken_by):
        correct = [[0 if by >= 0 else 1 for by in row] for row in broken_by]
        outcome = measured(correct, broken_by, self.stages)
        return check_outcomes({"autoattack": ("AutoAttack", [0.1, 0.2], outcome)})

    def test_it_breaks_what_white_box_attacks_left(self):
        assert self.warnings([[-1] * 100, [1] * 5 + [0] * 95]) == [
            "AutoAttack: at eps 0.2, Square alone breaks 5 of 100 images that the white-box attacks left; gradients may"
            " be masked"
        ]

    def test_one_image_may_be_chance(self):
        assert self.warnings([[-1] * 100, [1] * 1 + [0] * 99]) == []

    @pytest.mark.parametrize(
        ("alone", "n", "warned"), [(2, 60, False), (3, 60, True), (5, 1000, False), (8, 1000, True)]
    )
    def test_no_more_than_the_authors_rate_may_be_chance(self, alone, n, warned):
        assert bool(self.warnings([[-1] * n, [1] * alone + [0] * (n - alone)])) == warned

    def test_it_cannot_be_compared_with_nothing(self):
        outcome = measured([[0] * 10], [[0] * 10], ("square",))
        assert check_outcomes({"square": ("Square", [0.1], outcome)}) == []


class TestBlackBoxBeatsWhiteBox:
    def warnings(self, black, white, eps=(0.1, 0.1)):
        return check_outcomes(
            {
                "square": ("Square", [eps[0]], measured([black])),
                "pgd": ("PGD", [0.05, eps[1]], measured([[1] * len(white), white])),
            }
        )

    def test_it_does(self):
        (warning,) = self.warnings([0] * 30 + [1] * 70, [0] * 20 + [1] * 80)
        assert "under Square, which sees no gradient of the model, is 0.700, and under PGD 0.800" in warning
        assert "10 of 100 images" in warning

    @pytest.mark.parametrize(
        ("only_black", "only_white", "n", "warned"),
        [
            (2, 0, 60, False),
            (6, 0, 60, False),
            (7, 0, 60, True),
            (7, 4, 60, False),
            (20, 1, 1000, False),
            (40, 5, 1000, True),
        ],
    )
    def test_the_same_images_are_compared(self, only_black, only_white, n, warned):
        """Two of 60 are chance, whatever the accuracy: what counts is which images one of the two alone breaks."""
        rest = [1] * (n - only_black - only_white)
        black, white = [0] * only_black + [1] * only_white + rest, [1] * only_black + [0] * only_white + rest
        assert bool(self.warnings(black, white)) == warned

    def test_it_does_not(self):
        assert self.warnings([0] * 20 + [1] * 80, [0] * 30 + [1] * 70) == []

    def test_the_images_that_both_saw_count(self):
        assert self.warnings([0] * 20, [0] * 20 + [1] * 80) == []

    def test_strengths_must_be_the_same(self):
        assert self.warnings([0] * 100, [1] * 100, eps=(0.1, 0.2)) == []


def test_signs_of_masked_gradients_are_told():
    plain = measured([[1] * 10] * 2)
    assert check_outcomes({"autoattack": ("AutoAttack", [0.1, 0.2], plain)}) == []
    masked = torch.tensor([0] * 6 + [1, 1, 2, 3])
    inferred = torch.zeros(2, 10, dtype=torch.bool)
    for count, end in ((0, "to break an image"), (3, "but for 3 outcomes that time left inferred")):
        inferred[0, :count] = True
        outcome = replace(plain, masked=masked, inferred=inferred)
        (warning,) = check_outcomes({"autoattack": ("AutoAttack", [0.1, 0.2], outcome)})
        assert "zero gradient 2, broken by Square alone 1," in warning and warning.endswith(end)


def test_few_images():
    rows = [
        {"attack": "A", "n": 1000, "low": 0.47, "high": 0.53},
        {"attack": "B", "n": 24, "low": 0.31, "high": 0.69},
        {"attack": "B", "n": 24, "low": 0.2, "high": 0.4},
        {"attack": "C", "n": 24, "low": 0.3, "high": 0.68},
    ]
    assert check_rows(rows) == ["few images (24 for B, C): a 95% interval is up to 38 points wide"]
    assert check_rows(rows[:1]) == []
    many = [{"attack": name, "n": 24, "low": 0.3, "high": 0.68} for name in "ABCDEFGHI"]
    assert check_rows(many)[0].startswith("few images (24 for A, B, C, D, E and 4 others): a 95% interval is")
