"""The networks: residual ones for small images, and timm's, with the similarity pathway over their feature maps."""

import copy
import difflib
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from brainreg.errors import InputError, nearest

# How much of a running channel mean one pair of batches replaces.
_MEAN_MOMENTUM = 0.1

# What the name of an architecture of the timm library begins with.
_TIMM = "timm:"


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut; the stride sits in the first."""

    expansion = 1

    def __init__(self, in_channels: int, channels: int, stride: int):
        super().__init__()
        self.conv1 = nn.Conv2d(in_channels, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
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
        self.norm1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.conv3 = nn.Conv2d(channels, out_channels, 1, bias=False)
        self.norm3 = nn.BatchNorm2d(out_channels)
        self.shortcut = _shortcut(in_channels, out_channels, stride)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = F.relu(self.norm1(self.conv1(x)))
        y = F.relu(self.norm2(self.conv2(y)))
        return F.relu(self.norm3(self.conv3(y)) + self.shortcut(x))


def _shortcut(in_channels: int, out_channels: int, stride: int) -> nn.Module:
    if stride == 1 and in_channels == out_channels:
        return nn.Identity()
    return nn.Sequential(
        nn.Conv2d(in_channels, out_channels, 1, stride=stride, bias=False), nn.BatchNorm2d(out_channels)
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


class SimilarityNetwork(nn.Module):
    """A classifier of scaled images, which also compares images by its own representations.

    A subclass computes logits in `forward`, and feature maps in `features`; it calls `_compare_by` with the
    channels of the maps.

    Source: Li et al., arXiv 1911.05072, equation 3 (similarity).
    """

    def _compare_by(self, widths: list[int]) -> None:
        self.similarity_weights = nn.Parameter(torch.zeros(len(widths)))
        for i, width in enumerate(widths):
            self.register_buffer(f"channel_mean_{i}", torch.zeros(width))

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the feature maps of scaled images, each (n, c_i, h_i, w_i), from the input to the output."""
        raise NotImplementedError

    def folded(self) -> "SimilarityNetwork":
        """Return a network for measurements in eval mode that is as this one, or cheaper; of timm's, this one."""
        return self

    def pair_similarity(self, a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
        """Return how similar each image of `a` is to that of `b` in the network's representations.

        The two batches pass one after the other, each with its own BatchNorm statistics in train mode.
        Each call, in either mode, first moves the running channel means by a tenth toward the mean of
        both batches; they start at 0, are saved with the weights, and carry no gradient.

        Args:
            a, b: (k, in_channels, h, w) scaled images of any size; the linear layer is not used.

        Returns:
            (k,) in [-1, 1]: the cosine similarities of the centred maps, weighted by the softmax of as
            many learned scalars.
        """
        scores = []
        for i, (map_a, map_b) in enumerate(zip(self.features(a), self.features(b), strict=True)):
            map_a, map_b = map_a.float(), map_b.float()  # exact similarities, whatever the convolutions compute in
            mean = self.get_buffer(f"channel_mean_{i}")
            with torch.no_grad():
                both = (map_a.mean(dim=(0, 2, 3)) + map_b.mean(dim=(0, 2, 3))) / 2
                # The gradient needs the mean that was used, so the buffer gets a new tensor.
                mean = torch.lerp(mean, both, _MEAN_MOMENTUM)
                setattr(self, f"channel_mean_{i}", mean)
            centre = mean[:, None, None]
            scores.append(F.cosine_similarity((map_a - centre).flatten(1), (map_b - centre).flatten(1)))
        return (torch.stack(scores, dim=1) * self.similarity_weights.softmax(dim=0)).sum(dim=1)


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
            nn.Conv2d(in_channels, base_channels, 7, padding=3, bias=False), nn.BatchNorm2d(base_channels), nn.ReLU()
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
        fold = torch.nn.utils.fusion.fuse_conv_bn_eval
        network.stem = nn.Sequential(fold(network.stem[0], network.stem[1]), network.stem[2])
        for block in (block for section in network.sections for block in section):
            for name, module in [*block.named_children()]:
                if name.startswith("conv"):
                    norm = name.replace("conv", "norm")
                    setattr(block, name, fold(module, getattr(block, norm)))
                    setattr(block, norm, nn.Identity())
            if isinstance(block.shortcut, nn.Sequential):
                block.shortcut = fold(*block.shortcut)
        return network

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, num_classes) of scaled images (n, in_channels, image_size, image_size)."""
        return self.classifier(F.avg_pool2d(self.features(images)[-1], self.pool).flatten(1))


class TimmNetwork(SimilarityNetwork):
    """A convolutional network of the timm library, compared by the maps of its feature stages.

    Args:
        name: of the model in timm, without weights: training starts from timm's initialization.

    Raises:
        InputError: no such model, one whose stages are not maps of channels (a transformer), or images that are
            too small for it.

    Source: timm's `feature_info`, which names the module at the end of each stage.
    """

    def __init__(self, name: str, in_channels: int, num_classes: int, image_size: int):
        import timm  # takes seconds, which only those pay who use it

        check_timm_name(name)
        super().__init__()
        self.backbone = timm.create_model(name, pretrained=False, in_chans=in_channels, num_classes=num_classes)
        stages = getattr(self.backbone, "feature_info", None)
        modules = dict(self.backbone.named_modules())
        stages = [stage for stage in stages or () if stage["module"] and stage["module"] in modules]
        self._stages = [stage["module"] for stage in stages]
        # What timm calls it where channels come last, as in Swin and MambaOut.
        self._channels_last = getattr(self.backbone, "output_fmt", "NCHW") == "NHWC"
        if not self._stages:
            raise InputError(f"archi=timm:{name}: timm lists no feature stages of it")
        self._compare_by([stage["num_chs"] for stage in stages])
        self._check_stages(name, in_channels, image_size)

    def _check_stages(self, name: str, in_channels: int, image_size: int) -> None:
        """Pass two blank images through: what comes out of the stages tells whether they are maps."""
        training = self.training
        self.eval()
        try:
            maps = self._stage_outputs(image_size, in_channels)
        except Exception as error:  # each network has its own way to fail on a size
            # Of a network that takes one size alone, as most transformers do, this says the less important thing.
            own_size = self.backbone.pretrained_cfg.get("input_size", (3, image_size))[-1]
            if own_size != image_size:
                self._check_maps(name, self._stage_outputs(own_size, in_channels))
            reason = (str(error).strip() or type(error).__name__).splitlines()[0]
            raise InputError(
                f"archi=timm:{name}: does not take images of {image_size}x{image_size} ({reason})"
            ) from error
        self.train(training)
        self._check_maps(name, maps)

    @torch.no_grad()
    def _stage_outputs(self, image_size: int, in_channels: int) -> list[torch.Tensor]:
        return self.features(torch.zeros(2, in_channels, image_size, image_size))

    def _check_maps(self, name: str, maps: list[torch.Tensor]) -> None:
        widths = [len(self.get_buffer(f"channel_mean_{i}")) for i in range(len(maps))]
        for stage, feature, width in zip(self._stages, maps, widths, strict=True):
            if not isinstance(feature, torch.Tensor):
                raise InputError(
                    f"archi=timm:{name}: its stage {stage} gives several tensors, not one of {width} maps, which the"
                    " similarity pathway cannot compare; choose another network, such as timm:convnext_atto"
                )
            if feature.ndim != 4 or feature.shape[1] != width:
                raise InputError(
                    f"archi=timm:{name}: its stage {stage} gives {tuple(feature.shape[1:])}, not {width} maps;"
                    " the similarity pathway needs a convolutional network, such as timm:convnext_atto"
                )

    def features(self, images: torch.Tensor) -> list[torch.Tensor]:
        """Return the feature maps at the end of each stage, each (n, c_i, h_i, w_i)."""
        maps: dict[str, torch.Tensor] = {}
        modules = dict(self.backbone.named_modules())

        def keep(stage: str) -> Callable[..., None]:
            return lambda module, inputs, output: maps.__setitem__(stage, output)

        hooks = [modules[stage].register_forward_hook(keep(stage)) for stage in self._stages]
        try:
            self.backbone.forward_features(images)
        finally:
            for hook in hooks:
                hook.remove()
        found = [maps[stage] for stage in self._stages]
        if self._channels_last:
            found = [feature.permute(0, 3, 1, 2) if feature.ndim == 4 else feature for feature in found]
        return found

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Return the logits (n, num_classes) of scaled images (n, in_channels, h, w)."""
        return self.backbone(images)


