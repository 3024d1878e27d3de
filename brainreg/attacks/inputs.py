"""The door of every measurement: models, images and labels as people have them, or a line that says what is wrong.

A model is a `torch.nn.Module` that returns logits (n, classes) of images (n, c, h, w) in [0, 1]; images are of any
floating type in [0, 1], or uint8; labels are whole numbers from 0, one an image. Whatever the precision of the model,
images are attacked, and logits are compared, in float32.
"""

from typing import Any

import torch
from torch import nn

from brainreg.errors import InputError, first_line

# How far rounding may carry a pixel beyond [0, 1], as where images were scaled and scaled back in another precision.
_ROUNDING = 1e-5


def as_images(images: Any) -> torch.Tensor:
    """Return images as float32 (n, c, h, w) in [0, 1], contiguous and without gradients.

    Args:
        images: a tensor (n, c, h, w) with any strides, or what becomes one: floating point in [0, 1], where pixels
            beyond it by less than 1e-5 are clipped, or uint8, which is divided by 255.

    Raises:
        InputError: another type, another shape, no images, pixels outside [0, 1].
    """
    images = _as_tensor("images", images)
    if images.dtype != torch.uint8 and not images.is_floating_point():
        raise InputError(f"images: {images.dtype}; must be floating point in [0, 1], or uint8")
    if images.ndim != 4 or not images.numel():
        raise InputError(f"images: of shape {tuple(images.shape)}; must be (n, c, h, w), with one image at least")
    with torch.inference_mode(False):  # no gradient flows through a tensor that was made in inference mode
        images = images.clone() if images.is_inference() else images.detach()
        images = images.float().div_(255) if images.dtype == torch.uint8 else images.float()
        low, high = images.min().item(), images.max().item()
        if not (low >= -_ROUNDING and high <= 1 + _ROUNDING):
            raise InputError(f"images: pixels from {low:.7g} to {high:.7g}; must be in [0, 1]")
        return (images if low >= 0 and high <= 1 else images.clamp(0, 1)).contiguous()


def as_labels(labels: Any, images: torch.Tensor) -> torch.Tensor:
    """Return labels as int64 (n,), on the device of the images (n, c, h, w).

    Args:
        labels: a tensor (n,) or (n, 1), or what becomes one, of any whole type.

    Raises:
        InputError: another type or shape, another number of them than of images.
    """
    labels = _as_tensor("labels", labels)
    shape, n = tuple(labels.shape), len(images)
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise InputError(f"labels: {labels.dtype}; must be whole numbers from 0, such as int64")
    if labels.ndim == 2 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.ndim != 1:
        one_hot = "; one-hot labels become that by labels.argmax(dim=1)" if labels.ndim == 2 else ""
        raise InputError(f"labels: of shape {shape}; must be (n,), the number of each image's class{one_hot}")
    if len(labels) != n:
        raise InputError(f"labels: {len(labels)} of them for {n} images; must be one an image")
    with torch.inference_mode(False):
        return (labels.clone() if labels.is_inference() else labels).to(images.device, torch.int64)


def check_labels(labels: torch.Tensor, classes: int, whose: str = "the model") -> None:
    """Raise InputError unless every label is a class."""
    if len(labels) and not bool(((labels >= 0) & (labels < classes)).all()):
        raise InputError(
            f"labels: from {labels.min()} to {labels.max()}; {whose} has {classes} classes, 0 to {classes - 1}"
        )


def checked_model(model: nn.Module) -> "CheckedModel":
    """Return a model behind `CheckedModel`.

    Raises:
        InputError: no `torch.nn.Module`, or one whose weights were made in inference mode.
    """
    if isinstance(model, CheckedModel):
        return model
    if not isinstance(model, nn.Module):
        raise InputError(f"model: {type(model).__name__}; must be a torch.nn.Module that returns logits (n, classes)")
    if any(weights.is_inference() for weights in model.parameters()):
        raise InputError("model: its weights were made in inference mode and carry no gradient; build it outside")
    return CheckedModel(model)


class CheckedModel(nn.Module):
    """A model that takes float32 images and returns float32 logits (n, classes), whatever it computes in.

    Raises:
        InputError: in a pass, what the model returns is nothing of the kind, or it does not take the images.
    """

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model
        floating = (weights.dtype for weights in model.parameters() if weights.is_floating_point())
        self._precision = next(floating, torch.float32)
        self._classes: int | None = None  # until the first pass

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        try:
            output = self.model(images.to(self._precision))
        except (torch.OutOfMemoryError, InputError):
            raise
        except (RuntimeError, ValueError, TypeError, IndexError, AttributeError) as error:
            if self._classes is not None:  # it takes such images: the fault is another
                raise
            reason = first_line(error)
            shape = tuple(images.shape)
            raise InputError(f"model: does not take images of shape {shape} on {images.device} ({reason})") from error
        if not isinstance(output, torch.Tensor):
            raise InputError(
                f"model: returns {type(output).__name__}; must return logits (n, classes), a tensor;"
                " brainreg.as_logits(model) takes them from a tuple, a dict or an output with .logits"
            )
        if output.ndim != 2 or len(output) != len(images) or output.shape[1] < 2 or not output.is_floating_point():
            raise InputError(
                f"model: returns {output.dtype} of shape {tuple(output.shape)} for {len(images)} images; must return"
                " logits (n, classes) in floating point, of two classes or more"
            )
        self._classes = output.shape[1]
        output = output.to(images.device, torch.float32)
        if torch.is_grad_enabled() and images.requires_grad and not output.requires_grad:
            output = output + 0 * images.flatten(1).sum(dim=1, keepdim=True)  # a gradient, which is zero
        return output


def _as_tensor(name: str, values: Any) -> torch.Tensor:
    try:
        return torch.as_tensor(values)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"{name}: {type(values).__name__}; must be a torch.Tensor") from error
