import time

import pytest
import torch
from networks import alike, apart
from test_evaluation import Brightness, Counted, flat
from torch import nn

from brainreg.attacks import PGD, AutoAttack, Noise
from brainreg.attacks.parts import KEPT_EXAMPLES, attack_within


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

    def test_one_batch_where_there_is_none(self):
        assert self.measure(seconds=0).correct.shape == (1, 3)

    def test_no_batch_is_begun_that_would_end_too_late(self, monkeypatch):
        clock = [0.0]
        attack = AutoAttack.__call__

        def slow(*arguments, **options):
            clock[0] += 10
            return attack(*arguments, **options)

        monkeypatch.setattr(time, "monotonic", lambda: clock[0])
        monkeypatch.setattr(AutoAttack, "__call__", slow)
        measured = self.measure(seconds=29)
        assert measured.correct.shape == (1, 6) and clock == [20.0] and measured.seconds == 20

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
        assert nothing.seen == 0

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
        assert model.seen > 0

    def test_other_weights_are_another_model(self, tmp_path):
        linear = nn.Sequential(nn.Flatten(), nn.Linear(16, 10))
        self.measure(linear, tmp_path)
        written = len(list(tmp_path.iterdir()))
        with torch.no_grad():
            linear[1].bias[0] += 1
        self.measure(linear, tmp_path)
        assert len(list(tmp_path.iterdir())) == 2 * written

    def test_a_damaged_part_is_measured_again(self, tmp_path):
        expected = self.measure(Brightness(), tmp_path)
        for path in tmp_path.iterdir():
            path.write_bytes(path.read_bytes()[:100])
        assert torch.equal(self.measure(Brightness(), tmp_path).correct, expected.correct)
