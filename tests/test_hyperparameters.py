import math
from pathlib import Path

import pytest
from pydantic import ValidationError

from brainreg.data.datasets import DATASETS
from brainreg.errors import InputError, validated
from brainreg.hyperparameters import REGULARIZER, Hyperparameters

# The flags and defaults of the published code.
PUBLISHED_DEFAULTS = {
    "task": "CIFAR10", "archi": "ResNet18", "base_channels": 64, "rgb": False,
    "reg_alpha": None, "reg_data": None, "reg_range": "all", "reg_thresh": 0.6, "reg_thresh_2": None,
    "reg_image_num": 5000, "reg_batch_size": 16, "reg_boosting": True, "reg_boosting_val": 1.0, "arctanh": True,
    "lr": 0.1, "momentum": 0.9, "weight_decay": 0, "resnet_batch_size": 64, "epoch_num": 40,
    "phase_num": 5, "phase_duration": 4, "decay_rate": 0.3, "valid_portion": 0.01, "seed": 0,
}  # fmt: skip


def test_defaults_are_the_published_ones():
    defaults = Hyperparameters().model_dump()
    own = {"train_image_num": None, "precision": "float32", "augment_noise": 0, "adversarial_eps": 0}
    own["image_size"] = None
    assert {name: defaults.pop(name) for name in own} == own  # not in the published code
    assert defaults == PUBLISHED_DEFAULTS


def test_every_hyperparameter_has_a_help_text():
    assert all(field.description for field in Hyperparameters.model_fields.values())


def test_what_the_regularizer_alone_uses():
    assert set(REGULARIZER) == {name for name in PUBLISHED_DEFAULTS if name.startswith("reg_") or name == "arctanh"}


@pytest.mark.parametrize(("alpha", "regularized"), [(None, False), (0, False), (0.1, True)])
def test_alpha_absent_or_zero_means_no_regularization(alpha, regularized):
    assert Hyperparameters(reg_alpha=alpha).regularized is regularized


def test_settings_cannot_be_changed():
    with pytest.raises(ValidationError):
        Hyperparameters().lr = 1


@pytest.mark.parametrize("task", [*DATASETS, "."])
def test_known_data_sets_and_folders_are_tasks(task):
    settings = Hyperparameters(task=task, reg_data=task)
    # A folder's path is made absolute: another process, started elsewhere, finds it too.
    assert settings.task == settings.reg_data == (str(Path(task).resolve()) if task == "." else task)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        (
            {"task": "CIFR10"},
            "--task=CIFR10: no such data set, and no folder of images or .npz file there; did you mean CIFAR10 or",
        ),
        ({"reg_data": "MNITS"}, "--reg_data=MNITS: no such data set"),
        ({"archi": "ResNet19"}, "--archi=ResNet19: no such architecture; did you mean ResNet18 or"),
        ({"reg_range": "hgh"}, "--reg_range=hgh: no such choice; did you mean high? known: all, high, low, positive,"),
        ({"reg_alpha": -1}, "--reg_alpha=-1: must be at least 0"),
        ({"reg_alpha": math.nan}, "--reg_alpha=nan: must be a finite number"),
        ({"reg_alpha": "ten"}, "--reg_alpha=ten: must be a number"),
        ({"reg_thresh": 1}, "--reg_thresh=1: must be less than 1"),
        ({"reg_range": "double"}, "--reg_thresh_2 is missing: the range double needs"),
        ({"reg_range": "double", "reg_thresh_2": 0.7}, "--reg_thresh_2=0.7: must be below reg_thresh=0.6"),
        ({"reg_thresh_2": 0.1}, "--reg_thresh_2=0.1: only the range double uses it, not all"),
        ({"reg_boosting_val": 2}, "--reg_boosting_val=2: at most 1 while arctanh is on"),
        ({"epoch_num": 1.5}, "--epoch_num=1.5: must be a whole number"),
        ({"rgb": "maybe"}, "--rgb=maybe: must be True or False"),
        ({"alpha": 1}, "--alpha: no such key; did you mean reg_alpha? known: task,"),
    ],
)
def test_wrong_values_are_named_in_one_line(values, message):
    with pytest.raises(InputError) as caught:
        validated(Hyperparameters, values, spell=lambda key: f"--{key}")
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)


def test_targets_above_one_are_allowed_without_arctanh():
    assert Hyperparameters(reg_boosting_val=2, arctanh=False).reg_boosting_val == 2
