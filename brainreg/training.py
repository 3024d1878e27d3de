"""Training of one network: the data of a run, its checkpoints, and the loop."""

import contextlib
import io
import logging
import math
import os
import platform
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from brainreg.attacks.base import predicted
from brainreg.attacks.inputs import as_labels, check_labels
from brainreg.data import (
    Dataset,
    ImageFiles,
    ImageSet,
    find_dataset,
    first_images,
    load_images,
    load_training_images,
    split_train_validation,
)
from brainreg.errors import InputError, validated
from brainreg.fingerprints import REGULARIZATION, TRAINING, VALIDATION, check_same_data, part_name
from brainreg.hyperparameters import Hyperparameters
from brainreg.losses import similarity_loss
from brainreg.machine import cpu_cores
from brainreg.models import ARCHITECTURES, InputScaling, SimilarityNetwork, build_model
from brainreg.paths import expand_home
from brainreg.seeds import Stream, seeded_generator
from brainreg.similarity import PairSampler

logger = logging.getLogger(__name__)

_CHECKPOINT_FORMAT = 4
_WITHOUT_FINGERPRINTS = 3  # of the whole data; all else is as it is now
_CHECKPOINT_KEYS = {
    *("hyperparameters", "data", "in_channels", "num_classes", "image_size", "model", "optimizer", "pairs", "history"),
    *("best_epoch", "best_model", "seconds"),
}

# Side of the smallest images that a network of four sections makes sense of.
_SMALLEST = 8

# Images up to this size in bytes are kept on the device as a whole; larger sets are sent batch by batch.
_KEPT_ON_DEVICE = 8 * 2**30


class DivergedError(RuntimeError):
    """The loss became NaN or infinite. Its text says where, and which part of the loss it was."""


# ---------------------------------------------------------------------------------------------
# Data of a run
# ---------------------------------------------------------------------------------------------


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
        sets: what the fingerprints are of, by `brainreg.fingerprints.part_name`.
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
    data_dir: str = ""

    @property
    def fingerprints(self) -> dict[str, str]:
        """Fingerprints of the training split, the validation images and the regularizer's whole training split."""
        return {name: one.fingerprint for name, one in self.sets.items()}

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
    with naming("task", settings.task):
        whole = load_training_images(settings.task, data_dir, settings.rgb)
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
            f"task={settings.task}: images of {height}x{width}; must be square, at least {_SMALLEST}x{_SMALLEST}"
        )
    num_classes = int(labels.max()) + 1
    if num_classes < 2:
        raise InputError(f"task={settings.task}: images of one class; must be of two or more")
    divided = settings.valid_portion, settings.seed
    sets = {
        part_name(TRAINING, settings.rgb): whole,
        part_name(VALIDATION, settings.rgb, *divided): ImageSet(valid_images, labels[valid]),
    }
    pairs = None
    if settings.regularized:
        pairs, regularizers = _regularization_pairs(settings, data_dir, whole, train, device or default_device())
        sets[part_name(REGULARIZATION, settings.rgb)] = regularizers
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
    _check_network(settings, channels, num_classes, width, last_batch)
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
        data_dir=str(data_dir),
    )


def load_test_images(settings: Hyperparameters, data_dir: str | Path = "data") -> ImageSet:
    """Load the test images of a run's task, in its colors.

    Raises:
        InputError: they are missing or unreadable.
    """
    with naming("task", settings.task):
        return load_images(settings.task, "test", data_dir, settings.rgb)


def _check_network(settings: Hyperparameters, channels: int, num_classes: int, size: int, last_batch: int) -> None:
    """Raise InputError if the network cannot take the images, or cannot be trained on one image at a time."""
    one_pair = settings.regularized and settings.reg_batch_size == 1
    alone = {"resnet_batch_size": last_batch == 1, "reg_batch_size": one_pair}
    if settings.archi in ARCHITECTURES and not any(alone.values()):
        return  # of timm's, only the network itself can tell
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        network = build_model(settings.archi, channels, num_classes, settings.base_channels, size).train()
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
    own = settings.reg_data in (None, settings.task)
    dataset = task if own else find_dataset(settings.reg_data)
    chosen_from = whole
    if not own or isinstance(whole.images, ImageFiles):
        with naming("reg_data", dataset.name):
            chosen_from = load_images(dataset.name, "train", data_dir, settings.rgb, "regularization")
        # The task's own images may come by another name, a path; its validation images must not regularize then either.
        own = own or (isinstance(whole.images, torch.Tensor) and torch.equal(chosen_from.images, whole.images))
    images, labels = chosen_from.images, chosen_from.labels
    pool = train if own else torch.arange(len(labels))
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


