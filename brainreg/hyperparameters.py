"""Every hyperparameter of a training run: its type, default, bounds and help text, in this one place.

The command lines, the space files, the checkpoints and the columns of the results all derive from it.
Names and defaults are the published flags' (arXiv 2410.03952); what this project added says so.
"""

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from brainreg._utils.paths import expand_home
from brainreg.data.datasets import DATASETS, find_dataset, is_path
from brainreg.method.ranges import RangeName, check_range
from brainreg.models.names import RESNETS, check_architecture


def _known_dataset(name: str) -> str:
    """A data set's own name, or the absolute path where it lies: what a worker elsewhere or a later reader needs."""
    find_dataset(name)
    if not is_path(name):
        return name
    path = Path(expand_home(name))
    return str(path.resolve() if path.is_dir() else path.absolute())  # a link to a file may have another ending


def _known_architecture(name: str) -> str:
    check_architecture(name)
    return name


DatasetName = Annotated[str, AfterValidator(_known_dataset)]


class Hyperparameters(BaseModel):
    """The settings of one training run. Immutable; a wrong value is an error at once."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    task: DatasetName = Field(
        "CIFAR10",
        description="data set to classify: digits, MNIST, FashionMNIST, CIFAR10, CIFAR100, ImageNet;"
        " the path of an image folder, PATH/train/<class>/* and PATH/test/<class>/* (or val), or PATH/<class>/*; a .npz"
        " file of arrays; or torchvision:NAME (not in the published code)",
    )
    archi: Annotated[str, AfterValidator(_known_architecture)] = Field(
        "ResNet18",
        description=f"architecture: {', '.join(RESNETS)}; timm:NAME, a convolutional network of timm; or"
        " PACKAGE.MODULE:FUNCTION, a network of yours (not in the published code)",
    )
    base_channels: int = Field(
        64, ge=1, le=4096, description="width of the first convolution; the sections are 1, 2, 4, 8 times as wide"
    )
    rgb: bool = Field(False, description="classify RGB images instead of gray ones")
    image_size: int | None = Field(
        None,
        ge=8,
        le=1024,
        description="side of the task's and the regularization images (but ImageNet's): their shorter side is made as"
        " long, and the middle square is cut out; absent: as they are, square and of one size (not in the published"
        " code)",
    )

    reg_alpha: float | None = Field(
        None, ge=0, description="alpha, weight of the similarity loss; absent or 0: no regularization"
    )
    reg_data: DatasetName | None = Field(
        None, description="data set of the regularization images; absent: the task's own"
    )
    reg_range: RangeName = Field("all", description="which pairs of images are used, by their pixel similarity")
    reg_thresh: float = Field(0.6, ge=0, lt=1, description="Th, threshold on the pixel similarity")
    reg_thresh_2: float | None = Field(
        None, ge=0, lt=1, description="Th_2, lower threshold, below Th; for the range double only"
    )
    reg_image_num: int = Field(5000, ge=2, description="N, number of regularization images")
    reg_batch_size: int = Field(16, ge=1, le=2**20, description="k, pairs a step")
    reg_boosting: bool = Field(True, description="targets thresholded to +v, 0, -v; off: the pixel similarity itself")
    reg_boosting_val: float = Field(1.0, gt=0, description="v, size of a thresholded target; at most 1 with arctanh")
    arctanh: bool = Field(True, description="compare the arctanh of similarities; off: the similarities")

    lr: float = Field(0.1, gt=0, description="learning rate")
    momentum: float = Field(0.9, ge=0, lt=1, description="momentum of SGD")
    weight_decay: float = Field(0.0, ge=0, description="weight decay of SGD")
    resnet_batch_size: int = Field(64, ge=1, le=2**20, description="images a step that are classified")
    epoch_num: int = Field(40, ge=1, description="epochs")
    phase_num: int = Field(5, ge=1, description="learning-rate phases in a cycle")
    phase_duration: int = Field(4, ge=1, description="epochs in a learning-rate phase")
    decay_rate: float = Field(0.3, gt=0, le=1, description="factor of the learning rate from one phase to the next")
    valid_portion: float = Field(0.01, gt=0, lt=1, description="fraction of the training split used for validation")
    train_image_num: int | None = Field(
        None, ge=1, description="train on so many images only; absent: all (not in the published code)"
    )
    precision: Literal["float32", "bfloat16"] = Field(
        "float32",
        description="arithmetic of the networks in training; bfloat16 is faster where the hardware has it, and"
        " measurements stay float32 (not in the published code)",
    )
    augment_noise: float = Field(
        0.0,
        ge=0,
        le=1,
        description="standard deviation of Gaussian noise on training images, drawn anew each time; a baseline to"
        " compare with (not in the published code)",
    )
    adversarial_eps: float = Field(
        0.0,
        ge=0,
        le=1,
        description="train on images that FGSM attacked from a random start, at most so far (Linf): fast adversarial"
        " training, a baseline to compare with (not in the published code)",
    )
    seed: int = Field(0, ge=0, le=2**32 - 1, description="fixes the split, the initial weights and every draw")

    @property
    def regularized(self) -> bool:
        """Whether the similarity loss is computed at all."""
        return bool(self.reg_alpha)

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.image_size is not None and self.task in DATASETS and DATASETS[self.task].varied_sizes:
            raise ValueError(f"image_size={self.image_size}: {self.task} has a size of its own; leave image_size out")
        check_range(self.reg_range, self.reg_thresh, self.reg_thresh_2)
        if self.arctanh and self.reg_boosting_val > 1:
            raise ValueError(f"reg_boosting_val={self.reg_boosting_val:g}: at most 1 while arctanh is on")
        return self


# What the regularizer alone uses: the columns that mean nothing where alpha is 0.
REGULARIZER = (*(name for name in Hyperparameters.model_fields if name.startswith("reg_")), "arctanh")
