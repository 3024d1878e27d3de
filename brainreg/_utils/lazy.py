"""Modules that take seconds to import, imported when they are first used: the help and the settings of a command need
none of them.

A module that uses `torch` from here must use it in functions alone, and begin with `from __future__ import
annotations`, so that its annotations are no use.
"""

import importlib
from typing import TYPE_CHECKING, Any


class _LazyModule:
    """A module that is imported when it is first used."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


if TYPE_CHECKING:
    import torch as torch
else:
    torch = _LazyModule("torch")

torchvision, v2 = _LazyModule("torchvision"), _LazyModule("torchvision.transforms.v2")
