"""How robustness is measured: which attacks, strengths and images."""

import math
from collections.abc import Sequence
from typing import Annotated, Any

import torch
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

from brainreg.attacks import ATTACKS, CORRUPTIONS, NOISES, Attack, AutoAttack, Context, attack_names
from brainreg.attacks.base import check_strengths
from brainreg.attacks.corruptions import check_shape
from brainreg.data.datasets import Dataset
from brainreg.errors import InputError
from brainreg.seeds import Stream, seeded_generator


def _split(value: Any) -> Any:
    """A flag's text, `a,b`, as what it lists."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    attack_names(names)
    return names


def _in_order(eps: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return None if eps is None else tuple(sorted(set(eps)))


Strengths = Annotated[
    tuple[Annotated[float, Field(ge=0)], ...] | None, BeforeValidator(_split), AfterValidator(_in_order)
]


NoiseStrengths = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1)], ...], BeforeValidator(_split), AfterValidator(_in_order)
]


class Evaluation(BaseModel):
    """How the robustness of a trained network is measured."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    attack: bool = Field(True, description="measure robustness, and not clean accuracy alone")
    attacks: Annotated[tuple[str, ...], BeforeValidator(_split), AfterValidator(_known)] = Field(
        ("noise", "fgsm", "pgd", "autoattack"),
        description="attacks by name, separated by commas: gaussian, uniform, saltpepper, fgsm, pgd, transfer-fgsm,"
        " boundary, autoattack, autoattack-l2, autoattack-l1, square, each corruption; or noise, published,"
        " corruptions, all",
    )
    eps: Strengths = Field(
        None,
        description="strengths of the attacks that a norm bounds, in units of [0, 1] pixels, separated by commas"
        " (absent: the task's own for each norm)",
    )
    num_epsilons: int = Field(10, ge=2, description="strengths of each curve of noise, transferred FGSM, boundary")
    noise_eps: NoiseStrengths = Field(
        (), description="strengths of noise that are measured beside those of its curves, separated by commas"
    )
    num_images: int = Field(1000, ge=1, description="images that are attacked or corrupted, at most; noise: all")
    attack_minutes: float = Field(10, gt=0, description="time limit of each attack; four images are measured at least")
    attack_batch_size: int | None = Field(
        None, ge=1, description="images attacked together (absent: 250 on a GPU, 25 on a CPU)"
    )


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
