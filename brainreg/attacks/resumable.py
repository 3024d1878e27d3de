"""An attack in parts: a time limit or an interruption may end it, and it goes on where it was."""

import contextlib
import hashlib
import itertools
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import nn

import brainreg
from brainreg.attacks.base import Attack, logits_of, predicted, prepared
from brainreg.attacks.inputs import as_images, as_labels

# Images of the first batch where time is limited, and how much larger than the last one the next may be.
_FEW, _GROWTH = 4, 8

# Images that tell one model's behaviour from another's, and the noise that they are shown with, too.
_SHOWN, _NOISE = 8, 0.1

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
        inferred: (s, m) bool, as in `Outcome`; all False where nothing is.
        masked: (m,) int64, as in `Outcome`; all 0 where no sign was looked for.
    """

    correct: torch.Tensor
    example_strength: torch.Tensor
    broken_by: torch.Tensor
    kept: torch.Tensor
    examples: torch.Tensor
    predicted: torch.Tensor
    seconds: float
    stages: tuple[str, ...] = ()
    inferred: torch.Tensor = None  # type: ignore[assignment]  # until `__post_init__`
    masked: torch.Tensor = None  # type: ignore[assignment]

    def __post_init__(self):
        if self.inferred is None:
            object.__setattr__(self, "inferred", torch.zeros_like(self.correct))
        if self.masked is None:
            object.__setattr__(self, "masked", torch.zeros(self.correct.shape[1], dtype=torch.int64))


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
    """Attack as many of the images, in their order, as fit in a time; at least four.

    Where time is limited, the first batch is of four images, and each further one as large as should fit, at the
    speed of the one before it, but at most eight times as large. How many images were attacked therefore depends on
    the machine: whoever shows the result shows their number. Noise and corruptions, which depend on an image's place
    among the others, are not divided. Once AutoAttack finds a sign that gradients are masked, it infers nothing of the
    batches that follow, and attacks those before it anew, where there is time.

    Args:
        seconds: time limit.
        parts: folder where each batch's outcome is kept, so that an interrupted evaluation goes on; what was
            measured there before, of the same model, images and settings, is not measured again.
        on_progress: called now and then with the number of images whose outcome is known, and of all images.
        Others as in `base.Attack`.
    """
    images = as_images(images)
    labels = as_labels(labels, images)
    whole, limited = attack.norm is None, math.isfinite(seconds)
    kept = None
    if parts is not None:
        held = [value for value in vars(attack).values() if isinstance(value, nn.Module | torch.Tensor)]
        models = [model, *(value for value in held if isinstance(value, nn.Module))]
        tensors = digest(*(value for value in held if isinstance(value, torch.Tensor)))
        kept = Kept(parts, f"{attack.title} {list(strengths)} {seed} {tensors}", images, *models)
    done: list[Measured] = []
    masked = False

    def measure(start: int, size: int) -> Measured:
        part = slice(start, start + size)

        def say(known: int, _: int) -> None:
            if on_progress is not None:
                on_progress(start + known, len(images))

        measured = _measure(
            attack, model, images[part], labels[part], strengths, seed, batch_size,
            None if on_progress is None else say, {"infer": False} if masked else {},
        )  # fmt: skip
        if kept is not None:
            kept.write(_fields(measured), images[part], labels[part], start=start)
        return measured

    def left() -> float:
        return seconds - sum(part.seconds for part in done)

    start, size = 0, len(images) if whole else min(_FEW, batch_size) if limited else batch_size
    while start < len(images):
        measured = None if kept is None else _read_part(kept, images, labels, start)
        if measured is None:
            # A batch takes as long as any smaller one, at least.
            least = max((part.seconds for part in done if part.correct.shape[1] <= size), default=0)
            if limited and done and (size < min(_FEW, batch_size, len(images) - start) or least > left()):
                break
            measured = measure(start, size)
        done.append(measured)
        masked = masked or bool(measured.masked.any())
        n = measured.correct.shape[1]
        start += n
        if limited:
            size = min(batch_size, _GROWTH * n, max(0, int(left() * n / max(measured.seconds, 1e-9))))
        if on_progress is not None:
            on_progress(start, len(images))
    start = 0
    for i, part in enumerate(done):
        if masked and part.inferred.any() and part.seconds * len(strengths) < left():
            done[i] = replace(again := measure(start, part.correct.shape[1]), seconds=again.seconds + part.seconds)
        start += part.correct.shape[1]
    return _joined(done)


def _measure(
    attack: Attack,
    model: nn.Module,
    images: torch.Tensor,
    labels: torch.Tensor,
    strengths: Sequence[float],
    seed: int,
    batch_size: int,
    on_progress: Callable[[int, int], None] | None,
    options: dict[str, bool],
) -> Measured:
    began = time.monotonic()
    outcome = attack(
        model, images, labels, strengths, seed=seed, batch_size=batch_size, on_progress=on_progress, **options
    )
    seconds = time.monotonic() - began
    strength = outcome.example_strength
    order = strength.argsort()
    kept = order[(strength[order] > 0) & strength[order].isfinite()][:KEPT_EXAMPLES]
    examples = outcome.examples[kept]
    with prepared(model, images.device) as checked:
        seen = predicted(logits_of(checked, examples, batch_size)) if len(kept) else kept
    broken_by = torch.full(outcome.correct.shape, -1) if outcome.broken_by is None else outcome.broken_by
    tensors = (outcome.correct, strength, broken_by, kept, examples, seen)
    signs = {
        name: tensor.cpu()
        for name, tensor in (("inferred", outcome.inferred), ("masked", outcome.masked))
        if tensor is not None
    }
    correct, strength, broken_by, kept, examples, seen = (tensor.detach().cpu() for tensor in tensors)
    return Measured(correct, strength, broken_by, kept, examples, seen, seconds, outcome.stages, **signs)


def _joined(parts: Sequence[Measured]) -> Measured:
    before = [0, *itertools.accumulate(part.correct.shape[1] for part in parts)]
    return Measured(
        correct=torch.cat([part.correct for part in parts], dim=1),
        example_strength=torch.cat([part.example_strength for part in parts]),
        broken_by=torch.cat([part.broken_by for part in parts], dim=1),
        kept=torch.cat([part.kept + first for first, part in zip(before, parts, strict=False)]),
        examples=torch.cat([part.examples for part in parts]),
        predicted=torch.cat([part.predicted for part in parts]),
        seconds=sum(part.seconds for part in parts),
        stages=parts[0].stages,
        inferred=torch.cat([part.inferred for part in parts], dim=1),
        masked=torch.cat([part.masked for part in parts]),
    )


class Kept:
    """Measurements that are kept in a folder, each for one model, one set of images, and one way to measure.

    The structure and the weights of a model, the versions of what measures it, and the settings name a file. In it lies
    what the model did on some images, clean and noisy: its logits, and the size and direction of their gradients. A
    model that does something else by more than rounding, such as the same network behind a quantization of its input,
    is another one, and what is kept is not read.

    Args:
        folder: of the files.
        settings: how it is measured, in a text.
        images: (n, c, h, w) in [0, 1]; the first few are shown to the models.
        models: the model, and others that the measurement depends on.
    """

    def __init__(self, folder: Path, settings: str, images: torch.Tensor, *models: nn.Module):
        self.folder = folder
        self._stem = digest(*models, settings, versions())
        self._behaviour = [_behaviour(model, images[:_SHOWN]) for model in models]

    def read(self, images: torch.Tensor, *others: torch.Tensor, start: int = 0) -> dict[str, Any] | None:
        """Return what is kept of the images from `start` on: of the first so many, or None.

        Args:
            images: (n, c, h, w), and others (n, ...), such as labels: all of them that there are.
            start: the first that counts.
        """
        for path in self.folder.glob(f"{self._stem}-{start}-*.pt"):
            size = int(path.stem.split("-")[2])
            if path == self._path(start, *(one[start : start + size] for one in (images, *others))):
                content = _load(path)
                if content is not None and _alike(content.pop("behaviour"), self._behaviour):
                    return content
        return None

    def write(self, content: dict[str, Any], images: torch.Tensor, *others: torch.Tensor, start: int = 0) -> None:
        """Keep what was measured of these very images, of which the first is number `start`."""
        path = self._path(start, images, *others)
        path.parent.mkdir(parents=True, exist_ok=True)
        unfinished = path.with_name(f"{path.name}.part")
        torch.save({**content, "behaviour": self._behaviour}, unfinished)
        unfinished.replace(path)

    def _path(self, start: int, images: torch.Tensor, *others: torch.Tensor) -> Path:
        return self.folder / f"{self._stem}-{start}-{len(images)}-{digest(images, *others)}.pt"


def versions() -> str:
    """Return the versions of what a measurement depends on, as far as it is installed, in one line."""
    found = [f"brainreg {brainreg.__version__}"]
    for name in ("torch", "pyautoattack", "foolbox", "imagecorruptions-imaug"):
        with contextlib.suppress(PackageNotFoundError):  # what is missing measured nothing
            found.append(f"{name} {version(name)}")
    return ", ".join(found)


def digest(*contents: nn.Module | torch.Tensor | str) -> str:
    """Return a short text that differs between contents: a network's is that of its modules and weights."""
    digest = hashlib.sha256()

    def update(name: str, content: Any) -> None:
        if not isinstance(content, torch.Tensor):
            digest.update(f"{name} {content!r}\n".encode())
            return
        digest.update(f"{name} {content.dtype} {tuple(content.shape)}\n".encode())
        digest.update(content.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)

    for content in contents:
        if isinstance(content, nn.Module):
            for name, module in content.named_modules():
                update(name, f"{type(module).__module__}.{type(module).__qualname__}({module.extra_repr()})")
            for name, value in {**content.state_dict(), **dict(content.named_buffers())}.items():
                update(name, value)
        else:
            update("", content)
    return digest.hexdigest()[:16]


