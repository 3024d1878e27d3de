"""The batches of an epoch: drawn in their order on the CPU, sent to the device at once."""

from collections.abc import Iterator

import torch

from brainreg.data.augmentation import DrawnAugmentation
from brainreg.training.data import TrainingData

# Images up to this size in bytes are kept on the device as a whole; larger sets are sent batch by batch.
_KEPT_ON_DEVICE = 8 * 2**30


class Batches:
    """The training images in batches, and the regularizer's pairs.

    Where the images fit on the device, all draws of an epoch are made first and sent there together, so that no step
    waits for a copy. Others, and those of an augmentation that cannot be drawn ahead, are sent batch by batch.

    Args:
        data: what is trained on.
        labels: (n,) int64 of its images.
        batch_size: images a step that are classified.
        device: of the network.
    """

    def __init__(self, data: TrainingData, labels: torch.Tensor, batch_size: int, device: torch.device):
        self._images, self._labels, self._augment = data.images, labels.to(device), data.task.augment
        self._batch_size, self._device = batch_size, device
        self._sampler = None if data.pairs is None else data.pairs.sampler
        self._pair_images = None if data.pairs is None else data.pairs.images.to(device)
        self._kept: torch.Tensor | None = None
        if isinstance(data.images, torch.Tensor) and (device.type == "cpu" or data.images.nbytes <= _KEPT_ON_DEVICE):
            self._kept = data.images.to(device)
        self._ahead: DrawnAugmentation | None = None
        if isinstance(self._augment, DrawnAugmentation) and self._kept is not None:
            self._ahead = self._augment

    def epoch(self, order: torch.Tensor, generator: torch.Generator) -> Iterator[tuple[torch.Tensor, ...]]:
        """Yield what `images_and_pairs` takes of each batch, on the device.

        Args:
            order: (n,) int64 of the images, on the CPU.
            generator: draws the augmentation.
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
        for step, inputs in enumerate(first):
            yield *inputs, *(part[step] for part in pairs)

    def _augmented(
        self, part: torch.Tensor, indices: torch.Tensor, generator: torch.Generator
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The augmented images of a batch and their labels, sent to the device now."""
        images = self._images[part] if self._kept is None else self._kept[indices]
        return self._augment(images, generator).to(self._device), self._labels[indices]

    def images_and_pairs(
        self, *inputs: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor, tuple[torch.Tensor, torch.Tensor, torch.Tensor] | None]:
        """Return the augmented images, their labels and the pairs (None where there are none) of one batch's inputs."""
        first, second, *drawn = inputs
        if self._ahead is not None and self._kept is not None:
            images, labels = self._ahead.apply(self._kept[first], second), self._labels[first]
        else:
            images, labels = first, second
        if self._pair_images is None:
            return images, labels, None
        rows, columns, targets = drawn
        return images, labels, (self._pair_images[rows], self._pair_images[columns], targets)