def check_timm_name(name: str) -> None:
    """Raise InputError unless timm has a model of this name."""
    import timm

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise InputError(
            f"timm:{name}: timm has no such model"
            + (f"; did you mean {', '.join(f'timm:{match}' for match in close)}?" if close else "")
        )


class InputScaling(nn.Module):
    """Takes images in [0, 1] to the range that a network was trained on.

    Args:
        centered: scale to 5 * (x - 0.5), as the CIFAR tasks do; else leave [0, 1] as it is.
    """

    def __init__(self, centered: bool):
        super().__init__()
        self.centered = centered

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return 5 * (images - 0.5) if self.centered else images

    def extra_repr(self) -> str:
        return f"centered={self.centered}"


def check_architecture(archi: str) -> None:
    """Raise InputError unless there is such an architecture: a name in `ARCHITECTURES`, or `timm:` and timm's name."""
    if archi.startswith(_TIMM):
        check_timm_name(archi.removeprefix(_TIMM))
    elif archi not in ARCHITECTURES:
        known = [*ARCHITECTURES, f"{_TIMM}NAME"]
        raise InputError(f"{archi}: no such architecture; {nearest(archi, known)}")


def build_model(
    archi: str, in_channels: int = 1, num_classes: int = 10, base_channels: int = 64, image_size: int = 32
) -> SimilarityNetwork:
    """Build an untrained network, with PyTorch's default initialization, or timm's for its own.

    Args:
        archi: ResNet18, ResNet34, ResNet50 or ResNet101; or any convolutional network of timm, say
            `timm:convnext_atto`.
        in_channels: 1 for gray images, 3 for RGB.
        num_classes: number of logits.
        base_channels: width c of the stem; the sections are c, 2c, 4c and 8c wide. timm's networks have their own.
        image_size: side of the square images that are classified. It fixes the linear layer: 28 and 32
            end at 1x1, 224 at 7x7.

    Raises:
        InputError: unknown architecture, or one of timm's that cannot be compared by its maps.
    """
    check_architecture(archi)
    if archi.startswith(_TIMM):
        return TimmNetwork(archi.removeprefix(_TIMM), in_channels, num_classes, image_size)
    return ResNet(ARCHITECTURES[archi], in_channels, num_classes, base_channels, image_size)


