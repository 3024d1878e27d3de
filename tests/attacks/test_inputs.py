"""Models, images and labels as people have them: the number of the plain ones, or a line that says what is wrong."""

import copy
from types import SimpleNamespace

import networks
import pytest
import torch
from torch import nn

from brainreg.attacks import PGD, AutoAttack, Boundary, Noise
from brainreg.data.datasets import DATASETS
from brainreg.errors import InputError
from brainreg.evaluation.accuracy import robust_accuracy
from brainreg.evaluation.checks import check_model
from brainreg.evaluation.robustness import evaluate
from brainreg.evaluation.settings import Evaluation
from brainreg.models.logits import as_logits

EPS = 0.06
ATTACKS = {
    "noise": Noise("Gaussian"),
    "pgd": PGD(steps=3),
    "autoattack": AutoAttack(version="custom", attacks=("apgd-ce", "square"), n_iter=5, n_queries=20),
    "boundary": Boundary(steps=5),
}


@pytest.fixture(scope="module")
def digits():
    return networks.digits()


class Gives(nn.Module):
    """A model of which something is made of what it returns."""

    def __init__(self, model, make):
        super().__init__()
        self.model, self.make = model, make

    def forward(self, images):
        return self.make(self.model(images))


class Reads(nn.Module):
    """A model whose forward is without gradients, as one that asks a server."""

    def __init__(self, model):
        super().__init__()
        self.model = model

    @torch.no_grad()
    def forward(self, images):
        return self.model(images)


MODELS = {
    "parallel": nn.DataParallel,
    "compiled": lambda model: torch.compile(model, backend="eager"),
    "half": lambda model: copy.deepcopy(model).half(),
    "bfloat16": lambda model: copy.deepcopy(model).bfloat16(),
    "float64": lambda model: copy.deepcopy(model).double(),
    "tuple": lambda model: as_logits(Gives(model, lambda logits: (logits, "features"))),
    "dict": lambda model: as_logits(Gives(model, lambda logits: {"logits": logits})),
    "output": lambda model: as_logits(Gives(model, lambda logits: SimpleNamespace(logits=logits))),
    "picked": lambda model: as_logits(Gives(model, lambda logits: [None, logits]), pick=lambda output: output[1]),
}

IMAGES = {
    "uint8": lambda images: (images * 255).round().byte(),
    "float16": lambda images: images.half(),
    "float64": lambda images: images.double(),
    "numpy": lambda images: images.numpy(),
    "channels last": lambda images: images.contiguous(memory_format=torch.channels_last),
    "from NHWC": lambda images: images.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2),
    "beyond by rounding": lambda images: images * 1.000001 - 1e-7,
    "with gradient": lambda images: images.clone().requires_grad_(),
}

LABELS = {
    "int32": lambda labels: labels.int(),
    "uint8": lambda labels: labels.byte(),
    "one column": lambda labels: labels[:, None],
    "numpy": lambda labels: labels.numpy(),
    "list": lambda labels: labels.tolist(),
}


def counts(attack, model, images, labels) -> list[int]:
    outcome = attack(model, images, labels, (0, EPS))
    assert outcome.examples.dtype == torch.float32 and not outcome.examples.requires_grad
    return outcome.correct.sum(dim=1).tolist()


@pytest.mark.parametrize("attack", ATTACKS)
@pytest.mark.parametrize("kind", MODELS)
def test_models_as_people_have_them(digits, attack, kind):
    model, images, labels = digits
    expected = counts(ATTACKS[attack], model, images, labels)
    found = counts(ATTACKS[attack], MODELS[kind](model), images, labels)
    most = 2 if kind in ("half", "bfloat16") else 1  # of 40 images
    assert all(abs(one - other) <= most for one, other in zip(found, expected, strict=True))


@pytest.mark.parametrize("attack", ATTACKS)
def test_images_and_labels_as_people_have_them(digits, attack):
    model, images, labels = digits
    expected = counts(ATTACKS[attack], model, images, labels)
    for make in IMAGES.values():
        found = counts(ATTACKS[attack], model, make(images), labels)
        assert all(abs(one - other) <= 1 for one, other in zip(found, expected, strict=True))
    for make in LABELS.values():
        assert counts(ATTACKS[attack], model, images, make(labels)) == expected


