"""One attack in parts: a time limit or an interruption may end it, and it goes on where it was."""

import hashlib
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path

import torch
from torch import nn

import brainreg
from brainreg.attacks.base import Attack, logits_of, prepared

# Adversarial examples that are kept of each part, and shown of an evaluation: those that needed the least.
KEPT_EXAMPLES = 16


@dataclass(frozen=True)
class Measured:
    """What an attack did to the first m of the images it was given, at s strengths; tensors are on the CPU.

    Attributes:
        correct: (s, m) bool.
        example_strength: (m,) float, the smallest strength at which an adversarial example was met; infinite where
            none was, 0 where the clean image is misclassified.
        broken_by: (s, m) int64, as in `Outcome`; all -1 for an attack of one stage.
        kept: (e,) int64, the images whose examples are kept: up to `KEPT_EXAMPLES` of each part, those that needed
            the least.
        examples: (e, c, h, w), their adversarial examples.
        predicted: (e,) int64, the classes that the model sees in those.
        seconds: that the attack took, for all strengths together.
        stages: the names that `broken_by` counts.
    """

    correct: torch.Tensor
    example_strength: torch.Tensor
    broken_by: torch.Tensor
    kept: torch.Tensor
    examples: torch.Tensor
    predicted: torch.Tensor
    seconds: float
    stages: tuple[str, ...] = ()


def attack_within(
    attack: Attack,
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    strengths: Sequence[float],
    *,
    seconds: float = math.inf,
    batch_size: int = 250,
    seed: int = 0,
    parts: Path | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> Measured:
    """Attack as many of the images, in their order, as fit in a time; at least one batch.

    A batch is begun only if, taking as long as the longest so far, it would end in time. How many images
    were attacked therefore depends on the machine: whoever shows the result shows their number. Noise and
    corruptions, which depend on an image's place among the others, are not divided.

    Args:
        seconds: time limit.
        parts: folder where each batch's outcome is kept, so that an interrupted evaluation goes on; what was
            measured there before, of the same model, images and settings, is not measured again.
        on_progress: called now and then with the number of images whose outcome is known, and of all images.
        Others as in `base.Attack`.
    """
    size = len(images) if attack.norm is None else batch_size
    if parts is not None:
        held = [value for value in vars(attack).values() if isinstance(value, nn.Module | torch.Tensor)]
        stem = digest(model, *held, f"{attack.title} {list(strengths)} {seed} {brainreg.__version__}")
    done: list[Measured] = []
    for start in range(0, len(images), size):
        image, label = images[start : start + size], labels[start : start + size]
        path = None if parts is None else parts / f"{stem}-{digest(image, label, str(start))}.pt"
        measured = None if path is None else _read_part(path)
        if measured is None:
            spent = [part.seconds for part in done]
            if spent and sum(spent) + max(spent) > seconds:
                break

            def say(known: int, _: int, before: int = start) -> None:
                on_progress(before + known, len(images))

            measured = _measure(
                attack, model, image, label, strengths, seed, batch_size, None if on_progress is None else say
            )
            if path is not None:
                _write_part(path, measured)
        done.append(measured)
        if on_progress is not None:
            on_progress(start + len(label), len(images))
    return _joined(done, size)


def _measure(
    attack: Attack,
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    strengths: Sequence[float],
    seed: int,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None,
) -> Measured:
    began = time.monotonic()
    outcome = attack(model, images, labels, strengths, seed=seed, batch_size=batch_size, on_progress=on_progress)
    seconds = time.monotonic() - began
    strength = outcome.example_strength
    order = strength.argsort()
    kept = order[(strength[order] > 0) & strength[order].isfinite()][:KEPT_EXAMPLES]
    examples = outcome.examples[kept]
    with prepared(model, images.device):
        predicted = logits_of(model, examples.float(), batch_size).argmax(dim=1) if len(kept) else kept
    broken_by = torch.full(outcome.correct.shape, -1) if outcome.broken_by is None else outcome.broken_by
    tensors = (outcome.correct, strength, broken_by, kept, examples, predicted)
    return Measured(*(tensor.detach().cpu() for tensor in tensors), seconds, outcome.stages)


def _joined(parts: Sequence[Measured], size: int) -> Measured:
    return Measured(
        correct=torch.cat([part.correct for part in parts], dim=1),
        example_strength=torch.cat([part.example_strength for part in parts]),
        broken_by=torch.cat([part.broken_by for part in parts], dim=1),
        kept=torch.cat([part.kept + i * size for i, part in enumerate(parts)]),
        examples=torch.cat([part.examples for part in parts]),
        predicted=torch.cat([part.predicted for part in parts]),
        seconds=sum(part.seconds for part in parts),
        stages=parts[0].stages,
    )


def digest(*contents: nn.Module | torch.Tensor | str) -> str:
    """Return a short text that differs between contents: a network's is that of its weights."""
    digest = hashlib.sha256()
    for content in contents:
        if isinstance(content, str):
            digest.update(content.encode())
            continue
        tensors = [content] if isinstance(content, torch.Tensor) else content.state_dict().values()
        for tensor in tensors:
            digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]


def _write_part(path: Path, measured: Measured) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_name(f"{path.name}.part")
    torch.save({field.name: getattr(measured, field.name) for field in fields(Measured)}, unfinished)
    unfinished.replace(path)


def _read_part(path: Path) -> Measured | None:
    """What was measured before; nothing where it is missing or damaged, so that it is measured again."""
    try:
        return Measured(**torch.load(path, weights_only=True))
    except FileNotFoundError:
        return None
    except Exception:  # a damaged file fails in many ways
        return None
