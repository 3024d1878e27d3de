"""Signs that a robust accuracy is wrong: each is a line of text.

Source: Carlini et al., arXiv 1902.06705; Athalye et al., arXiv 1802.00420; and the checks of AutoAttack's authors.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from scipy.stats import binom
from torch import nn

from brainreg.attacks.autoattack.attack import AutoAttack
from brainreg.attacks.base import SIGNS, predicted, prepared
from brainreg.attacks.inputs import as_images, as_labels
from brainreg.attacks.resumable import Measured

# Every image can be made gray by a perturbation of this size (Linf): no network should withstand it.
_HUGE = 0.5
_AT_HUGE = AutoAttack(version="custom", attacks=("apgd-ce",), n_iter=20)
_HUGE_IMAGES = 16

_LOOKED_AT = 64  # images, for the cheap checks
_RANDOM = 1e-4  # largest difference between two passes, at logits of unit length; the authors' number
_SQUARE = 0.002  # share of images that the black-box attack of AutoAttack may break alone; the authors' number
_BLACK_BOX = 0.02  # how much lower the accuracy under a black-box attack may be than under a white-box one
_NAMED = 5  # attacks that a warning lists
_CHANCE = 0.01  # how often chance alone may raise a warning
_WIDE = 0.1  # width of a 95% interval that says little


def check_model(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> list[str]:
    """Return what is suspicious of a model, whatever attacks it.

    Looks for a model in train mode, for outputs that are no logits, that are not finite or that differ between two
    passes, for gradients that are zero, and for images that withstand a perturbation that no image should.

    Args:
        model, images, labels: as `brainreg.evaluation.accuracy.robust_accuracy` takes them; the first few images are
            looked at, and the model is left as it was found.
    """
    found = []
    if any(module.training for module in model.modules()):
        found.append("the model was handed over in train mode; it is measured in eval mode")
    images, labels = as_images(images[:_LOOKED_AT]), as_labels(labels[:_LOOKED_AT], images[:_LOOKED_AT])
    with prepared(model, images.device) as model:
        inputs = images.clone().requires_grad_()
        with torch.enable_grad():
            logits = model(inputs)
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), inputs)
        logits = logits.detach()
        with torch.no_grad():
            again = model(images)
        if nan := int(logits.isnan().any(dim=1).sum()):
            found.append(
                f"NaN logits for {nan} of {len(images)} images, which count as wrong; no number of this evaluation says"
                " anything of the model"
            )
            return found
        if infinite := int(logits.isinf().any(dim=1).sum()):
            found.append(
                f"infinite logits for {infinite} of {len(images)} images, where no gradient leads an attack; gradients"
                " may be masked"
            )
        if bool((logits >= 0).all() and (logits <= 1).all() and ((logits.sum(dim=1) - 1).abs() < 1e-4).all()):
            found.append("the outputs are probabilities; attacks need logits, or they look weaker than they are")
        length = logits.norm(dim=1).clamp(min=1e-10)
        if bool(((logits - again).norm(dim=1) / length > _RANDOM).any()):
            found.append("two passes of the same images give different outputs; use AutoAttack's version rand")
        zero = int((~(gradient.flatten(1).abs().amax(dim=1) > 0)).sum())  # NaN leads nowhere either
        if zero:
            found.append(
                f"the cross-entropy has no gradient at {zero} of {len(images)} images; gradients may be masked, and"
                " attacks that follow them look weaker than they are"
            )
    right = (predicted(logits) == labels).nonzero().flatten()[:_HUGE_IMAGES]
    if len(right):
        withstood = int(_AT_HUGE(model, images[right], labels[right], [_HUGE]).correct.sum())
        if withstood:
            found.append(
                f"{withstood} of {len(right)} images withstand APGD at eps {_HUGE:g} (Linf), where any image can be"
                " made gray; gradients may be masked"
            )
    return found


def check_outcomes(outcomes: Mapping[str, tuple[str, list[float], Measured]]) -> list[str]:
    """Return what is suspicious of the outcomes of attacks on the same images.

    Looks for black-box attacks that break more than white-box ones by more than chance, and for what AutoAttack met.

    Args:
        outcomes: the title, the strengths and the outcome of each attack, by its name.
    """
    found = []
    for title, strengths, measured in outcomes.values():
        found += _square_alone(title, strengths, measured) + _masked(title, measured)
    for black in ("square", "transfer-fgsm"):
        for white in ("pgd", "fgsm"):
            if black in outcomes and white in outcomes:
                found += _black_box_beats(outcomes[black], outcomes[white])
                break
    return found


def check_rows(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """Return which attacks were on too few images: where a 95% interval is too wide to say much.

    Args:
        rows: of a robustness table: attack, n, low and high.
    """
    few: dict[int, list[str]] = {}
    widest = 0.0
    for row in rows:
        width = row["high"] - row["low"]
        if width > _WIDE:
            few.setdefault(row["n"], []).append(row["attack"])
            widest = max(widest, width)
    if not few:
        return []
    listed = "; ".join(f"{n} for {_some(list(dict.fromkeys(attacks)))}" for n, attacks in few.items())
    return [f"few images ({listed}): a 95% interval is up to {100 * widest:.0f} points wide"]


def _some(names: list[str]) -> str:
    """The first few names, and how many more there are."""
    more = len(names) - _NAMED
    return ", ".join(names) if more <= 1 else f"{', '.join(names[:_NAMED])} and {more} others"


def _square_alone(title: str, strengths: list[float], measured: Measured) -> list[str]:
    """Square, which sees no gradient, comes last in AutoAttack: what it breaks, no white-box attack could."""
    if "square" not in measured.stages or len(measured.stages) == 1:
        return []
    n = measured.correct.shape[1]
    alone = (measured.broken_by == measured.stages.index("square")).sum(dim=1)
    worst = int(alone.argmax())
    # So many or more at one of the strengths, if each image broke so with the authors' rate.
    if len(strengths) * binom.sf(int(alone[worst]) - 1, n, _SQUARE) > _CHANCE:
        return []
    return [
        f"{title}: at eps {strengths[worst]:g}, Square alone breaks {int(alone[worst])} of {n} images that the"
        " white-box attacks left; gradients may be masked"
    ]


def _masked(title: str, measured: Measured) -> list[str]:
    """What AutoAttack itself met with where it infers from larger strengths."""
    counts = {SIGNS[sign]: int((measured.masked == sign).sum()) for sign in range(1, len(SIGNS))}
    signs = ", ".join(f"{sign} {count}" for sign, count in counts.items() if count)
    if not signs:
        return []
    inferred = int(measured.inferred.sum())
    rest = f", but for {inferred} outcomes that time left inferred" if inferred else ""
    return [
        f"{title}: images with signs of masked gradients ({signs}, of {len(measured.masked)}); every attack ran at"
        f" every strength that was not known to break an image{rest}"
    ]


def _black_box_beats(black: tuple[str, list[float], Measured], white: tuple[str, list[float], Measured]) -> list[str]:
    """An exact test of the images that withstand one of two attacks: chance takes either side alike (McNemar's)."""
    n = min(black[2].correct.shape[1], white[2].correct.shape[1])  # both are of the first images of one order
    same_strengths = len({*black[1]} & {*white[1]} - {0})
    for i, eps in enumerate(black[1]):
        for j, same in enumerate(white[1]):
            if eps != same or eps == 0:
                continue
            under_black, under_white = black[2].correct[i, :n], white[2].correct[j, :n]
            low, high = under_black.float().mean().item(), under_white.float().mean().item()
            by_black, by_white = int((under_white & ~under_black).sum()), int((under_black & ~under_white).sum())
            chance = binom.sf(by_black - 1, by_black + by_white, 0.5)
            if low < high - _BLACK_BOX and same_strengths * chance <= _CHANCE:
                return [
                    f"at eps {eps:g}, accuracy under {black[0]}, which sees no gradient of the model, is {low:.3f}, and"
                    f" under {white[0]} {high:.3f} ({by_black} of {n} images are broken by the first alone, {by_white}"
                    " by the second); gradients may be masked"
                ]
    return []
