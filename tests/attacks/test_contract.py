"""What holds for every attack of the registry."""

from functools import cache

import networks
import numpy as np
import pytest
import torch
from networks import alike
from torch import nn

from brainreg.attacks import ATTACKS, CORRUPTIONS, Attack, AutoAttack, Context, Outcome
from brainreg.attacks.autoattack.stages import perturbation
from brainreg.errors import InputError

PUBLISHED = {"fog": "fog, published", "jpeg_compression": "jpeg_compression, published"}
NAMES = (*ATTACKS, *PUBLISHED.values())

# Attacks that search for an example that needs little; the others make one version of an image for each strength.
OPTIMIZING = ("pgd", "boundary", "autoattack", "autoattack-l2", "autoattack-l1", "square")

STRENGTHS = {"Linf": (0, 0.03, 0.08, 0.2, 0.5), "L2": (0, 0.3, 0.8, 2), "L1": (0, 1, 3, 10)}


class Case:
    """An attack, and what it attacks: twelve images, two of them misclassified from the beginning."""

    def __init__(self, name: str, golden_images: torch.Tensor):
        kind = name.removesuffix(", published")
        if kind in CORRUPTIONS:  # they need larger images
            self.images = golden_images[:12].float() / 255
            with torch.random.fork_rng():
                torch.manual_seed(0)
                layers = nn.Conv2d(1, 8, 5, stride=4), nn.BatchNorm2d(8), nn.ReLU(), nn.Flatten(), nn.Linear(392, 10)
            self.model = nn.Sequential(*layers).eval()
            self.labels = self.predicted(self.images)
            self.labels[:2] = (self.labels[:2] + 1) % 10
        else:
            self.model, images, labels = networks.digits()
            index = torch.cat([torch.arange(20, 22), torch.arange(10)])
            self.images, self.labels = images[index], labels[index]
        with torch.random.fork_rng():
            torch.manual_seed(1)
            surrogate = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(64), nn.Dropout(0.5), nn.Linear(64, 10))
        corrupted = None
        if kind != name:
            draws = torch.Generator().manual_seed(0)
            corrupted = {kind: torch.randint(0, 256, (5, *self.images.shape), generator=draws).byte()}
        attack = ATTACKS[kind](Context(classes=10, surrogate=surrogate, corrupted=corrupted))
        if isinstance(attack, AutoAttack):  # the registry's own, but of seconds instead of minutes
            attack = attack.model_copy(update={"n_iter": 5, "n_target_classes": 3, "n_queries": 30})
        self.attack: Attack = attack
        self.surrogate = surrogate
        self.strengths = STRENGTHS.get(attack.norm, (0, 1, 3, 5) if kind in CORRUPTIONS else (0, 0.2, 0.5, 1))

    def predicted(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return self.model(images).argmax(dim=1)

    @cache  # noqa: B019
    def outcome(self, seed: int = 0, batch_size: int = 250) -> Outcome:
        return self.attack(self.model, self.images, self.labels, self.strengths, seed=seed, batch_size=batch_size)


@pytest.fixture(scope="module", params=NAMES)
def case(request, golden):
    return Case(request.param, golden.images)


@pytest.fixture
def optimizing(case, request):
    return request.node.callspec.params["case"] in OPTIMIZING


def test_an_outcome_is_of_every_image_and_strength(case):
    outcome = case.outcome()
    assert outcome.correct.shape == (len(case.strengths), 12) and outcome.correct.dtype == torch.bool
    assert outcome.examples.shape == case.images.shape and outcome.examples.dtype == torch.float32
    assert outcome.example_strength.shape == (12,) and outcome.example_strength.is_floating_point()
    assert not any(tensor.requires_grad for tensor in (outcome.correct, outcome.examples, outcome.example_strength))
    if outcome.broken_by is not None:
        assert outcome.broken_by.shape == outcome.correct.shape and outcome.broken_by.dtype == torch.int64
        assert outcome.broken_by.max() < len(outcome.stages)
        right = outcome.correct[0]
        assert torch.equal(outcome.broken_by[:, right] >= 0, ~outcome.correct[:, right])
        assert (outcome.broken_by[:, ~right] == -1).all()
    assert not outcome.correct[-1].all()  # the strengths are large enough to tell something


def test_pixels_stay_in_range(case):
    examples = case.outcome().examples
    assert examples.min() >= 0 and examples.max() <= 1


def test_strength_zero_is_clean_accuracy(case):
    outcome, right = case.outcome(), case.predicted(case.images) == case.labels
    assert right.sum() == 10
    assert torch.equal(outcome.correct[0], right)
    assert torch.equal(outcome.example_strength == 0, ~right)


def test_examples_are_misclassified(case):
    outcome = case.outcome()
    met = outcome.example_strength.isfinite()
    assert (case.predicted(outcome.examples)[met] != case.labels[met]).all()
    same = ~met | (outcome.example_strength == 0)
    assert torch.equal(outcome.examples[same], case.images[same])


def test_examples_keep_the_norm(case):
    outcome = case.outcome()
    if case.attack.norm is not None:
        met = outcome.example_strength.isfinite()
        size = perturbation(case.images, outcome.examples, case.attack.norm)[met]
        assert (size <= outcome.example_strength[met] + 1e-5).all()


def test_examples_tell_the_strength_that_breaks_an_image(case, optimizing):
    outcome = case.outcome()
    for strength, correct in zip(case.strengths[1:], outcome.correct[1:], strict=True):
        below = torch.tensor(strength) < outcome.example_strength
        assert correct[below].all()
        if optimizing:
            assert not correct[~below].any()
        else:
            assert not correct[outcome.example_strength == strength].any()


def test_optimizing_attacks_break_more_the_stronger_they_are(case, optimizing):
    correct = case.outcome().correct
    if optimizing:
        assert (correct[1:] <= correct[:-1]).all()


def test_one_seed_gives_one_result(case):
    again = case.attack(case.model, case.images, case.labels, case.strengths, seed=0)
    for name in ("correct", "examples", "example_strength"):
        assert torch.equal(getattr(again, name), getattr(case.outcome(), name))


@pytest.mark.parametrize("batch_size", [pytest.param(1, marks=pytest.mark.long), 3])
def test_batches_change_nothing(case, batch_size):
    outcome, whole = case.outcome(batch_size=batch_size), case.outcome()
    assert alike(outcome.correct, whole.correct)
    close = torch.isclose(outcome.example_strength, whole.example_strength, rtol=1e-3, atol=0)
    assert (~close).sum() <= 1


def test_progress_ends_with_all_images(case):
    seen = []

    def tell(*counts: int) -> None:
        seen.append(counts)

    case.attack(case.model, case.images, case.labels, case.strengths, batch_size=5, on_progress=tell)
    assert seen == sorted(seen) and seen[-1] == (12, 12)


def test_everything_is_left_as_it_was_found(case):
    everything = nn.ModuleList([case.model, case.surrogate])
    modules, parameters = [*everything.modules()], [*everything.parameters()]
    modes = [module.training for module in modules]
    try:
        for i, module in enumerate(modules):
            module.training = i % 2 == 0
        parameters[0].requires_grad_(False)
        before = {name: value.clone() for name, value in everything.state_dict().items()}
        images, labels = case.images.clone(), case.labels.clone()
        torch.manual_seed(0)
        state, numpy_state = torch.get_rng_state(), np.random.get_state()
        outcome = case.attack(case.model, case.images, case.labels, case.strengths)
        assert torch.equal(outcome.correct, case.outcome().correct)  # in eval mode
        assert [module.training for module in modules] == [i % 2 == 0 for i in range(len(modules))]
        assert [parameter.requires_grad for parameter in parameters] == [False] + [True] * (len(parameters) - 1)
        assert all(parameter.grad is None for parameter in parameters)
        assert all(torch.equal(value, before[name]) for name, value in everything.state_dict().items())
        assert torch.equal(torch.get_rng_state(), state)
        assert all(np.array_equal(a, b) for a, b in zip(np.random.get_state(), numpy_state, strict=True))
        assert torch.equal(case.images, images) and torch.equal(case.labels, labels)
    finally:
        for module, mode in zip(modules, modes, strict=True):
            module.training = mode
        parameters[0].requires_grad_(True)


def test_unusable_input_is_refused_in_one_line(case):
    def refused(message: str, images=case.images, labels=case.labels, strengths=case.strengths) -> None:
        with pytest.raises(InputError, match=message) as caught:
            case.attack(case.model, images, labels, strengths)
        assert "\n" not in str(caught.value)

    low, high, must = case.images.min().item(), case.images.max().item(), r"must be in \[0, 1\]$"
    refused(rf"^images: pixels from {low * 255:.7g} to {high * 255:.7g}; {must}", images=case.images * 255)
    refused(rf"^images: pixels from {low - 0.5:.7g} to {high - 0.5:.7g}; {must}", images=case.images - 0.5)
    refused("^images: pixels from nan to nan;", images=case.images * torch.nan)
    refused(rf"^images: pixels from .* to {1.00003:.7g};", images=(case.images / high * 1.00003))
    refused(r"^images: torch\.int64; must be floating point in \[0, 1\], or uint8$", images=case.images.long())
    refused(r"^images: of shape \(0, .*; must be \(n, c, h, w\)", images=case.images[:0], labels=case.labels[:0])
    refused(r"^images: of shape .*; must be \(n, c, h, w\)", images=case.images[0])
    refused("^images: str; must be a torch.Tensor$", images="images")
    refused("^labels: 11 of them for 12 images;", labels=case.labels[:11])
    refused("^labels: 1 of them for 12 images;", labels=case.labels[:1])
    refused(r"^labels: torch\.float32; must be whole numbers", labels=case.labels.float())
    refused(r"^labels: of shape \(12, 10\); .*argmax", labels=nn.functional.one_hot(case.labels, 10))
    refused(r"^eps=-1: must be in \[0, .*\]$", strengths=(-1, 0))
    refused(r"^eps=nan: must be in \[0, .*\]$", strengths=(torch.nan,))
    refused("^eps=1,0: must go up, each value once$", strengths=(1, 0))
    refused("^eps=1,1: must go up, each value once$", strengths=(1, 1))
    refused("^labels: from 0 to 10; the model has 10 classes, 0 to 9$", labels=torch.tensor([0, 10] * 6))
    refused("^labels: from -1 to 0; the model has 10 classes, 0 to 9$", labels=torch.tensor([0, -1] * 6))
    if np.isfinite(case.attack.largest):
        refused(rf"^eps=8: must be in \[0, {case.attack.largest:g}\]$", strengths=(0, 8))
