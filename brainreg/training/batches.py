"""The batches of an epoch: drawn in their order on the CPU, sent to the device at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from brainreg.data.augmentation import DrawnAugmentation
from brainreg.hyperparameters import Hyperparameters
from brainreg.seeds import Stream, device_generator
from brainreg.training.data import TrainingData

# Images up to this size in bytes are kept on the device as a whole; larger sets are sent batch by batch.
_KEPT_ON_DEVICE = 8 * 2**30


@dataclass(frozen=True)
class Batch:
    """What one step trains on; all tensors are on the network's device.

    Attributes:
        images: (n, c, h, w) uint8, augmented.
        labels: (n,) int64.
        pairs: (k, c, h, w) uint8 twice, and their (k,) targets; None where nothing is regularized.
        noise: like the images, float32 of a standard normal distribution; None where none is added.
        start: like the images, float32, uniform in [-1, 1]: where FGSM starts, in units of its eps; None without it.
    """

    images: torch.Tensor
    labels: torch.Tensor
    pairs: tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None = None
    noise: torch.Tensor | None = None
    start: torch.Tensor | None = None


class Batches:
    """The training images in batches, and the regularizer's pairs.

    Where the images fit on the device, all draws of an epoch are made first and sent there together, so that no step
    waits for a copy. Others, and those of an augmentation that cannot be drawn ahead, are sent batch by batch.

    Args:
        data: what is trained on.
        labels: (n,) int64 of its images.
        settings: the hyperparameters.
        device: of the network.
    """

    def __init__(self, data: TrainingData, labels: torch.Tensor, settings: Hyperparameters, device: torch.device):
        self._images, self._labels, self._augment = data.images, labels.to(device), data.task.augment
        self._settings, self._batch_size, self._device = settings, settings.resnet_batch_size, device
        self._sampler = None if data.pairs is None else data.pairs.sampler
        self._pair_images = None if data.pairs is None else data.pairs.images.to(device)
        self._shape = data.valid_images.shape[1:]  # of an augmented image
        self._kept: torch.Tensor | None = None
        if isinstance(data.images, torch.Tensor) and (device.type == "cpu" or data.images.nbytes <= _KEPT_ON_DEVICE):
            self._kept = data.images.to(device)
        self._ahead: DrawnAugmentation | None = None
        if isinstance(self._augment, DrawnAugmentation) and self._kept is not None:
            self._ahead = self._augment

    def epoch(self, order: torch.Tensor, generator: torch.Generator, number: int) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield what `batch` takes for each batch, on the device.

        Args:
            order: (n,) int64 of the images, on the CPU.
            generator: draws the augmentation.
            number: of the epoch.
        """
        parts, there = order.split(self._batch_size), order.to(self._device).split(self._batch_size)
        pairs: list[torch.Tensor] = []
        if self._sampler is not None:
            pairs = [part.to(self._device) for part in self._sampler.batches(len(parts))]
        if self._ahead is not None:
            draws = torch.cat([self._ahead.draw(len(part), generator) for part in parts]).to(self._device)
            first: Iterator[tuple[torch.Tensor, torch.Tensor]] = zip(there, draws.split(self._batch_size), strict=True)
        else:
            first = (self._augmented(part, indices, generator) for part, indices in zip(parts, there, strict=True))
        noise = self._noise(number)
        for step, inputs in enumerate(first):
            yield *inputs, *(part[step] for part in pairs), *noise(len(there[step]))

    def _noise(self, epoch: int) -> Callable[[int], list[torch.Tensor]]:
        """What draws the noise of n images, and where FGSM starts, as far as they are wanted."""
        wanted = (self._settings.augment_noise > 0, self._settings.adversarial_eps > 0)
        if not any(wanted):
            return lambda n: []
        generator = device_generator(self._settings.seed, Stream.TRAINING_NOISE, epoch, self._device)

        def draw(n: int) -> list[torch.Tensor]:
            drawn = []
            if wanted[0]:
                drawn.append(torch.randn((n, *self._shape), generator=generator, device=self._device))
            if wanted[1]:
                drawn.append(2 * torch.rand((n, *self._shape), generator=generator, device=self._device) - 1)
            return drawn

        return draw

    def _augmented(
        self, part: torch.Tensor, indices: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The augmented images of a batch and their labels, sent to the device now."""
        images = self._images[part] if self._kept is None else self._kept[indices]
        return self._augment(images, generator).to(self._device), self._labels[indices]

    def batch(self, *inputs: torch.Tensor) -> Batch:
        """Return the batch of one of `epoch`'s inputs."""
        first, second, *rest = inputs
        if self._ahead is not None and self._kept is not None:
            images, labels = self._ahead.apply(self._kept[first], second), self._labels[first]
        else:
            images, labels = first, second
        pairs = None
        if self._pair_images is not None:
            rows, columns, targets, *rest = rest
            pairs = self._pair_images[rows], self._pair_images[columns], targets
        noise = rest.pop(0) if self._settings.augment_noise > 0 else None
        start = rest.pop(0) if self._settings.adversarial_eps > 0 else None
        return Batch(images, labels, pairs, noise, start)
