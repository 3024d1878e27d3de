"""Kernels that a training step launches, counted on any machine: the operations of PyTorch that compute, each once.

    python benchmarks/launches.py --base_channels=64

A GPU launches about one kernel for each (BatchNorm and some convolutions two); once the step is captured as a CUDA
graph, it is one launch. Three passes are what the published code does; a step on a GPU sends all
images through at once.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from brainreg._utils.flags import Parser, run_command
from brainreg.hyperparameters import Hyperparameters
from brainreg.models.build import build_model
from brainreg.training.batches import Batch
from brainreg.training.optimizer import build_optimizer
from brainreg.training.step import TrainingStep

# Operations that only look at memory otherwise, or take some.
_FREE = ("view", "reshape", "expand", "permute", "transpose", "unsqueeze", "squeeze", "detach", "alias", "slice",
         "select", "split", "as_strided", "empty", "t.default", "_unsafe_view", "set_", "resize_",
         "is_same_size")  # fmt: skip


class LaunchCounter(TorchDispatchMode):
    """Counts the operations that compute, by name, forward and backward.

    Attributes:
        counts: of each operation.
    """

    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = str(func).removeprefix("aten.")
        if not name.startswith(_FREE):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def launches_of_step(settings: Hyperparameters, at_once: bool) -> Counter[str]:
    """Return the operations of one step on CIFAR-10's gray images; the step before it, which makes momentum, is not
    counted.
    """
    network = build_model(settings.archi, 1, 10, settings.base_channels, 32).train()
    optimizer = build_optimizer(network, lr=0.01, momentum=settings.momentum, weight_decay=0.0)
    step = TrainingStep(settings, network, optimizer, centered=True, pairs_centered=True)
    step._at_once = at_once
    images = torch.zeros(settings.resnet_batch_size, 1, 32, 32, dtype=torch.uint8)
    few = images[: settings.reg_batch_size]
    pairs = (few, few, torch.zeros(len(few))) if settings.regularized else None
    labels = torch.zeros(len(images), dtype=torch.int64)
    step(Batch(images, labels, pairs))
    with LaunchCounter() as counter:
        step(Batch(images, labels, pairs))
    return counter.counts


def main(arguments: list[str]) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--base_channels", type=int, default=64, help="width of the network")
    parser.add_argument("--batch", type=int, default=64, help="images that are classified")
    parser.add_argument("--pairs", type=int, default=16, help="pairs")
    flags = parser.parse_args(arguments)
    common = {"base_channels": flags.base_channels, "resnet_batch_size": flags.batch, "reg_batch_size": flags.pairs}
    for precision in ("float32", "bfloat16"):
        for alpha, at_once, name in (
            (10.0, False, "three passes"),
            (10.0, True, "one batch"),
            (0.0, True, "unregularized"),
        ):
            settings = Hyperparameters(**common, precision=precision, reg_alpha=alpha)
            counts = launches_of_step(settings, at_once)
            most = ", ".join(f"{name} {count}" for name, count in counts.most_common(4))
            print(f"{precision}, {name}: {counts.total()} ({most})")
    return 0


if __name__ == "__main__":
    run_command(main)
