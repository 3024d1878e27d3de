import pytest

from brainreg.errors import InputError
from brainreg.hyperparameters import Hyperparameters
from brainreg.spaces.published import PUBLISHED_SETTINGS, published_setting, row_name

# arXiv 2410.03952, written down a second time.
TABLE = """
CIFAR-10     CIFAR-10     10 0.8
CIFAR-10     CIFAR-100    10 0.8
CIFAR-10     ImageNet     10 0.8
CIFAR-100    CIFAR-10     10 0.8
CIFAR-100    CIFAR-100    10 0.8
CIFAR-100    ImageNet     10 0.8
MNIST        MNIST         4 0.2
MNIST        FashionMNIST 10 0.8
FashionMNIST MNIST        10 0.4
FashionMNIST FashionMNIST 10 0.8
"""
ROWS = [line.split() for line in TABLE.strip().splitlines()]


def test_there_are_ten_rows_and_no_others():
    assert list(PUBLISHED_SETTINGS) == [f"{task} - {reg_data}" for task, reg_data, _, _ in ROWS]


@pytest.mark.parametrize(("task", "reg_data", "alpha", "thresh"), ROWS)
def test_each_row_is_a_setting_with_the_published_defaults(task, reg_data, alpha, thresh):
    settings = Hyperparameters(**published_setting(f"{task} - {reg_data}"))
    assert (settings.task, settings.reg_data) == (task.replace("-", ""), reg_data.replace("-", ""))
    assert (settings.reg_alpha, settings.reg_thresh) == (float(alpha), float(thresh))
    assert (settings.reg_range, settings.reg_image_num, settings.reg_batch_size) == ("all", 5000, 16)
    assert settings.regularized and settings.arctanh and settings.reg_boosting


def test_spelling_does_not_matter():
    assert published_setting("cifar10-imagenet") == published_setting("CIFAR-10 - ImageNet")


def test_an_unknown_row_is_named_with_those_there_are():
    with pytest.raises(InputError, match=r"published=CIFAR-10 - SVHN: no such row .* known: CIFAR-10 - CIFAR-10, "):
        published_setting("CIFAR-10 - SVHN")


def test_the_name_of_a_row_from_its_data_sets(tmp_path):
    for name, setting in PUBLISHED_SETTINGS.items():
        assert row_name(setting["task"], setting["reg_data"]) == name
    assert row_name("MNIST", None) == "MNIST - MNIST"
    assert row_name("digits", None) == "digits - digits"
    assert row_name(str(tmp_path), "MNIST") == f"{tmp_path.name} - MNIST"
