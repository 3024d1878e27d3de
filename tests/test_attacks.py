import sys

import pyautoattack
import pytest
import torch
from pydantic import ValidationError
from torch import nn

from brainreg.attacks import NOISES, AutoAttack, add_noise, strongest
from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.training import load_training_data, to_float, train

SHORT = AutoAttack(version="custom", attacks=("apgd-ce", "apgd-t"), n_iter=10, n_target_classes=3)
EPS = 0.08


@pytest.fixture(scope="module")
def trained():
    """A small real classifier, and 40 validation images with their labels."""
    settings = Hyperparameters(task="digits", base_channels=4, epoch_num=4, resnet_batch_size=32, valid_portion=0.1)
    data = load_training_data(settings)
    classifier = train(settings, data, device="cpu").classifier
    return classifier, to_float(data.valid_images[:40]), data.valid_labels[:40]


class TestNoise:
    images = 0.2 + 0.6 * torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))

    def wide(self, kind: str, eps: float) -> torch.Tensor:
        """Noise that nothing clips: on images of 0.5 with one black and one white pixel, which are left out."""
        images = torch.full((600, 1, 10, 10), 0.5)
        images[:, :, 0, 0], images[:, :, 0, 1] = 0, 1
        return (add_noise(kind, images, eps) - images)[:, :, 1:]

    def test_gaussian(self):
        noise = self.wide("Gaussian", 0.1)
        assert noise.mean().abs() < 0.002 and noise.std().item() == pytest.approx(0.1, rel=0.02)
        assert (noise.abs() > 0.2).float().mean().item() == pytest.approx(0.0455, abs=0.005)

    def test_uniform(self):
        noise = self.wide("Uniform", 0.1)
        assert noise.abs().max() <= 0.1 + 1e-6 and noise.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)

    def test_salt_and_pepper(self):
        noise = self.wide("SaltPepper", 0.1)  # from 0.5, clipped to 0 or 1
        assert noise.abs().unique().tolist() == [0, 0.5]
        for value in (0.5, -0.5):
            assert (noise == value).float().mean().item() == pytest.approx(0.05, abs=0.005)

    @pytest.mark.parametrize("kind", NOISES)
    def test_each_image_keeps_the_range_of_its_clean_pixels(self, kind):
        noisy = add_noise(kind, self.images, 0.5)
        low, high = self.images.amin(dim=(1, 2, 3)), self.images.amax(dim=(1, 2, 3))
        assert torch.equal(noisy.amin(dim=(1, 2, 3)), low) and torch.equal(noisy.amax(dim=(1, 2, 3)), high)

    @pytest.mark.parametrize("kind", NOISES)
    def test_strength_zero_changes_nothing(self, kind):
        assert torch.equal(add_noise(kind, self.images, 0), self.images)

    @pytest.mark.parametrize("kind", NOISES)
    def test_noise_is_seeded_and_does_not_depend_on_how_many_images_there_are(self, kind):
        noisy = add_noise(kind, self.images, 0.2, seed=1)
        assert torch.equal(noisy, add_noise(kind, self.images, 0.2, seed=1))
        assert not torch.equal(noisy, add_noise(kind, self.images, 0.2, seed=2))
        assert torch.equal(noisy[:250], add_noise(kind, self.images[:250], 0.2, seed=1))
        assert not torch.equal(noisy[:150] - self.images[:150], noisy[250:] - self.images[250:])

    def test_unknown_noise_is_named(self):
        with pytest.raises(InputError, match=r"noise=Gausian: no such noise; did you mean Gaussian\?"):
            add_noise("Gausian", self.images, 0.1)


