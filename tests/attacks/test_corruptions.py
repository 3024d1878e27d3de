import builtins

import numpy as np
import pytest
import torch
from networks import alike
from PIL import Image
from torch import nn

from brainreg.attacks import corruptions
from brainreg.attacks.corruptions import CORRUPTIONS, Corruption, corrupt, load_published, mean_accuracy
from brainreg.errors import InputError

ALL = (0, 1, 2, 3, 4, 5)
# Ever stronger, whatever the image; of the others, severities differ in more than strength.
ORDERED = ("gaussian_noise", "shot_noise", "impulse_noise", "defocus_blur", "contrast", "pixelate", "jpeg_compression")


@pytest.fixture(scope="module")
def gray(golden) -> torch.Tensor:
    """Six real CIFAR-10 images in gray."""
    return golden.images[:6].float() / 255


@pytest.fixture(scope="module")
def color(golden) -> torch.Tensor:
    """Six images in color, made of real ones in gray."""
    return torch.cat([golden.images[:6], golden.images[6:12], golden.images[12:18]], dim=1).float() / 255


@pytest.fixture(scope="module")
def model() -> nn.Module:
    """A network with random weights; its BatchNorm would give train mode away."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layers = nn.Conv2d(3, 8, 5, stride=2), nn.BatchNorm2d(8), nn.Dropout(0.5), nn.Flatten(), nn.Linear(1568, 10)
    return nn.Sequential(*layers)


def predicted(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return classes in eval mode."""
    training = model.training
    with torch.no_grad():
        classes = model.eval()(images).argmax(dim=1)
    model.train(training)
    return classes


def to_pixels(images: torch.Tensor) -> np.ndarray:
    """Return images as the library takes them: (n, h, w, c) uint8."""
    return (images * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()


def test_the_kinds_are_those_of_the_library():
    library = pytest.importorskip("imagecorruptions")
    assert list(CORRUPTIONS) == library.get_corruption_names("common")


@pytest.mark.parametrize("kind", ["brightness", "contrast", "pixelate", "jpeg_compression", "zoom_blur"])
def test_what_is_drawn_by_nothing_is_what_the_library_makes(kind, color):
    library = pytest.importorskip("imagecorruptions")
    expected = np.stack([library.corrupt(image, 4, kind) for image in to_pixels(color)])
    assert np.array_equal(to_pixels(corrupt(kind, color, 4)), expected)


def test_gray_images_are_corrupted_in_color_and_turned_back(gray):
    library = pytest.importorskip("imagecorruptions")
    made = [library.corrupt(image[..., 0].repeat(3).reshape(32, 32, 3), 4, "contrast") for image in to_pixels(gray)]
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in made])
    assert np.array_equal(to_pixels(corrupt("contrast", gray, 4))[..., 0], expected)


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_every_kind_changes_images_and_stays_in_range(kind, gray, color):
    for images in (gray, color):
        for severity in (1, 5):
            made = corrupt(kind, images, severity)
            assert made.shape == images.shape and made.dtype == images.dtype
            assert made.min() >= 0 and made.max() <= 1
            assert ((made - images).abs().mean(dim=(1, 2, 3)) > 0.003).all()


@pytest.mark.parametrize("kind", CORRUPTIONS)
def test_draws_depend_on_seed_position_and_severity_alone(kind, gray):
    made = corrupt(kind, gray, 3, seed=1)
    np.random.seed(5)  # of no consequence
    assert torch.equal(corrupt(kind, gray, 3, seed=1), made)
    assert torch.equal(corrupt(kind, gray[:2], 3, seed=1), made[:2])
    assert torch.equal(corrupt(kind, torch.cat([gray[:1], gray[:5].flip(3)]), 3, seed=1)[:1], made[:1])
    drawn = kind not in ("defocus_blur", "zoom_blur", "brightness", "contrast", "pixelate", "jpeg_compression")
    assert torch.equal(corrupt(kind, gray, 3, seed=2), made) != drawn
    same = corrupt(kind, gray[:1].expand(4, -1, -1, -1), 3, seed=1)
    assert torch.equal(same, same[:1].expand_as(same)) != drawn


