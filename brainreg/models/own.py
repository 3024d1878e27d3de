"""A network of the user's, which a function of the user's makes."""

import copy
import hashlib
import importlib
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import nn

from brainreg.data.fingerprints import CODE
from brainreg.errors import InputError, first_line, nearest
from brainreg.models.names import is_own
from brainreg.models.stages import StagedNetwork, stage_outputs


def build_own(archi: str, in_channels: int, num_classes: int, image_size: int) -> StagedNetwork:
    """Build the network of a function of the user's.

    Args:
        archi: PACKAGE.MODULE:FUNCTION. The module is looked for among the installed packages, on `PYTHONPATH` and in
            the current folder. The function is called with `in_channels`, `num_classes` and `image_size`, and returns
            a `torch.nn.Module` and the names of its modules whose outputs (n, c, h, w) are compared.

    Raises:
        InputError: it cannot be imported or called, or what it returns is something else, or cannot be trained, in
            one line.
    """
    module, function = _import(archi)
    size = {"in_channels": in_channels, "num_classes": num_classes, "image_size": image_size}
    made = _attempt(archi, "", lambda: function(**size))
    names = made[1] if isinstance(made, tuple) and len(made) == 2 else None
    if not (isinstance(names, str | list | tuple) and isinstance(made[0], nn.Module)):
        raise InputError(
            f"archi={archi}: returns {_described(made)}; must return a torch.nn.Module and names of its modules"
        )
    network, stages = made[0], [names] if isinstance(names, str) else [*names]
    known = [name for name, _ in network.named_modules() if name]
    outer = [name for name in known if "." not in name]
    if not stages:
        raise InputError(f"archi={archi}: names no module to compare by; known: {', '.join(outer)}")
    for stage in stages:
        if stage not in known:
            raise InputError(f"archi={archi}: {stage}: its network has no such module; {nearest(str(stage), outer)}")
    if not any(weights.requires_grad for weights in network.parameters()):
        raise InputError(f"archi={archi}: its network has no weights to train")
    images = torch.zeros(2, in_channels, image_size, image_size)
    staged = StagedNetwork(network, stages, _check_outputs(archi, network, stages, images, num_classes))
    _check_training(archi, staged, images, num_classes)
    return staged


def code_of(archi: str) -> dict[str, str]:
    """Return a digest of the file of the user's module by what it is called; nothing of other networks.

    What that module imports has no part in it.

    Raises:
        InputError: as `build_own`, of the import.
    """
    if not is_own(archi):
        return {}
    path = getattr(_import(archi)[0], "__file__", None)
    if path is None or not Path(path).is_file():
        return {}
    return {f"{CODE}{archi}": hashlib.sha256(Path(path).read_bytes()).hexdigest()[:16]}


def _import(archi: str) -> tuple[ModuleType, Callable[..., Any]]:
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
    return module, getattr(module, name)


def _attempt(archi: str, before: str, action: Callable[[], Any]) -> Any:
    try:
        return action()
    except InputError as error:
        raise InputError(f"archi={archi}: {error}") from error
    except (Exception, SystemExit) as error:  # the user's code raises anything
        raise InputError(
            f"archi={archi}: {before}{_place(error)}{type(error).__name__}: {first_line(error)}"
        ) from error


def _place(error: BaseException) -> str:
    """File and line of the user's code, or of what it calls; nothing where the error is in how it was called."""
    if isinstance(error, SyntaxError) and error.filename:
        return f"{os.path.basename(error.filename)}, line {error.lineno}: "
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        if frame.filename != __file__ and not frame.filename.startswith("<") and "importlib" not in frame.filename:
            return f"{os.path.basename(frame.filename)}, line {frame.lineno}: "
    return ""


def _check_outputs(
    archi: str, network: nn.Module, stages: list[str], images: torch.Tensor, num_classes: int
) -> list[int]:
    """Pass two blank images through; return the channels of the maps."""
    training, outputs = network.training, []

    def run(images: torch.Tensor) -> None:
        outputs.append(network(images))

    network.eval()
    with torch.no_grad():
        maps = _attempt(archi, _fails_on(images), lambda: stage_outputs(network, stages, run, images))
    network.train(training)
    _attempt(archi, "", lambda: _check_logits(outputs[0], num_classes))
    for stage, one in zip(stages, maps, strict=True):
        if not isinstance(one, torch.Tensor) or one.ndim != 4 or len(one) != 2:
            raise InputError(
                f"archi={archi}: its module {stage} gives {_described(one)} for two images; must give maps (2, c, h, w)"
            )
    return [one.shape[1] for one in maps]


def _check_training(archi: str, network: StagedNetwork, images: torch.Tensor, num_classes: int) -> None:
    """Take the gradient of a step in train mode, of a copy."""
    tried = _attempt(archi, "", lambda: copy.deepcopy(network)).train()

    def step() -> Any:
        logits, similarity = tried.logits_and_similarity(images, images, images)
        _check_logits(logits, num_classes, " in train mode")
        (logits.sum() + similarity.sum()).backward()

    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        _attempt(archi, f"in train mode, {_fails_on(images)}", step)


def _check_logits(logits: Any, num_classes: int, when: str = "") -> None:
    if not isinstance(logits, torch.Tensor) or logits.shape != (2, num_classes):
        raise InputError(f"returns {_described(logits)} for two images{when}; must return logits (2, {num_classes})")


def _fails_on(images: torch.Tensor) -> str:
    return f"fails on images of {'x'.join(map(str, images.shape[1:]))}: "


def _described(value: Any) -> str:
    return f"a tensor {tuple(value.shape)}" if isinstance(value, torch.Tensor) else f"a {type(value).__name__}"
