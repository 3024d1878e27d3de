"""Networks that were written elsewhere, compared by what comes out of some of their modules."""

import contextlib
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import nn

from brainreg.errors import InputError
from brainreg.models.base import SimilarityNetwork


class StagedNetwork(SimilarityNetwork):
    """A network whose feature maps are the outputs of some of its modules.

    Args:
        network: computes logits (n, num_classes) of images (n, in_channels, h, w).
        stages: names of its modules whose outputs are compared, as `named_modules` has them.
        widths: channels of each output.
        channels_last: whether the outputs are (n, h, w, c), as those of some transformers.
    """

    def __init__(self, network: nn.Module, stages: Sequence[str], widths: Sequence[int], channels_last: bool = False):
        super().__init__()
        self.backbone: Any = network
        self._stages, self._channels_last = [*stages], channels_last
        self._compare_by([*widths])

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the outputs of the stages, each (n, c_i, h_i, w_i), in the order of the stages' names."""
        found = self._stage_maps(images)
        if self._channels_last:
            found = [feature.permute(0, 3, 1, 2) if feature.ndim == 4 else feature for feature in found]
        return found

    def _stage_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        return stage_outputs(self.backbone, self._stages, self.backbone, images, to_the_end=False)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, num_classes) of scaled images (n, in_channels, h, w)."""
        return self.backbone(images)


class _EnoughError(Exception):
    """All stages were run."""


def stage_outputs(
    network: nn.Module,
    stages: Sequence[str],
    run: Callable[[torch.Tensor], Any],
    images: torch.Tensor,
    to_the_end: bool = True,
) -> list[Any]:
    """Return what comes out of some modules of a network, by their names, while `run` runs it on images.

    Args:
        to_the_end: whether what follows the last stage runs, too; a linear layer there may take one size of images
            alone.

    Raises:
        InputError: one of them is not run.
    """
    outputs: dict[str, Any] = {}
    modules = dict(network.named_modules())

    def keep(stage: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            outputs[stage] = output
            if not to_the_end and len(outputs) == len(stages):
                raise _EnoughError

        return hook

    hooks = [modules[stage].register_forward_hook(keep(stage)) for stage in stages]
    try:
        with contextlib.suppress(_EnoughError):
            run(images)
    finally:
        for hook in hooks:
            hook.remove()
    if silent := [stage for stage in stages if stage not in outputs]:
        raise InputError(f"its module {silent[0]} is not run; must be one that every image passes")
    return [outputs[stage] for stage in stages]
