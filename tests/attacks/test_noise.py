from typing import get_args

import networks
import pytest
import torch

from brainreg.attacks import NOISES, Noise, add_noise
from brainreg.attacks.noise import NoiseName
from brainreg.errors import InputError

IMAGES = 0.2 + 0.6 * torch.rand(400, 1, 8, 8, generator=torch.Generator().manual_seed(0))


def wide(kind: str, eps: float) -> torch.Tensor:
    """Noise that nothing clips: on images of 0.5 with one black and one white pixel, which are left out."""
    images = torch.full((600, 1, 10, 10), 0.5)
    images[:, :, 0, 0], images[:, :, 0, 1] = 0, 1
    return (add_noise(kind, images, eps) - images)[:, :, 1:]


def test_the_type_of_a_noise_names_all_noises():
    assert get_args(NoiseName) == tuple(NOISES)


def test_gaussian():
    noise = wide("Gaussian", 0.1)
    assert noise.mean().abs() < 0.002 and noise.std().item() == pytest.approx(0.1, rel=0.02)
    assert (noise.abs() > 0.2).float().mean().item() == pytest.approx(0.0455, abs=0.005)


def test_uniform():
    noise = wide("Uniform", 0.1)
    assert noise.abs().max() <= 0.1 + 1e-6 and noise.std().item() == pytest.approx(0.1 / 3**0.5, rel=0.02)


def test_salt_and_pepper():
    noise = wide("SaltPepper", 0.1)  # from 0.5, clipped to 0 or 1
    assert noise.abs().unique().tolist() == [0, 0.5]
    for value in (0.5, -0.5):
        assert (noise == value).float().mean().item() == pytest.approx(0.05, abs=0.005)


@pytest.mark.parametrize("kind", NOISES)
class TestEveryNoise:
    def test_each_image_keeps_the_range_of_its_clean_pixels(self, kind):
        noisy = add_noise(kind, IMAGES, 0.5)
        low, high = IMAGES.amin(dim=(1, 2, 3)), IMAGES.amax(dim=(1, 2, 3))
        assert torch.equal(noisy.amin(dim=(1, 2, 3)), low) and torch.equal(noisy.amax(dim=(1, 2, 3)), high)

    def test_strength_zero_changes_nothing(self, kind):
        assert torch.equal(add_noise(kind, IMAGES, 0), IMAGES)

    def test_is_seeded_and_does_not_depend_on_how_many_images_there_are(self, kind):
        noisy = add_noise(kind, IMAGES, 0.2, seed=1)
        assert torch.equal(noisy, add_noise(kind, IMAGES, 0.2, seed=1))
        assert not torch.equal(noisy, add_noise(kind, IMAGES, 0.2, seed=2))
        assert torch.equal(noisy[:250], add_noise(kind, IMAGES[:250], 0.2, seed=1))
        assert not torch.equal(noisy[:150] - IMAGES[:150], noisy[250:] - IMAGES[250:])

    def test_an_outcome_is_of_the_noisy_images(self, kind):
        model, images, labels = networks.digits()
        outcome = Noise(kind)(model, images, labels, (0.1, 0.5, 1), seed=3)
        noisy = {eps: add_noise(kind, images, eps, seed=3) for eps in (0.1, 0.5, 1)}
        for made, correct in zip(noisy.values(), outcome.correct, strict=True):
            assert torch.equal(correct, model(made).argmax(dim=1) == labels)
        assert outcome.correct[2].sum() < outcome.correct[0].sum()
        for i, strength in enumerate(outcome.example_strength.tolist()):
            eps = next((eps for eps in noisy if strength == pytest.approx(eps)), None)
            assert torch.equal(outcome.examples[i], images[i] if eps is None else noisy[eps][i])
        wrong = model(images).argmax(dim=1) != labels
        assert torch.equal(outcome.example_strength == 0, wrong) and outcome.example_strength.isinf().any()


def test_unknown_noise_is_named():
    with pytest.raises(InputError, match=r"noise=Gausian: no such noise; did you mean Gaussian\?"):
        add_noise("Gausian", IMAGES, 0.1)
