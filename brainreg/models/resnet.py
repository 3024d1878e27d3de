"""ResNets for small images, as the paper trains them."""

import contextlib
import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from brainreg.models.base import SimilarityNetwork


class SplitBatchNorm2d(nn.BatchNorm2d):
    """BatchNorm over a batch that is several ones: each is normalized by its own statistics, in their order.

    Attributes:
        sizes: images (n_1, n_2, ...) of each; empty where the batch is one. In eval mode they change nothing.
    """

    sizes: Sequence[int] = ()

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        """Return the normalized maps (n, c, h, w)."""
        if not (self.sizes and self.training):
            return super().forward(input)
        assert self.num_batches_tracked is not None and self.momentum is not None
        self.num_batches_tracked.add_(len(self.sizes))
        return torch.cat(
            [
                F.batch_norm(
                    part, self.running_mean, self.running_var, self.weight, self.bias, True, self.momentum, self.eps
                )
                for part in input.split([*self.sizes])
            ]
        )


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the stride sits in the first."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = SplitBatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = SplitBatchNorm2d(channels)
        self.shortcut = _shortcut(in_channels, channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        return F.relu(self.norm2(self.conv2(y)) + self.shortcut(x))


class Bottleneck(nn.Module):
    """1x1, 3x3 and 1x1 convolutions, four times as wide at the end; the stride sits in the first 1x1."""

    expansion = 4

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        out_channels = channels * self.expansion
        self.conv1 = nn.Conv2d(in_channels, channels, 1, stride=stride, bias=False)
        self.norm1 = SplitBatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = SplitBatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.norm3 = SplitBatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), SplitBatchNorm2d(out_channels)
    )


@dataclass(frozen=True)
class Architecture:
    """The block of a residual network and how many of them each of the four sections has."""

    block: type[BasicBlock] | type[Bottleneck]
    depths: tuple[int, int, int, int]


ARCHITECTURES = {
    "ResNet18": Architecture(BasicBlock, (2, 2, 2, 2)),
    "ResNet34": Architecture(BasicBlock, (3, 4, 6, 3)),
    "ResNet50": Architecture(Bottleneck, (3, 4, 6, 3)),
    "ResNet101": Architecture(Bottleneck, (3, 4, 23, 3)),
}


class ResNet(SimilarityNetwork):
    """A residual network for small images.

    Source: arXiv 2410.03952, appendix.
    """

    def __init__(
        self, architecture: Architecture, in_channels: int, num_classes: int, base_channels: int, image_size: int
    ):
        super().__init__()
        block = architecture.block
        self.stem = nn.Sequential(
            nn.Conv2d(in_channels, base_channels, 7, padding=3, bias=False), SplitBatchNorm2d(base_channels), nn.ReLU()
        )
        sections, widths, size = [], [base_channels], image_size
        for section, depth in enumerate(architecture.depths):
            channels, stride = base_channels * 2**section, 1 if section == 0 else 2
            blocks = []
            for i in range(depth):
                blocks.append(
                    block(widths[-1] if i == 0 else channels * block.expansion, channels, stride if i == 0 else 1)
                )
            sections.append(nn.Sequential(*blocks))
            widths.append(channels * block.expansion)
            size = -(-size // stride)
        self.sections = nn.ModuleList(sections)
        self.pool = min(4, size)  # images under 25 pixels end below 4x4
        self.classifier = nn.Linear(widths[-1] * (size // self.pool) ** 2, num_classes)
        self._compare_by(widths)

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the five feature maps, each (n, c_i, h_i, w_i): after the stem and after each section."""
        maps = [self.stem(images)]
        for section in self.sections:
            maps.append(section(maps[-1]))
        return maps

    def folded(self) -> "ResNet":
        """Return a copy for measurements in eval mode, whose BatchNorm is a part of its convolutions.

        Its logits are those of this network up to rounding, at two thirds of the cost of an attack's step.
        """
        network = copy.deepcopy(self).eval()
        fold: Callable[[Any, Any], nn.Module] = torch.nn.utils.fusion.fuse_conv_bn_eval
        convolution, norm, activation = network.stem
        network.stem = nn.Sequential(fold(convolution, norm), activation)
        for block in (block for section in network.sections for block in section.children()):
            for name, module in [*block.named_children()]:
                if name.startswith("conv"):
                    norm_name = name.replace("conv", "norm")
                    setattr(block, name, fold(module, getattr(block, norm_name)))
                    setattr(block, norm_name, nn.Identity())
            if isinstance(block.shortcut, nn.Sequential):
                block.shortcut = fold(*block.shortcut)
        return network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, num_classes) of scaled images (n, in_channels, image_size, image_size)."""
        return self._classify(self.features(images)[-1])

    def logits_and_similarity(
        self, images: torch.Tensor, a: torch.Tensor, b: torch.Tensor, *, at_once: bool = False
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """See `SimilarityNetwork.logits_and_similarity`."""
        if not at_once or images.shape[1:] != a.shape[1:]:
            return super().logits_and_similarity(images, a, b)
        sizes = [len(images), len(a), len(b)]
        with self._norms_split(sizes):
            maps = self.features(torch.cat([images, a, b]))
        similarity = self._similarity_of(each[len(images) :] for each in maps)
        return self._classify(maps[-1][: len(images)]), similarity

    def _classify(self, last_map: torch.Tensor) -> torch.Tensor:
        return self.classifier(F.avg_pool2d(last_map, self.pool).flatten(1))

    @contextlib.contextmanager
    def _norms_split(self, sizes: Sequence[int]) -> Iterator[None]:
        norms = [module for module in self.modules() if isinstance(module, SplitBatchNorm2d)]
        for norm in norms:
            norm.sizes = sizes
        try:
            yield
        finally:
            for norm in norms:
                norm.sizes = ()