@pytest.mark.parametrize("mode", [torch.inference_mode, torch.no_grad])
@pytest.mark.parametrize("attack", ATTACKS)
def test_without_gradients_around(digits, attack, mode):
    model, images, labels = digits
    expected = counts(ATTACKS[attack], model, images, labels)
    with mode():
        assert counts(ATTACKS[attack], model, images * 1, labels * 1) == expected
        assert check_model(model, images * 1, labels * 1) == check_model(model, images, labels)


def test_a_whole_evaluation_of_what_people_have(digits):
    model, images, labels = digits
    settings = Evaluation(attacks=("gaussian", "fgsm"), num_epsilons=2)
    expected = evaluate(model, images, labels, DATASETS["digits"], settings).table
    others = MODELS["tuple"](model.double()), images.half().numpy(), labels[:, None].int()
    found = evaluate(*others, DATASETS["digits"], settings).table
    model.float()
    assert (found.n == expected.n).all() and (found.correct - expected.correct).abs().max() <= 1
    assert robust_accuracy(model, images[:4], labels[:4].tolist(), eps=0) == 1


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (
            lambda model: Gives(model, lambda logits: (logits, 1)),
            r"^model: returns tuple; .*brainreg\.as_logits",
        ),
        (lambda model: Gives(model, lambda logits: SimpleNamespace(logits=logits)), "^model: returns .*as_logits"),
        (lambda model: Gives(model, lambda logits: logits.argmax(dim=1)), r"^model: returns torch\.int64 of shape"),
        (lambda model: Gives(model, lambda logits: logits[:1]), r"^model: returns .* of shape \(1, 10\) for 40 images"),
        (lambda model: Gives(model, lambda logits: logits[:, :1]), r"shape \(40, 1\) .* of two classes or more"),
        (lambda model: as_logits(Gives(model, lambda logits: 3)), r"^model: returns int, .*pick="),
        (lambda model: nn.Linear(5, 2), r"^model: does not take images of shape \(40, 1, 8, 8\) on cpu \(.+\)$"),
        (lambda model: model.forward, "^model: method; must be a torch.nn.Module"),
    ],
)
def test_what_is_no_model_of_logits_is_refused_in_one_line(digits, model, message):
    for measure in (
        lambda *given: robust_accuracy(*given, eps=0.1),
        lambda *given: evaluate(*given, DATASETS["digits"], Evaluation(attack=False)),
        lambda *given: ATTACKS["pgd"](*given, (0.1,)),
    ):
        with pytest.raises(InputError, match=message) as caught:
            measure(model(digits[0]), *digits[1:])
        assert "\n" not in str(caught.value)


def test_weights_made_in_inference_mode_are_refused():
    with torch.inference_mode():
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
    with pytest.raises(InputError, match="inference mode"):
        robust_accuracy(model, torch.rand(2, 1, 8, 8), torch.tensor([0, 1]), eps=0.1)


@pytest.mark.parametrize("attack", ATTACKS)
def test_a_forward_without_gradients_is_attacked_and_told(digits, attack):
    model, images, labels = digits
    assert counts(ATTACKS[attack], Reads(model), images, labels)[0] == 35
    assert any("no gradient at 40 of 40" in text for text in check_model(Reads(model), images, labels))


@pytest.mark.parametrize("attack", ATTACKS)
def test_nan_is_never_right(digits, attack):
    """Whatever the label: argmax takes the first NaN for the largest."""
    model, images, _ = digits
    broken = Gives(model, lambda logits: torch.where(logits.isfinite(), torch.nan, logits))
    for label in (0, 9):
        labels = torch.full((40,), label)
        assert counts(ATTACKS[attack], broken, images, labels) == [0, 0]
    some = Gives(model, lambda logits: logits.masked_fill(logits == logits[:, :1], torch.nan))
    labels = torch.zeros(40, dtype=torch.int64)
    assert counts(ATTACKS[attack], some, images, labels) == [0, 0]
    with pytest.raises(InputError, match="NaN logits for 40 of 40 images"):
        robust_accuracy(some, images, labels, eps=0.1)
    settings = Evaluation(attack=False)
    assert evaluate(some, images, labels, DATASETS["digits"], settings).table.accuracy.tolist() == [0]