@pytest.mark.parametrize("kind", ORDERED)
def test_severities_go_up(kind, golden):
    images = golden.images[:12].float() / 255
    change = [(corrupt(kind, images, severity) - images).abs().mean().item() for severity in range(1, 6)]
    assert change == sorted(change) and change[4] > 1.3 * change[0]


def test_gaussian_noise_is_as_strong_as_in_imagenet_c():
    """Standard deviations 0.08 to 0.38; on gray images, luma's weights take the root of their squares' sum of it."""
    images = torch.full((8, 3, 32, 32), 0.5)
    assert (corrupt("gaussian_noise", images, 1) - 0.5).std().item() == pytest.approx(0.08, rel=0.02)
    assert (corrupt("gaussian_noise", images, 2) - 0.5).std().item() == pytest.approx(0.12, rel=0.02)
    luma = (0.299**2 + 0.587**2 + 0.114**2) ** 0.5
    assert (corrupt("gaussian_noise", images[:, :1], 1) - 0.5).std().item() == pytest.approx(0.08 * luma, rel=0.03)


def test_larger_images_need_not_be_square(golden):
    images = torch.from_numpy(np.kron(golden.images[:2].numpy(), np.ones((1, 1, 2, 3), np.uint8))).float() / 255
    for kind in CORRUPTIONS:
        assert corrupt(kind, images[:, :, :40, :70], 5).shape == (2, 1, 40, 70)


class TestOutcome:
    def test_is_of_the_corrupted_images(self, model, color):
        labels = predicted(model, color)
        labels[0] = (labels[0] + 1) % 10
        outcome = Corruption("gaussian_noise")(model, color, labels, ALL, seed=3)
        for severity, correct in zip(ALL, outcome.correct, strict=True):
            seen = corrupt("gaussian_noise", color, severity, seed=3) if severity else color
            assert torch.equal(correct, predicted(model, seen) == labels)
        assert outcome.correct[0].sum() == 5 and outcome.correct[5].sum() < 5
        broken = outcome.example_strength.isfinite()
        assert (predicted(model, outcome.examples)[broken] != labels[broken]).all()
        for i in range(1, 6):
            strength = outcome.example_strength[i].item()
            shown = corrupt("gaussian_noise", color, int(strength), seed=3) if np.isfinite(strength) else color
            assert torch.equal(outcome.examples[i], shown[i])
        assert outcome.example_strength[0] == 0 and torch.equal(outcome.examples[0], color[0])

    def test_depends_on_no_batch(self, model, color):
        labels = predicted(model, color)
        outcomes = [Corruption("snow")(model, color, labels, ALL, seed=3, batch_size=size) for size in (1, 4, 250)]
        assert not outcomes[0].correct.all()
        for outcome in outcomes[1:]:
            assert alike(outcome.correct, outcomes[0].correct)
            assert torch.equal(outcome.examples, outcomes[0].examples)

    def test_takes_the_published_images(self, model, color):
        labels = predicted(model, color)
        published = torch.randint(0, 256, (5, *color.shape), generator=torch.Generator().manual_seed(0)).byte()
        outcome = Corruption("fog", published, "CIFAR-10-C")(model, color, labels, (0, 2, 5))
        assert outcome.correct[0].all() and not outcome.correct[1:].all()
        assert torch.equal(outcome.correct[1], predicted(model, published[1].float() / 255) == labels)
        assert torch.equal(outcome.correct[2], predicted(model, published[4].float() / 255) == labels)

    def test_published_images_may_be_small(self):
        images, labels = torch.zeros(2, 1, 4, 4), torch.zeros(2, dtype=torch.long)
        light = nn.Sequential(nn.Flatten(), nn.Linear(16, 2, bias=False))
        with torch.no_grad():
            light[1].weight[0], light[1].weight[1] = 0, 1  # class 1 as soon as there is any light
        published = torch.zeros(5, 2, 1, 4, 4, dtype=torch.uint8)
        published[3:, 1] = 1
        outcome = Corruption("fog", published)(light, images, labels, ALL)
        assert outcome.correct.tolist() == [[True, True]] * 4 + [[True, False]] * 2
        assert outcome.example_strength.tolist() == [float("inf"), 4]

    def test_leaves_everything_as_it_was_found(self, model, color):
        model.train()
        model[1].eval()
        np.random.seed(7)
        torch.manual_seed(7)
        numpy_state, state, before = np.random.get_state(), torch.get_rng_state(), color.clone()
        running_mean = model[1].running_mean.clone()
        for kind in CORRUPTIONS:
            Corruption(kind)(model, color, torch.zeros(6, dtype=torch.long), (0, 1))
        assert all(np.array_equal(a, b) for a, b in zip(numpy_state, np.random.get_state(), strict=True))
        assert torch.equal(torch.get_rng_state(), state) and torch.equal(color, before)
        assert [module.training for module in model] == [True, False, True, True, True]
        assert all(parameter.requires_grad for parameter in model.parameters())
        assert torch.equal(model[1].running_mean, running_mean)

    def test_numpy_is_restored_after_an_error(self, color, monkeypatch):
        def broken(*args, **kwargs):
            raise RuntimeError("no such image")

        monkeypatch.setattr(pytest.importorskip("imagecorruptions"), "corrupt", broken)
        state = np.random.get_state()
        with pytest.raises(RuntimeError, match="no such image"):
            corrupt("fog", color, 1)
        assert all(np.array_equal(a, b) for a, b in zip(state, np.random.get_state(), strict=True))

    def test_tells_its_progress(self, model, color):
        seen = []
        Corruption("contrast")(
            model, color, torch.zeros(6, dtype=torch.long), (0, 1, 2), on_progress=lambda *counts: seen.append(counts)
        )
        assert seen == [(2, 6), (4, 6), (6, 6)]


