"""What every attack is: images, labels and strengths in, one outcome an image out.

Models take images in [0, 1], scale them themselves, and return logits.
"""

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal, Protocol

import torch
from torch import nn

from brainreg.attacks.inputs import check_labels, checked_model
from brainreg.errors import InputError

Norm = Literal["Linf", "L2", "L1"]

# Called with the number of images whose outcome is known, and of all images.
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Outcome:
    """What an attack did to each of n images at each of s strengths; all tensors are on the images' device.

    Attributes:
        correct: (s, n) bool, whether the image is still classified correctly at that strength.
        examples: (n, c, h, w) in [0, 1], a misclassified version of each image, the nearest that the attack met;
            the image itself where none was met.
        example_strength: (n,) float, the strength that the example needs; infinite where none was met, 0 where
            the clean image is misclassified.
        broken_by: (s, n) int64, for an attack of several stages the index of the one that broke the image at that
            strength, -1 where none did or none had to; None for an attack of one stage.
        stages: the names of those stages.
        inferred: (s, n) bool, where `correct` was not found by running every stage at that strength, but follows from a
            larger one that the image withstands; None where nothing is inferred.
        masked: (n,) int64, the sign of masked gradients that the image shows, an index of `SIGNS`; None where none was
            looked for.
    """

    correct: torch.Tensor
    examples: torch.Tensor
    example_strength: torch.Tensor
    broken_by: torch.Tensor | None = None
    stages: tuple[str, ...] = ()
    inferred: torch.Tensor | None = None
    masked: torch.Tensor | None = None


# Signs that an attack fails for another reason than an image's robustness, by `Outcome.masked`; 0 is no sign.
SIGNS = ("", "zero gradient", "broken by Square alone", "broken below a strength that it withstood")


class Attack(Protocol):
    """An attack, noise, or corruption.

    Attributes:
        title: what a result of it is called; with its settings, so that none passes for another.
        norm: that of the perturbation, which a strength bounds; None where strengths are no bound.
        largest: the largest strength that has a meaning.
    """

    @property
    def title(self) -> str: ...

    @property
    def norm(self) -> Norm | None: ...

    @property
    def largest(self) -> float: ...

    def __call__(
        self,
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        strengths: Sequence[float],
        *,
        seed: int = 0,
        batch_size: int = 250,
        on_progress: Progress | None = None,
    ) -> Outcome:
        """Attack a model at each strength.

        The model is put in eval mode for the attack and is left as it was found; the global random state too.
        One seed gives one result, in batches of any size.

        Args:
            model: logits (n, classes) of images in [0, 1], on the device of the images. Models that return something
                else go through `brainreg.models.logits.as_logits` first.
            images: (n, c, h, w) in [0, 1], of any floating type, or uint8, which is divided by 255.
            labels: (n,) or (n, 1) whole numbers from 0.
            strengths: in increasing order; 0 leaves the images as they are.
            seed: of every draw.
            batch_size: images that go through the model together.
            on_progress: called now and then.

        Raises:
            InputError: what is no classifier, pixels outside [0, 1], labels that are no class or another number of
                them, a strength that is negative or too large.
        """
        ...


def check_strengths(strengths: Sequence[float], largest: float) -> None:
    """Raise InputError unless the strengths go up, from 0 or more to `largest` or less."""
    for strength in strengths:
        if not 0 <= strength <= largest:
            raise InputError(f"eps={strength:g}: must be in [0, {largest:g}]")
    if list(strengths) != sorted(set(strengths)):
        raise InputError(f"eps={','.join(f'{strength:g}' for strength in strengths)}: must go up, each value once")


def check_counts(**counts: int) -> None:
    """Raise InputError unless every count is at least 1."""
    for name, count in counts.items():
        if count < 1:
            raise InputError(f"{name}={count}: must be at least 1")


@torch.no_grad()
def logits_of(model: nn.Module, images: torch.Tensor, batch_size: int) -> torch.Tensor:
    """Return (n, classes) logits, in the mode the model is in."""
    return torch.cat([model(part) for part in images.split(batch_size)])


def predicted(logits: torch.Tensor) -> torch.Tensor:
    """Return (n,) int64, the class of the largest of (n, classes) logits; -1, which is no class, where one is NaN."""
    return logits.argmax(dim=1).masked_fill(logits.isnan().any(dim=1), -1)


@contextmanager
def prepared(model: nn.Module, device: torch.device) -> Iterator[nn.Module]:
    """Eval mode without parameter gradients, a random state of its own, and everything restored after.

    Yields:
        the model behind `inputs.CheckedModel`, which refuses in one line what is no classifier of images.
    """
    checked, gradients = checked_model(model), torch.is_grad_enabled()
    training = {module: module.training for module in model.modules()}
    needs_gradient = [parameter for parameter in model.parameters() if parameter.requires_grad]
    trace = sys.gettrace()  # a check of AutoAttack's authors switches tracing off, which blinds debuggers
    try:
        checked.eval()
        for parameter in needs_gradient:
            parameter.requires_grad_(False)
        # Attacks need gradients, which a caller's inference mode would not give them.
        with (
            torch.inference_mode(False),
            torch.set_grad_enabled(gradients),
            torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
        ):
            yield checked
    finally:
        for module, mode in training.items():
            module.training = mode
        for parameter in needs_gradient:
            parameter.requires_grad_(True)
        sys.settrace(trace)


def outcome_of_versions(
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    strengths: Sequence[float],
    versions: Callable[[float], torch.Tensor],
    *,
    batch_size: int,
    on_progress: Progress | None = None,
) -> Outcome:
    """Return the outcome of an attack that makes one version of every image for a strength, whatever the model says.

    Call it within `prepared`. `versions(strength)` returns (n, c, h, w); at strength 0 it is not asked.
    """
    clean = logits_of(model, images, batch_size)
    check_labels(labels, clean.shape[1])
    correct = []
    examples, example_strength = images.clone(), torch.where(predicted(clean) == labels, torch.inf, 0.0)
    for i, strength in enumerate(strengths):
        attacked = images if strength == 0 else versions(strength)
        logits = clean if strength == 0 else logits_of(model, attacked, batch_size)
        correct.append(predicted(logits) == labels)
        first = ~correct[-1] & example_strength.isinf()
        examples[first], example_strength[first] = attacked[first], strength
        if on_progress is not None:
            on_progress(len(images) * (i + 1) // len(strengths), len(images))
    return Outcome(torch.stack(correct), examples, example_strength)
