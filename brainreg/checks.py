"""What an expert would look for before believing a robust accuracy: each sign of a mistake is a line of text.

Source: Carlini et al., "On evaluating adversarial robustness", arXiv 1902.06705; Athalye et al., "Obfuscated gradients
give a false sense of security", arXiv 1802.00420; and the checks of AutoAttack's authors.
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from brainreg.attacks import AutoAttack
from brainreg.attacks.base import prepared
from brainreg.attacks.parts import Measured

# Every image can be made gray by a perturbation of this size (Linf): no network should withstand it.
_HUGE = 0.5
_AT_HUGE = AutoAttack(version="custom", attacks=("apgd-ce",), n_iter=20)
_HUGE_IMAGES = 16

_LOOKED_AT = 64  # images, for the cheap checks
_RANDOM = 1e-4  # largest difference between two passes, at logits of unit length; the authors' number
_SQUARE = 0.002  # share of images that the black-box attack of AutoAttack may break alone; the authors' number
_BLACK_BOX = 0.02  # how much lower the accuracy under a black-box attack may be than under a white-box one
_NAMED = 5  # attacks that a warning lists
_WIDE = 0.1  # width of a 95% interval that says little


def check_model(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> list[str]:
    """Return what is suspicious of a model, whatever attacks it.

    Looks for a model in train mode, for outputs that are no logits, that are not finite or that differ between two
    passes, for gradients that are zero, and for images that withstand a perturbation that no image should.

    Args:
        model: logits of images in [0, 1]; left as it was found.
        images: (n, c, h, w) in [0, 1]; the first few are looked at.
        labels: (n,) int64.
    """
    found = []
    if any(module.training for module in model.modules()):
        found.append("the model was handed over in train mode; it is measured in eval mode")
    images, labels = images[:_LOOKED_AT].float(), labels[:_LOOKED_AT]
    with prepared(model, images.device):
        inputs = images.clone().requires_grad_()
        with torch.enable_grad():
            logits = model(inputs)
            (gradient,) = torch.autograd.grad(F.cross_entropy(logits, labels, reduction="sum"), inputs)
        logits = logits.detach()
        with torch.no_grad():
            again = model(images)
        if not bool(logits.isfinite().all()):
            found.append("some logits are NaN or infinite; no number of this evaluation means anything")
            return found
        if bool((logits >= 0).all() and (logits <= 1).all() and ((logits.sum(dim=1) - 1).abs() < 1e-4).all()):
            found.append("the outputs are probabilities; attacks need logits, or they look weaker than they are")
        length = logits.norm(dim=1).clamp(min=1e-10)
        if bool(((logits - again).norm(dim=1) / length > _RANDOM).any()):
            found.append("two passes of the same images give different outputs; use AutoAttack's version rand")
        zero = int((gradient.flatten(1).abs().amax(dim=1) == 0).sum())
        if zero:
            found.append(
                f"the cross-entropy has no gradient at {zero} of {len(images)} images; gradients may be masked, and"
                " attacks that follow them look weaker than they are"
            )
    right = (logits.argmax(dim=1) == labels).nonzero().flatten()[:_HUGE_IMAGES]
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

    Looks for black-box attacks that break more than white-box ones.

    Args:
        outcomes: the title, the strengths and the outcome of each attack, by its name.
    """
    found = []
    for title, strengths, measured in outcomes.values():
        found += _square_alone(title, strengths, measured)
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
    if int(alone.max()) <= max(1, _SQUARE * n):
        return []
    worst = int(alone.argmax())
    return [
        f"{title}: at eps {strengths[worst]:g}, Square alone breaks {int(alone[worst])} of {n} images that the"
        " white-box attacks left; gradients may be masked"
    ]


def _black_box_beats(black: tuple[str, list[float], Measured], white: tuple[str, list[float], Measured]) -> list[str]:
    n = min(black[2].correct.shape[1], white[2].correct.shape[1])  # both are of the first images of one order
    for i, eps in enumerate(black[1]):
        for j, same in enumerate(white[1]):
            if eps != same or eps == 0:
                continue
            low, high = (
                measured.correct[at, :n].float().mean().item() for (_, _, measured), at in ((black, i), (white, j))
            )
            if low < high - max(_BLACK_BOX, 1.5 / n):
                return [
                    f"at eps {eps:g}, accuracy under {black[0]}, which sees no gradient of the model, is {low:.3f}, and"
                    f" under {white[0]} {high:.3f}; gradients may be masked"
                ]
    return []