def test_the_title_tells_where_the_images_are_from():
    assert Corruption("fog").title == "fog (generated)"
    published = torch.zeros(5, 1, 1, 4, 4, dtype=torch.uint8)
    assert Corruption("fog", published, "CIFAR-100-C").title == "fog (CIFAR-100-C)"
    assert Corruption("fog", published).title == "fog (published)"
    assert Corruption("fog").norm is None and Corruption("fog").largest == 5


def test_unusable_input_is_refused(model, color):
    labels = torch.zeros(6, dtype=torch.long)
    with pytest.raises(
        InputError, match=r"^corruption=fogg: no such corruption; did you mean fog\?.*jpeg_compression$"
    ):
        Corruption("fogg")
    with pytest.raises(InputError, match=r"^eps=1\.5: a severity; must be a whole number from 0 to 5$"):
        Corruption("fog")(model, color, labels, (0, 1.5))
    with pytest.raises(InputError, match=r"^eps=6: must be in \[0, 5\]$"):
        Corruption("fog")(model, color, labels, (1, 6))
    with pytest.raises(InputError, match=r"^images: 28x32 pixels; corruptions need 32x32 or more$"):
        Corruption("fog")(model, color[:, :, :28], labels, ALL)
    with pytest.raises(InputError, match=r"^images: 2 channels; corruptions need 1 or 3$"):
        corrupt("fog", color[:, :2], 1)
    with pytest.raises(InputError, match="pixels from"):
        corrupt("fog", color * 2, 1)
    published = torch.zeros(5, 5, 3, 32, 32, dtype=torch.uint8)
    with pytest.raises(InputError, match=r"^fog \(published\): \(5, 5, 3, 32, 32\); must be \(5, 6, 3, 32, 32\)"):
        Corruption("fog", published)(model, color, labels, ALL)