class TestAutoAttack:
    def test_strength_zero_is_clean_accuracy(self, trained):
        classifier, images, labels = trained
        clean = classifier(images).argmax(dim=1) == labels
        assert torch.equal(SHORT(classifier, images, labels, eps=0), clean)

    def test_it_breaks_images_and_no_more_at_a_small_strength(self, trained):
        classifier, images, labels = trained
        survived = [int(SHORT(classifier, images, labels, eps=eps).sum()) for eps in (0, 0.02, EPS, 0.5)]
        assert survived == sorted(survived, reverse=True)
        assert survived[0] > 30 and 0 < survived[2] < survived[0] and survived[3] == 0

    def test_a_custom_version_is_the_authors_attacks_with_fewer_steps(self, trained):
        classifier, images, labels = trained
        adversary = pyautoattack.autopgd_base.APGDAttack(
            classifier, n_iter=10, norm="Linf", eps=EPS, loss="ce", seed=3, device="cpu"
        )
        broken = classifier(adversary.perturb(images, labels)).argmax(dim=1) != labels
        alone = AutoAttack(version="custom", attacks=("apgd-ce",), n_iter=10)
        assert torch.equal(alone(classifier, images, labels, eps=EPS, seed=3), ~broken)

    def test_standard_is_the_authors_own(self, trained):
        """A small perceptron, since the whole of AutoAttack on a network takes a minute; some images survive it."""
        images = trained[1]
        with torch.random.fork_rng():
            torch.manual_seed(0)
            model = nn.Sequential(nn.Flatten(), nn.Linear(256, 32), nn.ReLU(), nn.Linear(32, 10)).eval()
        labels = model(images).argmax(dim=1)
        adversary = pyautoattack.AutoAttack(model, norm="Linf", eps=0.01, version="standard", seed=0, device="cpu")
        _, predicted = adversary.run_standard_evaluation(images, labels, batch_size=40)
        ours = AutoAttack()(model, images, labels, eps=0.01, seed=0)
        assert torch.equal(ours, predicted == labels) and 0 < ours.sum() < 40

    def test_seeded_and_the_global_random_state_is_left_alone(self, trained):
        classifier, images, labels = trained
        torch.manual_seed(1)
        expected = torch.rand(1)
        torch.manual_seed(1)
        first = SHORT(classifier, images, labels, eps=EPS, seed=7)
        assert torch.rand(1) == expected
        assert torch.equal(first, SHORT(classifier, images, labels, eps=EPS, seed=7))

    def test_mode_gradients_and_tracing_are_left_as_they_were(self, trained):
        classifier, images, labels = trained
        classifier.train()
        classifier[1].sections[0].eval()
        frozen = next(classifier.parameters()).requires_grad_(False)
        before = {name: tensor.clone() for name, tensor in classifier.state_dict().items()}
        modes = [module.training for module in classifier.modules()]
        trace = sys.gettrace()
        try:
            SHORT(classifier, images, labels, eps=EPS)
            assert [module.training for module in classifier.modules()] == modes
            assert [p.requires_grad for p in classifier.parameters()] == [False] + [True] * (
                len(list(classifier.parameters())) - 1
            )
            assert all(parameter.grad is None for parameter in classifier.parameters())
            assert all(torch.equal(before[name], tensor) for name, tensor in classifier.state_dict().items())
            assert sys.gettrace() is trace
        finally:
            frozen.requires_grad_(True)
            classifier.eval()

    def test_a_model_in_train_mode_is_attacked_in_eval_mode(self, trained):
        classifier, images, labels = trained
        expected = SHORT(classifier, images, labels, eps=EPS)
        assert torch.equal(SHORT(classifier.train(), images, labels, eps=EPS), expected)
        classifier.eval()

    @pytest.mark.parametrize("norm", ["Linf", "L2", "L1"])
    def test_every_norm(self, trained, norm):
        classifier, images, labels = trained
        attack = SHORT.model_copy(update={"norm": norm})
        weak, strong = ({"Linf": 0.02, "L2": 0.2, "L1": 1.0}[norm] * factor for factor in (1, 40))
        strong = min(strong, 1.0) if norm == "Linf" else strong
        weakly, strongly = (attack(classifier, images, labels, eps=eps) for eps in (weak, strong))
        assert weakly.sum() > 20 and strongly.sum() < 10

    def test_fewer_classes_than_targets(self):
        """With five classes there are four wrong ones to aim at; the authors' code would fail on nine."""
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 5))
        images, labels = torch.rand(6, 1, 8, 8), torch.tensor([0, 1, 2, 3, 4, 0])
        outcome = AutoAttack(version="custom", attacks=("apgd-t", "fab-t"), n_iter=5)(model, images, labels, eps=1.0)
        assert not outcome.any()

    def test_three_classes_have_no_targeted_dlr(self):
        model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        with pytest.raises(InputError, match="DLR attacks need at least 4 classes, and there are 3"):
            AutoAttack()(model, torch.rand(2, 1, 2, 2), torch.tensor([0, 1]), eps=0.1)

    @pytest.mark.parametrize("classes", [2, 3])
    def test_the_strongest_that_few_classes_allow(self, classes):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, classes))
        images = torch.rand(6, 1, 8, 8)
        labels = model(images).argmax(dim=1)
        attack = strongest(classes).model_copy(update={"n_iter": 5, "n_queries": 10})
        assert "custom" in attack.title and strongest(4).title == "AutoAttack standard Linf"
        assert attack(model, images, labels, eps=1e-6).all() and not attack(model, images, labels, eps=0.5).any()

    @pytest.mark.parametrize(
        ("images", "labels", "eps", "message"),
        [
            (torch.rand(2, 1, 16, 16) * 255, [0, 1], 0.1, r"images: pixels from .* to .*; must be in \[0, 1\]"),
            (torch.rand(2, 1, 16, 16) - 0.5, [0, 1], 0.1, "images: pixels from -0"),
            (torch.full((2, 1, 16, 16), torch.nan), [0, 1], 0.1, "images: pixels from nan"),
            (torch.zeros(2, 1, 16, 16, dtype=torch.uint8), [0, 1], 0.1, "images: torch.uint8; must be floating"),
            (torch.rand(2, 1, 16, 16), [0, 1], -0.1, "eps=-0.1: must be in"),
            (torch.rand(2, 1, 16, 16), [0, 1], 8, "eps=8: must be in"),
            (torch.rand(2, 1, 16, 16), [0, 10], 0.1, "labels: from 0 to 10; the model has 10 classes"),
        ],
    )
    def test_wrong_input_is_named(self, trained, images, labels, eps, message):
        with pytest.raises(InputError, match=message):
            SHORT(trained[0], images, torch.tensor(labels), eps=eps)

    def test_titles_never_call_a_custom_version_standard(self):
        assert AutoAttack().title == "AutoAttack standard Linf"
        assert AutoAttack(version="plus", norm="L2").title == "AutoAttack plus L2"
        assert SHORT.title == "AutoAttack custom Linf (apgd-ce, apgd-t; 10 steps, 3 targets)"
        square = AutoAttack(version="custom", attacks=("square",), n_queries=50)
        assert square.title == "AutoAttack custom Linf (square; 50 queries)"

    @pytest.mark.parametrize(
        ("fields", "message"),
        [
            ({"version": "custom"}, "attacks: missing"),
            ({"version": "standard", "n_iter": 10}, "n_iter=10: fixed by the version standard"),
            ({"attacks": ["square"]}, r"attacks=\('square',\): fixed by the version standard"),
        ],
    )
    def test_versions_that_contradict_themselves(self, fields, message):
        with pytest.raises(ValidationError, match=message):
            AutoAttack(**fields)
