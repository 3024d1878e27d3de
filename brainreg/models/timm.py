"""Networks of timm, regularized at their stages."""

import difflib
from collections.abc import Callable
from typing import Any

import torch

from brainreg.errors import InputError
from brainreg.models.base import SimilarityNetwork


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
        self.backbone: Any = timm.create_model(name, pretrained=False, in_chans=in_channels, num_classes=num_classes)
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