def test_a_library_that_cannot_be_imported_is_told_in_one_line(color, monkeypatch):
    imported = builtins.__import__

    def fail(name, *args, **kwargs):
        if name == "imagecorruptions":
            raise ImportError("libGL.so.1: cannot open shared object file")
        return imported(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", fail)
    with pytest.raises(InputError, match=r"^corruptions: .*\(libGL\.so\.1: .*\); install it") as caught:
        corrupt("fog", color, 1)
    assert "\n" not in str(caught.value)


class TestPublished:
    @pytest.fixture
    def folder(self, tmp_path, monkeypatch):
        """CIFAR-10-C of 8 test images instead of 10,000."""
        monkeypatch.setattr(corruptions, "_TEST_IMAGES", 8)
        draws = np.random.default_rng(0)
        for name in ("CIFAR-10-C", "CIFAR-100-C"):
            (tmp_path / name).mkdir()
            for kind in CORRUPTIONS:
                np.save(tmp_path / name / f"{kind}.npy", draws.integers(0, 256, (40, 32, 32, 3), np.uint8))
            np.save(tmp_path / name / "labels.npy", np.tile(np.array([3, 8, 8, 0, 6, 6, 1, 6], np.uint8), 5))
        return tmp_path

    index, labels = torch.tensor([6, 0, 3]), torch.tensor([1, 3, 0])

    @pytest.mark.parametrize(("name", "where"), [("CIFAR10", "CIFAR-10-C"), ("CIFAR100", "CIFAR-100-C")])
    def test_round_trip(self, folder, name, where):
        loaded = load_published(folder, name, self.index, self.labels, rgb=True)
        assert tuple(loaded) == CORRUPTIONS
        for kind, images in loaded.items():
            file = np.load(folder / where / f"{kind}.npy")
            assert images.shape == (5, 3, 3, 32, 32) and images.dtype == torch.uint8
            for severity in range(5):
                for place, i in enumerate(self.index.tolist()):
                    expected = file[severity * 8 + i].transpose(2, 0, 1)
                    assert np.array_equal(images[severity, place], expected)

    def test_gray_is_luma(self, folder):
        images = load_published(folder, "CIFAR10", [6, 0, 3], self.labels, rgb=False)["frost"]
        assert images.shape == (5, 3, 1, 32, 32)
        file = np.load(folder / "CIFAR-10-C" / "frost.npy")
        for severity in range(5):
            expected = np.asarray(Image.fromarray(file[severity * 8 + 6]).convert("L"))
            assert np.array_equal(images[severity, 0, 0], expected)

    def test_it_can_be_attacked_with(self, folder, model):
        images = load_published(folder, "CIFAR10", self.index, self.labels, rgb=True)["frost"]
        outcome = Corruption("frost", images)(model, torch.rand(3, 3, 32, 32), self.labels, ALL)
        assert torch.equal(outcome.correct[2], predicted(model, images[1].float() / 255) == self.labels)

    def test_none_where_there_is_none(self, folder):
        assert load_published(folder / "elsewhere", "CIFAR10", self.index, self.labels, rgb=True) is None
        assert load_published(folder, "MNIST", self.index, self.labels, rgb=False) is None

    def test_images_in_another_order_are_refused(self, folder):
        message = "labels.npy: not the labels of these test images; the published files follow torchvision's order"
        with pytest.raises(InputError, match=message):
            load_published(folder, "CIFAR10", self.index, torch.tensor([1, 3, 1]), rgb=True)
        with pytest.raises(InputError, match=message):
            load_published(folder, "CIFAR10", torch.tensor([8]), torch.tensor([3]), rgb=True)

    @pytest.mark.parametrize("name", ["labels", "snow"])
    @pytest.mark.parametrize("damage", ["missing", "empty", "short", "other", "shape", "floats", "pickle"])
    def test_a_damaged_folder_is_told_in_one_line(self, folder, name, damage):
        path = folder / "CIFAR-10-C" / f"{name}.npy"
        array = np.load(path)
        if damage == "missing":
            path.unlink()
        elif damage in ("empty", "short"):
            path.write_bytes(path.read_bytes()[:-10] if damage == "short" else b"")
        elif damage == "other":
            path.write_bytes(b"\x93NUMPY, once")
        else:
            np.save(path, {"shape": array[1:], "floats": array / 2, "pickle": array.astype(object)}[damage])
        with pytest.raises(
            InputError, match=f"{name}.npy: {'missing' if damage == 'missing' else 'damaged'}"
        ) as caught:
            load_published(folder, "CIFAR10", self.index, self.labels, rgb=True)
        assert "\n" not in str(caught.value)


def test_mean_accuracy():
    def correct(*correct_of_four: int) -> torch.Tensor:
        return torch.tensor([[True] * k + [False] * (4 - k) for k in correct_of_four])

    assert mean_accuracy([correct(4, 4, 3, 2, 1, 0)]) == pytest.approx(0.5)  # clean does not count
    assert mean_accuracy([correct(4, 3, 2, 1, 0), correct(0, 0, 0, 0, 0)]) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="correct: 3 strengths"):
        mean_accuracy([correct(4, 3, 2)])
