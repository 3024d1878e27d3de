"""Attacks, noise and corruptions, by name: each a module, a subclass of `base.Attack`.

Models take images in [0, 1], scale them themselves, and return logits.
"""

from brainreg.attacks.autoattack.attack import AutoAttack, strongest
from brainreg.attacks.base import Attack, Norm, Outcome
from brainreg.attacks.boundary import Boundary, median_squared_distance
from brainreg.attacks.corruptions import CORRUPTIONS, Corruption
from brainreg.attacks.fgsm import FGSM
from brainreg.attacks.noise import NOISES, Noise, add_noise
from brainreg.attacks.pgd import PGD
from brainreg.attacks.registry import ATTACKS, GROUPS, Context, attack_names
from brainreg.attacks.transferred_fgsm import TransferredFGSM

__all__ = [
    "ATTACKS",
    "CORRUPTIONS",
    "FGSM",
    "GROUPS",
    "NOISES",
    "PGD",
    "Attack",
    "AutoAttack",
    "Boundary",
    "Context",
    "Corruption",
    "Noise",
    "Norm",
    "Outcome",
    "TransferredFGSM",
    "add_noise",
    "attack_names",
    "median_squared_distance",
    "strongest",
]
