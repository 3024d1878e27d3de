import pytest
import torch
from pydantic import ValidationError
from testing import Brightness, Counted, flat
from torch import nn

from brainreg.attacks import CORRUPTIONS, Context
from brainreg.attacks.resumable import KEPT_EXAMPLES
from brainreg.data.datasets import DATASETS
from brainreg.errors import InputError, checked_value
from brainreg.evaluation.accuracy import correct, robust_accuracy
from brainreg.evaluation.plan import attacked_images, plan_attacks
from brainreg.evaluation.proxy import proxy_accuracy
from brainreg.evaluation.robustness import COLUMNS, evaluate
from brainreg.evaluation.settings import Evaluation
from brainreg.statistics import wilson_interval


def test_correct_in_batches():
    images, labels = flat(0.1, 0.2, 0.3, 0.44), torch.tensor([1, 2, 0, 4])
    for batch_size in (1, 3, 100):
        assert correct(Brightness(), images, labels, batch_size).tolist() == [True, True, False, True]


def test_robust_accuracy_of_a_model_where_it_is_known():
    # Distances to the nearest boundary: 0.05, 0.05, 0.01, and one image that is wrong to begin with.
    images, labels = flat(0.4, 0.5, 0.44, 0.6), torch.tensor([4, 5, 4, 2])
    known = {0.0: 3 / 4, 0.03: 2 / 4, 0.06: 0.0}
    for eps, accuracy in known.items():
        assert robust_accuracy(Brightness(), images, labels, eps=eps, batch_size=3) == accuracy


