"""The settings of the published table."""

from pathlib import Path
from typing import Any

from brainreg.errors import InputError, nearest


def _row(task: str, reg_data: str, alpha: float, thresh: float) -> dict[str, Any]:
    return {"task": task, "reg_data": reg_data, "reg_range": "all", "reg_alpha": alpha, "reg_thresh": thresh}


PUBLISHED_SETTINGS: dict[str, dict[str, Any]] = {
    "CIFAR-10 - CIFAR-10": _row("CIFAR10", "CIFAR10", 10, 0.8),
    "CIFAR-10 - CIFAR-100": _row("CIFAR10", "CIFAR100", 10, 0.8),
    "CIFAR-10 - ImageNet": _row("CIFAR10", "ImageNet", 10, 0.8),
    "CIFAR-100 - CIFAR-10": _row("CIFAR100", "CIFAR10", 10, 0.8),
    "CIFAR-100 - CIFAR-100": _row("CIFAR100", "CIFAR100", 10, 0.8),
    "CIFAR-100 - ImageNet": _row("CIFAR100", "ImageNet", 10, 0.8),
    "MNIST - MNIST": _row("MNIST", "MNIST", 4, 0.2),
    "MNIST - FashionMNIST": _row("MNIST", "FashionMNIST", 10, 0.8),
    "FashionMNIST - MNIST": _row("FashionMNIST", "MNIST", 10, 0.4),
    "FashionMNIST - FashionMNIST": _row("FashionMNIST", "FashionMNIST", 10, 0.8),
}


def published_setting(name: str) -> dict[str, Any]:
    """Return the hyperparameters of a row of the published table, such as "CIFAR-10 - ImageNet".

    Case, spaces and hyphens do not matter.

    Raises:
        InputError: no such row.
    """
    for row, setting in PUBLISHED_SETTINGS.items():
        if _plain(row) == _plain(name):
            return dict(setting)
    raise InputError(f"published={name}: no such row of the published table; {nearest(name, PUBLISHED_SETTINGS)}")


def row_name(task: str, reg_data: str | None) -> str:
    """Return what the table calls a classified and a regularization data set, published or not.

    >>> row_name("CIFAR10", "ImageNet"), row_name("digits", None)
    ('CIFAR-10 - ImageNet', 'digits - digits')
    """
    reg_data = reg_data or task
    for name, setting in PUBLISHED_SETTINGS.items():
        if (setting["task"], setting["reg_data"]) == (task, reg_data):
            return name
    return f"{Path(task).name} - {Path(reg_data).name}"


def _plain(name: str) -> str:
    return "".join(letter for letter in name.lower() if letter.isalnum())
