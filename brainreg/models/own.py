"""A network of the user's, which a function of the user's makes."""

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from brainreg.errors import InputError, first_line, nearest
from brainreg.models.stages import StagedNetwork, stage_outputs


def build_own(archi: str, in_channels: int, num_classes: int, image_size: int) -> StagedNetwork:
    """Build the network of a function of the user's.

    Args:
        archi: PACKAGE.MODULE:FUNCTION. The module is looked for among the installed packages, on `PYTHONPATH` and in
            the current folder. The function is called with `in_channels`, `num_classes` and `image_size`, and returns
            a `torch.nn.Module` and the names of its modules whose outputs (n, c, h, w) are compared.

    Raises:
        InputError: it cannot be imported or called, or what it returns is something else, in one line.
    """
    function, size = _import(archi), {"in_channels": in_channels, "num_classes": num_classes, "image_size": image_size}
    made = _attempt(archi, "", lambda: function(**size))
    if not (isinstance(made, tuple) and len(made) == 2 and isinstance(made[0], nn.Module)):
        raise InputError(
            f"archi={archi}: returns {_described(made)}; must return a torch.nn.Module and names of its modules"
        )
    network, stages = made[0], [made[1]] if isinstance(made[1], str) else [*made[1]]
    names = [name for name, _ in network.named_modules() if name]
    outer = [name for name in names if "." not in name]
    if not stages:
        raise InputError(f"archi={archi}: names no module to compare by; known: {', '.join(outer)}")
    for stage in stages:
        if stage not in names:
            raise InputError(f"archi={archi}: {stage}: its network has no such module; {nearest(str(stage), outer)}")
    return StagedNetwork(network, stages, _check(archi, network, stages, (in_channels, image_size), num_classes))


def _import(archi: str) -> Callable[..., Any]:
    module_name, _, name = archi.rpartition(":")
    if (here := os.getcwd()) not in sys.path:
        sys.path.append(here)  # as `python -m` has it; Ray's workers take the path of the driver over
    importlib.invalidate_caches()
    try:
        module = _attempt(archi, "cannot be imported: ", lambda: importlib.import_module(module_name))
    except InputError as error:
        if isinstance(error.__cause__, ModuleNotFoundError) and f"{module_name}.".startswith(
            f"{error.__cause__.name}."
        ):
            raise InputError(
                f"archi={archi}: no module {error.__cause__.name} among the installed packages, on PYTHONPATH or in the"
                " current folder"
            ) from error
        raise
    functions = [key for key, value in vars(module).items() if callable(value)]
    if name not in functions:
        raise InputError(f"archi={archi}: {module_name} has no function {name}; {nearest(name, functions)}")
    return getattr(module, name)


def _attempt(archi: str, before: str, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except InputError as error:
        raise InputError(f"archi={archi}: {error}") from error
    except Exception as error:  # the user's code raises anything
        where = next(frame for frame in reversed(inspect.trace()) if not frame.filename.startswith("<"))
        at = f"{os.path.basename(where.filename)}, line {where.lineno}: "
        raise InputError(f"archi={archi}: {before}{at}{type(error).__name__}: {first_line(error)}") from error


def _check(archi: str, network: nn.Module, stages: list[str], size: tuple[int, int], num_classes: int) -> list[int]:
    """Pass two blank images through; return the channels of the maps."""
    channels, side = size
    training, outputs = network.training, []

    def run(images: torch.Tensor) -> None:
        outputs.append(network(images))

    network.eval()
    images = torch.zeros(2, channels, side, side)
    with torch.no_grad():
        maps = _attempt(
            archi, f"fails on images of {channels}x{side}x{side}: ", lambda: stage_outputs(network, stages, run, images)
        )
    network.train(training)
    logits = outputs[0]
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        raise InputError(
            f"archi={archi}: returns {_described(logits)} for two images; must return logits (2, {num_classes})"
        )
    for stage, one in zip(stages, maps, strict=True):
        if not isinstance(one, torch.Tensor) or one.ndim != 4 or len(one) != 2:
            raise InputError(
                f"archi={archi}: its module {stage} gives {_described(one)} for two images; must give maps (2, c, h, w)"
            )
    return [one.shape[1] for one in maps]


def _described(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
