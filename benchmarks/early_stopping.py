"""What an unregularized network gains where its best epoch is chosen by a search's objective, not by cross-entropy.

python benchmarks/early_stopping.py --space=narrow/fashionmnist_fashionmnist --seeds 101 102 103
python benchmarks/early_stopping.py --space=digits_double --seeds 101 102 103 --choice_images=100

One training a seed gives both networks. They are attacked as the search attacks, on the same test images.
"""

import argparse
import copy
import sys
from pathlib import Path

import pandas as pd
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from brainreg.attacks import AutoAttack
from brainreg.evaluation.accuracy import correct
from brainreg.evaluation.plan import attacked_images
from brainreg.hyperparameters import Hyperparameters
from brainreg.spaces.files import load_space
from brainreg.spaces.measurement import EPOCH_OBJECTIVE, objective_by_epoch
from brainreg.spaces.names import UNREGULARIZED
from brainreg.training.checkpoint import fold_batchnorm
from brainreg.training.data import load_test_images, load_training_data
from brainreg.training.loop import train
from brainreg.training.step import to_float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--space", default="narrow/fashionmnist_fashionmnist")
    parser.add_argument("--seeds", type=int, nargs="+", default=[101, 102, 103])
    parser.add_argument(
        "--choice_images", type=int, help="validation images that choose the epoch (default: as searched)"
    )
    parser.add_argument("--test_images", type=int, default=300, help="that are attacked")
    parser.add_argument("--data_dir", default="data")
    flags = parser.parse_args()
    torch.set_num_threads(1)
    space = load_space(flags.space)
    rows = [row for seed in flags.seeds for row in measured(space, seed, flags)]
    table = pd.DataFrame(rows)
    print(table.to_string(index=False))
    wide = table.pivot(index="seed", columns="chosen by", values=["clean", "robust"])
    for name in ("clean", "robust"):
        gains = wide[name]["objective"] - wide[name]["cross-entropy"]
        each = ", ".join(f"{gain:+.3f}" for gain in gains)
        print(f"{name}: by objective - by cross-entropy {gains.mean():+.3f} (seeds: {each})")


def measured(space, seed: int, flags: argparse.Namespace) -> list[dict]:
    settings = Hyperparameters(**{**space.setting(UNREGULARIZED), "seed": seed})
    data = load_training_data(settings, flags.data_dir, "cpu")
    objective = space.objective
    chooser = objective.model_copy(update={"attack_image_num": flags.choice_images or objective.attack_image_num})
    by_epoch = objective_by_epoch(chooser, to_float(data.valid_images), data.valid_labels, seed)
    lowest: dict = {"loss": float("inf")}

    def measure(classifier: torch.nn.Module, metrics: dict[str, float]) -> dict[str, float]:
        if metrics["valid_cross_entropy"] < lowest["loss"]:
            lowest.update(
                loss=metrics["valid_cross_entropy"], epoch=metrics["epoch"], network=copy.deepcopy(classifier)
            )
        return by_epoch(classifier, metrics)

    result = train(settings, data, device="cpu", measure=measure, choose_by=EPOCH_OBJECTIVE)
    test = load_test_images(settings, flags.data_dir)
    images, labels = to_float(test.tensor), test.labels
    attacked = attacked_images(len(labels), flags.test_images, seed)
    rows = []
    for chosen, epoch, network in (
        ("cross-entropy", lowest["epoch"], lowest["network"]),
        ("objective", result.best_epoch, result.classifier),
    ):
        model = fold_batchnorm(network)
        outcome = AutoAttack.of(objective.attack)(model, images[attacked], labels[attacked], [objective.eps], seed=seed)
        rows.append(
            {
                "seed": seed,
                "chosen by": chosen,
                "epoch": epoch,
                "clean": correct(model, images, labels).float().mean().item(),
                "robust": outcome.correct[0].float().mean().item(),
            }
        )
        print(rows[-1], flush=True)
    return rows


if __name__ == "__main__":
    main()
