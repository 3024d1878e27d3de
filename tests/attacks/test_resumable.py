import time

import pytest
import torch
from networks import alike, apart
from testing import Brightness, Counted, flat
from torch import nn

from brainreg.attacks import PGD, AutoAttack, Noise
from brainreg.attacks.resumable import KEPT_EXAMPLES, attack_within


class TestAttackWithin:
    images, labels = flat(*[0.4] * 10), torch.full((10,), 4)
    attack = AutoAttack(version="custom", attacks=("apgd-ce",), n_iter=2)

    def measure(self, **options):
        return attack_within(self.attack, Brightness(), self.images, self.labels, [0.01], batch_size=3, **options)

    def test_all_images_where_there_is_time(self):
        progress = []
        measured = self.measure(on_progress=lambda *numbers: progress.append(numbers))
        assert measured.correct.tolist() == [[True] * 10]
        assert [numbers for i, numbers in enumerate(progress) if numbers not in progress[:i]][-4:] == [
            (3, 10),
            (6, 10),
            (9, 10),
            (10, 10),
        ]

    def test_a_few_images_where_there_is_no_time(self):
        measured = attack_within(self.attack, Brightness(), self.images, self.labels, [0.01], seconds=0)
        assert measured.correct.shape == (1, 4)
        assert self.measure(seconds=0).correct.shape == (1, 3)  # a batch, where it is smaller

    @pytest.mark.parametrize(
        ("fixed", "each", "seconds", "count", "most"),
        [
            (0, 1, 10, 10, 10),  # each image takes as long as any other
            (0, 1, 100, 100, 100),
            (0, 1, 2, 4, 4),  # a few in any case
            (10, 0, 45, 100, 40),  # a batch takes as long as any other
            (10, 0.1, 60, 150, 60),
        ],
    )
    def test_a_limit_is_kept(self, monkeypatch, fixed, each, seconds, count, most):
        clock, images = [0.0], flat(*[0.4] * 1000)
        attack = AutoAttack.__call__

        def slow(self, model, images, *arguments, **options):
            clock[0] += fixed + each * len(images)
            return attack(self, model, images, *arguments, **options)

        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        monkeypatch.setattr(AutoAttack, "__call__", slow)
        labels = torch.full((1000,), 4)
        measured = attack_within(self.attack, Brightness(), images, labels, [0.01], batch_size=1000, seconds=seconds)
        assert measured.correct.shape[1] >= count and clock[0] <= most and measured.seconds == pytest.approx(clock[0])

    def test_what_a_later_batch_shows_of_masks_changes_earlier_ones(self):
        """Images of class 5 stand in the masked region; those of class 4, which come first, do not."""

        class Half(nn.Module):
            def forward(self, images):
                masked = (images.mean(dim=(1, 2, 3), keepdim=True) > 0.45).float()
                return Brightness()(masked * images.detach() + (1 - masked) * images)

        images, labels = flat(*[0.4] * 6, *[0.5] * 6), torch.tensor([4] * 6 + [5] * 6)
        measured = attack_within(self.attack, Half(), images, labels, [0.01, 0.03], batch_size=6)
        assert measured.masked.tolist() == [0] * 6 + [1] * 6 and not measured.inferred.any()
        alone = attack_within(self.attack, Half(), images[:6], labels[:6], [0.01, 0.03], batch_size=6)
        assert alone.inferred[0].any() and alone.correct.all()

    def test_noise_is_not_divided(self):
        images = torch.rand(300, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        labels = Brightness()(images).argmax(dim=1)
        whole = Noise("Gaussian")(Brightness(), images, labels, [0.3])
        measured = attack_within(Noise("Gaussian"), Brightness(), images, labels, [0.3], seconds=0, batch_size=7)
        assert torch.equal(measured.correct, whole.correct)

    def test_the_nearest_examples_are_kept(self):
        images = torch.rand(60, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        labels = Brightness()(images).argmax(dim=1)
        labels[:5] = (labels[:5] + 1) % 10  # wrong without an attack: no example
        strengths = [0.01, 0.02, 0.05]
        measured = attack_within(PGD(), Brightness(), images, labels, strengths, batch_size=40)
        outcome = PGD()(Brightness(), images, labels, strengths)
        assert alike(measured.correct, outcome.correct)
        assert len(measured.kept) == 2 * KEPT_EXAMPLES and measured.kept.min() >= 5
        assert apart(measured.examples, outcome.examples[measured.kept]) <= 1
        assert torch.equal(measured.predicted, Brightness()(measured.examples).argmax(dim=1))
        assert (measured.predicted != labels[measured.kept]).all()
        needed = outcome.example_strength[:40]
        assert measured.example_strength[measured.kept[:16]].max() <= needed[needed > 0].sort().values[15]


class Inverse(nn.Module):
    """The other way round than Brightness."""

    def forward(self, images):
        return -Brightness()(images)


class TestParts:
    images = torch.rand(12, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = Brightness()(images).argmax(dim=1)

    def measure(self, model, folder, **options):
        given = {"attack": PGD(), "labels": self.labels, "strengths": [0.01, 0.05], "seed": 0, **options}
        return attack_within(
            given["attack"], model, self.images, given["labels"], given["strengths"],
            seed=given["seed"], batch_size=5, parts=folder,
        )  # fmt: skip

    def test_an_interrupted_attack_goes_on(self, tmp_path):
        whole = Counted()
        expected = self.measure(whole, None)
        with pytest.raises(KeyboardInterrupt):
            self.measure(Counted(most=0.7 * whole.seen), tmp_path)
        assert 1 <= len(list(tmp_path.iterdir())) < 3
        rest = Counted()
        measured = self.measure(rest, tmp_path)
        assert 0 < rest.seen < 0.7 * whole.seen
        for name in ("correct", "example_strength", "kept", "examples", "predicted"):
            assert torch.equal(getattr(measured, name), getattr(expected, name))
        nothing = Counted()
        self.measure(nothing, tmp_path)
        assert nothing.seen <= 16  # those that tell whether it is the same model

    @pytest.mark.parametrize(
        "changed",
        [
            {"attack": PGD(steps=5)},
            {"strengths": [0.01, 0.06]},
            {"seed": 1},
            {"labels": (labels + 1) % 10},
        ],
    )
    def test_what_differs_is_measured_again(self, tmp_path, changed):
        self.measure(Counted(), tmp_path)
        model = Counted()
        self.measure(model, tmp_path, **changed)
        assert model.seen > 16

    def test_other_weights_are_another_model(self, tmp_path):
        linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
        self.measure(linear, tmp_path)
        written = len(list(tmp_path.iterdir()))
        with torch.no_grad():
            linear[1].bias[0] += 1
        self.measure(linear, tmp_path)
        assert len(list(tmp_path.iterdir())) == 2 * written

    @pytest.mark.parametrize("change", ["quantized", "wrapped", "straight through", "other class", "version"])
    def test_the_same_weights_may_be_another_model(self, tmp_path, change, monkeypatch):
        linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 10)).eval()
        labels = linear(self.images).argmax(dim=1)
        first = self.measure(linear, tmp_path, labels=labels)
        original = nn.Flatten.forward

        def quantized(self, images):
            levels = 3 if change == "quantized" else 255
            steps = (images * levels).round() / levels
            return original(self, steps if change == "quantized" else images + (steps - images).detach())

        other = linear
        if change in ("quantized", "straight through"):
            monkeypatch.setattr(nn.Flatten, "forward", quantized)  # the same modules by name
        elif change == "wrapped":
            other = nn.Sequential(linear, nn.Identity())
        elif change == "other class":
            other = nn.Sequential(type("Flatten", (nn.Flatten,), {})(), linear[1]).eval()
        else:
            monkeypatch.setattr("brainreg.attacks.resumable.version", lambda name: "0.0")
        seen = []
        # On a layer that both have: hooks are no part of what a model is known by.
        linear[1].register_forward_pre_hook(lambda module, inputs: seen.append(len(inputs[0])))
        measured = self.measure(other, tmp_path, labels=labels)
        assert sum(seen) > 16  # it was attacked
        if change == "quantized":
            assert torch.equal(measured.correct, self.measure(other, None, labels=labels).correct)
            assert not torch.equal(measured.correct, first.correct)

    def test_models_without_weights_do_not_share(self, tmp_path):
        self.measure(Brightness(), tmp_path)
        inverse = Inverse()
        expected, measured = self.measure(inverse, None), self.measure(inverse, tmp_path)
        assert torch.equal(measured.correct, expected.correct) and not measured.correct.any()

    def test_a_damaged_part_is_measured_again(self, tmp_path):
        expected = self.measure(Brightness(), tmp_path)
        for path in tmp_path.iterdir():
            path.write_bytes(path.read_bytes()[:100])
        assert torch.equal(self.measure(Brightness(), tmp_path).correct, expected.correct)
