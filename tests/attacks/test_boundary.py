import networks
import numpy as np
import pytest
import torch
from networks import alike, apart
from torch import nn

from brainreg.attacks.boundary import Boundary, median_squared_distance
from brainreg.errors import InputError
from brainreg.seeds import Stream, seeded_generator

STRENGTHS = (0, 1, 1.5, 2, 3, 8)
PIXELS = 64


@pytest.fixture
def digits():
    return networks.digits()


class Bright(nn.Module):
    """Class 1 where the mean pixel is above 0.9. Noise is of class 0, so that only bright images have a start."""

    def __init__(self, threshold: float = 0.9):
        super().__init__()
        self.threshold, self.largest_batch = threshold, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.largest_batch = max(self.largest_batch, len(images))
        mean = images.flatten(1).mean(dim=1)
        return torch.stack([torch.full_like(mean, self.threshold), mean], dim=1)


def black_and_white(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    labels = torch.arange(n) % 2
    return labels[:, None, None, None].float().expand(-1, 1, 8, 8).clone(), labels


def test_examples_are_misclassified_at_the_distance_that_is_told(digits):
    model, images, labels = digits
    outcome = Boundary()(model, images, labels, STRENGTHS, seed=1)
    right = model(images).argmax(dim=1) == labels
    assert right.sum() == 35
    assert outcome.example_strength[right].isfinite().all()  # of ten classes, noise is seldom of an image's own
    distance = (outcome.examples - images).double().flatten(1).square().sum(dim=1).sqrt()
    assert distance.float() == pytest.approx(outcome.example_strength, rel=1e-5)
    assert torch.equal(outcome.example_strength == 0, ~right)
    assert torch.equal(outcome.examples[~right], images[~right])
    assert (model(outcome.examples).argmax(dim=1) != labels).all()
    assert outcome.examples.min() >= 0 and outcome.examples.max() <= 1
    assert outcome.broken_by is None and outcome.stages == ()


def test_an_image_is_correct_below_its_distance_and_wrong_from_there(digits):
    model, images, labels = digits
    first = Boundary()(model, images, labels, STRENGTHS)
    assert len({*first.correct.sum(dim=1).tolist()}) >= 4  # the strengths tell images apart
    for strength, correct in zip(STRENGTHS, first.correct, strict=True):
        assert torch.equal(correct, first.example_strength > strength)
    found = first.example_strength[first.example_strength > 0].min().item()
    again = Boundary()(model, images, labels, (0, np.nextafter(np.float32(found), np.float32(0)).item(), found))
    assert again.correct.sum(dim=1).tolist() == [first.correct[0].sum()] * 2 + [first.correct[0].sum() - 1]


def test_it_does_what_foolbox_does(digits):
    """Example for example, where all images have a starting point."""
    foolbox = pytest.importorskip("foolbox")
    model, images, labels = digits
    predicted = model(images).argmax(dim=1)
    outcome = Boundary(steps=20)(model, images, predicted, (0,), seed=3, batch_size=len(images))
    with torch.random.fork_rng():
        torch.manual_seed(seeded_generator(3, Stream.BOUNDARY).initial_seed())
        whole = foolbox.PyTorchModel(model, bounds=(0, 1))
        _, (expected,), broken = foolbox.attacks.BoundaryAttack(steps=20)(whole, images, predicted, epsilons=[None])
    assert broken.all()
    assert apart(outcome.examples, expected) <= 1


def test_more_steps_find_nearer_examples(digits):
    few = Boundary(steps=1)(*digits, (0,)).example_strength
    many = Boundary(steps=50)(*digits, (0,)).example_strength
    assert (many <= few).all()  # the same start, and never a step back
    assert (many < few).sum() >= 20
    assert many.sum() < 0.98 * few.sum()


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_batches_change_nothing(digits, batch_size):
    expected = Boundary(steps=15)(*digits, STRENGTHS, seed=2, batch_size=250)
    outcome = Boundary(steps=15)(*digits, STRENGTHS, seed=2, batch_size=batch_size)
    assert apart(outcome.examples, expected.examples) <= 1
    assert alike(outcome.correct, expected.correct)


def test_batches_are_no_larger_than_told():
    model = Bright()
    Boundary(steps=3)(model, *black_and_white(20), (0,), batch_size=6)
    assert model.largest_batch == 6


def test_the_network_is_asked_as_often_for_all_images_as_for_one(digits):
    """Once a step of the attack and of the way to its start, whatever the number of images."""
    model, images, _ = digits
    counted = []
    for some in (images[:1], images):
        calls = []
        hook = model.register_forward_hook(lambda *arguments, calls=calls: calls.append(1))
        median_squared_distance(model, some, seed=0, batch_size=len(some), repeats=1)
        hook.remove()
        counted.append(len(calls))
    assert counted[1] < 1.5 * counted[0]


def test_one_seed_gives_one_result(digits):
    first, again, other = (Boundary(steps=15)(*digits, (0,), seed=seed).examples for seed in (4, 4, 5))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_everything_is_left_as_it_was_found(digits):
    model, images, labels = digits
    model[1].train()  # some modules in one mode, some in the other
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    before = images.clone()
    torch.manual_seed(0)
    state, numpy_state = torch.get_rng_state(), np.random.get_state()
    try:
        Boundary(steps=12)(model, images, labels, (0, 1))
        median_squared_distance(model, images, seed=0, batch_size=9, steps=2, repeats=1)
        assert [module.training for module in model] == [False, True, False, False, False]
    finally:
        model.eval()
    assert torch.equal(torch.get_rng_state(), state)
    assert all(np.array_equal(a, b) for a, b in zip(numpy_state, np.random.get_state(), strict=True))
    assert all(parameter.requires_grad and parameter.grad is None for parameter in model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert torch.equal(images, before)


def test_images_without_a_starting_point_are_not_broken(recwarn):
    images, labels = black_and_white(10)
    outcome = Boundary()(Bright(), images, labels, (0, 0.5, 8, float("inf")))
    white = labels == 1
    assert torch.equal(outcome.example_strength.isinf(), ~white)
    assert torch.equal(outcome.examples[~white], images[~white])
    assert outcome.correct[:, ~white].all()
    # The mean pixel of a white image has to fall by a tenth, in L2 by no less than a tenth of the root of the pixels.
    assert (outcome.example_strength[white] >= 0.1 * PIXELS**0.5).all()
    assert (outcome.example_strength[white] < 0.2 * PIXELS**0.5).all()
    assert outcome.correct[:, white].all(dim=1).tolist() == [True, True, False, False]
    assert not outcome.correct[2:, white].any()
    assert not [warning for warning in recwarn if "Foolbox" in str(warning.message) or "Noise" in str(warning.message)]


def test_a_starting_point_is_looked_for_as_long_as_foolbox_does():
    """One noise image of a hundred is above the threshold; of a thousand, some is."""
    images = torch.zeros(12, 1, 8, 8)
    outcome = Boundary(steps=1)(Bright(0.584), images, torch.zeros(12, dtype=torch.long), (0,))
    assert outcome.example_strength.isfinite().all()


def test_no_image_has_a_starting_point():
    images = torch.zeros(4, 1, 8, 8)
    outcome = Boundary()(Bright(), images, torch.zeros(4, dtype=torch.long), (0, 8))
    assert outcome.correct.all() and torch.equal(outcome.examples, images)
    assert np.isnan(median_squared_distance(Bright(), images, seed=0, batch_size=250, repeats=1))


def test_every_image_is_misclassified():
    images, labels = black_and_white(6)
    outcome = Boundary()(Bright(), images, 1 - labels, (0, 1))
    assert not outcome.correct.any() and (outcome.example_strength == 0).all()


def test_the_nearest_of_several_repeats_counts(digits):
    once = Boundary(steps=10)(*digits, (0,), seed=6)
    thrice = Boundary(steps=10, repeats=3)(*digits, (0,), seed=6)
    assert (thrice.example_strength <= once.example_strength).all()
    nearer = (thrice.example_strength < once.example_strength).sum().item()
    assert 10 <= nearer < thrice.correct[0].sum()  # some were nearest the first time
    distance = (thrice.examples - digits[1]).flatten(1).norm(dim=1)
    assert distance == pytest.approx(thrice.example_strength, rel=1e-5)


def test_progress_goes_up_to_the_number_of_images(digits):
    seen = []
    Boundary(steps=1, repeats=4)(*digits, (0,), on_progress=lambda *counts: seen.append(counts))
    assert seen == [(10, 40), (20, 40), (30, 40), (40, 40)]
    seen.clear()
    median_squared_distance(
        *digits[:2], seed=0, batch_size=40, steps=1, repeats=2, on_progress=lambda *counts: seen.append(counts)
    )
    assert seen == [(20, 40), (40, 40)]


class TestMedianSquaredDistance:
    def test_is_of_the_examples_of_the_attack(self, digits):
        model, images, _ = digits
        predicted = model(images).argmax(dim=1)
        outcome = Boundary(steps=20)(model, images, predicted, (0,), seed=7)
        squared = (outcome.examples - images).double().square().mean(dim=(1, 2, 3))
        measured = median_squared_distance(model, images, seed=7, batch_size=13, steps=20, repeats=1)
        assert measured == pytest.approx(np.median(squared.numpy()), rel=1e-5)

    def test_is_the_mean_over_repeats(self, digits):
        model, images, _ = digits
        settings = {"seed": 7, "batch_size": 40, "steps": 5}
        one, two, three = (median_squared_distance(model, images, **settings, repeats=n) for n in (1, 2, 3))
        second, third = 2 * two - one, 3 * three - 2 * two
        assert len({one, second, third}) == 3
        assert all(0.7 * one < median < 1.4 * one for median in (second, third))

    def test_counts_every_channel(self):
        """A mean over the values of an image: three channels that are alike have the bound of one."""
        images, _ = black_and_white(4)
        measured = median_squared_distance(
            Bright(), images[1::2].expand(-1, 3, -1, -1), seed=0, batch_size=250, repeats=1
        )
        assert 0.01 <= measured < 0.04

    def test_leaves_out_images_without_an_example(self):
        images, labels = black_and_white(10)
        measured = median_squared_distance(Bright(), images, seed=0, batch_size=250, repeats=1)
        squared = Boundary()(Bright(), images, labels, (0,)).example_strength.square() / PIXELS
        assert measured == pytest.approx(squared[1::2].median().item(), rel=1e-5)


def test_the_title_tells_the_settings():
    assert Boundary().title == "Boundary L2 (50 steps)"
    assert Boundary(steps=5, repeats=3).title == "Boundary L2 (5 steps, best of 3)"
    assert Boundary().norm == "L2" and Boundary().largest == float("inf")


def test_unusable_input_is_refused(digits):
    model, images, labels = digits
    with pytest.raises(InputError, match=r"^steps=0: must be at least 1$"):
        Boundary(steps=0)
    with pytest.raises(InputError, match=r"^repeats=0: must be at least 1$"):
        median_squared_distance(model, images, seed=0, batch_size=1, repeats=0)
    with pytest.raises(InputError, match="pixels from"):
        Boundary()(model, images * 16, labels, (0,))
    with pytest.raises(InputError, match="eps=-1"):
        Boundary()(model, images, labels, (-1,))
    with pytest.raises(InputError, match="the model has 10 classes"):
        Boundary()(model, images, labels + 5, (0,))
