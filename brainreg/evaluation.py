"""Accuracy of a trained classifier: clean, under noise, under corruption, and under attack."""

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, TypeVar

import pandas as pd
import torch
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field
from torch import nn

from brainreg.attacks import (
    ATTACKS,
    CORRUPTIONS,
    GROUPS,
    NOISES,
    Attack,
    AutoAttack,
    Context,
    Norm,
    attack_names,
    median_squared_distance,
)
from brainreg.attacks.base import check_counts, check_strengths, logits_of, predicted, prepared
from brainreg.attacks.corruptions import check_shape, mean_accuracy
from brainreg.attacks.inputs import as_images, as_labels, check_labels
from brainreg.attacks.parts import KEPT_EXAMPLES, Kept, Measured, attack_within, versions
from brainreg.checks import check_model, check_outcomes, check_rows
from brainreg.data import Dataset
from brainreg.errors import InputError, validated
from brainreg.seeds import Stream, seeded_generator
from brainreg.statistics import packed

Value = TypeVar("Value")

# Which attack says most of a network, whose examples are shown, too: the first of these that was asked for.
TELLING = ("autoattack", "pgd", "square", "fgsm", "transfer-fgsm", "autoattack-l2", "autoattack-l1", "boundary")

COLUMNS = ("attack", "eps", "norm", "n", "correct", "accuracy", "low", "high", "seconds", "seed", "versions")

_CLEAN_BATCH = 500
_BOUNDARY_REPEATS = 5

# A few APGD steps stand in for the full attack while a network trains: see `proxy_accuracy`.
PROXY = AutoAttack(version="custom", attacks=("apgd-ce",), n_iter=5)


@torch.no_grad()
def correct(model: nn.Module, images: torch.Tensor, labels: torch.Tensor, batch_size: int = 500) -> torch.Tensor:
    """Return which images a model classifies correctly, in the mode it is in.

    Args:
        model: logits of images in [0, 1].
        images: (n, c, h, w) in [0, 1].
        labels: (n,) int64.

    Returns:
        (n,) bool.
    """
    parts = zip(images.split(batch_size), labels.split(batch_size), strict=True)
    return torch.cat([predicted(model(image)) == label for image, label in parts])


def robust_accuracy(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    *,
    eps: float,
    norm: Norm = "Linf",
    version: str = "standard",
    batch_size: int = 250,
    seed: int = 0,
) -> float:
    """Return the fraction of images that AutoAttack cannot make a model misclassify.

    Args:
        model: a `torch.nn.Module` that returns logits (n, classes) of images in [0, 1]; it does its own input scaling.
            Attacked in eval mode, and left as it was found. In parallel on several GPUs, compiled, in half or double
            precision, it is taken as it is; one that returns a tuple, a dict or an output with `.logits` goes through
            `brainreg.models.as_logits` first.
        images: (n, c, h, w) in [0, 1] and floating point, or uint8, on the device of the model.
        labels: (n,) or (n, 1) whole numbers from 0.
        eps: largest perturbation, in units of [0, 1] pixels.
        norm: Linf, L2 or L1.
        version: standard, plus or rand; for a custom version call `brainreg.attacks.AutoAttack`. For fewer than four
            classes, the attacks of the version that exist for so few (`AutoAttack.for_classes`).
        batch_size: images attacked together.
        seed: of the attack's draws.

    Raises:
        InputError: what is no such model, images or labels; a model that gives NaN for one of the images; see
            `brainreg.attacks.AutoAttack`.

    Source: Croce and Hein, arXiv 2003.01690.
    """
    check_counts(batch_size=batch_size)
    images, labels = as_images(images), as_labels(labels, images)
    with prepared(model, images.device) as checked:
        logits = logits_of(checked, images, batch_size)
    if nan := int((predicted(logits) < 0).sum()):
        raise InputError(f"model: gives NaN logits for {nan} of {len(images)} images; mend it before it is measured")
    attack = validated(AutoAttack, {"norm": norm, "version": version}).for_classes(logits.shape[1])
    outcome = attack(model, images, labels, [eps], batch_size=batch_size, seed=seed)
    return outcome.correct[0].float().mean().item()


