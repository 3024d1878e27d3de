import networks
import pytest
import torch
from networks import Brightness, Counting, alike, apart, flat
from torch import nn

from brainreg.attacks import FGSM, PGD, TransferredFGSM
from brainreg.errors import InputError
from brainreg.seeds import Stream, seeded_generator

STRENGTHS = (0, 0.02, 0.05, 0.1, 0.2)


@pytest.fixture
def digits():
    return networks.digits()


class Window(nn.Module):
    """Class 1 where the mean pixel is from 0.5 to 0.6, otherwise class 0."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        inside = 0.05**2 - (images.mean(dim=(1, 2, 3)) - 0.55).square()
        return torch.stack([torch.zeros_like(inside), inside], dim=1)


def gradient_sign(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    images = images.clone().requires_grad_()
    nn.functional.cross_entropy(model(images), labels).backward()
    model.zero_grad()
    return images.grad.sign()


class TestFGSM:
    def test_is_one_step_along_the_sign_of_the_gradient(self, digits):
        model, images, labels = digits
        outcome = FGSM()(model, images, labels, STRENGTHS, batch_size=7)
        sign = gradient_sign(model, images, labels)
        for eps, correct in zip(STRENGTHS, outcome.correct, strict=True):
            assert alike(correct, model((images + eps * sign).clamp(0, 1)).argmax(dim=1) == labels)
        sums = outcome.correct.sum(dim=1).tolist()
        assert sums[0] == 35 and sums[1] > sums[2] > sums[3] > sums[4]
        eps = outcome.example_strength
        assert {*eps[eps.isfinite()].tolist()} == {*torch.tensor(STRENGTHS).tolist()}
        made = (images + eps.where(eps.isfinite(), 0)[:, None, None, None] * sign).clamp(0, 1)
        assert apart(outcome.examples, made) <= 1

    def test_breaks_a_linear_model_at_the_margin(self):
        """The margin falls by eps times the sum of the weights, so the strengths that break images are known."""
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
        with torch.no_grad():
            model[1].weight.copy_(torch.tensor([[0.0, 0.0, 0.0, 0.0], [1.0, -2.0, 0.5, 0.5]]))
            model[1].bias.zero_()
        images = torch.full((2, 1, 2, 2), 0.5)
        images[0, 0, 0, 0], images[1, 0, 0, 0] = 0.3, 0.1  # margins 0.2 and 0.4 of class 0
        outcome = FGSM()(model, images, torch.zeros(2, dtype=torch.long), (0, 0.049, 0.051, 0.099, 0.101))
        assert outcome.correct.T.tolist() == [[True, True, False, False, False], [True, True, True, True, False]]
        assert outcome.example_strength.tolist() == pytest.approx([0.051, 0.101])

    def test_an_image_may_be_right_again_at_a_larger_strength(self):
        images, labels = flat(0.45, 0.55), torch.tensor([0, 0])
        outcome = FGSM()(Window(), images, labels, (0.01, 0.1, 0.3))
        assert outcome.correct[:, 0].tolist() == [True, False, True]
        assert outcome.example_strength.tolist() == pytest.approx([0.1, 0])
        assert outcome.examples[0].mean().item() == pytest.approx(0.55)
        assert torch.equal(outcome.examples[1], images[1])  # wrong to begin with


class TestTransferredFGSM:
    def test_follows_the_gradient_of_the_surrogate(self, digits):
        model, images, labels = digits
        with torch.random.fork_rng():
            torch.manual_seed(1)
            surrogate = nn.Sequential(nn.Flatten(), nn.Linear(64, 10))
        outcome = TransferredFGSM(surrogate)(model, images, labels, STRENGTHS)
        sign = gradient_sign(surrogate, images, labels)
        for eps, correct in zip(STRENGTHS, outcome.correct, strict=True):
            assert torch.equal(correct, model((images + eps * sign).clamp(0, 1)).argmax(dim=1) == labels)
        assert not torch.equal(sign, gradient_sign(model, images, labels))

    def test_from_the_model_itself_is_fgsm(self, digits):
        model, images, labels = digits
        expected = FGSM()(model, images, labels, STRENGTHS)
        outcome = TransferredFGSM(model)(model, images, labels, STRENGTHS)
        assert torch.equal(outcome.correct, expected.correct) and torch.equal(outcome.examples, expected.examples)
        assert not model.training

    def test_takes_the_gradient_in_eval_mode_and_leaves_the_surrogate_as_it_was_found(self, digits):
        model, images, labels = digits
        with torch.random.fork_rng():
            torch.manual_seed(2)
            layers = nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Dropout(0.5), nn.Flatten(), nn.Linear(144, 10)
        surrogate = nn.Sequential(*layers).eval()
        expected = TransferredFGSM(surrogate)(model, images, labels, STRENGTHS)
        surrogate.train()[2].eval()
        surrogate[0].weight.requires_grad_(False)
        before = {name: value.clone() for name, value in surrogate.state_dict().items()}
        assert torch.equal(TransferredFGSM(surrogate)(model, images, labels, STRENGTHS).correct, expected.correct)
        assert [module.training for module in surrogate] == [True, True, False, True, True]
        assert [parameter.requires_grad for parameter in surrogate.parameters()] == [False] + [True] * 5
        assert all(parameter.grad is None for parameter in surrogate.parameters())
        assert all(torch.equal(value, before[name]) for name, value in surrogate.state_dict().items())

    def test_one_gradient_serves_all_strengths(self, digits):
        model, images, labels = digits
        surrogate = Counting(model)
        TransferredFGSM(surrogate)(model, images, labels, (0,))
        assert surrogate.images == 0
        TransferredFGSM(surrogate)(model, images, labels, STRENGTHS)
        assert surrogate.images == len(images) + 1  # one to count the classes

    def test_a_surrogate_of_fewer_classes_is_refused(self, digits):
        model, images, labels = digits
        surrogate = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
        with pytest.raises(InputError, match=r"^labels: from 0 to 9; the surrogate has 5 classes, 0 to 4$"):
            TransferredFGSM(surrogate)(model, images, labels, STRENGTHS)


class TestPGD:
    def test_robust_accuracy_of_a_model_where_it_is_known(self):
        # Distances to the nearest boundary: 0.05, 0.05, 0.01, and one image that is wrong to begin with.
        images, labels = flat(0.4, 0.5, 0.44, 0.6), torch.tensor([4, 5, 4, 2])
        outcome = PGD()(Brightness(), images, labels, (0, 0.005, 0.03, 0.06), batch_size=3)
        assert outcome.correct.sum(dim=1).tolist() == [3, 3, 2, 0]
        assert outcome.example_strength.tolist() == pytest.approx([0.06, 0.06, 0.03, 0])

    def test_does_what_the_paper_says(self, digits):
        """A plain loop over all images, each strength by itself."""
        model, images, labels = digits
        outcome = PGD(steps=5)(model, images, labels, STRENGTHS, seed=3)
        start = 2 * torch.rand(images.shape[1:], generator=seeded_generator(3, Stream.PGD)) - 1
        broken, examples = model(images).argmax(dim=1) != labels, images.clone()
        for eps, correct in zip(STRENGTHS, outcome.correct, strict=True):
            attacked = (images + eps * start).clamp(0, 1)
            for step in range(6 if eps else 0):
                if step:
                    attacked = attacked + 2.5 * eps / 5 * gradient_sign(model, attacked, labels)
                    attacked = (images + (attacked - images).clamp(-eps, eps)).clamp(0, 1)
                newly = ~broken & (model(attacked).argmax(dim=1) != labels)
                examples[newly], broken[newly] = attacked[newly], True
            assert alike(correct, ~broken)
        assert apart(outcome.examples, examples) <= 1
        assert len({*outcome.correct.sum(dim=1).tolist()}) == 5

    def test_breaks_more_than_one_step(self, digits):
        one, many = FGSM()(*digits, STRENGTHS).correct, PGD()(*digits, STRENGTHS).correct
        assert (many.sum(dim=1) <= one.sum(dim=1)).all() and many.sum() < one.sum()

    def test_a_broken_image_stays_so_at_larger_strengths(self):
        outcome = PGD()(Window(), flat(0.45, 0.55), torch.tensor([0, 0]), (0.01, 0.1, 0.3))
        assert outcome.correct.T.tolist() == [[True, False, False], [False, False, False]]
        assert outcome.example_strength.tolist() == pytest.approx([0.1, 0])

    def test_the_start_counts_and_is_shared_by_all_images_and_strengths(self):
        """Without a gradient nothing but the start moves; one pixel of it decides."""

        class FirstPixel(nn.Module):
            def forward(self, images):
                above = (images[:, 0, 0, 0] > 0.5).float() + 0 * images.sum(dim=(1, 2, 3))
                return torch.stack([0.5 - above, above - 0.5], dim=1)

        draws = {seed: torch.rand(1, 8, 8, generator=seeded_generator(seed, Stream.PGD)) for seed in range(20)}
        seed = next(seed for seed, draw in draws.items() if draw[0, 0, 0] > 0.7)
        moved = 2 * draws[seed][0, 0, 0].item() - 1
        images = flat(0.5 - 0.099 * moved, 0.5 - 0.101 * moved, 0.5 - 0.199 * moved, 0.5 - 0.201 * moved)
        outcome = PGD()(FirstPixel(), images, torch.zeros(4, dtype=torch.long), (0.1, 0.2), seed=seed, batch_size=2)
        assert outcome.correct.tolist() == [[False, True, True, True], [False, False, False, True]]

    def test_images_that_are_broken_cost_no_more(self, digits):
        model, images, labels = digits
        counted = []
        for strengths in ((1e-6,), (0.9,), (0.9, 1)):
            counting = Counting(model)
            PGD()(counting, images, labels, strengths)
            counted.append(counting.images)
        assert counted[0] == 40 + 21 * 35  # clean, and the start and 20 steps of those that are right
        assert 40 + 35 <= counted[1] < 40 + 4 * 35 and counted[2] == counted[1]

    def test_steps_must_be_one_or_more(self):
        with pytest.raises(InputError, match=r"^steps=0: must be at least 1$"):
            PGD(steps=0)


def test_titles():
    assert FGSM().title == "FGSM Linf"
    assert PGD().title == "PGD Linf (20 steps)" and PGD(steps=7).title == "PGD Linf (7 steps)"
    assert TransferredFGSM(Window(), "ResNet18").title == "transferred FGSM (from ResNet18)"
    for attack in (FGSM(), PGD(), TransferredFGSM(Window())):
        assert attack.norm == "Linf" and attack.largest == 1
