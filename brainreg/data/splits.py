"""Training and validation images, and the first N of a data set."""

import torch

from brainreg.data.types import Split
from brainreg.seeds import Stream, seeded_generator


def split_train_validation(labels: torch.Tensor, portion: float, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Divide a training split at random, keeping the proportions of the classes; each class keeps an image to train on.

    Args:
        labels: (n,) int64.
        portion: fraction of the images that go to validation, in [0, 1); rounded to a whole number of images, where
            classes of one image do not make it fewer.
        seed: of the draw.

    Returns:
        Sorted indices of the training and of the validation images.
    """
    generator = seeded_generator(seed, Stream.SPLIT)
    wanted = round(portion * len(labels))
    counts = torch.bincount(labels)
    shares = counts.double() * wanted / max(len(labels), 1)
    quota = shares.floor().long().minimum((counts - 1).clamp(min=0))
    # What rounding down left over goes to the largest remainders, ties at random.
    order = torch.randperm(len(counts), generator=generator)
    order = order[(shares - quota)[order].argsort(descending=True, stable=True)]
    while (left := wanted - int(quota.sum())) > 0 and len(order := order[(quota < counts - 1)[order]]):
        quota[order[:left]] += 1
    taken = torch.zeros(len(labels), dtype=torch.bool)
    for label, count in enumerate(quota.tolist()):
        members = (labels == label).nonzero().flatten()
        taken[members[torch.randperm(len(members), generator=generator)[:count]]] = True
    return (~taken).nonzero().flatten(), taken.nonzero().flatten()


def first_images(labels: torch.Tensor, count: int, seed: int) -> torch.Tensor:
    """Return the indices of the first `count` images; where the images are ordered by class, of a random `count`.

    torchvision's own files mix the classes; a folder holds one class after the other, and its first images
    would all be of one class.
    """
    if bool((labels[1:] >= labels[:-1]).all()):
        return torch.randperm(len(labels), generator=seeded_generator(seed, Stream.FIRST_IMAGES))[:count]
    return torch.arange(count)


def held_out_test(labels: torch.Tensor, split: Split) -> torch.Tensor:
    """Return the indices of a split, for data without a test split: a class-balanced fifth, always the same."""
    train, test = split_train_validation(labels, 0.2, seed=0)
    return train if split == "train" else test