@contextlib.contextmanager
def naming(key: str, name: str) -> Iterator[None]:
    """Let errors about a data set begin with the hyperparameter that names it, where they do not name another."""
    try:
        yield
    except InputError as error:
        text = str(error).removeprefix(f"{name}: ")
        raise InputError(text if text.startswith("rgb=") else f"{key}={name}: {text}") from error


def default_device() -> torch.device:
    """Return the CUDA device where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def device_name(device: str | torch.device) -> str:
    """Return what results call a device of this machine: the GPU's name, or the processor's and its cores."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.machine()
    with contextlib.suppress(OSError, StopIteration):  # not on Linux
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next(line.split(":")[1].strip() for line in lines if line.startswith("model name"))
    return f"CPU ({model}, {cpu_cores()} cores)"


# ---------------------------------------------------------------------------------------------
# Checkpoints
# ---------------------------------------------------------------------------------------------


def save_checkpoint(path: str | Path, checkpoint: dict[str, Any]) -> None:
    """Write a checkpoint so that a reader sees the old one or the new one, never a part, even after a power cut.

    Raises:
        OSError: the disk is full.
    """
    path = Path(path)
    part = path.with_name(f"{path.name}.part")
    content = io.BytesIO()  # torch.save to a file calls a full disk an error of its own
    torch.save(checkpoint, content)
    try:
        with part.open("wb") as file:
            file.write(content.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)  # it would take what is left of a full disk
        raise


def load_checkpoint(path: str | Path) -> dict[str, Any]:
    """Read a checkpoint that `train` wrote. Nothing in it is executed.

    Raises:
        InputError: no file, not a checkpoint, or one of another format.
    """
    path = expand_home(path)
    if not Path(path).is_file():
        raise InputError(f"{path}: no such checkpoint")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
        found = checkpoint["format"]
    except Exception as error:  # unpickling a strange file fails in many ways
        raise InputError(f"{path}: not a checkpoint of this project") from error
    if found not in (_CHECKPOINT_FORMAT, _WITHOUT_FINGERPRINTS):
        raise InputError(f"{path}: checkpoint of format {found}; this version reads format {_CHECKPOINT_FORMAT}")
    if missing := _CHECKPOINT_KEYS - checkpoint.keys():
        raise InputError(f"{path}: checkpoint without {', '.join(sorted(missing))}")
    return checkpoint if found == _CHECKPOINT_FORMAT else {**checkpoint, "data": {}}


def resumable_checkpoint(path: str | Path, on_damaged: Callable[[str], None] | None = None) -> dict[str, Any] | None:
    """Return the checkpoint that a training can go on from; None where there is none.

    Args:
        path: of the file. A damaged one, or one of another format, is renamed, so that the training begins anew.
        on_damaged: told that, in one line.
    """
    path = Path(path)
    if not path.exists():
        return None
    try:
        return load_checkpoint(path)
    except InputError as error:
        aside = path.with_name(f"{path.name}.damaged")
        os.replace(path, aside)
        if on_damaged is not None:
            on_damaged(f"{error}; kept as {aside.name}, and trained from the beginning")
        return None


def load_classifier(path: str | Path) -> tuple[nn.Sequential, Hyperparameters]:
    """Return the best epoch's network of a checkpoint, in eval mode, and the settings it was trained with.

    The network takes images in [0, 1], of the task's size, and does its own scaling.
    """
    checkpoint = load_checkpoint(path)
    settings = validated(Hyperparameters, checkpoint["hyperparameters"], spell=lambda key: f"{path}: {key}")
    network = build_model(
        settings.archi,
        checkpoint["in_channels"],
        checkpoint["num_classes"],
        settings.base_channels,
        checkpoint["image_size"],
    )
    try:
        network.load_state_dict(checkpoint["best_model"])
    except RuntimeError as error:
        raise InputError(f"{path}: its weights are those of another network than this version builds") from error
    return as_classifier(network, find_dataset(settings.task)).eval(), settings


