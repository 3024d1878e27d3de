"""What one run trains on: task images, validation images, regularization pairs."""

import contextlib
import logging
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from brainreg.data.datasets import Dataset, find_dataset
from brainreg.data.fingerprints import REGULARIZATION, TRAINING, VALIDATION, part_name
from brainreg.data.image_set import ImageFiles, ImageSet
from brainreg.data.load import load_images, load_training_images
from brainreg.data.splits import first_images, split_train_validation
from brainreg.errors import InputError, first_line
from brainreg.hyperparameters import Hyperparameters
from brainreg.method.sampler import PairSampler
from brainreg.models.build import build_model
from brainreg.models.names import RESNETS
from brainreg.models.own import code_of
from brainreg.seeds import Stream, seeded_generator
from brainreg.training.device import default_device

logger = logging.getLogger(__name__)

# Side of the smallest images that a network of four sections makes sense of.
_SMALLEST = 8

# Hyperparameters that `settings_of_few_images` may choose.
OF_FEW_IMAGES = ("valid_portion", "reg_image_num")

# Validation images of data whose own default portion is fewer, and the largest portion that they may take for it.
_ENOUGH_VALIDATION, _MOST_VALIDATION = 400, 0.25


@dataclass(frozen=True)
class TrainingData:
    """What one run trains on; images are uint8 (n, c, h, w), labels int64 (n,).

    Attributes:
        task: the data set that is classified.
        num_classes: of the task.
        images, labels: the whole training split as stored, memory-mapped where it comes from the cache; images of
            many sizes stay in their files.
        train_indices: which of those are trained on; batches are cut from them and augmented.
        valid_images, valid_labels: the validation images, as they are classified.
        pairs: the regularizer's, or None where nothing is regularized.
        sets: what the fingerprints are of, by `brainreg.data.fingerprints.part_name`.
        code: digest of the code of a network of the user's, see `brainreg.models.own`.
        data_dir: folder where all of it was found.
    """

    task: Dataset
    num_classes: int
    images: torch.Tensor | ImageFiles
    labels: torch.Tensor
    train_indices: torch.Tensor
    valid_images: torch.Tensor
    valid_labels: torch.Tensor
    pairs: "RegularizationPairs | None"
    sets: Mapping[str, ImageSet] = field(default_factory=dict, repr=False)
    code: Mapping[str, str] = field(default_factory=dict, repr=False)
    data_dir: str = ""

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the training split, the validation images and the regularizer's whole training split, and of
        the code of a network of the user's.
        """
        return {name: one.fingerprint for name, one in self.sets.items()} | dict(self.code)

    @property
    def in_channels(self) -> int:
        """Channels of the images that are classified."""
        return self.valid_images.shape[1]

    @property
    def image_size(self) -> int:
        """Side of the images that are classified."""
        return self.valid_images.shape[-1]


@dataclass(frozen=True)
class RegularizationPairs:
    """The regularization images and the pairs of them that are drawn.

    Attributes:
        images: (N, c, h, w) uint8, augmented once.
        centered: whether they are scaled to 5 * (x - 0.5) for the network.
        sampler: draws the pairs that the range selects, with their targets.
    """

    images: torch.Tensor
    centered: bool
    sampler: PairSampler


def load_training_data(
    settings: Hyperparameters, data_dir: str | Path = "data", device: str | torch.device | None = None
) -> TrainingData:
    """Load what a run with these settings trains on: validation images are taken out first.

    Args:
        settings: the hyperparameters.
        data_dir: folder of the data sets.
        device: where the similarities of the regularization images are computed; CUDA where there is one, unless
            given. All other tensors are on the CPU.

    Raises:
        InputError: data that is missing or unreadable, more images asked for than there are, fewer pairs
            than one step takes.
    """
    task = find_dataset(settings.task)
    with errors_name("task", settings.task):
        whole = load_training_images(settings.task, data_dir, settings.rgb, settings.image_size)
    images, labels = whole.images, whole.labels
    train, valid = split_train_validation(labels, settings.valid_portion, settings.seed)
    if not len(valid) or not len(train):
        raise InputError(
            f"valid_portion={settings.valid_portion:g}: of {len(labels)} images {len(valid)} would validate and"
            f" {len(train)} train; both need at least one, and a class of one image only trains"
        )
    valid_images = images.classified(valid) if isinstance(images, ImageFiles) else images[valid]
    channels, height, width = valid_images.shape[1:]
    if height != width or height < _SMALLEST:
        raise InputError(
            f"task={settings.task}: images of {height}x{width}; must be square, at least {_SMALLEST}x{_SMALLEST};"
            f" image_size={min(max(_SMALLEST, min(height, width)), 1024)} makes them so"
        )
    num_classes = int(labels.max()) + 1
    if num_classes < 2:
        raise InputError(f"task={settings.task}: images of one class; must be of two or more")
    sets = {
        part_name(TRAINING, settings): whole,
        part_name(VALIDATION, settings): ImageSet(valid_images, labels[valid]),
    }
    pairs = None
    if settings.regularized:
        pairs, regularizers = _regularization_pairs(settings, data_dir, whole, train, device or default_device())
        sets[part_name(REGULARIZATION, settings)] = regularizers
    if settings.train_image_num is not None:
        if settings.train_image_num > len(train):
            raise InputError(
                f"train_image_num={settings.train_image_num}: {settings.task} has {len(train)} training images"
                " after validation images are taken out"
            )
        train = train[first_images(labels[train], settings.train_image_num, settings.seed)]
        if unseen := num_classes - len(labels[train].unique()):
            logger.warning("train_image_num=%d: %d classes have no image in it", settings.train_image_num, unseen)
    last_batch = len(train) % settings.resnet_batch_size or settings.resnet_batch_size
    _check_network(settings, channels, num_classes, width, last_batch, pairs)
    return TrainingData(
        task=task,
        num_classes=num_classes,
        images=images,
        labels=labels,
        train_indices=train,
        valid_images=valid_images,
        valid_labels=labels[valid],
        pairs=pairs,
        sets=sets,
        code=code_of(settings.archi),
        data_dir=str(data_dir),
    )


def load_test_images(settings: Hyperparameters, data_dir: str | Path = "data") -> ImageSet:
    """Load the test images of a run's task, in its colors.

    Raises:
        InputError: they are missing or unreadable.
    """
    with errors_name("task", settings.task):
        return load_images(settings.task, "test", data_dir, settings.rgb, image_size=settings.image_size)


def _check_network(
    settings: Hyperparameters,
    channels: int,
    num_classes: int,
    size: int,
    last_batch: int,
    pairs: RegularizationPairs | None,
) -> None:
    """Raise InputError if the network cannot take the images, or cannot be trained on one image at a time."""
    one_pair = settings.regularized and settings.reg_batch_size == 1
    alone = {"resnet_batch_size": last_batch == 1, "reg_batch_size": one_pair}
    if settings.archi in RESNETS and not any(alone.values()):
        return  # of timm's, only the network itself can tell
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = build_model(settings.archi, channels, num_classes, settings.base_channels, size).train()
        if pairs is not None and pairs.images.shape[1:] != (channels, size, size):
            two = torch.zeros(2, *pairs.images.shape[1:])
            try:
                network.pair_similarity(two, two)
            except Exception as error:  # each network has its own way to fail on a size
                raise InputError(
                    f"reg_data={settings.reg_data}: {settings.archi} cannot compare images of"
                    f" {'x'.join(map(str, two.shape[1:]))} ({first_line(error)}); choose others, or image_size"
                ) from error
        for name in (name for name, one in alone.items() if one):
            try:
                network(torch.zeros(1, channels, size, size))
            except ValueError as error:  # BatchNorm has no variance of one value a channel
                count = getattr(settings, name)
                left = "one pair" if name == "reg_batch_size" else f"a last batch of one image in batches of {count}"
                raise InputError(
                    f"{name}={count}: {left} is too little for this network and images of {size}x{size}; choose more"
                    " or, of the batches, another size"
                ) from error


def _regularization_pairs(
    settings: Hyperparameters,
    data_dir: str | Path,
    whole: ImageSet,
    train: torch.Tensor,
    device: str | torch.device,
) -> tuple[RegularizationPairs, ImageSet]:
    """Choose N images, augment them once by their own data set's rule, and draw pairs by their similarity.

    `whole` is the task's training split. What the images were chosen from is returned, too.
    """
    task = find_dataset(settings.task)
    dataset, chosen_from, pool, own = _regularization_pool(settings, data_dir, whole, train)
    images, labels = chosen_from.images, chosen_from.labels
    count = settings.reg_image_num
    if count > len(pool):
        less = " after validation images are taken out" if own else ""
        raise InputError(f"reg_image_num={count}: {dataset.name} has {len(pool)} training images{less}")
    chosen = images[pool[first_images(labels[pool], count, settings.seed)]]
    chosen = dataset.augment_regularization(chosen, seeded_generator(settings.seed, Stream.REGULARIZATION_AUGMENTATION))

    sampler = PairSampler(
        chosen,
        reg_range=settings.reg_range,
        reg_thresh=settings.reg_thresh,
        reg_thresh_2=settings.reg_thresh_2,
        batch_size=settings.reg_batch_size,
        seed=settings.seed,
        device=device,
        reg_boosting=settings.reg_boosting,
        reg_boosting_val=settings.reg_boosting_val,
    )
    return RegularizationPairs(chosen, dataset.centered or task.centered, sampler), chosen_from


def settings_of_few_images(
    settings: Hyperparameters, data_dir: str | Path = "data", given: Collection[str] = ()
) -> dict[str, Any]:
    """Return the hyperparameters whose defaults do not fit data of few images, with values that do.

    So many validate that they are 400, or a quarter of the images where that is fewer; and all that are left regularize
    where they are fewer than N.

    Args:
        settings: with the defaults.
        data_dir: folder of the data sets.
        given: names of hyperparameters that stay as they are.

    Raises:
        InputError: data that are missing or unreadable.
    """
    with errors_name("task", settings.task):
        whole = load_training_images(settings.task, data_dir, settings.rgb, settings.image_size)
    count, portion = len(whole.labels), settings.valid_portion
    fitting: dict[str, Any] = {}
    if "valid_portion" not in given and portion * count < _ENOUGH_VALIDATION:
        portion = fitting["valid_portion"] = round(min(_MOST_VALIDATION, _ENOUGH_VALIDATION / count), 3)
    train, _ = split_train_validation(whole.labels, portion, settings.seed)
    if "reg_image_num" not in given:
        there = len(_regularization_pool(settings, data_dir, whole, train)[2])
        if there < settings.reg_image_num:
            fitting["reg_image_num"] = there
    return fitting


def _regularization_pool(
    settings: Hyperparameters, data_dir: str | Path, whole: ImageSet, train: torch.Tensor
) -> tuple[Dataset, ImageSet, torch.Tensor, bool]:
    """The data set that regularizes, its training images, the indices of those that may, and whether it is the task's
    own.
    """
    task = find_dataset(settings.task)
    own = settings.reg_data is None or settings.reg_data == settings.task
    dataset = task if settings.reg_data is None else find_dataset(settings.reg_data)
    chosen_from = whole
    if not own or isinstance(whole.images, ImageFiles):
        with errors_name("reg_data", dataset.name):
            chosen_from = load_images(
                dataset.name, "train", data_dir, settings.rgb, "regularization", settings.image_size
            )
        # The task's own images may come by another name, a path; its validation images must not regularize then either.
        own = own or (isinstance(whole.images, torch.Tensor) and torch.equal(chosen_from.tensor, whole.images))
    pool = train if own else torch.arange(len(chosen_from.labels))
    return dataset, chosen_from, pool, own


@contextlib.contextmanager
def errors_name(key: str, name: str) -> Iterator[None]:
    """Let errors about a data set begin with the hyperparameter that names it, where they do not name another."""
    try:
        yield
    except InputError as error:
        text = str(error).removeprefix(f"{name}: ")
        raise InputError(text if text.startswith("rgb=") else f"{key}={name}: {text}") from error
