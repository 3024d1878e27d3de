"""What a network is, beside its weights: a model card in Markdown, and the lines that load it."""

from collections.abc import Mapping
from typing import Any

import pandas as pd

import brainreg
from brainreg._utils.formats import format_probability
from brainreg.analysis.comparison import (
    compare_settings,
    confirmation_notes,
    confirmation_table,
    describe_differences,
    format_confirmation,
)
from brainreg.analysis.formats import format_interval, format_percent
from brainreg.errors import validated
from brainreg.hyperparameters import Hyperparameters
from brainreg.spaces.objective import Objective

_PAPER = "https://arxiv.org/abs/2410.03952"


def model_card(
    name: str,
    settings: Hyperparameters,
    shape: tuple[int, ...],
    classes: int,
    parameters: int,
    difference: float,
    command: str = "",
    search: Mapping[str, Any] | None = None,
    advice: Mapping[str, Any] | None = None,
    confirmation: pd.DataFrame | None = None,
) -> str:
    """Return the card of a network that `brainreg export` wrote.

    Args:
        name: what it is called.
        settings: with which it was trained.
        shape: (channels, height, width) of an image.
        classes, parameters: how many it has.
        difference: the largest of a logit, between ONNX Runtime and PyTorch.
        command: that trains it again.
        search: the manifest of the search that found the setting; None where none did.
        advice: what the search recommends: `best/recommendation.json`.
        confirmation: what was measured on test images, of `load_searches`.
    """
    changed = {
        key: value
        for key, value in settings.model_dump(mode="json").items()
        if value != Hyperparameters.model_fields[key].get_default()
        or key in ("reg_alpha", *(["reg_range"] if settings.regularized else []), "epoch_num")
    }
    parts = [
        "---\nlibrary_name: brainreg\ntags: [image-classification, adversarial-robustness, pixel-similarity]\n---",
        f"# {name}",
        f"An image classifier ({settings.archi}, {parameters:,} weights) that was trained"
        f" {'with' if settings.regularized else 'without'} the pixel-similarity regularizer ({_PAPER}) on"
        f" {settings.task}, by brainreg {brainreg.__version__}.",
        "It takes float32 images in [0, 1], (n, {}), which it scales itself, and returns logits, (n, {}).".format(
            ", ".join(map(str, shape)), classes
        ),
        "## Load it",
        f"```python\n{loading_lines(shape)}\n```",
        f"ONNX Runtime and PyTorch gave logits that differ by {difference:.1g} at most, on 16 random images.",
        "## How it was trained",
        _table({"hyperparameter": [*changed], "value": [_shown(value) for value in changed.values()]}),
        "What is not listed has its default.",
    ]
    if command:
        parts += ["To train it again:", f"```bash\n{command.strip()}\n```"]
    if search is not None:
        parts += _of_search(search, advice)
    tested = confirmation_table(confirmation)
    if len(tested):
        parts += [
            "## On test images",
            "Means over networks that were trained with fresh seeds, with 95% intervals. This network is not one of"
            " them, but one of the search.",
            _table(format_confirmation(tested).to_dict("list")),
            "\n".join(["```text", *describe_differences(compare_settings(confirmation)), "```"]),
            *(f"* {line}" for line in confirmation_notes(confirmation)),
        ]
    elif search is not None:
        parts.append("It was not confirmed on test images; `brainreg confirm` does that.")
    parts += [
        "## Limits",
        "Accuracy under attack holds for the attacks, strengths and images that are named, and for no others. No"
        " attack proves robustness.",
    ]
    return "\n\n".join(parts) + "\n"


def loading_lines(shape: tuple[int, ...]) -> str:
    """Return the lines of Python that load an exported network, with PyTorch and without."""
    size = ", ".join(map(str, shape))
    return "\n".join(
        [
            "import torch",
            "from brainreg import load_exported",
            "",
            'model = load_exported("model.safetensors")',
            f"images = torch.rand(8, {size})",
            "print(model(images).argmax(dim=1))",
            "",
            "import onnxruntime  # without brainreg and PyTorch",
            "",
            'session = onnxruntime.InferenceSession("model.onnx")',
            'print(session.run(["logits"], {"images": images.numpy()})[0].argmax(axis=1))',
        ]
    )


def _of_search(search: Mapping[str, Any], advice: Mapping[str, Any] | None) -> list[str]:
    space = search["space"]
    objective = validated(Objective, space["objective"], spell=lambda key: f"space.objective.{key}")
    noise = f"; {objective.noise} noise of {objective.noise_eps:g}" if objective.noise_weight else ""
    versions = ", ".join(f"{key} {value}" for key, value in search.get("versions", {}).items())
    parts = [
        "## How its setting was found",
        f"By a search of the space {space['name']}, begun {search['started']}, with the objective"
        f" {objective.rule} accuracy; robust under {objective.attack.title}, at eps {objective.eps:g} on"
        f" {objective.attack_image_num} validation images{noise}. Versions: {versions}.",
    ]
    if advice is not None:
        expected = advice["expected"]
        means = [
            f"{one['mean']:.3f}" if key == "objective" else f"{format_percent(one['mean'])}%"
            for key, one in expected.items()
        ]
        expected = {  # of a search of an earlier version, an end may lie beyond
            key: one | {end: min(max(one[end], 0.0), 1.0) for end in ("low", "high")} for key, one in expected.items()
        }
        rows = {
            "on validation images": [key.replace("_", " ") for key in expected],
            "a further run is expected to give": means,
            "95% interval": [
                f"[{one['low']:.3f}, {one['high']:.3f}]"
                if key == "objective"
                else format_interval(one["low"], one["high"])
                for key, one in expected.items()
            ],
        }
        parts += [
            _table(rows),
            f"Probability that no other setting of the search is better by more than 0.005:"
            f" {format_probability(advice['probability_best'])}.",
        ]
    data = search.get("data") or {}
    if data:
        parts.append("The images of the search; another seed splits the validation images off otherwise.")
        parts.append(_table({"data": [*data], "fingerprint": [*data.values()]}))
    return parts


def _table(columns: Mapping[str, Any]) -> str:
    """A table in Markdown."""
    rows = [list(columns), ["---"] * len(columns), *zip(*columns.values(), strict=True)]
    return "\n".join("| " + " | ".join(str(cell).replace("|", "\\|") for cell in row) + " |" for row in rows)


def _shown(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
