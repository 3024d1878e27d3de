"""What every attack is: images, labels and strengths in, one outcome an image out.

Models take images in [0, 1], scale them themselves, and return logits.
"""

import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import nn

from brainreg.attacks.inputs import as_images, as_labels, check_labels, checked_model
from brainreg.attacks.names import Norm
from brainreg.errors import InputError
from brainreg.models.precision import ieee_float32

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


@dataclass(frozen=True)
class Target:
    """What is attacked, checked and ready: a model in eval mode and its images.

    Attributes:
        model: returns float32 logits (n, classes).
        images: (n, c, h, w) float32 in [0, 1].
        labels: (n,) int64, each a class of the model.
        logits: (n, classes), of the images.
        seed: of every draw.
        batch_size: images that go through the model together.
        on_progress: called now and then.
    """

    model: nn.Module
    images: torch.Tensor
    labels: torch.Tensor
    logits: torch.Tensor
    seed: int
    batch_size: int
    on_progress: Progress

    @property
    def right(self) -> torch.Tensor:
        """(n,) bool, which images the model classifies correctly before any attack."""
        return predicted(self.logits) == self.labels

    @property
    def classes(self) -> int:
        """Of the model."""
        return self.logits.shape[1]


class Attack(ABC):
    """An attack, noise, or corruption: a subclass has the three attributes, and `_run`.

    Attributes:
        title: what a result of it is called; with its settings, so that none passes for another.
        norm: that of the perturbation, which a strength bounds; None where strengths are no bound.
        largest: the largest strength that has a meaning.
    """

    norm: Norm | None

    @property
    @abstractmethod
    def title(self) -> str: ...

    @property
    @abstractmethod
    def largest(self) -> float: ...

    @abstractmethod
    def _run(self, target: Target, strengths: Sequence[float]) -> Outcome:
        """Attack a target at strengths that are checked; called within `prepared`."""

    def _check_images(self, images: torch.Tensor, strengths: Sequence[float]) -> None:  # noqa: B027
        """Raise InputError for images (n, c, h, w) or strengths that this attack, unlike others, cannot take."""

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
        One seed gives one result on one kind of processor, in batches of any size, up to rounding.

        Args:
            model: logits (n, classes) of images in [0, 1], on the device of the images. Models that return something
                else go through `brainreg.as_logits` first.
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
        return self._attack(
            self._run, model, images, labels, strengths, seed=seed, batch_size=batch_size, on_progress=on_progress
        )

    def _attack(
        self,
        run: Callable[[Target, Sequence[float]], Outcome],
        model: nn.Module,
        images: torch.Tensor,
        labels: torch.Tensor,
        strengths: Sequence[float],
        *,
        seed: int,
        batch_size: int,
        on_progress: Progress | None,
    ) -> Outcome:
        """Check and prepare everything, and run."""
        images, labels = as_images(images), as_labels(labels, images)
        check_strengths(strengths, self.largest)
        self._check_images(images, strengths)
        with prepared(model, images.device) as checked:
            logits = logits_of(checked, images, batch_size)
            check_labels(labels, logits.shape[1])
            return run(Target(checked, images, labels, logits, seed, batch_size, on_progress or _ignore), strengths)


def _ignore(known: int, total: int) -> None:
    """Progress that nobody asked for."""


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
    """Eval mode without parameter gradients, float32 in full, a random state of its own; everything restored after.

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
            ieee_float32(),
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
    target: Target, strengths: Sequence[float], versions: Callable[[float], torch.Tensor]
) -> Outcome:
    """Return the outcome of an attack that makes one version of every image for a strength, whatever the model says.

    `versions(strength)` returns (n, c, h, w); at strength 0 it is not asked.
    """
    images, labels = target.images, target.labels
    correct = []
    examples, example_strength = images.clone(), torch.where(target.right, torch.inf, 0.0)
    for i, strength in enumerate(strengths):
        attacked = images if strength == 0 else versions(strength)
        logits = target.logits if strength == 0 else logits_of(target.model, attacked, target.batch_size)
        correct.append(predicted(logits) == labels)
        first = ~correct[-1] & example_strength.isinf()
        examples[first], example_strength[first] = attacked[first], strength
        target.on_progress(len(images) * (i + 1) // len(strengths), len(images))
    return Outcome(torch.stack(correct), examples, example_strength)