def as_classifier(network: SimilarityNetwork, task: Dataset) -> nn.Sequential:
    """Return `network` behind its task's input scaling: a model of images in [0, 1]."""
    return nn.Sequential(InputScaling(task.centered), network)


def folded(classifier: nn.Sequential) -> nn.Sequential:
    """Return a classifier for measurements: the same logits up to rounding, without BatchNorm's cost."""
    scaling, network = classifier
    return nn.Sequential(scaling, network.folded()).eval()


# ---------------------------------------------------------------------------------------------
# The loop
# ---------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class TrainingResult:
    """What `train` returns.

    Attributes:
        classifier: the best epoch's network, in eval mode, for images in [0, 1].
        best_epoch: the epoch with the lowest validation cross-entropy, or the one that another metric chose; 0 is the
            untrained network.
        history: the per-epoch metrics, epoch 0 first.
        seconds: that the epochs took, those before an interruption too.
    """

    classifier: nn.Sequential
    best_epoch: int
    history: list[dict[str, float]]
    seconds: float


def learning_rate(settings: Hyperparameters, epoch: int) -> float:
    """Return the learning rate after `epoch` completed epochs: a step-wise decay that restarts in cycles."""
    phase = epoch % (settings.phase_num * settings.phase_duration) // settings.phase_duration
    return settings.lr * settings.decay_rate**phase