def _behaviour(model: nn.Module, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """What a model does on images (n, c, h, w), clean and noisy.

    Returns:
        (2 n, classes) logits, and (2 n, 2) the norm of the gradient of a fixed sum of them, and its part in a fixed
        direction. In batches of a few, always the same: rounding differs between sizes.
    """
    draws = torch.Generator().manual_seed(0)
    noise, direction = (2 * torch.rand(2, *images.shape, generator=draws) - 1).to(images.device)
    shown, logits, gradients = torch.cat([images, (images + _NOISE * noise).clamp(0, 1)]), [], []
    with prepared(model, images.device) as model:
        torch.manual_seed(0)  # a model that draws by itself
        for part, along in zip(shown.split(_FEW), torch.cat([direction, direction]).split(_FEW), strict=True):
            part = part.clone().requires_grad_()
            with torch.enable_grad():
                logits.append(model(part))
                weights = torch.randn(logits[-1].shape[1], generator=draws.manual_seed(0)).to(part.device)
                (gradient,) = torch.autograd.grad((logits[-1] * weights).sum(), part)
            gradients.append(torch.stack([one.flatten(1).sum(dim=1) for one in (gradient**2, gradient * along)], dim=1))
    both = torch.cat(gradients)
    both[:, 0].sqrt_()
    return torch.cat(logits).detach().cpu(), both.cpu()


def _alike(one: Sequence[tuple[torch.Tensor, ...]], other: Sequence[tuple[torch.Tensor, ...]]) -> bool:
    """Whether two models behave alike, up to rounding: a ReLU that is at its corner may turn a part of a gradient."""
    if len(one) != len(other):
        return False
    for pair in zip(one, other, strict=True):
        for a, b, tolerance in zip(*pair, (1e-4, 1e-2), strict=True):
            a, b = (values.double().nan_to_num(nan=1e9, posinf=1e12, neginf=-1e12) for values in (a, b))
            if a.shape != b.shape or (a - b).norm() > tolerance * max(a.norm(), b.norm()):
                return False
    return True


def _fields(measured: Measured) -> dict[str, Any]:
    return {field.name: getattr(measured, field.name) for field in fields(Measured)}


def _read_part(kept: Kept, images: torch.Tensor, labels: torch.Tensor, start: int) -> Measured | None:
    content = kept.read(images, labels, start=start)
    return None if content is None else Measured(**content)


def _load(path: Path) -> dict[str, Any] | None:
    """What is in a file; nothing where it is missing or damaged, so that it is measured again."""
    try:
        return torch.load(path, weights_only=True)
    except Exception:  # a damaged file fails in many ways
        return None
