import subprocess
import sys

import pytest
import torch
from torch import nn

from brainreg.attacks import ATTACKS, CORRUPTIONS, GROUPS, Context, attack_names
from brainreg.errors import InputError


def test_names_come_in_one_order_each_once():
    assert attack_names(["pgd", "gaussian", "pgd"]) == ("gaussian", "pgd")
    assert attack_names([]) == ()
    assert attack_names(ATTACKS) == tuple(ATTACKS)


def test_groups_are_taken_apart():
    assert attack_names(["noise"]) == ("gaussian", "uniform", "saltpepper")
    assert attack_names(["square", "published", "uniform"]) == (
        "gaussian", "uniform", "saltpepper", "transfer-fgsm", "boundary", "square",
    )  # fmt: skip
    assert attack_names(["corruptions"]) == CORRUPTIONS
    assert attack_names(["all"]) == tuple(ATTACKS)
    assert not {*GROUPS} & {*ATTACKS}
    assert all({*names} <= {*ATTACKS} for names in GROUPS.values())


def test_an_unknown_name_is_told_with_the_nearest():
    message = r"^autoatack: no such attack; did you mean autoattack.*\? known: gaussian, .*, all$"
    with pytest.raises(InputError, match=message):
        attack_names(["pgd", "autoatack"])


def test_titles():
    context = Context(classes=10, surrogate=nn.Identity(), surrogate_name="the unregularized network")
    titles = {name: make(context).title for name, make in ATTACKS.items()}
    assert titles == {
        "gaussian": "Gaussian",
        "uniform": "Uniform",
        "saltpepper": "SaltPepper",
        "fgsm": "FGSM Linf",
        "pgd": "PGD Linf (20 steps)",
        "transfer-fgsm": "transferred FGSM (from the unregularized network)",
        "boundary": "Boundary L2 (50 steps)",
        "autoattack": "AutoAttack standard Linf",
        "autoattack-l2": "AutoAttack standard L2",
        "autoattack-l1": "AutoAttack standard L1",
        "square": "Square Linf (5000 queries)",
        **{kind: f"{kind} (generated)" for kind in CORRUPTIONS},
    }


def test_few_classes_have_a_custom_autoattack():
    title = ATTACKS["autoattack-l2"](Context(classes=3)).title
    assert title == "AutoAttack custom L2 (apgd-ce, fab-t, square; 100 steps, 9 targets, 5000 queries)"


def test_transfer_needs_a_surrogate():
    with pytest.raises(InputError, match=r"^transfer-fgsm: needs another network"):
        ATTACKS["transfer-fgsm"](Context(classes=10))


def test_published_corruptions_go_to_their_kind():
    corrupted = {kind: torch.full((5, 1, 1, 32, 32), i, dtype=torch.uint8) for i, kind in enumerate(CORRUPTIONS)}
    context = Context(classes=10, corrupted=corrupted, corrupted_source="CIFAR-10-C")
    for i, kind in enumerate(CORRUPTIONS):
        attack = ATTACKS[kind](context)
        assert attack.title == f"{kind} (CIFAR-10-C)" and attack.published.unique().item() == i


def test_importing_the_attacks_does_not_import_what_few_of_them_need():
    """Foolbox and imagecorruptions take seconds, and need libraries of the system that may be missing."""
    code = (
        "import sys, brainreg.attacks\n"
        "print([name for name in ('foolbox', 'imagecorruptions', 'cv2', 'skimage') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