def train(
    settings: Hyperparameters,
    data: TrainingData,
    *,
    device: str | torch.device | None = None,
    checkpoint: str | Path | None = None,
    on_epoch: Callable[[dict[str, float]], None] | None = None,
    on_step: Callable[[int, int], None] | None = None,
    measure: Callable[[nn.Module, dict[str, float]], dict[str, float]] | None = None,
    choose_by: str | None = None,
    on_damaged: Callable[[str], None] | None = None,
) -> TrainingResult:
    """Train a network with cross-entropy plus alpha times the similarity loss.

    Args:
        settings: the hyperparameters.
        data: from `load_training_data(settings)`, or one's own: images uint8 (n, c, h, w), labels whole numbers from 0
            to below `num_classes`.
        device: CUDA where there is one, unless given.
        checkpoint: a file written after each epoch. Where it exists, training goes on from it; on one CPU,
            with one number of threads, the result is then the same, bit for bit, as without the interruption.
        on_epoch: called after each epoch (and once before the first) with its metrics: epoch, lr,
            cross_entropy and similarity_loss (means over the epoch's steps), valid_cross_entropy,
            valid_accuracy (a fraction).
        on_step: called after each step with the number of completed steps and of all steps of the epoch.
        measure: called after each epoch with its network, in eval mode, for images in [0, 1], and its metrics;
            what it returns is added to them.
        choose_by: the best epoch is the one with the largest value of this metric, which `measure` gives (an epoch
            without it is not the best), ties to the earliest; the untrained network is measured, too. Absent: the
            lowest valid_cross_entropy, as published.
        on_damaged: told, in one line, where the checkpoint is damaged, so that training begins anew.

    Raises:
        DivergedError: the loss is NaN or infinite.
        InputError: the checkpoint is of other settings, of other data, or chose its best epoch otherwise.

    Source: arXiv 2410.03952, section 3 and appendix.
    """
    train_labels, valid_labels = _checked_labels(data)
    device = torch.device(device or default_device())
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        network = build_model(
            settings.archi, data.in_channels, data.num_classes, settings.base_channels, data.image_size
        ).to(device)
    if device.type == "cuda":  # on a CPU, oneDNN gains less from it, and crashes on some shapes
        network = network.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        network.parameters(), lr=settings.lr, momentum=settings.momentum, weight_decay=settings.weight_decay, fused=True
    )
    half = torch.autocast(device.type, torch.bfloat16, enabled=settings.precision == "bfloat16")
    images, labels = data.images, train_labels.to(device)
    if isinstance(images, torch.Tensor) and images.nbytes <= _KEPT_ON_DEVICE:
        images = images.to(device)
    valid_images, valid_labels = data.valid_images.to(device), valid_labels.to(device)
    scaling = InputScaling(data.task.centered)
    pairs = data.pairs
    if pairs is not None:
        pair_images, pair_scaling = pairs.images.to(device), InputScaling(pairs.centered)
        pairs.sampler.restart()
    steps = math.ceil(len(data.train_indices) / settings.resnet_batch_size)

    state = None if checkpoint is None else resumable_checkpoint(checkpoint, on_damaged)
    if state is not None:
        _check_same_run(settings, data, state, checkpoint)
        _check_same_choice(choose_by, state, checkpoint)
        network.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        if pairs is not None:
            pairs.sampler.load_state_dict(state["pairs"])
        history, best_epoch, best_model = state["history"], state["best_epoch"], state["best_model"]
        seconds = state["seconds"]
    else:
        loss, accuracy = _validate(network, scaling, valid_images, valid_labels)
        history = [{"epoch": 0, "valid_cross_entropy": loss, "valid_accuracy": accuracy}]
        if choose_by is not None:
            history[0] |= measure(as_classifier(network, data.task).eval(), history[0])
        best_epoch, best_model, seconds = 0, _copy_state(network), 0.0
        if on_epoch is not None:
            on_epoch(history[0])

    for epoch in range(history[-1]["epoch"] + 1, settings.epoch_num + 1):
        began = time.monotonic()
        lr = optimizer.param_groups[0]["lr"] = learning_rate(settings, epoch - 1)
        batches = seeded_generator(settings.seed, Stream.BATCHES, epoch)
        shuffled = data.train_indices[torch.randperm(len(data.train_indices), generator=batches)]
        if pairs is not None:
            pairs.sampler.reshuffle()
        sums = torch.zeros(2, device=device)
        network.train()
        # Copied once an epoch: a copy in each step would wait for the device.
        shuffled_labels = labels[shuffled.to(device)].split(settings.resnet_batch_size)
        if isinstance(images, torch.Tensor):
            shuffled = shuffled.to(images.device)
        for step, batch in enumerate(shuffled.split(settings.resnet_batch_size)):
            cut = images[batch].to(device) if isinstance(images, torch.Tensor) else images[batch]
            inputs = scaling(to_float(data.task.augment(cut, batches).to(device)))
            with half:
                logits = network(inputs)
            cross_entropy = F.cross_entropy(logits.float(), shuffled_labels[step])
            if pairs is None:
                loss, similarity = cross_entropy, torch.zeros_like(cross_entropy)
            else:
                rows, columns, targets = (part.to(device) for part in next(pairs.sampler))
                with half:
                    scores = network.pair_similarity(
                        pair_scaling(to_float(pair_images[rows])), pair_scaling(to_float(pair_images[columns]))
                    )
                similarity = similarity_loss(scores, targets, settings.arctanh)
                loss = cross_entropy + settings.reg_alpha * similarity
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            sums += torch.stack([cross_entropy.detach(), similarity.detach()])
            if step % 100 == 99 or step == steps - 1:  # each check waits for the device
                _check_finite(sums, epoch, step + 1)
            if on_step is not None:
                on_step(step + 1, steps)

        cross_entropy, similarity = (sums / steps).tolist()
        valid_loss, valid_accuracy = _validate(network, scaling, valid_images, valid_labels)
        if not math.isfinite(valid_loss):
            raise DivergedError(f"epoch {epoch}: the validation cross-entropy is {valid_loss}; try a lower lr or alpha")
        history.append(
            {
                "epoch": epoch,
                "lr": lr,
                "cross_entropy": cross_entropy,
                "similarity_loss": similarity,
                "valid_cross_entropy": valid_loss,
                "valid_accuracy": valid_accuracy,
            }
        )
        if measure is not None:
            history[-1] |= measure(as_classifier(network, data.task).eval(), history[-1])
        if _is_better(history[-1], history[best_epoch], choose_by):
            best_epoch, best_model = epoch, _copy_state(network)
        seconds += time.monotonic() - began
        if checkpoint is not None:
            save_checkpoint(
                checkpoint,
                {
                    "format": _CHECKPOINT_FORMAT,
                    "hyperparameters": settings.model_dump(),
                    "data": data.fingerprints,
                    "in_channels": data.in_channels,
                    "num_classes": data.num_classes,
                    "image_size": data.image_size,
                    "model": network.state_dict(),
                    "optimizer": optimizer.state_dict(),
                    "pairs": None if pairs is None else pairs.sampler.state_dict(),
                    "history": history,
                    "best_epoch": best_epoch,
                    "chosen_by": choose_by,
                    "best_model": best_model,
                    "seconds": seconds,
                },
            )
        if on_epoch is not None:
            on_epoch(history[-1])

    optimizer.zero_grad()  # frees the gradients
    network.load_state_dict(best_model)
    return TrainingResult(as_classifier(network, data.task).eval(), best_epoch, history, seconds)


