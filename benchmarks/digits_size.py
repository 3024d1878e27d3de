"""What it costs to enlarge the 8x8 digits, and what it gives: why `brainreg.data` enlarges them twice.

python benchmarks/digits_size.py
"""

import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
import torch.nn.functional as F

from brainreg.attacks import AutoAttack
from brainreg.hyperparameters import Hyperparameters
from brainreg.models.build import build_model
from brainreg.training.data import TrainingData, load_training_data
from brainreg.training.loop import train
from brainreg.training.step import to_float

ATTACK = AutoAttack(version="custom", attacks=("apgd-ce", "apgd-t"), n_iter=20, n_target_classes=3)
SEEDS = (0, 1, 2)


def enlarged(data: TrainingData, factor: int) -> TrainingData:
    """The same digits at `factor` times 8 pixels."""

    def resize(images: torch.Tensor) -> torch.Tensor:
        return images[:, :, ::2, ::2].repeat_interleave(factor, 2).repeat_interleave(factor, 3)

    return replace(data, images=resize(data.images), valid_images=resize(data.valid_images))


def step_milliseconds(size: int, batch: int = 64) -> tuple[float, float]:
    """Median time of a training step and of a forward pass of a ResNet18 with 8 channels."""
    model = build_model("ResNet18", base_channels=8, image_size=size)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    images, labels = torch.rand(batch, 1, size, size), torch.randint(10, (batch,))
    steps, passes = [], []
    for _ in range(30):
        began = time.perf_counter()
        optimizer.zero_grad()
        F.cross_entropy(model(images), labels).backward()
        optimizer.step()
        steps.append(time.perf_counter() - began)
        with torch.no_grad():
            began = time.perf_counter()
            model(images)
            passes.append(time.perf_counter() - began)
    return 1000 * statistics.median(steps), 1000 * statistics.median(passes)


def main() -> None:
    torch.set_num_threads(1)
    print("one thread, ResNet18 with 8 channels, batches of 64; accuracies after 20 epochs, mean over 3 seeds")
    print(f"{'size':>5} {'last map':>9} {'step ms':>8} {'forward ms':>11} {'clean':>6} {'robust (eps 0.1)':>17}")
    for factor in (1, 2, 3, 4):
        size = 8 * factor
        step, forward = step_milliseconds(size)
        clean, robust = [], []
        for seed in SEEDS:
            settings = Hyperparameters(task="digits", base_channels=8, epoch_num=20, valid_portion=0.25, seed=seed)
            data = enlarged(load_training_data(settings), factor)
            classifier = train(settings, data, device="cpu").classifier
            images, labels = to_float(data.valid_images), data.valid_labels
            clean.append((classifier(images).argmax(1) == labels).float().mean().item())
            robust.append(ATTACK(classifier, images[:200], labels[:200], [0.1]).correct.float().mean().item())
        last = -(-size // 8)
        print(
            f"{size:>5} {f'{last}x{last}':>9} {step:>8.1f} {forward:>11.1f} {statistics.mean(clean):>6.3f}"
            f" {statistics.mean(robust):>17.3f}",
            flush=True,
        )


if __name__ == "__main__":
    main()
