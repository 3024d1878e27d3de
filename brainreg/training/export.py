"""A trained network as files that other tools open: safetensors for PyTorch, ONNX for any runtime."""

import json
import logging
import warnings
from pathlib import Path

import numpy as np
import torch
from torch import nn

from brainreg.data.datasets import find_dataset
from brainreg.errors import InputError, first_line, validated
from brainreg.hyperparameters import Hyperparameters
from brainreg.models.build import build_model
from brainreg.training.checkpoint import as_classifier

# Logits of two runtimes differ by rounding alone: by less than this part of the largest.
_ROUNDING = 1e-3


def save_safetensors(
    path: str | Path, classifier: nn.Module, settings: Hyperparameters, shape: tuple[int, ...]
) -> None:
    """Write a network's weights, and what `load_exported` builds it from.

    Args:
        path: of the file.
        classifier: of `load_classifier`.
        settings: with which it was trained.
        shape: (channels, height, width) of an image.
    """
    from safetensors.torch import save

    classes = len(logits_of(classifier, torch.zeros(1, *shape))[0])
    about = {"hyperparameters": settings.model_dump(mode="json"), "image_shape": list(shape), "num_classes": classes}
    tensors = {name: value.detach().cpu().contiguous() for name, value in classifier.state_dict().items()}
    # `save_file` would make a file that nobody else may read
    Path(path).write_bytes(save(tensors, {"brainreg": json.dumps(about)}))


def load_exported(path: str | Path) -> nn.Sequential:
    """Return the network of a `model.safetensors` that `brainreg export` wrote, in eval mode.

    It takes float images in [0, 1], (n, channels, height, width), and returns logits, (n, classes).

    Raises:
        InputError: there is no such file, or it is another one.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(str(path), framework="pt") as file:
            about = json.loads((file.metadata() or {})["brainreg"])
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118  # it is no mapping
    except FileNotFoundError as error:
        raise InputError(f"{path}: no such file") from error
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        raise InputError(f"{path}: must be a model.safetensors that brainreg export wrote") from error
    settings = validated(Hyperparameters, about["hyperparameters"], where=f"{path}: ")
    channels, size, _ = about["image_shape"]
    network = build_model(settings.archi, channels, about["num_classes"], settings.base_channels, size)
    classifier = as_classifier(network, find_dataset(settings.task))
    try:
        classifier.load_state_dict(tensors)
    except RuntimeError as error:
        raise InputError(f"{path}: its weights are those of another network than this version builds") from error
    return classifier.eval()


def save_onnx(path: str | Path, classifier: nn.Module, shape: tuple[int, ...]) -> float:
    """Write a network as ONNX, with its input scaling inside, and compare what ONNX Runtime computes with PyTorch.

    The input `images` is float32 in [0, 1], (n, channels, height, width), for any n; the output is `logits`.

    Returns:
        The largest difference of a logit, of 16 random images.

    Raises:
        InputError: the network cannot be written as ONNX, or computes something else there.
    """
    import onnxruntime

    images = torch.rand(16, *shape, generator=torch.Generator().manual_seed(0))
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            torch.onnx.export(
                classifier,
                (images[:2],),
                str(path),
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=({0: torch.export.Dim("n")},),
                dynamo=True,
                external_data=False,
                verbose=False,
            )
    except (torch.onnx.errors.OnnxExporterError, RuntimeError) as error:
        raise InputError(f"{path}: this network cannot be written as ONNX ({first_line(error)})") from error
    finally:
        logging.disable(before)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (found,) = session.run(["logits"], {"images": images.numpy()})
    wanted = logits_of(classifier, images).numpy()
    difference = float(np.abs(found - wanted).max())
    if not difference <= _ROUNDING * max(float(np.abs(wanted).max()), 1.0):
        raise InputError(f"{path}: ONNX Runtime computes other logits than PyTorch, by up to {difference:.2g}")
    return difference


def logits_of(classifier: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Return logits, (n, classes), of images in [0, 1], without gradients."""
    with torch.no_grad():
        return classifier(images)
