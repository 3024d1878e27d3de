"""Modules that are imported when they are first used: torchvision takes over a second."""

import importlib
from typing import Any


class _LazyModule:
    """A module that is imported when it is first used: torchvision takes over a second, and many searches need none."""

    def __init__(self, name: str):
        self._name = name

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module(self._name), name)


torchvision, v2 = _LazyModule("torchvision"), _LazyModule("torchvision.transforms.v2")