def _is_better(epoch: dict[str, float], best: dict[str, float], choose_by: str | None) -> bool:
    """Whether an epoch takes the place of the best one before it; ties go to the earliest."""
    if choose_by is None:
        return epoch["valid_cross_entropy"] < best["valid_cross_entropy"]
    return epoch.get(choose_by, -math.inf) > best.get(choose_by, -math.inf)


def to_float(images: torch.Tensor) -> torch.Tensor:
    """Return uint8 images as float32 in [0, 1]."""
    return images.float() / 255


@torch.no_grad()
def _validate(
    network: SimilarityNetwork, scaling: InputScaling, images: torch.Tensor, labels: torch.Tensor
) -> tuple[float, float]:
    """Mean cross-entropy and accuracy (a fraction) in eval mode."""
    network.eval()
    logits = torch.cat([network(scaling(to_float(part))) for part in images.split(500)])
    return F.cross_entropy(logits, labels).item(), (predicted(logits) == labels).float().mean().item()


def _copy_state(network: SimilarityNetwork) -> dict[str, torch.Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in network.state_dict().items()}


def _check_finite(sums: torch.Tensor, epoch: int, step: int) -> None:
    cross_entropy, similarity = sums.tolist()
    if not (math.isfinite(cross_entropy) and math.isfinite(similarity)):
        raise DivergedError(
            f"epoch {epoch}, by step {step}: the sum of the cross-entropy is {cross_entropy:g} and of the similarity"
            f" loss {similarity:g}; try a lower lr or alpha"
        )


def _checked_labels(data: TrainingData) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the labels of the training and the validation images as int64 (n,).

    Raises:
        InputError: images that are not uint8 (n, c, h, w), labels that are not one class an image.
    """
    checked = []
    for prefix, images, labels in (
        ("", data.images, data.labels),
        ("valid_", data.valid_images, data.valid_labels),
    ):
        if isinstance(images, torch.Tensor):
            if images.dtype != torch.uint8 or images.ndim != 4:
                found = f"{images.dtype} of shape {tuple(images.shape)}"
                raise InputError(f"data.{prefix}images: {found}; must be uint8 (n, c, h, w)")
            try:
                labels = as_labels(labels, images)
                check_labels(labels, data.num_classes, "the task")
            except InputError as error:
                raise InputError(f"data.{prefix}{error}") from error
        checked.append(labels)
    return checked[0], checked[1]


def _check_same_run(settings: Hyperparameters, data: TrainingData, state: dict[str, Any], path: str | Path) -> None:
    """A run goes on only with the settings and the data it began with; more epochs are no contradiction."""
    if not state["data"]:
        logger.warning("%s: holds no fingerprints of its data; whether they are these cannot be told", path)
    check_same_data(data.fingerprints, state["data"], f"data_dir={data.data_dir}", f"{path}")
    defaults = {name: field.default for name, field in Hyperparameters.model_fields.items()}
    now, then = settings.model_dump(), {**defaults, **state["hyperparameters"]}
    changed = [name for name in now if name != "epoch_num" and now[name] != then[name]]
    if changed:
        name = changed[0]
        raise InputError(f"{name}={now[name]}: {path} was trained with {name}={then[name]}; choose another folder")


def _check_same_choice(choose_by: str | None, state: dict[str, Any], path: str | Path) -> None:
    """A run goes on only with the rule for its best epoch that it began with."""
    if state.get("chosen_by") != choose_by:
        then, now = (name or "valid_cross_entropy" for name in (state.get("chosen_by"), choose_by))
        raise InputError(f"{path}: its best epoch is chosen by {then}, not by {now}; choose another folder")
