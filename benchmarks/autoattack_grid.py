"""AutoAttack over a grid of strengths: this project's search for each image's breaking point against the authors' own
run, once a strength, on the same network and images.

python benchmarks/autoattack_grid.py --task=digits --base_channels=4 --epoch_num=10 --phase_duration=3 \\
    --valid_portion=0.5 --images=1000 --eps 0.02 0.05 0.08 0.11 0.15 --save=benchmarks/results/autoattack_grid.csv

The network is trained first; validation images are attacked, and test images where those are too few. Any
hyperparameter is a flag.
"""

import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import pandas as pd
import pyautoattack
import torch

from brainreg._utils.flags import Parser, given_values, run_command, use_threads
from brainreg.attacks import AutoAttack
from brainreg.errors import InputError
from brainreg.evaluation.accuracy import correct
from brainreg.hyperparameters import Hyperparameters
from brainreg.training.data import load_test_images, load_training_data
from brainreg.training.device import device_name
from brainreg.training.loop import train
from brainreg.training.step import to_float


class Counted(torch.nn.Module):
    """Counts the images that go through a model."""

    def __init__(self, model: torch.nn.Module):
        super().__init__()
        self.model, self.seen = model, 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return self.model(images)


def main(arguments: list[str]) -> int:
    parser = Parser(__doc__)
    parser.add_argument("--eps", type=float, nargs="+", required=True, help="strengths")
    parser.add_argument("--norm", default="Linf", choices=["Linf", "L2", "L1"], help="norm of the perturbation")
    parser.add_argument("--images", type=int, default=1000, help="images that are attacked")
    parser.add_argument("--batch", type=int, default=250, help="images attacked together")
    parser.add_argument("--save", help="CSV file for the numbers")
    parser.add_flag("threads", help="CPU threads")
    parser.add_flag("data_dir", default="data", help="folder of the data sets")
    parser.add_flags(Hyperparameters, "hyperparameters")
    flags = parser.parse_args(arguments)
    use_threads(flags.threads)
    settings = Hyperparameters(**given_values(Hyperparameters, flags))
    data = load_training_data(settings, flags.data_dir)
    classifier = train(settings, data).classifier
    for parameter in classifier.parameters():
        parameter.requires_grad_(False)  # neither side needs them
    device = next(classifier.parameters()).device
    test = load_test_images(settings, flags.data_dir)
    images = to_float(torch.cat([data.valid_images, test.tensor])[: flags.images]).to(device)
    labels = torch.cat([data.valid_labels, test.labels])[: flags.images].to(device)
    if len(labels) < flags.images:
        raise InputError(f"--images={flags.images}: there are {len(labels)} validation and test images")
    clean = correct(classifier, images, labels)
    machine = device_name(device)
    print(
        f"{settings.archi}, {settings.base_channels} channels, {settings.task}: clean {clean.float().mean():.4f} of"
        f" {len(labels)} images; {flags.norm}; {machine}, {torch.get_num_threads()} threads; torch {torch.__version__}",
        flush=True,
    )

    rows = []
    for eps in flags.eps:
        counted, began = Counted(classifier), time.monotonic()
        adversary = pyautoattack.AutoAttack(counted, norm=flags.norm, eps=eps, seed=settings.seed, device=device)
        classes = data.num_classes - 1
        for targeted in (adversary.apgd_targeted, adversary.fab):
            targeted.n_target_classes = min(targeted.n_target_classes, classes)
        _, predicted = adversary.run_standard_evaluation(images, labels, batch_size=flags.batch)
        authors, seconds = predicted == labels, time.monotonic() - began
        rows.append({"eps": eps, "authors": authors, "authors_seconds": seconds, "authors_images": counted.seen})
        print(f"authors' run, eps {eps:g}: {authors.float().mean():.4f}, {seconds:.0f} s", flush=True)
    counted, began = Counted(classifier), time.monotonic()
    grid = AutoAttack(norm=flags.norm)(
        counted, images, labels, flags.eps, seed=settings.seed, batch_size=flags.batch
    ).correct
    seconds, seen = time.monotonic() - began, counted.seen

    print("\n     eps   authors      grid  difference  only grid  only authors  authors s")
    for row, ours in zip(rows, grid, strict=True):
        authors = row["authors"]
        row["only_grid_robust"], row["only_authors_robust"] = int((ours & ~authors).sum()), int((authors & ~ours).sum())
        row["authors"], row["grid"] = authors.float().mean().item(), ours.float().mean().item()
        print(
            f"{row['eps']:>8g} {row['authors']:>9.4f} {row['grid']:>9.4f} {row['grid'] - row['authors']:>+11.4f}"
            f" {row['only_grid_robust']:>10} {row['only_authors_robust']:>13} {row['authors_seconds']:>10.0f}"
        )
    dearest = max(row["authors_seconds"] for row in rows)
    most = max(row["authors_images"] for row in rows)
    print(
        f"the grid: {seconds:.0f} s, {seconds / dearest:.2f} times the authors' dearest strength"
        f" ({seen / most:.2f} times its forward passes) and"
        f" {seconds / sum(row['authors_seconds'] for row in rows):.2f} times all of theirs"
    )
    if flags.save:
        settings_text = f"{settings.task} {settings.archi} {settings.base_channels} channels"
        Path(flags.save).parent.mkdir(parents=True, exist_ok=True)
        pd.DataFrame(rows).assign(
            grid_seconds=seconds, grid_images=seen, n=len(labels), norm=flags.norm, network=settings_text,
            machine=machine, threads=torch.get_num_threads(), torch=torch.__version__, date=time.strftime("%Y-%m-%d"),
        ).to_csv(flags.save, index=False)  # fmt: skip
    return 0


if __name__ == "__main__":
    run_command(main)