class _PickedLogits(nn.Module):
    """A model of which one part of what it returns is kept."""

    def __init__(self, model: nn.Module, pick: Callable[[Any], torch.Tensor]):
        super().__init__()
        self.model, self.pick = model, pick

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.pick(self.model(images))


def as_logits(model: nn.Module, pick: Callable[[Any], torch.Tensor] | None = None) -> nn.Module:
    """Return a model of logits alone, as measurements need it, from one that returns them with other things.

    Args:
        model: of images; such as one of Hugging Face's transformers, or one that returns (logits, features).
        pick: what takes the logits (n, classes) from what the model returns. Absent: its `.logits`, its `["logits"]`,
            or the first of a tuple or list.

    Raises:
        InputError: in a pass, the model returns nothing that has logits.

    >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2))
    >>> pair = as_logits(_PickedLogits(model, lambda logits: (logits, "more")))
    >>> pair(torch.zeros(3, 1, 2, 2)).shape
    torch.Size([3, 2])
    """
    return _PickedLogits(model, pick or _logits_in)


def _logits_in(output: Any) -> torch.Tensor:
    if isinstance(output, torch.Tensor):
        return output
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, Mapping) and "logits" in output:
        return output["logits"]
    if isinstance(output, tuple | list) and output:
        return output[0]
    raise InputError(f"model: returns {type(output).__name__}, which has no logits; pass as_logits(model, pick=...)")


# The published code's module names, outermost first, and ours.
_PUBLISHED_NAMES = (
    (r"^layer_weight$", "similarity_weights"),
    (r"^running_mean\.(\d)$", r"channel_mean_\1"),
    (r"^linear\.", "classifier."),
    (r"^core\.sections\.0\.", "stem."),
    (r"^core\.sections\.(\d)\.", lambda match: f"sections.{int(match[1]) - 1}."),
    (r"\.layer0\.0\.", ".conv1."),
    (r"\.layer0\.1\.", ".norm1."),
    (r"\.layer(\d)\.1\.", lambda match: f".conv{int(match[1]) + 1}."),
    (r"\.layer(\d)\.2\.", lambda match: f".norm{int(match[1]) + 1}."),
)


def load_published_state(model: ResNet, state: dict[str, torch.Tensor]) -> None:
    """Load weights saved by the method's published code into `model`, in place.

    Args:
        model: a network of the same architecture and size.
        state: tensors by the published module names, such as `core.sections.1.0.layer0.0.weight`.

    Raises:
        RuntimeError: a name or shape does not fit (PyTorch's message lists them).
    """
    renamed = {}
    for name, tensor in state.items():
        for pattern, ours in _PUBLISHED_NAMES:
            name = re.sub(pattern, ours, name)
        renamed[name] = tensor
    model.load_state_dict(renamed)
