"""What an evaluation runs: its attacks, their strengths, and the images that are attacked."""

import math
from collections.abc import Sequence

import torch

from brainreg.attacks.autoattack.attack import AutoAttack
from brainreg.attacks.base import Attack, check_strengths
from brainreg.attacks.corruptions import check_shape
from brainreg.attacks.names import CORRUPTIONS, attack_names
from brainreg.attacks.noise import NOISES
from brainreg.attacks.registry import ATTACKS, Context
from brainreg.data.datasets import Dataset
from brainreg.errors import InputError
from brainreg.evaluation.settings import Evaluation
from brainreg.seeds import Stream, seeded_generator


def attacked_images(n: int, count: int, seed: int) -> torch.Tensor:
    """Return which of `n` images are attacked: `count` of them at random, or all, always the same for a seed."""
    return torch.randperm(n, generator=seeded_generator(seed, Stream.ATTACKED_IMAGES))[:count]


def strengths_of(name: str, attack: Attack, dataset: Dataset, settings: Evaluation, values: int) -> list[float]:
    """Return the strengths at which an attack is measured.

    Args:
        name: of the attack.
        attack: the attack itself.
        dataset: knows the strengths of noise, of transferred FGSM and of AutoAttack in Linf. In L2, L1 and for the
            boundary attack they are derived from the last, by the number of values: a rule of thumb that was not
            measured.
        settings: strengths that the user wants instead, and how many a curve has.
        values: of an image, pixels times channels.

    Raises:
        InputError: a strength that the attack cannot have.
    """

    def even(largest: float) -> list[float]:
        return torch.linspace(0, largest, settings.num_epsilons, dtype=torch.float64).tolist()

    if name in CORRUPTIONS:
        return [1.0, 2.0, 3.0, 4.0, 5.0]
    if attack.norm is None:
        curve = even(dataset.noise_eps[[kind.lower() for kind in NOISES].index(name)])
        return sorted({*curve, *settings.noise_eps})
    if settings.eps is not None:
        check_strengths(settings.eps, attack.largest)
        return list(settings.eps)
    if name == "transfer-fgsm":
        return even(dataset.transfer_eps)
    if name == "boundary":
        return even(math.sqrt(values) / 2)
    scale = {"Linf": 1.0, "L2": math.sqrt(values) / 2, "L1": values / 8}[attack.norm]
    return [factor * scale * dataset.attack_eps for factor in (0, 0.5, 1, 2)]


def plan_attacks(
    settings: Evaluation, dataset: Dataset, shape: Sequence[int], context: Context
) -> tuple[dict[str, tuple[Attack, list[float]]], list[str]]:
    """Return the attacks that are asked for, with their strengths, by name; and of groups, what cannot be measured.

    Args:
        settings: what is asked for.
        dataset: the task.
        shape: (c, h, w) of an image.
        context: what the attacks need to know; a missing surrogate is an error.

    Raises:
        InputError: an attack, asked for by its own name, that does not fit the images, or a strength that an attack
            cannot have.
    """
    attacks, left_out = {}, {}
    for name in attack_names(settings.attacks):
        attack = ATTACKS[name](context)
        try:
            if name in CORRUPTIONS:
                check_shape(shape)
            elif isinstance(attack, AutoAttack):
                attack.check_shape(shape)
        except InputError as error:
            if name in settings.attacks:
                raise
            left_out["corruptions" if name in CORRUPTIONS else name] = f"not measured ({error})"
            continue
        attacks[name] = attack, strengths_of(name, attack, dataset, settings, math.prod(shape))
    return attacks, [f"{name}: {reason}" for name, reason in left_out.items()]


def plan_attacks_of_flags(
    settings: Evaluation, dataset: Dataset, shape: Sequence[int], context: Context
) -> tuple[dict[str, tuple[Attack, list[float]]], list[str]]:
    """As `plan_attacks`, of what a command line asks for.

    Raises:
        InputError: as there; it names the flag.
    """
    try:
        return plan_attacks(settings, dataset, shape, context)
    except InputError as error:
        flag = "--" if str(error).startswith("eps=") else f"--attacks={','.join(settings.attacks)}: "
        raise InputError(f"{flag}{error}") from error
