"""A table of accuracies: clean, under noise, corruptions and attacks, a row for each strength."""

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd
import torch
from torch import nn

from brainreg.attacks.base import logits_of, predicted, prepared
from brainreg.attacks.boundary import median_squared_distance
from brainreg.attacks.corruptions import mean_accuracy
from brainreg.attacks.inputs import as_images, as_labels, check_labels
from brainreg.attacks.names import CORRUPTIONS, GROUPS
from brainreg.attacks.registry import Context
from brainreg.attacks.resumable import KEPT_EXAMPLES, Kept, Measured, attack_within, versions
from brainreg.data.datasets import Dataset
from brainreg.evaluation.accuracy import as_large_as_fits
from brainreg.evaluation.checks import check_model, check_outcomes, check_rows
from brainreg.evaluation.plan import attacked_images, plan_attacks
from brainreg.evaluation.settings import NO_LIMIT, Evaluation, attack_batch_size
from brainreg.statistics import packed, wilson_interval

# Which attack says most of a network, whose examples are shown, too: the first of these that was asked for.
TELLING = ("autoattack", "pgd", "square", "fgsm", "transfer-fgsm", "autoattack-l2", "autoattack-l1", "boundary")

COLUMNS = ("attack", "eps", "norm", "n", "correct", "accuracy", "low", "high", "seconds", "seed", "versions")
_CLEAN_BATCH = 500
_BOUNDARY_REPEATS = 5


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


def _of_batches(attacked: Callable[..., Measured], size: int) -> Measured:
    return attacked(batch_size=size)


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
    attacks, left_out = plan_attacks(settings, dataset, images.shape[1:], context)
    warnings = check_model(classifier, images[seen], labels[seen]) + left_out
    outcomes: dict[str, tuple[str, list[float], Measured]] = {}
    for name, (attack, strengths) in attacks.items():
        of = slice(None) if name in GROUPS["noise"] else seen
        minutes = math.inf if settings.attack_minutes >= NO_LIMIT else settings.attack_minutes
        limited = "" if attack.norm is None or math.isinf(minutes) else f" ({minutes:g} min at most)"
        attacked = partial(
            attack_within,
            attack,
            classifier,
            images[of],
            labels[of],
            strengths,
            # The published measure then repeats the boundary attack on the same images.
            seconds=60 * minutes / (1 + _BOUNDARY_REPEATS * (name == "boundary")),
            seed=seed,
            parts=parts,
            on_progress=partial(say, attack.title + limited),
        )
        measured = as_large_as_fits(
            partial(_of_batches, attacked),
            settings.attack_batch_size or attack_batch_size(images.device.type),
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