def test_the_proxy_is_an_upper_bound_that_follows():
    images = torch.rand(200, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = Brightness()(images).argmax(dim=1)
    centre = 10 * images.mean(dim=(1, 2, 3))
    distance = (0.5 - (centre - centre.round()).abs()) / 10
    proxies = [proxy_accuracy(Brightness(), images, labels, eps=eps) for eps in (0.002, 0.01, 0.03)]
    robust = [(distance > eps).float().mean().item() for eps in (0.002, 0.01, 0.03)]
    assert all(proxy >= accuracy for proxy, accuracy in zip(proxies, robust, strict=True))
    assert proxies == sorted(proxies, reverse=True) and proxies[0] > proxies[2]


def test_robust_accuracy_is_a_plain_number():
    assert isinstance(robust_accuracy(Brightness(), flat(0.4), torch.tensor([4]), eps=0.1), float)


@pytest.mark.parametrize(
    ("successes", "n", "low", "high"),
    # From the formula in exact arithmetic; 8 of 10 is the textbook's 0.490 to 0.943.
    [(8, 10, 0.4902, 0.9433), (0, 20, 0.0, 0.1611), (20, 20, 0.8389, 1.0), (500, 1000, 0.4691, 0.5309)],
)
def test_wilson_interval(successes, n, low, high):
    assert wilson_interval(successes, n) == pytest.approx((low, high), abs=1e-4)


def test_wilson_interval_of_nothing_is_everything():
    assert wilson_interval(0, 0) == (0, 1)


class TestFewClasses:
    """Three classes have no targeted DLR: the other attacks run, and nothing is refused."""

    model = nn.Sequential(nn.Flatten(), nn.Linear(16, 3))

    def test_robust_accuracy(self):
        images = torch.rand(6, 1, 4, 4, generator=torch.Generator().manual_seed(0))
        labels = self.model(images).argmax(dim=1)
        assert robust_accuracy(self.model, images, labels, eps=1e-6) == 1
        assert robust_accuracy(self.model, images, labels, eps=1) == 0

    def test_versions_that_are_no_version(self):
        with pytest.raises(InputError, match=r"^version=strong: no such choice"):
            robust_accuracy(self.model, torch.rand(2, 1, 4, 4), [0, 1], eps=0.1, version="strong")


def settings(**fields) -> Evaluation:
    return Evaluation(**{"num_epsilons": 2, "num_images": 5, **fields})


class TestEvaluate:
    images = torch.rand(30, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    labels = Brightness()(images).argmax(dim=1)

    def measured(self, **fields):
        return evaluate(Brightness(), self.images, self.labels, DATASETS["MNIST"], settings(**fields), seed=0)

    def test_a_row_for_each_attack_and_strength(self):
        table = self.measured().table
        assert tuple(table.columns) == (*COLUMNS, "inferred")
        assert (table.inferred <= table.correct).all() and (
            table.inferred[table.attack != "AutoAttack standard Linf"] == 0
        ).all()
        assert [(row.attack, round(row.eps, 3), row.n) for row in table.itertuples()] == [
            ("clean", 0, 30),
            ("Gaussian", 0, 30), ("Gaussian", 0.5, 30),
            ("Uniform", 0, 30), ("Uniform", 0.5, 30),
            ("SaltPepper", 0, 30), ("SaltPepper", 0.3, 30),
            *[("FGSM Linf", eps, 5) for eps in (0, 0.035, 0.07, 0.14)],
            *[("PGD Linf (20 steps)", eps, 5) for eps in (0, 0.035, 0.07, 0.14)],
            *[("AutoAttack standard Linf", eps, 5) for eps in (0, 0.035, 0.07, 0.14)],
        ]  # fmt: skip
        assert (table.seconds >= 0).all() and (table.seed == 0).all()
        assert table.norm.isna().tolist() == [True] * 7 + [False] * 12 and set(table.norm.dropna()) == {"Linf"}
        assert table.versions.str.contains("pyautoattack 0.").all()
        assert ((table.low <= table.accuracy) & (table.accuracy <= table.high)).all()
        assert (table.correct == table.accuracy * table.n).all()

    @pytest.mark.long
    def test_accuracy_is_what_it_must_be(self):
        """Of this model every adversarial accuracy is known; the attacked images are those of the seed."""
        table = self.measured(attacks=("pgd", "autoattack"), eps=(0.004, 0.02), num_images=30).table
        centre = 10 * self.images.mean(dim=(1, 2, 3))
        distance = (0.5 - (centre - centre.round()).abs()) / 10
        for row in table[table.attack == "AutoAttack standard Linf"].itertuples():
            assert row.correct == int((distance > row.eps).sum())
        assert attacked_images(30, 30, 0).sort().values.tolist() == list(range(30))

    def test_strengths_that_are_asked_for_go_up(self):
        table = self.measured(attacks=("fgsm", "pgd"), eps=(0.2, 0.1)).table
        assert table[table.attack != "clean"].eps.tolist() == [0.1, 0.2] * 2

    def test_attack_false_leaves_only_clean_accuracy(self):
        measured = self.measured(attack=False)
        assert measured.table.attack.tolist() == ["clean"] and measured.warnings == []

    @pytest.mark.long
    def test_the_worst_examples_come_from_autoattack_where_it_ran(self):
        measured = self.measured(num_images=30)
        assert {example.attack for example in measured.examples} == {"AutoAttack standard Linf"}
        strengths = [example.strength for example in measured.examples]
        assert strengths == sorted(strengths) and strengths[0] > 0 and len(strengths) == KEPT_EXAMPLES
        for example in measured.examples:
            assert Brightness()(example.adversarial[None]).argmax().item() == int(example.predicted)
            assert example.predicted != example.label
            assert (example.adversarial - example.clean).abs().max() <= example.strength + 1e-6
        assert {example.attack for example in self.measured(attacks=("noise", "fgsm")).examples} == {"FGSM Linf"}
        assert self.measured(attacks=("noise",)).examples == []

    def test_few_images_are_warned_of(self):
        assert any("few images (30 for" in text and "5 for FGSM Linf" in text for text in self.measured().warnings)

    def test_the_published_measure_of_the_boundary_attack(self, tmp_path):
        given = (self.images, self.labels, DATASETS["MNIST"], settings(attacks=("boundary",)))
        measured = evaluate(Counted(), *given, parts=tmp_path)
        assert 0 < measured.boundary_distance < 1
        again = Counted()
        assert evaluate(again, *given, parts=tmp_path).boundary_distance == measured.boundary_distance
        assert again.seen < 500
        assert self.measured(attacks=("fgsm",)).boundary_distance is None

    def test_mean_corruption_accuracy(self):
        images = torch.rand(6, 1, 32, 32, generator=torch.Generator().manual_seed(0))
        labels = Brightness()(images).argmax(dim=1)
        given = settings(attacks=("fog", "contrast"), num_images=6)
        measured = evaluate(Brightness(), images, labels, DATASETS["CIFAR10"], given)
        corrupted = measured.table[measured.table.attack != "clean"]
        assert corrupted.eps.tolist() == [1, 2, 3, 4, 5] * 2
        assert measured.corruption_accuracy == pytest.approx(corrupted.accuracy.mean())
        assert self.measured(attacks=("fgsm",)).corruption_accuracy is None

    def test_labels_that_are_no_class(self):
        with pytest.raises(InputError, match="labels: from 0 to 10; the model has 10 classes"):
            evaluate(Brightness(), self.images[:2], torch.tensor([0, 10]), DATASETS["MNIST"], settings())


class TestPlanned:
    def names(self, shape=(1, 32, 32), **fields):
        attacks, left_out = plan_attacks(settings(**fields), DATASETS["CIFAR10"], shape, Context(10, nn.Identity()))
        return list(attacks), left_out

    def test_groups(self):
        assert self.names(attacks=("published",))[0] == [
            "gaussian",
            "uniform",
            "saltpepper",
            "transfer-fgsm",
            "boundary",
        ]
        assert self.names(attacks=("corruptions",)) == ([*CORRUPTIONS], [])

    def test_of_a_group_only_what_fits_is_measured(self):
        names, left_out = self.names(shape=(1, 28, 28), attacks=("all",))
        assert "autoattack" in names and "fog" not in names
        assert left_out == ["corruptions: not measured (images: 28x28 pixels; corruptions need 32x32 or more)"]

    def test_square_cannot_take_every_size(self):
        names, left_out = self.names(shape=(1, 12, 12), attacks=("all",))
        assert "square" in names and "autoattack-l2" not in names
        assert [text.split(":")[0] for text in left_out] == ["autoattack-l2", "autoattack-l1", "corruptions"]
        with pytest.raises(InputError, match="images: 12x12 pixels; the Square attack in L2 cannot take this size"):
            self.names(shape=(1, 12, 12), attacks=("autoattack-l2",))

    def test_what_is_asked_for_by_name_must_fit(self):
        with pytest.raises(InputError, match="images: 28x28 pixels; corruptions need 32x32 or more"):
            self.names(shape=(1, 28, 28), attacks=("fog",))

    def test_a_strength_above_the_largest(self):
        with pytest.raises(InputError, match=r"eps=2: must be in \[0, 1\]"):
            self.names(attacks=("pgd",), eps=(2.0,))
        assert self.names(attacks=("autoattack-l2",), eps=(2.0,))[0] == ["autoattack-l2"]

    def test_every_norm_has_strengths_of_its_own(self):
        given = settings(attacks=("autoattack", "autoattack-l2", "autoattack-l1", "transfer-fgsm"))
        attacks, _ = plan_attacks(given, DATASETS["CIFAR10"], (1, 32, 32), Context(10, nn.Identity()))
        strengths = {name: pytest.approx(strengths[-1]) for name, (_, strengths) in attacks.items()}
        assert strengths == {
            "autoattack": 0.008,
            "autoattack-l2": 0.128,
            "autoattack-l1": 1.024,
            "transfer-fgsm": 0.02,
        }


class TestFlags:
    def test_lists_are_separated_by_commas(self):
        assert checked_value(Evaluation, "attacks", "pgd, square", "--attacks") == ("pgd", "square")
        assert checked_value(Evaluation, "eps", "0.2,0.1,0.1", "--eps") == (0.1, 0.2)

    @pytest.mark.parametrize(
        ("name", "value", "message"),
        [
            ("attacks", "pdg", r"--attacks=pdg: no such attack; did you mean pgd\?"),
            (
                "attacks",
                "pgd,autoatack",
                r"--attacks=pgd,autoatack: autoatack: no such attack; did you mean autoattack",
            ),
            ("eps", "-0.1", "--eps=-0.1: must be at least 0"),
            ("eps", "0.1,x", "--eps=0.1,x: must be a number"),
            ("num_images", "0", "--num_images=0: must be at least 1"),
        ],
    )
    def test_wrong_ones_are_named(self, name, value, message):
        with pytest.raises(InputError, match=message):
            checked_value(Evaluation, name, value, f"--{name}")

    def test_the_same_in_python(self):
        with pytest.raises(ValidationError, match="no such attack"):
            Evaluation(attacks=("pdg",))