def as_large_as_fits(action: Callable[[int], Value], batch_size: int) -> Value:
    """Return `action(batch_size)`, with half of the batch, again and again, where the memory does not hold it.

    Raises:
        torch.OutOfMemoryError: not even one image fits.
    """
    while True:
        try:
            return action(batch_size)
        except torch.OutOfMemoryError:
            if batch_size == 1:
                raise
        batch_size //= 2
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def proxy_accuracy(
    model: nn.Module, images: torch.Tensor, labels: torch.Tensor, *, eps: float, batch_size: int = 250, seed: int = 0
) -> float:
    """Return the fraction of images that withstand five steps of APGD-CE in Linf: a cheap stand-in for AutoAttack.

    It is an upper bound of the robust accuracy, never to be shown as one; it tells settings apart while they
    train. Over 24 trained networks, with 100 images, Kendall's tau with the full evaluation was 0.76 at the end of
    training and 0.61 half way (`benchmarks/proxy.py`; machine and numbers in `benchmarks/README.md`).

    Args:
        Those of `robust_accuracy`; a fixed small part of the validation images is enough.
    """
    outcome = PROXY(model, images, labels, [eps], batch_size=batch_size, seed=seed)
    return outcome.correct[0].float().mean().item()


def wilson_interval(successes: int, n: int) -> tuple[float, float]:
    """Return the 95% interval of a fraction of `successes` among `n` (Wilson's score interval).

    Source: Wilson, J. Am. Stat. Assoc. 22 (1927) 209.
    """
    if n == 0:
        return 0.0, 1.0
    z = 1.959964
    p = successes / n
    centre = p + z * z / (2 * n)
    spread = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
    # Rounding must not leave the fraction outside its own interval where that ends at 0 or 1.
    return min((centre - spread) / (1 + z * z / n), p), max((centre + spread) / (1 + z * z / n), p)


def row(attack: str, eps: float, outcome: torch.Tensor, seconds: float, seed: int) -> dict[str, Any]:
    """Return one line of a robustness table: how many of the attacked images were classified correctly."""
    n, successes = len(outcome), int(outcome.sum())
    low, high = wilson_interval(successes, n)
    return {
        "attack": attack,
        "eps": eps,
        "n": n,
        "correct": successes,
        "accuracy": successes / n,
        "low": low,
        "high": high,
        "seconds": seconds,
        "seed": seed,
    }


def _split(value: Any) -> Any:
    """A flag's text, `a,b`, as what it lists."""
    return tuple(part.strip() for part in value.split(",")) if isinstance(value, str) else value


def _known(names: tuple[str, ...]) -> tuple[str, ...]:
    attack_names(names)
    return names


def _in_order(eps: tuple[float, ...] | None) -> tuple[float, ...] | None:
    return None if eps is None else tuple(sorted(set(eps)))


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
    eps: Annotated[
        tuple[Annotated[float, Field(ge=0)], ...] | None, BeforeValidator(_split), AfterValidator(_in_order)
    ] = Field(
        None,
        description="strengths of the attacks that a norm bounds, in units of [0, 1] pixels, separated by commas"
        " (absent: the task's own for each norm)",
    )
    num_epsilons: int = Field(10, ge=2, description="strengths of each curve of noise, transferred FGSM, boundary")
    noise_eps: Annotated[
        tuple[Annotated[float, Field(ge=0, le=1)], ...], BeforeValidator(_split), AfterValidator(_in_order)
    ] = Field((), description="strengths of noise that are measured beside those of its curves, separated by commas")
    num_images: int = Field(1000, ge=1, description="images that are attacked or corrupted, at most; noise: all")
    attack_minutes: float = Field(10, gt=0, description="time limit of each attack; four images are measured at least")
    attack_batch_size: int | None = Field(
        None, ge=1, description="images attacked together (absent: 250 on a GPU, 25 on a CPU)"
    )


