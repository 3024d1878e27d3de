import pytest
import torch
from pydantic import ValidationError
from testing import Brightness

from brainreg.attacks import AutoAttack
from brainreg.errors import InputError
from brainreg.spaces import measurement
from brainreg.spaces.measurement import (
    EPOCH_OBJECTIVE,
    divide_images,
    measure_objective,
    measure_proxy,
    objective_by_epoch,
)
from brainreg.spaces.objective import Objective

ATTACK = AutoAttack(version="custom", attacks=("apgd-ce",), n_iter=5)
IMAGES = torch.rand(40, 1, 4, 4, generator=torch.Generator().manual_seed(0))
LABELS = Brightness()(IMAGES).argmax(dim=1)
LABELS[:10] = (LABELS[:10] + 1) % 10  # a quarter is misclassified


def objective(**fields) -> Objective:
    return Objective(**{"eps": 0.02, "noise_eps": 0.3, "attack": ATTACK, "attack_image_num": 20, **fields})


def test_weighted_sum_of_clean_and_robust_accuracy():
    measured = measure_objective(objective(weight=0.3), Brightness(), IMAGES, LABELS, seed=0)
    assert measured["clean_accuracy"] == 0.75 and measured["clean_n"] == 40 and measured["robust_n"] == 20
    attacked, _ = divide_images(objective(), 40, seed=0)
    outcome = ATTACK(Brightness(), IMAGES[attacked], LABELS[attacked], [0.02])
    robust = outcome.correct[0].float().mean().item()
    assert 0 < measured["robust_accuracy"] == robust < 0.75
    assert measured["objective"] == pytest.approx(0.3 * 0.75 + 0.7 * robust)
    assert measured["noise_accuracy"] < 0.75


def test_accuracy_under_noise_counts_by_its_weight():
    weighted = objective(weight=0.3, noise_weight=0.2)
    measured = measure_objective(weighted, Brightness(), IMAGES, LABELS, seed=0)
    clean, robust, noise = (measured[f"{name}_accuracy"] for name in ("clean", "robust", "noise"))
    assert len({clean, robust, noise}) == 3
    assert measured["objective"] == pytest.approx(0.3 * clean + 0.5 * robust + 0.2 * noise)
    assert weighted.rule == "0.3 clean + 0.5 robust + 0.2 noise" and objective().rule == "0.5 clean + 0.5 robust"
    proxy = measure_proxy(weighted, Brightness(), IMAGES, LABELS, 0, clean)
    expected = 0.3 * clean + 0.5 * proxy["proxy_robust_accuracy"] + 0.2 * noise
    assert proxy["proxy_objective"] == pytest.approx(expected) and proxy["valid_noise_accuracy"] == noise
    assert "valid_noise_accuracy" not in measure_proxy(objective(), Brightness(), IMAGES, LABELS, 0, clean)


def test_weights_that_leave_nothing_for_attacks():
    """Whichever way 1 - w - v is rounded, nothing is left."""
    for weight in (0.7, 0.9, 0.8, 0.55):
        rest = objective(weight=weight, noise_weight=round(1 - weight, 9))
        assert rest.robust_weight == 0 and rest.rule == f"{weight:g} clean + 0 robust + {1 - weight:g} noise"
    assert objective(weight=0.9).robust_weight == 1 - 0.9
    with pytest.raises(ValidationError, match=r"noise_weight=0.6 and weight=0.5: must add up to at most 1"):
        objective(noise_weight=0.6)


def test_noise_has_no_part_in_the_objective_unless_it_has_a_weight():
    quiet, loud = (
        measure_objective(objective(noise_eps=eps), Brightness(), IMAGES, LABELS, seed=0) for eps in (0.01, 1)
    )
    assert quiet["noise_accuracy"] > loud["noise_accuracy"] and quiet["objective"] == loud["objective"]


def test_the_same_images_are_attacked_for_a_seed_and_the_others_are_the_rest():
    attacked, others = divide_images(objective(), 40, seed=1)
    assert sorted(torch.cat([attacked, others]).tolist()) == list(range(40))
    assert attacked.tolist() == divide_images(objective(), 40, seed=1)[0].tolist()
    assert attacked.tolist() != divide_images(objective(), 40, seed=2)[0].tolist()
    assert attacked.tolist() != list(range(20)), "the first images of an ordered folder are of one class"


def test_more_images_than_there_are():
    with pytest.raises(InputError, match="attack_image_num=50: there are 40 validation images"):
        measure_objective(objective(attack_image_num=50), Brightness(), IMAGES, LABELS, seed=0)


def test_standard_autoattack_is_the_default():
    assert Objective(eps=0.1, noise_eps=0.1).attack.title == "AutoAttack standard Linf"


@pytest.mark.parametrize("fields", [{"weight": 1.1}, {"weight": -0.1}, {"eps": 0}, {"eps": 8}, {"noise": "Gausian"}])
def test_wrong_fields(fields):
    with pytest.raises(ValidationError):
        objective(**fields)


class Biased(Brightness):
    """Sees images brighter than they are."""

    def __init__(self, bias: float):
        super().__init__()
        self.bias = bias

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward((images + self.bias).clamp(0, 1))


@pytest.mark.parametrize("noise_weight", [0, 0.4])
def test_the_objective_after_each_epoch_is_that_of_measure_wherever_it_can_be_the_best(noise_weight, monkeypatch):
    """An epoch whose few steps leave no more than the best before is not attacked in full; no best one is missed."""
    weighted = objective(noise_weight=noise_weight)
    monkeypatch.setattr(measurement, "fold_batchnorm", lambda network: network)
    networks = [Brightness(), Biased(0.02), Biased(0.4), Brightness()]
    measured = [measure_objective(weighted, network, IMAGES, LABELS, seed=0) for network in networks]
    by_epoch = objective_by_epoch(weighted, IMAGES, LABELS, 0)
    found = [
        by_epoch(network, {"valid_accuracy": one["clean_accuracy"]}).get(EPOCH_OBJECTIVE)
        for network, one in zip(networks, measured, strict=True)
    ]
    expected = [one["objective"] for one in measured]
    assert [value for value in found if value is not None] == [
        one for one, value in zip(expected, found, strict=True) if value is not None
    ]
    known = [-1 if value is None else value for value in found]
    assert max(known) == max(expected) and None in found
    # It goes on with what was known.
    later = objective_by_epoch(weighted, IMAGES, LABELS, 0, [{EPOCH_OBJECTIVE: 1.0}])
    again = later(networks[0], {"valid_accuracy": measured[0]["clean_accuracy"]})
    assert again == ({"valid_noise_accuracy": measured[0]["noise_accuracy"]} if noise_weight else {})
