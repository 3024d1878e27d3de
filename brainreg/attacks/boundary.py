"""The boundary attack of the published robustness evaluation: Foolbox's, which asks a model for nothing but classes."""

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
import torch
from torch import nn

from brainreg.attacks.base import Attack, Outcome, Progress, Target, check_counts, logits_of, predicted, prepared
from brainreg.attacks.inputs import as_images
from brainreg.seeds import Stream, seeded_generator

# Foolbox draws up to 1000 noise images to start from. Most images have one among the first few; the others, often
# all of the class that the model sees in noise, draw the rest by themselves.
_DIRECTIONS = (20, 980)

_BLENDS = 50  # steps of the line from an image to its noise, Foolbox's default for this attack


@dataclass(frozen=True)
class Boundary(Attack):
    """The boundary attack in L2, against the model's own prediction: from misclassified noise toward the image.

    An image that no noise helps to misclassify is not broken. All images are attacked at once, and each step draws
    one direction for all, as Foolbox does. Strengths are L2 distances in units of [0, 1] pixels.

    Attributes:
        steps: of the attack; what it finds with few is far from the nearest misclassified image.
        repeats: runs of the attack, of which an image's nearest example counts.

    Source: Brendel, Rauber and Bethge, "Decision-based adversarial attacks", arXiv 1712.04248.
    """

    steps: int = 50
    repeats: int = 1

    norm = "L2"
    largest = float("inf")

    def __post_init__(self):
        check_counts(steps=self.steps, repeats=self.repeats)

    @property
    def title(self) -> str:
        return f"Boundary L2 ({self.steps} steps{f', best of {self.repeats}' if self.repeats > 1 else ''})"

    def _run(self, target: Target, strengths: Sequence[float]) -> Outcome:
        images, labels, right = target.images, target.labels, target.right
        examples, distance = images.clone(), torch.full((len(images),), torch.inf, device=images.device)
        attacked = right.nonzero().flatten()
        for repeat in range(self.repeats):
            found, found_distance = _nearest_found(
                target.model, images[attacked], labels[attacked], self.steps, target.seed, repeat, target.batch_size
            )
            nearer = found_distance < distance[attacked]
            examples[attacked[nearer]], distance[attacked[nearer]] = found[nearer], found_distance[nearer]
            target.on_progress(len(images) * (repeat + 1) // self.repeats, len(images))
        limits = torch.tensor(strengths, device=images.device)[:, None]
        broken = distance.isfinite() & (distance <= limits) & (limits > 0)
        return Outcome(right & ~broken, examples, torch.where(right, distance, 0))


def median_squared_distance(
    model: nn.Module,
    images: torch.Tensor,
    *,
    seed: int,
    batch_size: int,
    steps: int = 50,
    repeats: int = 5,
    on_progress: Progress | None = None,
) -> float:
    """Return the published measure of robustness to the boundary attack.

    That is the median over images of the squared L2 distance to the example found, divided by the number of values
    of an image (pixels times channels); and of that the mean over repeats. Every image is attacked, against the
    model's own prediction; those without an example, or with NaN logits, are left out. NaN where no image has one.

    Raises:
        InputError: pixels outside [0, 1]; steps or repeats below 1.

    Source: arXiv 2410.03952, appendix, whose distances are of the first channel alone.
    """
    images = as_images(images)
    check_counts(steps=steps, repeats=repeats)
    medians = []
    with prepared(model, images.device) as model:
        seen = predicted(logits_of(model, images, batch_size))
        images, seen = images[seen >= 0], seen[seen >= 0]
        for repeat in range(repeats):
            _, distance = _nearest_found(model, images, seen, steps, seed, repeat, batch_size)
            squared = distance[distance.isfinite()].square() / images.shape[1:].numel()
            if len(squared):
                medians.append(np.median(squared.cpu().numpy()))
            if on_progress is not None:
                on_progress(len(images) * (repeat + 1) // repeats, len(images))
    return float(np.mean(medians)) if medians else float("nan")


def _nearest_found(
    model: nn.Module,
    images: torch.Tensor,
    classes: torch.Tensor,
    steps: int,
    seed: int,
    repeat: int,
    batch_size: int,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attack images (n, c, h, w), which the model sees as `classes` (n,), once, within `prepared`.

    Returns:
        examples, the images themselves where none was found, and their L2 distances (n,), infinite there.
    """
    foolbox = _foolbox()
    torch.manual_seed(seeded_generator(seed, Stream.BOUNDARY, repeat).initial_seed())
    whole = foolbox.PyTorchModel(_InParts(model, batch_size).eval(), bounds=(0, 1), device=images.device)

    def misclassified(index: torch.Tensor) -> torch.Tensor:
        return whole(examples[index]).argmax(dim=1) != classes[index]

    examples, missing = images.clone(), torch.arange(len(images), device=images.device)
    for directions in _DIRECTIONS:
        if len(missing):
            start = foolbox.attacks.LinearSearchBlendedUniformNoiseAttack(directions=directions, steps=_BLENDS)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "LinearSearchBlendedUniformNoiseAttack failed")
                examples[missing] = start.run(whole, images[missing], foolbox.Misclassification(classes[missing]))
            missing = missing[~misclassified(missing)]

    # Foolbox refuses all images for one whose starting point is none, and rounding differs between batches: those
    # that start are looked at again, together as they will be.
    started = torch.ones(len(images), dtype=torch.bool, device=images.device)
    started[missing] = False
    index = started.nonzero().flatten()
    while len(index) and not (start_holds := misclassified(index)).all():
        index = index[start_holds]
    found, distance = images.clone(), torch.full((len(images),), torch.inf, device=images.device)
    if len(index):
        found[index] = foolbox.attacks.BoundaryAttack(steps=steps).run(
            whole, images[index], foolbox.Misclassification(classes[index]), starting_points=examples[index]
        )
        distance[index] = (found[index] - images[index]).flatten(1).norm(dim=1)
    return found, distance


def _foolbox() -> ModuleType:
    """Import Foolbox, which takes a second."""
    # It imports GitPython, which without git installed refuses to be imported, unless told so.
    os.environ.setdefault("GIT_PYTHON_REFRESH", "quiet")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of what Foolbox imports from SciPy
        import foolbox
    return foolbox


class _InParts(nn.Module):
    """A model that takes any number of images and passes them on in batches."""

    def __init__(self, model: nn.Module, batch_size: int):
        super().__init__()
        self.model, self.batch_size = model, batch_size

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        logits = logits_of(self.model, images, self.batch_size)
        # Foolbox takes the largest logit: where one is NaN, that is one more, of a class that no image has.
        none = logits.isnan().any(dim=1, keepdim=True)
        return torch.cat([logits.masked_fill(none, -torch.inf), torch.where(none, torch.inf, -torch.inf)], dim=1)