@dataclass(frozen=True)
class Example:
    """An image that an attack made a model misclassify.

    Attributes:
        clean: (c, h, w) in [0, 1], of one channel or three.
        adversarial: (c, h, w) in [0, 1], what the attack made of it.
        label: the image's class.
        predicted: the class that the model sees in `adversarial`.
        attack: title of the attack.
        strength: that the attack needed.
    """

    clean: torch.Tensor
    adversarial: torch.Tensor
    label: str
    predicted: str
    attack: str
    strength: float


@dataclass(frozen=True)
class Robustness:
    """What an evaluation measured.

    Attributes:
        table: a row for each attack and strength, the clean accuracy first: attack, eps, norm, n, correct, accuracy,
            low and high (95% Wilson interval), seconds (of all strengths of the attack together), seed, versions; and
            inferred, how many of the correct ones were not attacked in full at that strength, but withstand a larger
            one (`Outcome.inferred`).
        warnings: signs that a number may not mean what it seems to, each in one line.
        examples: the adversarial examples that needed the least, up to `KEPT_EXAMPLES`.
        boundary_distance: the published measure of the boundary attack (`median_squared_distance`), where that
            attack was asked for.
        corruption_accuracy: the mean corruption accuracy, over the kinds and the five severities, where any
            corruption was asked for.
        outcomes: for each row of the table, which images are classified correctly, as `brainreg.statistics.packed`
            writes it: all images in their order (clean, noise), or as many of `attacked_images` as were attacked.
    """

    table: pd.DataFrame
    warnings: list[str]
    examples: list[Example]
    boundary_distance: float | None = None
    corruption_accuracy: float | None = None
    outcomes: tuple[str, ...] = ()


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


