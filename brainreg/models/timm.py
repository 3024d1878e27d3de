"""Networks of timm, regularized at their stages."""

import difflib

import torch

from brainreg.errors import InputError, first_line
from brainreg.models.stages import StagedNetwork, stage_outputs


class TimmNetwork(StagedNetwork):
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
        backbone = timm.create_model(name, pretrained=False, in_chans=in_channels, num_classes=num_classes)
        modules = dict(backbone.named_modules())
        stages = [one for one in getattr(backbone, "feature_info", None) or () if one["module"] in modules]
        stages = [one for one in stages if one["module"]]
        if not stages:
            raise InputError(f"archi=timm:{name}: timm lists no feature stages of it")
        # What timm calls it where channels come last, as in Swin and MambaOut.
        channels_last = getattr(backbone, "output_fmt", "NCHW") == "NHWC"
        super().__init__(backbone, [one["module"] for one in stages], [one["num_chs"] for one in stages], channels_last)
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
            reason = first_line(error)
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

    def _stage_maps(self, images: torch.Tensor) -> list[torch.Tensor]:
        return stage_outputs(self.backbone, self._stages, self.backbone.forward_features, images)


def check_timm_name(name: str) -> None:
    """Raise InputError unless timm has a model of this name."""
    import timm

    if not timm.is_model(name):
        close = difflib.get_close_matches(name, timm.list_models(), n=3)
        raise InputError(
            f"timm:{name}: timm has no such model"
            + (f"; did you mean {', '.join(f'timm:{match}' for match in close)}?" if close else "")
        )