def evaluate(
    classifier: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    dataset: Dataset,
    settings: Evaluation,
    seed: int = 0,
    *,
    surrogate: nn.Module | None = None,
    surrogate_name: str = "surrogate",
    corrupted: Mapping[str, torch.Tensor] | None = None,
    corrupted_source: str = "published",
    parts: Path | None = None,
    on_progress: Callable[[str, int, int], None] | None = None,
) -> Robustness:
    """Measure a classifier's accuracy, clean and under attacks, and look for signs that the measurement is wrong.

    Args:
        classifier: a model as `robust_accuracy` takes it.
        images: (n, c, h, w) in [0, 1] and floating point, or uint8, on the device of the classifier; clean accuracy and
            noise are over all of them, other attacks over `attacked_images`, and those that a norm bounds over as many
            of these as the time allows.
        labels: (n,) or (n, 1) whole numbers from 0.
        dataset: the task, which knows the strengths.
        settings: what to measure.
        seed: of every draw.
        surrogate, surrogate_name: the network whose gradient is transferred, and what it is called.
        corrupted, corrupted_source: published corruptions of `attacked_images`, see `load_published`.
        parts: folder that lets an interrupted evaluation go on, see `attack_within`.
        on_progress: called with an attack's title and time limit, the number of images whose outcome is known, and of
            all.

    Raises:
        InputError: see `base.Attack`; an attack that does not fit these images or classes.
    """
    images, labels = as_images(images), as_labels(labels, images)
    say = on_progress or (lambda title, known, total: None)
    say("clean", 0, len(labels))
    began = time.monotonic()
    with prepared(classifier, images.device) as checked:
        logits = logits_of(checked, images, _CLEAN_BATCH)
        check_labels(labels, logits.shape[1])
    clean = predicted(logits) == labels
    rows = [{**row("clean", 0.0, clean, time.monotonic() - began, seed), "norm": None, "inferred": 0}]
    every_outcome = [packed(clean.tolist())]
    if not settings.attack:
        return Robustness(_table(rows), [], [], outcomes=tuple(every_outcome))

    seen = attacked_images(len(labels), settings.num_images, seed).to(images.device)
    context = Context(logits.shape[1], surrogate, surrogate_name, corrupted, corrupted_source)
    attacks, left_out = planned(settings, dataset, images.shape[1:], context)
    warnings = check_model(classifier, images[seen], labels[seen]) + left_out
    outcomes: dict[str, tuple[str, list[float], Measured]] = {}
    for name, (attack, strengths) in attacks.items():
        of = slice(None) if name in GROUPS["noise"] else seen
        limited = "" if attack.norm is None else f" ({settings.attack_minutes:g} min at most)"
        attacked = partial(
            attack_within,
            attack,
            classifier,
            images[of],
            labels[of],
            strengths,
            # The published measure then repeats the boundary attack on the same images.
            seconds=60 * settings.attack_minutes / (1 + _BOUNDARY_REPEATS * (name == "boundary")),
            seed=seed,
            parts=parts,
            on_progress=lambda known, total, title=attack.title + limited: say(title, known, total),
        )
        measured = as_large_as_fits(
            lambda size, attacked=attacked: attacked(batch_size=size),
            settings.attack_batch_size or (250 if images.is_cuda else 25),
        )
        outcomes[name] = (attack.title, strengths, measured)
        for i, eps in enumerate(strengths):
            found = row(attack.title, eps, measured.correct[i], measured.seconds, seed)
            rows.append({**found, "norm": attack.norm, "inferred": int(measured.inferred[i].sum())})
            every_outcome.append(packed(measured.correct[i].tolist()))
    distance = None
    if "boundary" in attacks:
        title, _, measured = outcomes["boundary"]
        distance = _boundary_distance(
            classifier,
            images[seen][: measured.correct.shape[1]],
            seed,
            parts,
            on_progress=lambda known, total: say(f"{title}, {_BOUNDARY_REPEATS} times", known, total),
        )
    warnings += check_outcomes(outcomes) + check_rows(rows)
    corrupted_correct = [measured.correct for name, (_, _, measured) in outcomes.items() if name in CORRUPTIONS]
    return Robustness(
        table=_table(rows),
        warnings=warnings,
        examples=_worst(outcomes, images[seen], labels[seen]),
        boundary_distance=distance,
        corruption_accuracy=mean_accuracy(corrupted_correct) if corrupted_correct else None,
        outcomes=tuple(every_outcome),
    )


def planned(
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


def _table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    return pd.DataFrame(rows).assign(versions=versions())[[*COLUMNS, "inferred"]]


def _boundary_distance(
    model: nn.Module,
    images: torch.Tensor,
    seed: int,
    parts: Path | None,
    on_progress: Callable[[int, int], None],
) -> float:
    """`median_squared_distance`, kept in `parts`."""
    kept = None if parts is None else Kept(parts, f"boundary distance {seed} {_BOUNDARY_REPEATS}", images, model)
    if kept is not None and (known := kept.read(images)) is not None:
        return known["distance"]
    distance = median_squared_distance(
        model, images, seed=seed, batch_size=_CLEAN_BATCH, repeats=_BOUNDARY_REPEATS, on_progress=on_progress
    )
    if kept is not None:
        kept.write({"distance": distance}, images)
    return distance


def _worst(
    outcomes: Mapping[str, tuple[str, list[float], Measured]], images: torch.Tensor, labels: torch.Tensor
) -> list[Example]:
    """The examples that needed the least, of the first attack in `TELLING` that has any."""
    for name in TELLING:
        if name not in outcomes or not len(outcomes[name][2].kept):
            continue
        title, _, measured = outcomes[name]
        needed = measured.example_strength[measured.kept]
        return [
            Example(
                clean=images[measured.kept[i]].cpu(),
                adversarial=measured.examples[i],
                label=str(labels[measured.kept[i]].item()),
                predicted=str(measured.predicted[i].item()),
                attack=title,
                strength=needed[i].item(),
            )
            for i in needed.argsort()[:KEPT_EXAMPLES].tolist()
        ]
    return []
